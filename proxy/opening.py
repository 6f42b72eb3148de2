"""From a request to the head of its answer: at once where a connection stands idle, else by a task.

The rule: it ends once, with a head or with a reason why there is none, and everybody who waits for that is told.
"""

import asyncio
from typing import Protocol

from proxy.recording import Head
from proxy.upstream import Answer, Outgoing, Upstream


class Owner(Protocol):
    """Whose request it is."""

    def opened(self, answer: Answer, /) -> None:
        """The head has come, and nobody else knows yet; the frames follow."""
        ...

    def not_opened(self, fault: BaseException, /) -> None:
        """There is no answer, see `Upstream.send`."""
        ...


class Opening:
    """A request under way, until the head of its answer has come. The client that asked may leave before."""

    def __init__(self, owner: Owner, upstream: Upstream, outgoing: Outgoing) -> None:
        """Send it."""
        self.attempts = 0
        self._owner: Owner | None = owner
        """Until it is told: no cycle is left for the collector."""
        self._head: Head | BaseException | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._connection = upstream.send_at_once(outgoing, self)
        if self._connection is None:
            self._task = asyncio.get_running_loop().create_task(self._send(upstream, outgoing))
        else:
            self.attempts = 1

    async def head(self) -> Head:
        """The upstream's head.

        Raises:
            UpstreamFailed: there was none, see `Upstream.send`.
        """
        if self._head is None:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        if isinstance(self._head, Head):
            return self._head
        raise self._head or AssertionError("whoever waited has been told")

    def abandon(self, reason: BaseException) -> None:
        """Nobody wants an answer any more; whoever waits for a head is told the reason."""
        connection, self._owner = self._connection, None
        if self._task is not None:
            self._task.cancel()
        if self._head is None:
            self._tell(reason)
            if connection is not None:
                connection.close()

    async def _send(self, upstream: Upstream, outgoing: Outgoing) -> None:
        try:
            answer = await upstream.send(outgoing, self._count_attempt)
        except asyncio.CancelledError as cancelled:
            self.set_exception(cancelled)
            raise
        except BaseException as fault:  # noqa: BLE001 - whoever waits for the head has to be told
            self.set_exception(fault)
        else:
            self.set_result(answer)

    def _count_attempt(self) -> None:
        self.attempts += 1

    # What is told of the head

    def done(self) -> bool:
        return self._head is not None

    def set_result(self, answer: Answer) -> None:
        if self._owner is None:
            answer.close()
        else:
            self._owner.opened(answer)
            self._tell(answer.head)

    def set_exception(self, fault: BaseException) -> None:
        if self._owner is not None:
            self._owner.not_opened(fault)
            self._tell(fault)

    def _tell(self, head: Head | BaseException) -> None:
        self._head = head
        self._owner = self._task = self._connection = None
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
