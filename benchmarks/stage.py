"""What all subjects share: the upstream, the load generator, the cores; and how a subject is put on it.

The rule: a subject is there when it has given its first right answer, and gone when the stage is left.
"""

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple, Self

import orjson

from benchmarks import native, questions
from benchmarks.orders import Order, Outcome
from benchmarks.place import Place
from benchmarks.processes import Program, ProgramFailed
from benchmarks.questions import Question
from benchmarks.subjects import READY_NUMBER, Subject

_HOST = "127.0.0.1"
_STARTS_WITHIN_S = 60.0
_ASKED_AGAIN_AFTER_S = 0.001


class BytesWrong(Exception):
    """A subject did not pass the upstream's bytes on, or asked it more or less often than it should."""


class Cores(NamedTuple):
    """Which core is whose; None where there is but one, and everybody shares it."""

    load: int | None
    subject: int | None
    allowed: int
    """How many we may use."""

    @classmethod
    def divide(cls) -> Self:
        allowed = sorted(os.sched_getaffinity(0))
        several = len(allowed) > 1
        return cls(allowed[0] if several else None, allowed[-1] if several else None, len(allowed))


@dataclass(frozen=True, slots=True)
class Running:
    """A subject that answers, at 127.0.0.1."""

    subject: Subject
    port: int
    program: Program | None
    """None where nothing stands between the client and the upstream."""
    start_ms: float
    """From its start to the end of its first answer."""


class Stage:
    """The upstream and the load generator, on one core, and room for subjects on another."""

    def __init__(self) -> None:
        self.cores = Cores.divide()
        self._resources = ExitStack()
        self._next_question = 1
        self._directories = 0
        self._running: dict[str, Running] = {}
        self._directory: Path
        self._upstream: Program
        self._load: Program
        self._upstream_port = 0

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._directory = Path(resources.enter_context(TemporaryDirectory(prefix="reprise-benchmark-")))
            self._upstream = self._start_ours(resources, "upstream")
            self._upstream_port = int(self._upstream.hear())
            self._load = self._start_ours(resources, "load")
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def perform(self, order: Order) -> Outcome:
        """Have the load generator carry out an order.

        Raises:
            BytesWrong: an answer was not right, or did not come.
        """
        self._load.tell(order.to_wire())
        outcome = Outcome(**orjson.loads(self._load.hear()))
        if outcome.wrong is not None:
            raise BytesWrong(outcome.wrong)
        self._next_question += outcome.asked
        return outcome

    @property
    def next_question(self) -> int:
        """The number of a question that was never asked."""
        return self._next_question

    def load_cpu_s(self) -> float:
        """What the load generator and the upstream have used so far."""
        return self._load.cpu_s() + self._upstream.cpu_s()

    def upstream_answers(self) -> int:
        """How often the upstream was asked so far."""
        return int(_ask(self._upstream_port, "GET", None))

    def running(self, subject: Subject) -> Running:
        """The subject as it runs until the end; started when it is first asked for."""
        if subject.name not in self._running:
            self._running[subject.name] = self._resources.enter_context(self.started(subject))
        return self._running[subject.name]

    @contextmanager
    def started(self, subject: Subject) -> Iterator[Running]:
        """The subject started anew, and ended afterwards.

        Raises:
            ProgramFailed: it does not answer.
            BytesWrong: its first answer is not right.
        """
        if subject.command is None:
            yield Running(subject, self._upstream_port, None, 0.0)
            return
        place = self._place()
        command = subject.command(place)
        started_s = time.monotonic()
        program = Program(
            command,
            place.directory,
            core=None if subject.workers else self.cores.subject,
            settings=subject.environment,
        )
        try:
            self._await_first_answer(subject, place.port, program)
            yield Running(subject, place.port, program, (time.monotonic() - started_s) * 1000)
        finally:
            program.end()

    def _start_ours(self, resources: ExitStack, name: str) -> Program:
        directory = self._directory / name
        directory.mkdir()
        program = Program(native.make(name, directory), directory, core=self.cores.load, talks=True)
        resources.callback(program.end)
        return program

    def _place(self) -> Place:
        self._directories += 1
        directory = self._directory / f"subject-{self._directories}"
        directory.mkdir()
        with socket.create_server((_HOST, 0)) as free:
            port = free.getsockname()[1]
        return Place(port, f"http://{_HOST}:{self._upstream_port}/v1", directory, self._directory)

    def _await_first_answer(self, subject: Subject, port: int, program: Program) -> None:
        question = self._first_question(subject)
        deadline_s = time.monotonic() + _STARTS_WITHIN_S
        while time.monotonic() < deadline_s and program.is_running:
            try:
                answer = _ask(port, "POST", question.body())
            except (OSError, http.client.HTTPException):
                time.sleep(_ASKED_AGAIN_AFTER_S)
                continue
            due = questions.plain_body(READY_NUMBER if subject.ready else question.number)
            if answer != due and not subject.remakes:
                raise BytesWrong(f"{subject.name}: its first answer was {answer[:400]!r}")
            return
        raise ProgramFailed(f"{subject.name} does not answer:\n{program.last_words()}")

    def _first_question(self, subject: Subject) -> Question:
        if subject.replays:
            from benchmarks.filling import numbers  # noqa: PLC0415 - it loads the proxy, which few runs need here

            return Question(numbers(subject.recordings).start)
        self._next_question += 1
        return Question(self._next_question - 1)


def _ask(port: int, method: str, body: bytes | None) -> bytes:
    connection = http.client.HTTPConnection(_HOST, port, timeout=_STARTS_WITHIN_S)
    fields = {"Content-Type": "application/json", "Authorization": f"Bearer {questions.KEY.decode()}"}
    try:
        connection.request(method, questions.PATH.decode(), body, fields)
        return connection.getresponse().read()
    finally:
        connection.close()
