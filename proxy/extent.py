"""Where the body of an answer ends (RFC 9112 section 6.3).

The rule: where two readers could find two different ends there is no answer.
"""

from collections.abc import Sequence

from proxy.framing import Framing

_LENGTH_DIGITS = 20  # as many as 2**64 has; with leading zeros the parser takes any number of them, and int() does not


def framing(status: int, codings: Sequence[bytes], length: bytes | None, *, to_head: bool = False) -> Framing | None:
    """How the body is delimited, or None where two readers could differ.

    `codings` are the values of each `Transfer-Encoding`, `length` that of the one `Content-Length`; `to_head` says
    that HEAD was asked.
    """
    if status < 200:  # noqa: PLR2004 - an unasked-for 101: RFC 9110 section 15.2
        return None
    if codings:
        return "chunked" if len(codings) == 1 and codings[0].lower() == b"chunked" and length is None else None
    if to_head or status == 304:  # noqa: PLR2004 - RFC 9110 section 15.4.5
        return "none"
    if status == 204:  # noqa: PLR2004 - RFC 9110 section 8.6: it has no length; some say 0, which is no harm
        return "none" if length in (None, b"0") else None
    if length is None:
        return "close"
    return "length" if len(length) <= _LENGTH_DIGITS else None
