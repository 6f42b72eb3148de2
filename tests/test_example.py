"""The example, as somebody would run it who has copied it: offline, with the cassette that was committed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.harness import NOWHERE

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_it_passes_offline_and_leaves_everything_as_it_was(name: str, tmp_path: Path) -> None:
    """Nothing is asked, nothing is recorded, and no recording is left over."""
    here = shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    env = {**environment(), "CI": "true", "OPENAI_BASE_URL": NOWHERE, "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("OPENAI_API_KEY", None)

    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--reprise-strict"]
    done = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
