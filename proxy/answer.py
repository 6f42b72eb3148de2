"""What comes of a request to the upstream: a head, and a body whose every frame is told to one who wants it.

The rule: all frames are told in their order, and then the one end; nothing is lost before anyone is told of them.
"""

from typing import Protocol

from proxy.errors import UpstreamBroken
from proxy.framing import Framing
from proxy.recording import Head

_AHEAD_BYTES = 256 * 1024  # of a body that nobody is told of yet; a connection reads as much at a time


class Sink(Protocol):
    """Who is told of a body: its frames, and then its end, or that there will be none."""

    def append(self, frame: bytes) -> None: ...
    def finish(self) -> None: ...
    def break_off(self, reason: UpstreamBroken) -> None: ...


class Connection(Protocol):
    """Where the body comes from."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...


class DirectAnswer:
    """A response whose head has come; its connection goes on to the next request when its body has ended."""

    __slots__ = ("_broken", "_connection", "_frames", "_has_ended", "_is_paused", "_sink", "framing", "head")

    def __init__(self, connection: Connection, head: Head, framing: Framing) -> None:
        self.head = head
        self.framing = framing
        """How the upstream says where the body ends; `close`, by closing, can't be told from a cut."""
        self._connection: Connection | None = connection
        self._sink: Sink | None = None
        self._frames: list[bytes] = []  # that nobody has been told of
        self._has_ended = False
        self._broken: UpstreamBroken | None = None
        self._is_paused = False

    def flow(self, sink: Sink) -> None:
        """Tell it every frame, and then the end or that there will be none; what has come already, within this call."""
        self._sink = sink
        self._go_on()

    def pause(self) -> None:
        """Tell and read nothing for now; TCP slows the upstream down."""
        self._is_paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._go_on()

    def close(self) -> None:
        """Leave: a body that has not ended takes its connection with it."""
        self._sink = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # What its connection says

    def take(self, frame: bytes) -> None:
        if self._sink is not None and not self._is_paused:
            self._sink.append(frame)
            return
        self._frames.append(frame)
        if self._connection is not None and sum(map(len, self._frames)) > _AHEAD_BYTES:
            self._connection.pause_reading()

    def end(self, broken: UpstreamBroken | None) -> None:
        """It has come to its end, or will have none; the connection is somebody else's now."""
        self._connection = None
        self._has_ended, self._broken = True, broken
        self._tell_end()

    def _go_on(self) -> None:
        while self._frames and self._sink is not None and not self._is_paused:
            self._sink.append(self._frames.pop(0))
        self._tell_end()
        if self._connection is not None and not self._is_paused:
            self._connection.resume_reading()

    def _tell_end(self) -> None:
        if not self._has_ended or self._sink is None or self._frames:
            return
        sink, self._sink = self._sink, None
        if self._broken is None:
            sink.finish()
        else:
            sink.break_off(self._broken)
