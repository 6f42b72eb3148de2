"""Reading what aiohttp has taken from a connection, without the ways in which its own reader falls silent.

The rule: everything that has arrived comes first, and then its end, or the fault after which there is no more.
"""

from aiohttp.streams import StreamReader


async def next_piece(content: StreamReader) -> bytes:
    """What has arrived since the last call, waiting for the first byte of it; nothing at the end. May be cancelled.

    `StreamReader.readany` keeps back what has arrived before a fault. It looks for one before it waits, but not when
    the end of a chunk wakes it without data: a fault that has come together with that it never tells.
    """
    while not content.at_eof():
        if content._buffer:  # noqa: SLF001 - there is no public way to look
            return content._read_nowait(-1)  # noqa: SLF001
        if (fault := content.exception()) is not None:
            raise fault
        await content._wait("next_piece")  # noqa: SLF001
    return b""
