"""What the README promises is held by tests that are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CHAPTER = re.search(r"^## Reliability$(.*?)^## ", (TESTS.parent / "README.md").read_text(), re.MULTILINE | re.DOTALL)
ROWS = [line for line in CHAPTER[1].splitlines() if line.startswith("| ")] if CHAPTER else []
PROMISES = [row for row in ROWS if not row.endswith("shown by |") and not row.startswith("| ---")]


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_promise_names_tests_that_are_there(row: str) -> None:
    """By the files that they stand in."""
    named = re.findall(r"`(\w+)`", row.split("|")[-2])

    assert named
    assert not [name for name in named if not (TESTS / f"test_{name}.py").is_file()]


def test_every_kind_of_fault_has_its_promises() -> None:
    """Of the upstream, of clients together, of their requests, of the store, and of signals."""
    assert len(PROMISES) > 40
