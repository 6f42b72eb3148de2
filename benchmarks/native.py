"""The upstream and the load generator, made from their C sources: Python would be slower than what it measures.

The rule: they are made anew for each run, where they leave nothing behind.
"""

import shutil
import subprocess
from pathlib import Path

from benchmarks import questions

_SOURCES = Path(__file__).parent / "native"
_COMPILERS = ("cc", "gcc", "clang")


class NoCompiler(Exception):
    """There is no C compiler here, or it does not take our sources."""


def make(name: str, directory: Path) -> tuple[str, str]:
    """The command that runs `upstream` or `load`, made in that directory.

    Raises:
        NoCompiler: it cannot be made.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise NoCompiler(f"The benchmark needs a C compiler, one of {', '.join(_COMPILERS)}: apt-get install gcc")
    program, answers = directory / name, directory / "answers"
    command = (compiler, "-O2", "-o", str(program), str(_SOURCES / f"{name}.c"))
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NoCompiler(f"{' '.join(command)} failed:\n{made.stderr}")
    answers.write_bytes(questions.answer_formats())
    return str(program), str(answers)
