"""The log: structlog, set up once, and the one line that every request gets when it has ended.

The rule: facts and figures only. No credential, no prompt, no answer.
"""

import json
import math
import random
import re
import sys
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson
import structlog

from proxy.errors import Outcome
from proxy.policy import CacheWord
from proxy.recording import Head, Usage

REQUEST = "request"
STARTED = "started"
RELOADED = "reloaded"
RELOAD_FAILED = "reload_failed"
DRAINING = "draining"
STOPPED = "stopped"
WORKER_DIED = "worker_died"
CRASHED = "request_crashed"

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LONGEST_TEXT = 1000  # a client may call its model what it likes, at any length

# Numbers are read up to a length: longer ones are no limits, and neither int() nor JSON takes any.
_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_DURATION = re.compile(rf"({_NUMBER.pattern})(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_DIM, _BOLD, _RED, _GREEN, _YELLOW, _CYAN, _RESET = (f"\x1b[{code}m" for code in (2, 1, 31, 32, 33, 36, 0))
_WORD_COLOUR = {"HIT": _GREEN, "JOINED": _CYAN, "MISS": _YELLOW, "REFRESH": _YELLOW, "STALE": _YELLOW}

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(slots=True)
class RequestLine:
    """What the log says of one request; filled while it goes its way, written when it has ended."""

    id: str
    method: str
    path: str
    model: str | None = None
    stream: bool | None = None
    cache: CacheWord | None = None
    key: str | None = None
    status: int | None = None
    outcome: Outcome = "complete"
    stored: bool = False
    not_stored_because: str | None = None
    upstream_request_id: str | None = None
    organization: str | None = None
    openai_processing_ms: int | None = None
    ratelimit: dict[str, float] = field(default_factory=dict)
    attempts: int = 0
    bytes: int = 0
    frames: int = 0
    first_byte_ms: float | None = None
    duration_ms: float | None = None
    usage: Usage | None = None
    error: str | None = None
    quiet: bool = False
    """Of interest only to whoever looks for it: a health check, a preflight."""

    def read_head(self, head: Head) -> None:
        """Take over what the upstream's head says of the request, its cost and its limits."""
        self.upstream_request_id = _text(head.get(b"x-request-id"))
        self.organization = _text(head.get(b"openai-organization"))
        self.openai_processing_ms = _whole_number(_text(head.get(b"openai-processing-ms")) or "")
        self.ratelimit = rate_limits(head)

    def write(self) -> None:
        """Write the line. What is not known of this request is left out; what is always asked after never is."""
        facts: dict[str, Any] = {
            name: _shortened(value)
            for name in self.__slots__
            if name != "quiet" and (value := getattr(self, name)) is not None and value != {}
        }
        if self.usage:
            facts["usage"] = self.usage._asdict()
        if self.quiet:
            log.debug(REQUEST, **facts)
        else:
            log.info(REQUEST, **facts)


def new_id() -> str:
    """An id for one request: new each time, and telling nothing."""
    return f"{random.getrandbits(64):016x}"


def rate_limits(head: Head) -> dict[str, float]:
    """What the `x-ratelimit-*` headers say: `limit_requests`, `remaining_tokens`, `reset_requests_s` and so on.

    A time is written as `6m0s`, or by other servers than OpenAI's as a plain number of seconds.
    """
    limits: dict[str, float] = {}
    for name, value in head.headers:
        lowered = name.lower()
        if not lowered.startswith(b"x-ratelimit-"):
            continue
        fact = lowered[len(b"x-ratelimit-") :].decode("latin-1").replace("-", "_")
        text = value.decode("latin-1")
        if fact.startswith("reset_") and (seconds := _seconds(text)) is not None:
            limits[fact + "_s"] = seconds
        elif (number := _whole_number(text)) is not None:
            limits[fact] = number
    return limits


class LogStream(Protocol):
    """What the log is written to."""

    def isatty(self) -> bool: ...
    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


def configure(form: Format, level: Level, stream: LogStream | None = None, worker: int | None = None) -> None:
    """Set structlog up: a person's colours on a terminal, JSON lines elsewhere; on standard error unless told.

    `worker`: the number of this process, on every line, where several write one log.
    """
    stream = stream or sys.stderr
    human = form == "console" or (form == "auto" and stream.isatty())
    renderers: list[structlog.typing.Processor] = (
        [_Console(colours=stream.isatty())]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([] if worker is None else [_Numbered(worker)]),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human, key="time"),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(stream),
    )


class _Numbered:
    """Says which of several processes a line is from."""

    def __init__(self, worker: int) -> None:
        self._worker = worker

    def __call__(self, _logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["worker"] = self._worker
        return event


class _Lines:
    """Writes lines to a stream, and goes on without them when nobody can read them any more."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # a full disk, a closed pipe: serving goes on
            return

    debug = info = warning = error = critical = exception = msg


class _Console:
    """One line a request, as a person reads it; other events with their facts behind them."""

    def __init__(self, *, colours: bool) -> None:
        plain = structlog.dev.plain_traceback  # the others show the values of variables: prompts, credentials
        self._others = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0, exception_formatter=plain)
        self._colours = colours

    def __call__(self, logger: object, name: str, event: structlog.typing.EventDict) -> str:
        if event["event"] != REQUEST:
            # structlog's own renderer knows the time by this name.
            event["timestamp"] = event.pop("time")
            return self._others(logger, name, event)
        return self._request(event)

    def _request(self, facts: structlog.typing.EventDict) -> str:
        word, status = facts.get("cache") or "-", facts.get("status") or "-"
        failed = facts["outcome"] != "complete" or (isinstance(status, int) and status >= 400)  # noqa: PLR2004 - RFC 9110 section 15.5
        parts = (
            self._in(_DIM, facts["time"]),
            self._in(_RED if failed else "", f"{status}"),
            self._in(_WORD_COLOUR.get(word, _DIM), f"{word:<7}"),
            _visible(f"{facts['method']} {facts['path']}"),
            self._in(_BOLD, _visible(facts.get("model") or "")),
            f"{_milliseconds(facts.get('first_byte_ms'))} / {_milliseconds(facts.get('duration_ms'))}",
            f"{facts['bytes']:,} B",
            self._in(_RED, facts["outcome"]) if facts["outcome"] != "complete" else "",
            self._in(_DIM, _visible(facts.get("error") or facts.get("not_stored_because") or "")),
            self._in(_DIM, facts["id"]),
            self._in(_DIM, f"worker {facts['worker']}" if "worker" in facts else ""),
        )
        return "  ".join(part for part in parts if part)

    def _in(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours and colour and text else text


def _json(event: structlog.typing.EventDict, **_: object) -> str:
    try:
        return orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:  # a path may hold bytes for which UTF-8 has no form; they become question marks
        return json.dumps(event, default=str, ensure_ascii=False).encode(errors="replace").decode()


def _visible(text: str) -> str:
    """A line stays one line, and a terminal does nothing but show it."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _shortened(value: object) -> object:
    return f"{value[:_LONGEST_TEXT]}…" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _whole_number(text: str) -> int | None:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else None


def _seconds(text: str) -> float | None:
    """OpenAI writes `1s`, `6m0s`, `8.64s`, `120ms`."""
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _DURATION.findall(text)
    if not found or "".join(number + unit for number, unit in found) != text:
        return None
    return round(math.fsum(float(number) * _UNIT_S[unit] for number, unit in found), 3)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"  # noqa: PLR2004 - for the eye
