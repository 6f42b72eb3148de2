"""The log is written in the background, and nobody who reads it slowly holds up the proxy."""

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Self, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import background
from proxy.background import BackgroundStream


class Pipe:
    """A pipe whose reader reads when it is told to."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._filling = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def open(self) -> TextIO:
        return os.fdopen(os.dup(self._writer), "w")

    def fill(self, *, stays_non_blocking: bool = False) -> None:
        """Until not one byte more goes in."""
        os.set_blocking(self._writer, False)
        try:
            while True:
                self._filling += os.write(self._writer, b"." * select.PIPE_BUF)
        except BlockingIOError:
            os.set_blocking(self._writer, not stays_non_blocking)

    def line(self) -> str:
        """What comes after the filling, up to a line end."""
        while self._filling:
            self._filling -= len(os.read(self._reader, self._filling))
        text = b""
        while not text.endswith(b"\n"):
            text += os.read(self._reader, 1)
        return text.decode()

    def all_lines(self, number: int) -> list[str]:
        text = b""
        while text.count(b"\n") < number:
            text += os.read(self._reader, 65_536)
        return text.decode().splitlines()

    def hang_up(self) -> None:
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._reader = self._writer = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with Pipe() as made:
        yield made


def test_what_is_written_arrives_in_its_order(tmp_path: Path) -> None:
    """By the time the stream is left, at the latest."""
    with (tmp_path / "log").open("w") as file, BackgroundStream(file) as stream:
        for number in range(1000):
            stream.write(f"{number}\n")

    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(1000)]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_does_not_read_holds_up_nobody(pipe: Pipe, *, blocking: bool) -> None:
    """The writer of the log goes on, and what waited arrives when the reader does."""
    pipe.fill(stays_non_blocking=not blocking)
    with pipe.open() as file, BackgroundStream(file) as stream:
        stream.write("first\n")
        stream.write("second\n")

        assert (pipe.line(), pipe.line()) == ("first\n", "second\n")


def test_what_is_read_at_once_is_written_soon(pipe: Pipe) -> None:
    """Each line by itself, whether the writer has gone to sleep in between or not."""
    with pipe.open() as file, BackgroundStream(file) as stream:
        for number in range(10):
            stream.write(f"{number}\n")

            assert pipe.line() == f"{number}\n"


def test_lines_that_are_too_many_are_counted(tmp_path: Path) -> None:
    """What waits is bounded, and the log says what it lacks."""
    with (tmp_path / "log").open("w") as file:
        stream = BackgroundStream(file)
        for _ in range(10_007):
            stream.write("more\n")

        with stream:
            pass

    text = (tmp_path / "log").read_text()
    assert text.count("more\n") == 10_000
    assert '"lines":7' in text


def test_the_end_does_not_wait_for_a_reader_that_never_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a proxy whose log nobody reads could not be stopped."""
    monkeypatch.setattr(background, "_LAST_WORDS_S", 0.05)
    pipe.fill()
    with pipe.open() as file, BackgroundStream(file) as stream:
        stream.write("first\n")

    assert stream._thread.is_alive()
    assert pipe.line() == "first\n"


def test_a_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    """Serving goes on without a log."""
    with pipe.open() as file, BackgroundStream(file) as stream:
        pipe.hang_up()
        stream.write("nobody reads this\n")

    assert not stream._thread.is_alive()


def test_after_a_failure_later_lines_are_tried_again(tmp_path: Path, pipe: Pipe) -> None:
    """A disk may have room again."""
    with (tmp_path / "log").open("w") as file, pipe.open() as nobody_reads:
        pipe.hang_up()
        good = os.dup(file.fileno())
        stream = BackgroundStream(file)
        for descriptor, line in ((nobody_reads.fileno(), "lost\n"), (good, "found\n")):
            os.dup2(descriptor, file.fileno())
            stream.write(line)
            stream._write_waiting()
        os.close(good)

    assert (tmp_path / "log").read_text() == "found\n"


@given(st.lists(st.integers(1, 3 * select.PIPE_BUF)))
def test_lines_go_together_as_far_as_a_pipe_takes_them_whole(lengths: list[int]) -> None:
    """In their order, and never a part of one."""
    lines = [bytes([number % 256]) * length for number, length in enumerate(lengths)]

    groups = list(background._groups(lines, select.PIPE_BUF))

    assert b"".join(groups) == b"".join(lines)
    ends = {sum(map(len, lines[:number])) for number in range(len(lines) + 1)}
    assert all(sum(map(len, groups[:number])) in ends for number in range(len(groups) + 1))
    assert all(len(group) <= select.PIPE_BUF or group in lines for group in groups)
    assert all(len(one + other) > select.PIPE_BUF for one, other in pairwise(groups))


def test_lines_of_several_writers_of_one_pipe_are_never_torn(pipe: Pipe) -> None:
    """As several processes with one standard error are."""
    pipe.fill()
    written = [[f"{writer}{number % 10}" * (90 + number % 200) for number in range(400)] for writer in "ab"]
    with ExitStack() as opened:
        streams = [opened.enter_context(BackgroundStream(opened.enter_context(pipe.open()))) for _ in written]
        for stream, lines in zip(streams, written, strict=True):
            for line in lines:
                stream.write(line + "\n")
        read = [pipe.line().rstrip(), *pipe.all_lines(799)]

    for writer, lines in zip("ab", written, strict=True):
        assert [line for line in read if line.startswith(writer)] == lines
