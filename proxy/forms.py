"""What a line of the log looks like: JSON for machines, colours for people.

The rule: one event is one line, whatever is in it, and no terminal does anything but show it.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

LONGEST_TEXT = 1000  # a client may call its model what it likes, at any length

_DIM, _BOLD, _RED, _GREEN, _YELLOW, _CYAN, _RESET = (f"\x1b[{code}m" for code in (2, 1, 31, 32, 33, 36, 0))
_WORD_COLOUR = {"HIT": _GREEN, "JOINED": _CYAN, "MISS": _YELLOW, "REFRESH": _YELLOW, "STALE": _YELLOW}


def shortened(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts, with texts cut off that are longer than anyone reads."""
    return {name: _shortened(value) for name, value in facts.items()}


def for_machines(event: Mapping[str, Any]) -> str:
    """JSON, with what it has no form for as text."""
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z).decode()
    except orjson.JSONEncodeError:  # a path may hold bytes for which UTF-8 has no form; they become question marks
        finite = {name: value for name, value in event.items() if not isinstance(value, float) or math.isfinite(value)}
        return json.dumps(finite, default=_text_of, ensure_ascii=False).encode(errors="replace").decode()


def _text_of(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def for_people(facts: Mapping[str, Any], *, colours: bool) -> str:
    """The line of a request, by the names of contract section 9."""
    word, status = facts.get("cache") or "-", facts.get("status") or "-"
    failed = facts["outcome"] != "complete" or (isinstance(status, int) and status >= 400)  # noqa: PLR2004 - RFC 9110 section 15.5
    parts = (
        (_DIM, facts["time"]),
        (_RED if failed else "", f"{status}"),
        (_WORD_COLOUR.get(word, _DIM), f"{word:<7}"),
        ("", _visible(f"{facts['method']} {facts['path']}")),
        (_BOLD, _visible(facts.get("model") or "")),
        ("", f"{_milliseconds(facts.get('first_byte_ms'))} / {_milliseconds(facts.get('duration_ms'))}"),
        ("", f"{facts['bytes']:,} B"),
        (_RED, facts["outcome"] if facts["outcome"] != "complete" else ""),
        (_DIM, _visible(facts.get("error") or facts.get("not_stored_because") or "")),
        (_YELLOW, f"staged {facts['fault']}" if "fault" in facts else ""),
        (_DIM, facts["id"]),
        (_DIM, f"worker {facts['worker']}" if "worker" in facts else ""),
    )
    return "  ".join(f"{colour}{text}{_RESET}" if colours and colour else text for colour, text in parts if text)


def _visible(text: str) -> str:
    """A line stays one line, and a terminal does nothing but show it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shortened(value: object) -> object:
    return f"{value[:LONGEST_TEXT]}…" if isinstance(value, str) and len(value) > LONGEST_TEXT else value


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"  # noqa: PLR2004 - for the eye
