"""An environment of its own for each framework: what one of them needs, another one refuses.

The rule: what is missing is a failure that says what to install, never a test that is left out.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"

_INSTALLED_IN_S = 600  # from a registry, which is as quick as the network is


def python(requirements: Sequence[str], at: Path) -> list[str]:
    """The command of a Python that has a framework; it is installed into a directory."""
    _install([sys.executable, "-m", "venv", str(at)], at)
    interpreter = str(at / "bin" / "python")
    _install([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], at)
    return [interpreter]


def node(at: Path) -> list[str]:
    """The command of Node; the packages that its programs import are installed into a directory, beside them."""
    for needed in ("node", "npm"):
        if shutil.which(needed) is None:
            pytest.fail(f"there is no {needed}; install Node.js, version 20 or later")
    shutil.copytree(PROGRAMS, at, dirs_exist_ok=True)
    _install(["npm", "install", "--no-audit", "--no-fund"], at)
    return ["node"]


def _install(command: Sequence[str], at: Path) -> None:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False, timeout=_INSTALLED_IN_S)
    if done.returncode:
        pytest.fail(f"{' '.join(command)} has failed; it needs a registry of packages:\n{done.stderr}")
