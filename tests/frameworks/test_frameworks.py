"""Real frameworks: what is recorded through each of them is replayed to it, and the upstream is gone by then.

They are run by `pytest -m frameworks`, see the README. Each is a program in a process of its own, which knows of the
proxy what its environment says, and which prints what it was told as JSON, by the way in which it asked.
"""

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from proxy import testing
from proxy.events import RequestLine
from tests.commands import simulating
from tests.frameworks import environments
from tests.frameworks.environments import PROGRAMS

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]

_ANSWERED_IN_S = 120


class Framework(NamedTuple):
    program: str
    """In `programs`."""
    requirements: tuple[str, ...] | None
    """What pip installs; None for programs of Node, whose packages are in `package.json`."""
    ways: tuple[str, ...]
    """Of asking; to each that ends in `streamed` the answer comes in pieces."""


TEXT = ("plain", "streamed")
TOOL = ("tool", "tool, streamed")
RESPONSES = ("responses", "responses, streamed")
FRAMEWORKS = {
    "langchain": Framework(
        "ask_langchain.py",
        ("langchain-openai>=1",),
        (
            *("plain, async", "streamed, async", "several at once", "schema", "schema, as a function"),
            *(*TEXT, *TOOL, *RESPONSES, "responses, tool", "embeddings", "id"),
        ),
    ),
    "pydantic_ai": Framework(
        "ask_pydantic_ai.py",
        ("pydantic-ai-slim[openai]>=2",),
        (
            *("plain, async", "schema", "schema, streamed", "schema, as a function"),
            *(*TEXT, *TOOL, *RESPONSES, "responses, tool", "responses, schema", "id"),
        ),
    ),
    "litellm": Framework(
        "ask_litellm.py",
        ("litellm>=1.80", "mcp>=2"),  # it imports mcp as soon as a tool is asked for, and does not require it
        (
            *("plain, async", "streamed, async", "usage of a stream", "schema"),
            *(*TEXT, *TOOL, *RESPONSES, "embeddings", "id"),
        ),
    ),
    "instructor": Framework(
        "ask_instructor.py",
        ("instructor>=1.15",),
        (*TOOL, "tool, async", "one by one", "schema", "schema, streamed", "responses, tool", "id"),
    ),
    "openai_for_node": Framework(
        "ask_openai.mjs",
        None,
        (*TEXT, "through the helper", *TOOL, "schema", *RESPONSES, "responses, schema", "embeddings", "id"),
    ),
    "vercel_ai_sdk": Framework(
        "ask_vercel.mjs",
        None,
        (*TEXT, *TOOL, "schema", "schema, streamed", *RESPONSES, "responses, tool", "embeddings", "id"),
    ),
}
WAYS = [(name, way) for name, framework in FRAMEWORKS.items() for way in framework.ways]


class Run(NamedTuple):
    """A program from its start to its end."""

    told: dict[str, Any]
    requests: list[RequestLine]
    keys: set[str]
    """Of what it has recorded, or of the recordings that have answered it."""


class Both(NamedTuple):
    recorded: Run
    replayed: Run
    missed: int


RunTwice = Callable[[str], Both]


@pytest.fixture(scope="module")
def run_twice(tmp_path_factory: pytest.TempPathFactory) -> RunTwice:
    """A function that runs a framework's program with an upstream, and again when there is none; once for all tests."""

    @cache
    def installed(name: str) -> tuple[Path, list[str]]:  # by itself, so that a program that fails does not repeat it
        at = tmp_path_factory.mktemp(name)
        return at, _command(FRAMEWORKS[name], at)

    @cache
    def run(name: str) -> Both:
        (at, command), cassette = installed(name), tmp_path_factory.mktemp("cassette")
        with simulating(at) as upstream, testing.record(cassette, upstream=upstream) as gateway:
            told = _told(command, at, gateway)
        recorded = Run(told, gateway.requests, gateway.recorded)
        with testing.replay(cassette) as gateway:
            told = _told(command, at, gateway)
        return Both(recorded, Run(told, gateway.requests, gateway.used), gateway.missed)

    return run


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_a_replay_tells_what_was_recorded(run_twice: RunTwice, name: str, way: str) -> None:
    """Texts and their pieces, calls with their ids, objects; and that is something, in pieces where it streams."""
    both = run_twice(name)

    recorded, replayed = both.recorded.told[way], both.replayed.told[way]

    assert replayed == recorded
    assert recorded
    if way.endswith("streamed"):
        assert len([piece for piece in recorded if piece]) > 1


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_all_of_it_is_recorded_and_nothing_else_is_asked(run_twice: RunTwice, name: str) -> None:
    """No request has anything in it that changes from run to run, nor goes where nothing is recorded."""
    both = run_twice(name)

    assert both.missed == 0
    assert both.replayed.keys == both.recorded.keys
    assert {line.cache for line in both.recorded.requests} <= {"MISS", "HIT"}
    assert {line.cache for line in both.replayed.requests} == {"HIT"}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_every_way_of_asking_is_looked_at(run_twice: RunTwice, name: str) -> None:
    """What is told and not listed would be compared with nothing."""
    assert set(run_twice(name).recorded.told) == set(FRAMEWORKS[name].ways)


def _command(framework: Framework, at: Path) -> list[str]:
    """What runs its program, in an environment that is installed into a directory."""
    if framework.requirements is None:
        return [*environments.node(at), str(at / framework.program)]
    return [*environments.python(framework.requirements, at), str(PROGRAMS / framework.program)]


def _told(command: list[str], at: Path, gateway: testing.Gateway) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"OPENAI_BASE_URL": gateway.base_url, "OPENAI_API_KEY": "none needed"}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches its prices from the network
    done = subprocess.run(command, cwd=at, env=env, capture_output=True, check=False, timeout=_ANSWERED_IN_S)
    assert done.returncode == 0, done.stderr.decode()
    told: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return told
