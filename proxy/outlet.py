"""Where frames go: to a client, and to the one of many listeners whose client it is.

The rule: writing never waits; whoever writes is told when it has been enough, and waits by himself.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from proxy.errors import ClientGone


class Outlet(Protocol):
    """Where a listener's frames go."""

    def write(self, frame: bytes) -> bool:
        """Take a frame; False if that was enough for now.

        Raises:
            ClientGone: nobody takes anything any more.
        """
        ...

    def flush(self) -> None:
        """Let go of what was held back to go out together with the next frame: there is none for now.

        Raises:
            ClientGone: nobody takes anything any more.
        """
        ...

    def drain(self) -> Awaitable[None]:
        """Wait until more is taken.

        Raises:
            ClientGone: nobody takes anything any more.
        """
        ...


class Listener:
    """One who plays the log, and how far it has come."""

    __slots__ = ("is_stalled", "news", "outlet", "position")

    def __init__(self) -> None:
        self.position = 0
        """Frames played, of all that have arrived."""
        self.outlet: Outlet | None = None
        """Where the log writes each frame, while this one has heard all before it."""
        self.is_stalled = False
        """Whether its client takes nothing at the moment."""
        self.news: asyncio.Future[None] | None = None
        """Waited for meanwhile: done when the log will not write the next frame."""

    async def next_news(self) -> None:
        """Wait until it has to go on by itself.

        Raises:
            ClientGone: its client has left.
        """
        self.news = asyncio.get_running_loop().create_future()
        await self.news

    def tell(self, gone: ClientGone | None = None) -> None:
        """Have it go on by itself."""
        self.outlet = None
        if self.news is None or self.news.done():
            return
        if gone is None:
            self.news.set_result(None)
        else:
            self.news.set_exception(gone)
