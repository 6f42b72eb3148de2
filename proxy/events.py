"""The log: structlog, set up for the proxy alone, and the one line that every request gets when it has ended.

The rule: facts and figures only. No credential, no prompt, no answer.
"""

import random
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Literal, Protocol, cast

import structlog

from proxy import forms, limits
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

_log_in_force: structlog.typing.FilteringBoundLogger = structlog.get_logger()
"""As the last `configure` made it. Not by structlog's own settings: a program that has the proxy within it may have set
those up for itself."""


class _Log:
    """Whatever is in force when something is said."""

    def __getattr__(self, level: str) -> Any:  # noqa: ANN401 - a method of structlog's
        return getattr(_log_in_force, level)


log = cast("structlog.typing.FilteringBoundLogger", _Log())


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
    fault: str | None = None
    """What the client asked to go wrong."""
    quiet: bool = False
    """Of interest only to whoever looks for it: a health check, a preflight."""

    def read_head(self, head: Head) -> None:
        """Take over what the upstream's head says of the request, its cost and its limits."""
        told = limits.told(head)
        self.upstream_request_id, self.organization = told.request_id, told.organization
        self.openai_processing_ms, self.ratelimit = told.processing_ms, told.limits

    def write(self) -> None:
        """Write the line. What is not known of this request is left out; what is always asked after never is."""
        # Handed over as it is: as keyword arguments, the facts would be copied at each step of structlog's.
        if self.quiet:
            _log_in_force.debug(REQUEST, line=self)
        else:
            _log_in_force.info(REQUEST, line=self)

    def facts(self) -> dict[str, Any]:
        """What is known, by the names of contract section 9 and in their order."""
        facts = {name: value for name, value in zip(_FACTS, _values(self), strict=True) if value is not None}
        if not self.ratelimit:
            del facts["ratelimit"]
        if self.usage:
            facts["usage"] = self.usage._asdict()
        return facts


_FACTS = tuple(name for name in RequestLine.__slots__ if name != "quiet")
_values = attrgetter(*_FACTS)


def new_id() -> str:
    """An id for one request: new each time, and telling nothing."""
    return random.getrandbits(64).to_bytes(8).hex()


def milliseconds(duration_s: float) -> float:
    """As they stand in the log, to the microsecond."""
    return round(duration_s * 1e6) / 1000  # round() to digits goes by way of text


class LogStream(Protocol):
    """What the log is written to."""

    def isatty(self) -> bool: ...
    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


def configure(form: Format, level: Level, stream: LogStream | None = None, worker: int | None = None) -> None:
    """Set structlog up: a person's colours on a terminal, JSON lines elsewhere; on standard error unless told.

    `worker`: the number of this process, on every line, where several write one log.
    """
    global _log_in_force  # noqa: PLW0603 - a process has one log
    stream = stream or sys.stderr
    human = form == "console" or (form == "auto" and stream.isatty())
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="time"), _Console(colours=stream.isatty())]
        if human
        else [_timed, _excepted, _as_json]
    )
    _log_in_force = structlog.wrap_logger(
        _Lines(stream),
        processors=[
            _with_facts,
            *([] if worker is None else [_Numbered(worker)]),
            structlog.processors.add_log_level,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
    ).bind()


def _with_facts(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    line: RequestLine | None = event.pop("line", None)
    if line is None:
        return event
    facts = line.facts()
    facts["event"] = event["event"]
    return facts


def _timed(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["time"] = datetime.now(UTC)  # orjson writes it in a sixth of the time that isoformat() takes
    return event


def _excepted(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # Asked only where there may be one, since nearly all lines have none.
    return structlog.processors.format_exc_info(logger, name, event) if "exc_info" in event else event


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
        if event["event"] == REQUEST:
            return forms.for_people(forms.shortened(event), colours=self._colours)
        # structlog's own renderer knows the time by this name.
        event["timestamp"] = event.pop("time")
        return self._others(logger, name, event)


def _as_json(_: object, __: str, event: structlog.typing.EventDict) -> str:
    text = forms.for_machines(event)
    if len(text) <= forms.LONGEST_TEXT or event["event"] != REQUEST:  # what is in it is no longer than it
        return text
    return forms.for_machines(forms.shortened(event))
