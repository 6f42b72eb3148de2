"""From the body of a request to what it asks: its key, and in a session which of several answers.

The rule: no body holds up the event loop, however long it is and whatever is to be done to it.
"""

import asyncio

from proxy.incoming import Incoming, PlainRequest
from proxy.intake import Intake
from proxy.question import KeyRules, Premise, Question, Questions
from proxy.sessions import Sessions, Turn

# Reading this much JSON for the key takes under a millisecond, and 4 if it is all tiny values; more of it is read in a
# thread, so that no stream waits for it.
_KEYED_AT_ONCE_BYTES = 32 * 1024

# Bodies that rules are applied to: more than one, so that not all wait for one that takes long, and so few that the
# memory, and other work for threads, are safe from them.
_SEARCHED_AT_A_TIME = 2


class Asking:
    """Reads bodies, as long as the settings that it is made of are in force."""

    def __init__(self, keys: KeyRules, questions: Questions, sessions: Sessions) -> None:
        self._keys = keys
        self._questions = questions
        self._sessions = sessions
        self._searching = asyncio.Semaphore(_SEARCHED_AT_A_TIME)

    async def question(self, premise: Premise, body: bytes, plain: PlainRequest | None = None) -> Question:
        """Read the body of a request; that of a plain one may have been read, or its digest be known.

        Raises:
            Uncacheable: it has no key, with the reason.
        """
        # Another premise is that of other settings, which were read anew meanwhile.
        if plain is not None and plain.question is not None and plain.known.premise is premise:
            return plain.question
        digest = plain.digest if plain is not None else None
        if self._questions.take_long:
            return await self._searched(premise, body, digest)
        if len(body) <= _KEYED_AT_ONCE_BYTES:
            return self._questions.question(premise, body, digest)
        return await asyncio.to_thread(self._questions.question, premise, body, digest)

    async def in_turn(
        self, request: Incoming, intake: Intake, question: Question, body: bytes
    ) -> tuple[Question, Turn]:
        """The same question for the answer whose turn it is in the session that the request names.

        Raises:
            BadRequest: the session asks too much, see `Sessions.next`.
            Uncacheable: see `question`.
        """
        turn = self._sessions.next(intake.controls.session, question.key)
        if turn.number:
            controls = intake.controls._replace(sample=turn.number)
            try:
                premise = self._keys.premise(request.method, request.raw_path, request.raw_headers, controls)
                question = await self.question(premise, body)
            except BaseException:
                turn.give_back()
                raise
        return question, turn

    async def _searched(self, premise: Premise, body: bytes, digest: bytes | None) -> Question:
        await self._searching.acquire()
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, self._questions.question, premise, body, digest)
        # Not when the client leaves, since the thread goes on: of those that come and leave there may be any number.
        reading.add_done_callback(lambda _: self._searching.release())
        return await asyncio.shield(reading)
