"""Several processes that serve on one port: started, told what the user wants, replaced when they die.

The rule: the supervisor has no event loop and no thread, so that it can fork at any time, and it serves nobody. What it
holds for its workers is the listening sockets: whoever waits in the kernel's queue outlives a worker.
"""

import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TextIO

from proxy import events
from proxy.app import StartFailed, base_url_of, no_place_at, refuse_to_ask_itself
from proxy.balance import Balance, Shared
from proxy.config import ServerSettings, Settings, SettingsError, reloading
from proxy.events import log
from proxy.listening import listen_without_a_loop
from proxy.orders import STOP, SignalPipe, Terminal
from proxy.run import ENDED_BY
from proxy.store.upkeep import open_shelf
from proxy.worker import CUT_SHORT, DRAIN, RELOAD, share_of, work
from proxy.workers import Worker

# How a worker ends that was told to; by the signal before it has an event loop.
_IN_ORDER = (0, -signal.SIGTERM)


def workers_wanted(server: ServerSettings) -> int:
    """How many processes are to serve; no more than there may be connections, since each of them takes some."""
    count = server.workers or _cores()
    return min(count, server.max_connections) if server.max_connections else count


class Supervisor:
    """Those that serve, and what is asked of them all."""

    def __init__(
        self, settings: Settings, count: int, announce: Callable[[str], None], read_anew: Callable[[], Settings]
    ) -> None:
        """`announce` gets the base URL when all `count` of them are ready."""
        self._settings = settings
        self._count = count
        self._announce = announce
        self._read_anew = read_anew
        self._workers = [Worker(number) for number in range(1, count + 1)]
        """Those that run, or will again."""
        self._has_started = False
        """Whether all of them were ready once."""
        self._refused: str | None = None
        self._stops: list[int] = []
        self._terminal = Terminal()
        self._signals = SignalPipe((*STOP, signal.SIGHUP, signal.SIGCHLD))
        self._balances = Balance.among(count)
        self._listeners: list[socket.socket] = []
        self._base_url = ""

    def run(self) -> int:
        """Serve until told to stop; the exit code: 0, or that of a cut short drain.

        Raises:
            StartFailed, UnusableDirectory: it can't start, see `App.start`.
        """
        _set_up_log(self._settings)
        cache = self._settings.cache
        open_shelf(cache.directory, cache.size_limit).close()  # made by one, before several open it
        self._listen(self._settings.server)
        try:
            with self._signals:
                while self._workers:
                    self._attend()
        finally:
            self._close_listeners()
        if self._refused is not None:
            raise StartFailed(self._refused)
        log.info(events.STOPPED, workers=self._count)
        return ENDED_BY + self._stops[1] if len(self._stops) > 1 else 0

    def _listen(self, server: ServerSettings) -> None:
        try:
            self._listeners = listen_without_a_loop(server.host, server.port)
        except OSError as error:
            raise no_place_at(server, error) from error
        self._base_url = base_url_of(self._listeners[0].getsockname())

    def _attend(self) -> None:
        self._start_those_due()
        self._wait()
        for worker in self._workers:
            worker.hear()
        self._announce_when_ready()
        # Deaths last: where all are told to end together, a worker may be the first to do so.
        for number in sorted(self._signals.take(), key=lambda number: number == signal.SIGCHLD):
            self._obey(number)

    def _wait(self) -> None:
        """Until a signal or a word from a worker comes, or one is due."""
        due = [worker.due_s for worker in self._workers if not worker.pid]
        patience_s = max(0.0, min(due) - time.monotonic()) if due else None
        with selectors.PollSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for worker in self._workers:
                if worker.line is not None:
                    selector.register(worker.line, selectors.EVENT_READ)
            selector.select(patience_s)

    def _announce_when_ready(self) -> None:
        if not self._has_started and not self._stops and all(worker.is_ready for worker in self._workers):
            self._has_started = True
            self._announce(self._base_url)
            log.info(events.STARTED, base_url=self._base_url, mode=self._settings.cache.mode, workers=self._count)

    # Birth and death

    def _start_those_due(self) -> None:
        for worker in self._workers:
            if worker.pid or worker.due_s > time.monotonic():
                continue
            try:
                worker.start(self._let_go, partial(self._work, worker.number))
            except OSError as error:  # there are as many processes as there may be
                log.error(events.WORKER_DIED, worker=worker.number, reason=str(error), restart_in_s=worker.die())

    def _let_go(self) -> None:
        """In the process of a worker: of all that is the supervisor's."""
        self._signals.close()
        for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's, which the supervisor gets as well
            signal.signal(number, signal.SIG_IGN)
        for worker in self._workers:
            if worker.line is not None:  # held open here, it would not tell its worker that the supervisor is gone
                worker.line.close()

    def _work(self, number: int, line: socket.socket) -> int:
        def read_anew() -> Settings:
            return share_of(self._read_anew(), number, self._count)

        shared = Shared(self._listeners, self._balances[number - 1])
        return work(number, share_of(self._settings, number, self._count), shared, line, read_anew)

    def _bury_the_dead(self) -> None:
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                for worker in [each for each in self._workers if each.pid == pid]:
                    self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: Worker, code: int) -> None:
        pid, delay_s = worker.pid, worker.die()
        self._balances[worker.number - 1].leave()
        if worker.failure is not None and not self._has_started and not self._stops:
            self._refused = worker.failure
            self._stop(signal.SIGTERM)
        elif not self._stops:
            _report(worker, pid, code, restart_in_s=delay_s)
        elif len(self._stops) == 1 and self._refused is None and code not in _IN_ORDER:
            _report(worker, pid, code)
        if self._stops:
            self._keep_those_that_run()

    # What the user wants

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._bury_the_dead()
        elif number in STOP:
            self._stop(number)
        elif self._stops:
            return  # a hang-up is no second signal to stop
        elif self._terminal.is_gone():
            self._stop(number)
        else:
            self._reload()

    def _stop(self, number: int) -> None:
        self._stops.append(number)
        match len(self._stops):
            case 1:
                self._close_listeners()  # when the workers have closed theirs, too, new connections are refused
                self._keep_those_that_run()
                self._tell_all(DRAIN)
            case 2:
                self._tell_all(CUT_SHORT)
            case _:
                for worker in self._workers:
                    worker.kill()

    def _reload(self) -> None:
        """Judged here, so that what is wrong is said once, and a worker that is started later has the same settings."""
        try:
            settings, _ = reloading.without_restart(self._settings, self._read_anew())
            refuse_to_ask_itself(settings, self._base_url)
        except (SettingsError, StartFailed, OSError) as error:
            log.error(events.RELOAD_FAILED, reason=str(error))
            return
        self._settings = settings
        _set_up_log(settings)
        self._tell_all(RELOAD)

    def _keep_those_that_run(self) -> None:
        self._workers = [worker for worker in self._workers if worker.pid]

    def _tell_all(self, order: bytes) -> None:
        for worker in self._workers:
            worker.tell(order)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()


class _Impatient:
    """Writes what its reader takes at once: who waits for a reader that reads no more hears no signal either."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        if select.select([], [self._stream], [], 0)[1]:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


def _set_up_log(settings: Settings) -> None:
    events.configure(settings.log.format, settings.log.level, _Impatient(sys.stderr))


def _report(worker: Worker, pid: int, code: int, **facts: object) -> None:
    how = {"exit_code": code} if code >= 0 else {"signal": _names_of_signals().get(-code, str(-code))}
    reason = {} if worker.failure is None else {"reason": worker.failure}
    log.error(events.WORKER_DIED, worker=worker.number, pid=pid, **how, **reason, **facts)


def _names_of_signals() -> dict[int, str]:
    return {each.value: each.name for each in signal.Signals}  # real-time ones have none


def _cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
