"""What goes from one process to another: bytes in parts, each of which says how long it is.

The rule: what comes is data, whoever has sent it.
"""

from collections.abc import Iterable
from typing import IO

_LENGTH_BYTES = 8


def send(stream: IO[bytes], parts: Iterable[bytes]) -> None:
    """Write some parts. Raises `OSError`."""
    for part in parts:
        stream.write(len(part).to_bytes(_LENGTH_BYTES))
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """The next part.

    Raises:
        EOFError: there is none, or not all of it.
    """
    return _exactly(stream, int.from_bytes(_exactly(stream, _LENGTH_BYTES)))


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
