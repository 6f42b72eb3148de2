"""Commands without the time that it takes to import them: a process that has everything imported forks one for each.

What runs is what would run otherwise, in a process of its own, from `main` to the interpreter's last word. What this
can't show is whether a command imports what it needs: those started by `running` and `on_terminal` do.
"""

import atexit
import gc
import os
import pkgutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final

import orjson

from proxy import cli, commands

_ROOT = Path(__file__).parent.parent
_LONGEST_ORDER_BYTES = 1 << 20
_TIMEOUT_S = 60

# Root can read and write everything because of two capabilities; a program that root starts without them can't.
AS_AN_ORDINARY_USER: Final = (
    sys.executable,
    "-c",
    """
import ctypes, os, sys
if os.geteuid() == 0:
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            sys.exit("the capabilities of root can't be dropped here")
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
""",
)
"""What comes before the name of a module to run it so."""


def run(arguments: Sequence[str], at: Path, environment: Mapping[str, str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Run a command with the rights of an ordinary user; its exit code, and what it wrote to stdout and stderr."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        order = orjson.dumps({"arguments": arguments, "at": str(at), "environment": dict(environment)})
        code = _nursery().run(order, [given.fileno(), out.fileno(), err.fileno()])
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


class _Nursery:
    """The process that forks; it ends when nobody can give it an order any more."""

    def __init__(self) -> None:
        self._orders, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(_TIMEOUT_S)
        with its:
            self._process = subprocess.Popen(
                [*AS_AN_ORDINARY_USER, "tests.warm", str(its.fileno())],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                pass_fds=[its.fileno()],
            )
        self._one_at_a_time = threading.Lock()

    def run(self, order: bytes, standard_streams: Sequence[int]) -> int:
        with self._one_at_a_time:
            socket.send_fds(self._orders, [order], standard_streams)
            return int(self._orders.recv(16))

    def close(self) -> None:
        self._orders.close()
        self._process.wait(_TIMEOUT_S)


@cache
def _nursery() -> _Nursery:
    nursery = _Nursery()
    atexit.register(nursery.close)
    return nursery


def _serve(orders: socket.socket) -> None:
    """Fork for each order, and tell the exit code; a child comes back from here, to do as it was told."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, _LONGEST_ORDER_BYTES, 3)
        if not message:
            sys.exit()
        child = os.fork()
        if child == 0:
            orders.close()
            _become(orjson.loads(message), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _become(order: dict[str, Any], descriptors: Sequence[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order["at"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]


if __name__ == "__main__":
    for _module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        import_module(_module.name)
    gc.freeze()  # or the collector would have a copy made of every page
    _serve(socket.socket(fileno=int(sys.argv[1])))
    cli.main()
