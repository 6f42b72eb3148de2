"""The log is written in the background, and nobody who reads it slowly holds up the proxy."""

import io
import threading
from collections.abc import Iterator

import pytest

from proxy.background import BackgroundStream


class Jammed(io.StringIO):
    """A stream whose reader does not read until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.released.wait()
        return super().write(text)


@pytest.fixture
def jammed() -> Iterator[Jammed]:
    stream = Jammed()
    yield stream
    stream.released.set()


def test_what_is_written_arrives_in_its_order() -> None:
    """By the time the stream is left, at the latest."""
    written = io.StringIO()

    with BackgroundStream(written) as stream:
        for number in range(1000):
            stream.write(f"{number}\n")

    assert written.getvalue().split() == [str(number) for number in range(1000)]


def test_a_reader_that_does_not_read_holds_up_nobody(jammed: Jammed) -> None:
    """The writer of the log goes on, and what waited arrives when the reader does."""
    with BackgroundStream(jammed) as stream:
        stream.write("first\n")
        assert jammed.entered.wait(10)
        stream.write("second\n")
        jammed.released.set()

    assert jammed.getvalue() == "first\nsecond\n"


def test_lines_that_are_too_many_are_counted(jammed: Jammed) -> None:
    """What waits is bounded, and the log says what it lacks."""
    with BackgroundStream(jammed) as stream:
        stream.write("first\n")
        assert jammed.entered.wait(10)
        for _ in range(10_007):
            stream.write("more\n")
        jammed.released.set()

    assert jammed.getvalue().count("more\n") == 10_000
    assert '"lines":7' in jammed.getvalue()


def test_the_end_does_not_wait_for_a_reader_that_never_reads(jammed: Jammed) -> None:
    """Or a proxy whose log nobody reads could not be stopped."""
    with BackgroundStream(jammed) as stream:
        stream.write("first\n")

    assert not jammed.released.is_set()


def test_a_reader_that_has_gone_is_no_error() -> None:
    """Serving goes on without a log, and later lines are tried again."""
    tried: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    with BackgroundStream(Gone()) as stream:
        stream.write("nobody reads this\n")

    assert "".join(tried) == "nobody reads this\n"
    assert not stream._thread.is_alive()
