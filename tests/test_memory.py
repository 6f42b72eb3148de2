"""The memory tier: what is asked for stays, what is new gives way, and all of it keeps within its limit."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recording import RecordedAnswer
from proxy.store.memory import Memory
from tests.recordings import key_of, recording
from tests.shelves import MIB

LIMIT_BYTES = 64 * MIB
NEW_BYTES = 4 * MIB
"""Of those 64 for what is new."""


def answer(name: object, size_bytes: int = MIB) -> RecordedAnswer:
    return recording(str(name)).answer._replace(size_bytes=size_bytes)


def held(memory: Memory, names: Iterable[object]) -> list[object]:
    """Those of these answers that are in memory; they are used by that."""
    return [name for name in names if memory.get(key_of(str(name)))]


def test_what_is_asked_once_drives_out_nothing_that_is_replayed() -> None:
    """However much of it comes; the last of it is still there."""
    memory = Memory(LIMIT_BYTES)
    for number in range(40):
        memory.put(answer(number))
        assert held(memory, [number])

    for number in range(1000):
        memory.put(answer(f"batch {number}"))

    assert held(memory, range(40)) == list(range(40))
    assert held(memory, [f"batch {number}" for number in range(1000)]) == [
        f"batch {number}" for number in range(996, 1000)
    ]


def test_what_comes_from_disk_has_been_asked_for() -> None:
    """It fills the memory, and what was used least recently gives way."""
    memory = Memory(LIMIT_BYTES)
    for number in range(100):
        memory.put(answer(number), used=True)
        assert held(memory, [0]) == [0]

    assert held(memory, range(100)) == [0, *range(37, 100)]


def test_what_is_new_finds_room_where_all_is_in_use() -> None:
    """Or nothing new would ever be in use."""
    memory = Memory(LIMIT_BYTES)
    for number in range(64):
        memory.put(answer(number), used=True)

    for number in range(4):
        memory.put(answer(f"new {number}"))

    assert held(memory, [f"new {number}" for number in range(4)]) == [f"new {number}" for number in range(4)]
    assert held(memory, range(64)) == list(range(4, 64))


def test_a_large_answer_drives_out_none_of_those_that_are_new() -> None:
    """There is no room for it before it is asked for again."""
    memory = Memory(LIMIT_BYTES)
    for number in range(4):
        memory.put(answer(number))

    memory.put(answer("large", 5 * MIB))
    assert held(memory, ["large", *range(4)]) == [*range(4)]
    memory.put(answer("large", 5 * MIB), used=True)
    assert held(memory, ["large", *range(4)]) == ["large", *range(4)]


def test_what_is_replayed_stays_when_it_is_recorded_anew() -> None:
    memory = Memory(LIMIT_BYTES)
    memory.put(answer("one"))
    assert held(memory, ["one"])

    memory.put(later := answer("one", 2000))
    for number in range(100):
        memory.put(answer(number))

    assert memory.get(later.key) is later


@pytest.mark.parametrize("limit_bytes", [2 * MIB, 1024 * MIB])
def test_a_part_of_a_large_limit_is_for_what_is_new_and_all_of_a_small_one(limit_bytes: int) -> None:
    memory = Memory(limit_bytes)
    for number in range(2000):
        memory.put(answer(number))

    assert len(held(memory, range(2000))) == {2 * MIB: 2, 1024 * MIB: 64}[limit_bytes]


_sizes = st.sampled_from([1, 1000, MIB, 3 * MIB, 5 * MIB, 90 * MIB])
_steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 30), _sizes),
    st.tuples(st.just("put used"), st.integers(0, 30), _sizes),
    st.tuples(st.just("get"), st.integers(0, 30), st.none()),
    st.tuples(st.just("resize"), st.none(), st.sampled_from([0, 500, 3 * MIB, LIMIT_BYTES, 100 * MIB])),
    st.tuples(st.just("clear"), st.none(), st.none()),
)


@given(st.lists(_steps, max_size=60))
def test_it_keeps_within_its_limit_and_gives_the_latest(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is put, asked for and changed; and what it counts is what it holds."""
    memory, limit_bytes = Memory(LIMIT_BYTES), LIMIT_BYTES
    latest: dict[str, RecordedAnswer] = {}
    for step, name, size_bytes in steps:
        if step.startswith("put"):
            one = answer(name, size_bytes)
            latest[one.key] = one
            memory.put(one, used=step == "put used")
        elif step == "get":
            assert memory.get(key_of(str(name))) in (None, latest.get(key_of(str(name))))
        elif step == "resize":
            limit_bytes = size_bytes
            memory.resize(limit_bytes)
        else:
            memory.clear()
        new, used = memory._probation.values(), memory._protected.values()
        assert not memory._probation.keys() & memory._protected.keys()
        assert memory._probation_bytes == sum(each.size_bytes for each in new)
        assert memory._used_bytes == sum(each.size_bytes for each in (*new, *used)) <= limit_bytes
        assert memory._probation_bytes <= max(NEW_BYTES, limit_bytes // 16)
        assert all(latest[each.key] is each for each in (*new, *used))
