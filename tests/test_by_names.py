"""What follows from the names of header fields is found out once, and never for another head."""

from collections.abc import Iterator

import pytest

from proxy import by_names
from proxy.by_names import places_of
from proxy.recording import Headers


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Neither before nor after."""
    for known in (by_names._known, by_names._recent):
        known.clear()
    yield
    for known in (by_names._known, by_names._recent):
        known.clear()


def head(*names: bytes) -> Headers:
    """With values of which none is like another."""
    return tuple((name, b"%d" % place) for place, name in enumerate(names))


def test_what_follows_from_names_is_found_out_once() -> None:
    """For each of those who want to know something else; whatever the values are, and if it is nothing."""
    asked: list[tuple[str, tuple[bytes, ...]]] = []
    first = by_names.by_names(lambda names: asked.append(("first", names)))
    second = by_names.by_names(lambda names: asked.append(("second", names)))

    for values in (b"1", b"2"):
        for find in (first, second, first):
            find(((b"A", values), (b"b", values)))

    assert asked == [("first", (b"A", b"b")), ("second", (b"A", b"b"))]


def test_a_head_in_the_place_of_another_is_none_the_less_its_own() -> None:
    """Heads come and go in the same memory, and names differ by case, order and number."""
    places = places_of(b"a", b"b")

    for _ in range(200):
        for names, expected in (
            ((b"A", b"b"), ((0,), (1,))),
            ((b"b", b"A"), ((1,), (0,))),
            ((b"a", b"a", b"c"), ((0, 1), ())),
            ((b"c",), ((), ())),
            ((), ((), ())),
        ):
            assert places(head(*names)) == expected


def test_names_without_end_are_not_kept_without_end() -> None:
    """A client may call its fields what it likes, and each time anew."""
    places = places_of(b"a")
    for number in range(1000):
        assert places(head(b"x-%d" % number, b"A")) == ((1,),)
    for number in range(200):
        assert places(head(b"x" * 3000 + b"-%d" % number, b"a")) == ((1,),)

    assert 0 < len(by_names._known) <= 128
    assert 0 < len(by_names._recent) <= 128
    assert max(sum(map(len, names)) for names in by_names._known) <= 2048
