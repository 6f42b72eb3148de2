"""What became of an answer, once that is known. The rule: nothing of it changes any more."""

from typing import NamedTuple

from proxy.recording import Usage


class Verdict(NamedTuple):
    """What became of the answer."""

    stored: bool
    not_stored_because: str | None = None
    usage: Usage | None = None
