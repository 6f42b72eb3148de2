"""The house as it stands: who may import whom.

The floors are a table, from the ground up. A module imports from the floors below its own, and on its own floor only
where that makes no circle. The simulator stands beside the house: it knows nothing of it, so that it could be anyone's
upstream.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "proxy"

STORE_ON_DISK = [
    "store.directory",
    "store.database",
    "store.rows",
    "store.space",
    "store.disk",
    "store.upkeep",
    "store.presence",
]

FLOORS = {
    # What things are called: values and errors.
    "words": ["__init__", "allowance", "errors", "pace", "pointers", "recording", "tally", "verdict"],
    # No await, no clock, no I/O.
    "pure": [
        *("by_names", "headers", "policy", "admission", "key", "question", "intake", "retry", "cors"),
        *("kept", "framing"),
        *("canonical", "alike", "sse", "transcript", "recorder", "store.metadata", "store.summary", "store.codec"),
        *(
            "answer",
            "extent",
            "limits",
            "normalize",
            "reading",
            "difference",
            "nearest",
            "inquiry",
            "staged",
            "store.parts",
        ),
        *("cassette.document", "cassette.names", "cassette.shapes", "cassette.passages", "cassette.scrubbing"),
    ],
    # What is said to the program, and what it says of itself: files, environment, standard error.
    "settings and log": ["config", "config.*", "forms", "events"],
    # asyncio lives from here on up.
    "waiting": [
        *("background", "balance", "sessions", "traffic", "turns", "ledger", "outlet"),
        *("live", "flight", "flights", "opening", "playback"),
        *("accepting", "listening", "connection", "lane_connection", "incoming", "request_body", "client"),
        *("upstream", "faults", "resolver", "streams", "wire"),
        *(
            "store",
            "store.memory",
            "store.absence",
            "store.presence",
            "store.threads",
            "store.health",
            "store.reading",
            "store.search",
            "store.shelved",
            "store.survey",
            "store.surveyor",
            "store.tiered",
            "store.writing",
        ),
        *("dialling", "direct", "pool"),
        *("cassette", "cassette.directory", "cassette.archive", "cassette.layer", "cassette.copying"),
        *STORE_ON_DISK,
    ],
    "journey": ["asking", "missed", "lookup", "lane", "staging", "gateway"],
    "assembly": [
        *("app", "orders", "run", "worker", "workers", "supervisor", "demo", "testing", "pytest_run", "pytest_plugin"),
        *("commands", "commands.*", "cli", "__main__"),
    ],
}
BESIDE = ["simulator", "simulator.*"]

WAITING = {"waiting", "journey", "assembly", "beside"}
NOT_PURE = {"asyncio", "concurrent", "io", "logging", "os", "pathlib", "socket", "subprocess", "threading", "time"}
WAITS = {"aiohttp", "asyncio", "concurrent", "threading", "uvloop"}
RUNS_WHAT_IT_READS = {"_pickle", "cloudpickle", "copyreg", "dill", "marshal", "pickle", "shelve"}
LONGEST = 260


def name_of(path: Path) -> str:
    """`simulator.chat` of `proxy/simulator/chat.py`; a package is named after its directory."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}


def floor_of(module: str) -> str | None:
    """The one floor that lists the module, or None where none does, or more than one."""
    floors = {**FLOORS, "beside": BESIDE}
    found = [floor for floor, names in floors.items() if any(fnmatchcase(module, name) for name in names)]
    return found[0] if len(found) == 1 else None


def imported(path: Path) -> Iterator[str]:
    """The full name of everything that a file imports, wherever in it: `proxy.errors.BadRequest`, `asyncio`."""
    package = ["proxy", *path.relative_to(HOUSE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def from_outside(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)} - {"proxy"}


def from_the_house(path: Path) -> set[str]:
    """The modules of ours that a file imports, itself or something out of them."""
    inner = (name.removeprefix("proxy.") for name in imported(path) if name.startswith("proxy."))
    return {name if name in MODULES else name.rpartition(".")[0] or "__init__" for name in inner}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_stands_on_one_floor(module: str) -> None:
    """Whoever adds a room says where it belongs."""
    assert floor_of(module)


@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_downwards(module: str) -> None:
    """Or stay on the floor; the simulator, and who may start it, apart."""
    floors, floor = list(FLOORS), floor_of(module)
    allowed = {"beside"} if floor == "beside" else set(floors[: floors.index(floor) + 1]) if floor else set()
    if floor == "assembly":
        allowed.add("beside")

    upwards = {other for other in from_the_house(MODULES[module]) if floor_of(other) not in allowed}

    assert not upwards


def test_imports_make_no_circle() -> None:
    """Also within a floor they go one way only."""
    TopologicalSorter({module: from_the_house(path) for module, path in MODULES.items()}).prepare()


@pytest.mark.parametrize("module", [module for module in MODULES if floor_of(module) in ("words", "pure")])
def test_pure_rooms_wait_for_nothing(module: str) -> None:
    """No await, no clock, no I/O: what comes out depends on what goes in (and on chance, where jitter is drawn)."""
    tree = ast.parse(MODULES[module].read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)

    assert not from_outside(MODULES[module]) & NOT_PURE
    assert not called & {"open", "print", "input"}
    assert not [node for node in ast.walk(tree) if isinstance(node, waiting)]


@pytest.mark.parametrize("module", [module for module in MODULES if floor_of(module) not in WAITING])
def test_below_the_waiting_floor_nothing_waits(module: str) -> None:
    """No event loop, no thread, no HTTP library."""
    assert not from_outside(MODULES[module]) & WAITS


@pytest.mark.parametrize("module", MODULES)
def test_nothing_runs_what_it_reads(module: str) -> None:
    """An entry of the store may be anyone's; a pickle in it would be a program."""
    assert not from_outside(MODULES[module]) & RUNS_WHAT_IT_READS


@pytest.mark.parametrize("module", [module for module in MODULES if module not in STORE_ON_DISK])
def test_diskcache_is_the_stores_own_affair(module: str) -> None:
    """Another store can take its place, and its pickles stay behind the door that `disk` keeps shut."""
    assert "diskcache" not in from_outside(MODULES[module])


@pytest.mark.parametrize("module", [module for module in MODULES if floor_of(module) != "assembly"])
def test_below_the_assembly_imports_stand_in_the_open(module: str) -> None:
    """What is imported by a name made up at run time is not seen here; commands are, so that each starts quickly."""
    assert "importlib" not in from_outside(MODULES[module])


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_one_job(module: str) -> None:
    """One that is longer probably has two."""
    length = len(MODULES[module].read_text().splitlines())

    assert length <= LONGEST
