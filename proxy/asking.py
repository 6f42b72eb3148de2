"""From the body of a request to what it asks, and to its key.

The rule: no body holds up the event loop, however long it is and whatever is to be done to it.
"""

import asyncio

from proxy.question import Premise, Question, Questions

# Reading this much JSON for the key takes under a millisecond, and 4 if it is all tiny values; more of it is read in a
# thread, so that no stream waits for it.
_KEYED_AT_ONCE_BYTES = 32 * 1024

# Bodies that rules are applied to: more than one, so that not all wait for one that takes long, and so few that the
# memory, and other work for threads, are safe from them.
_SEARCHED_AT_A_TIME = 2


class Asking:
    """Reads bodies, as long as the settings that it is made of are in force."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._searching = asyncio.Semaphore(_SEARCHED_AT_A_TIME)

    async def question(self, premise: Premise, body: bytes) -> Question:
        """Read the body of a request.

        Raises:
            Uncacheable: it has no key, with the reason.
        """
        if self._questions.take_long:
            async with self._searching:
                return await asyncio.to_thread(self._questions.question, premise, body)
        if len(body) <= _KEYED_AT_ONCE_BYTES:
            return self._questions.question(premise, body)
        return await asyncio.to_thread(self._questions.question, premise, body)
