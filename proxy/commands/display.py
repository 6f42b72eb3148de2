"""Facts as a person reads them: sizes, times, and text that a terminal only shows.

The rule: on a terminal there is colour and the table fits; elsewhere there is none, and nothing is cut off.
"""

from rich.console import Console

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_KIBI = 1024
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_WIDE = 1000  # columns; no table of ours is wider


def console(*, stderr: bool = False) -> Console:
    """A console for text that is not ours: nothing in it is taken for markup."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def bytes_text(size_bytes: float) -> str:
    """`999 B`, `1.2 KiB`, `34 MiB`."""
    size, unit = float(size_bytes), 0
    while size >= _KIBI and unit < len(_BINARY) - 1:
        size, unit = size / _KIBI, unit + 1
    return f"{_rounded(size) if unit else int(size)} {_BINARY[unit]}"


def duration_text(seconds: float) -> str:
    """`0.9 ms`, `250 ms`, `1.2 s`, `12 min`, `3.4 h`."""
    if seconds < 1:
        return f"{_rounded(seconds * 1000)} ms"
    if seconds < 2 * _MINUTE_S:
        return f"{_rounded(seconds)} s"
    if seconds < 2 * _HOUR_S:
        return f"{_rounded(seconds / _MINUTE_S)} min"
    return f"{_rounded(seconds / _HOUR_S)} h"


def age_text(seconds: float) -> str:
    """In the largest unit of which there is one: `42s`, `7m`, `3h`, `12d`."""
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= unit_s:
            return f"{int(seconds / unit_s)}{unit}"
    return f"{max(0, int(seconds))}s"


def share_text(part: float, whole: float) -> str:
    """`0.0%`, `under 0.1%`, `12.5%`."""
    share = part / whole
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"  # noqa: PLR2004 - a tenth of a percent


def counted(number: int, noun: str) -> str:
    """`1 recording`, `2,000 recordings`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def printable(text: str) -> str:
    """Text with its line ends and tabs, and with everything else that could steer a terminal written out."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\u{ord(char):04x}" for char in text)


def _rounded(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:,.0f}"  # noqa: PLR2004 - two digits are enough for the eye
