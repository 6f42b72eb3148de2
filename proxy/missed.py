"""Who may hear which recording comes nearest to a request that none answers and that may not be forwarded.

The rule: what one caller has asked is shown to another only where recordings are there to be tested with.
"""

from proxy.config import Settings
from proxy.difference import LONGEST_BYTES
from proxy.inquiry import INCOMPARABLE, Inquiry
from proxy.question import Question
from proxy.store.tiered import Store

_TOO_MANY = "Too many others are being compared with what is recorded; ask again to hear which comes nearest."


class Missed:
    """Finds the recording that comes nearest to a request, as far as the caller may hear of it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        # A recording does not say whose it is, so that of those of single callers none is shown.
        self._is_shared = settings.cache.scope == "shared"
        # Elsewhere it holds what others have asked in earnest: whoever hears where a text of theirs begins to differ
        # from his guess finds out all of it, letter by letter. What is only replayed is there to be tested with.
        self._shows_how = settings.cache.mode == "replay"
        self._upstream = settings.upstream.name
        self._store = store

    async def told(self, question: Question, target: str) -> str:
        """A sentence on the recording nearest to a request that was sent there; empty where none may be named."""
        if not self._is_shared:
            return ""
        if len(question.body) > LONGEST_BYTES:
            return INCOMPARABLE
        search = self._store.survey(Inquiry(question, self._upstream, target, self._shows_how))
        return _TOO_MANY if search is None else await search or ""
