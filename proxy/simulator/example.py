"""A value that satisfies a JSON schema of the kind that structured outputs and tools use.

Types, references, alternatives, enumerations, bounds and common formats are kept; nothing else is looked at.
"""

import math

from proxy.simulator.request import Json
from proxy.simulator.speech import Lots

_DEEP = 6  # levels; a schema may refer to itself, so from here on it has to come to an end
_DEEPEST = 32
_MOST_VALUES = 500  # in one example: a schema that always contains itself has no finite one
_MOST_ITEMS = 100
_LONGEST_WORD = 1000
_FORMATS = {
    "date-time": "2026-03-21T09:30:00Z",
    "date": "2026-03-21",
    "time": "09:30:00Z",
    "duration": "PT90S",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "6f1c0f0e-3c5b-4d5e-9a53-0a4f5c1c7f10",
}
_WORDS = ("Paris", "Lisbon", "Málaga", "Oslo", "Kyoto", "Zürich", "Valparaíso", "Dublin", "Tartu", "Wellington")


def example(schema: Json, seed: bytes) -> object:
    return _Example(schema, Lots(seed)).value


class _Example:
    """Draws a value for each part of one schema; `value` is the whole."""

    def __init__(self, schema: Json, lots: Lots) -> None:
        self._root = schema
        self._lots = lots
        self._values_left = _MOST_VALUES
        self.value = self._draw(schema, 0)

    def _draw(self, schema: object, depth: int) -> object:
        self._values_left -= 1
        if not isinstance(schema, dict) or self._values_left < 0 or depth > _DEEPEST:
            return None
        if "$ref" in schema:
            return self._draw(self._referred(schema), depth + 1)
        if "const" in schema:
            return schema["const"]
        if choices := _list(schema, "enum"):
            return self._lots.choose(choices)
        if alternatives := _list(schema, "anyOf") or _list(schema, "oneOf"):
            return self._draw(self._alternative(alternatives, depth), depth + 1)
        return self._of_kind(schema, depth)

    def _of_kind(self, schema: Json, depth: int) -> object:
        kind = _kind(schema)
        if kind == "object":
            properties = _members(schema, "properties")
            return {name: self._draw(member, depth + 1) for name, member in properties.items()}
        if kind == "array":
            return [self._draw(schema.get("items"), depth + 1) for _ in range(_length(schema, depth))]
        if kind == "boolean":
            return self._lots.number(2) == 1
        scalars = {"string": self._string, "integer": self._integer, "number": self._number}
        return scalars[kind](schema) if kind in scalars else None

    def _string(self, schema: Json) -> str:
        if known := _FORMATS.get(str(schema.get("format"))):
            return known
        shortest, longest = _whole(schema, "minLength", 0), _whole(schema, "maxLength", _LONGEST_WORD)
        return self._lots.choose(_WORDS).ljust(min(shortest, _LONGEST_WORD), "!")[:longest]

    def _integer(self, schema: Json) -> int:
        low, high = _bounds(schema)
        lowest = math.floor(low) + 1 if "exclusiveMinimum" in schema else math.ceil(low)
        highest = math.ceil(high) - 1 if "exclusiveMaximum" in schema else math.floor(high)
        return lowest + self._lots.number(min(100, max(1, highest - lowest + 1)))

    def _number(self, schema: Json) -> float:
        """Strictly within the bounds, so that it does not matter whether they are inclusive."""
        low, high = _bounds(schema)
        exact = low + (high - low) * (1 + self._lots.number(98)) / 100
        return round(exact, 2) if low < round(exact, 2) < high else exact

    def _alternative(self, alternatives: list[object], depth: int) -> object:
        """The first that is not null; deeper down one that refers to nothing further, so that it comes to an end."""
        if depth < _DEEP:
            return next((each for each in alternatives if each != {"type": "null"}), None)
        last = [each for each in alternatives if "$ref" not in str(self._referred(each))]
        return (last or alternatives)[0]

    def _referred(self, schema: object) -> object:
        """What a reference such as `#/$defs/Step` leads to, None if nowhere; any other schema is itself."""
        if not isinstance(schema, dict) or "$ref" not in schema:
            return schema
        found: object = self._root
        for step in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found


def _kind(schema: Json) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return str(kind[0] if isinstance(kind, list) and kind else kind)


def _length(schema: Json, depth: int) -> int:
    usual = 2 if depth < _DEEP else 0
    most = min(_whole(schema, "maxItems", _MOST_ITEMS), _MOST_ITEMS)
    return min(max(_whole(schema, "minItems", 0), usual), most)


def _bounds(schema: Json) -> tuple[float, float]:
    low, high = _bound(schema, "minimum", "exclusiveMinimum"), _bound(schema, "maximum", "exclusiveMaximum")
    if low is None:
        low = 1 if high is None or high > 1 else high - 100
    return low, low + 99 if high is None else high


def _bound(schema: Json, *names: str) -> float | None:
    found = [value for name in names if isinstance(value := schema.get(name), (int, float))]
    return found[0] if found else None


def _whole(schema: Json, name: str, default: int) -> int:
    value = schema.get(name)
    return value if isinstance(value, int) and value >= 0 else default


def _list(schema: Json, name: str) -> list[object]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _members(schema: Json, name: str) -> Json:
    value = schema.get(name)
    return value if isinstance(value, dict) else {}
