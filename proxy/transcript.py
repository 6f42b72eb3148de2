"""What a recorded answer says, for a person to read.

The one rule: this is for the eye only. Nothing that it makes is stored or sent; a replay is the recorded bytes.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.sse import events, read_json


def assembled_text(body: bytes) -> str:
    """The text of an answer, whether a stream of deltas or one JSON object, and after it the tool calls.

    A tool call reads `name(arguments)`, on a line of its own. Where there are several choices, or several items of
    output, each has a heading with its index. Empty for an answer without text, such as embeddings.
    """
    parts: defaultdict[int, _Part] = defaultdict(_Part)
    for item in _items(body):
        _take_choices(item, parts)
        _take_output(item, parts)
        _take_response_event(item, parts)
    texts = {index: text for index, part in sorted(parts.items()) if (text := part.text())}
    if len(texts) > 1:
        texts = {index: f"--- {index} ---\n{text}" for index, text in texts.items()}
    return _with_whole_characters("\n\n".join(texts.values()))


@dataclass(slots=True)
class _Call:
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def text(self) -> str:
        return f"{''.join(self.name)}({''.join(self.arguments)})"


@dataclass(slots=True)
class _Part:
    """One choice, or one item of the output of a response."""

    words: list[str] = field(default_factory=list)
    calls: defaultdict[int, _Call] = field(default_factory=lambda: defaultdict(_Call))

    def take(self, message: dict[str, Any]) -> None:
        """Take a whole message or a delta of one; they differ only in how much of it they hold."""
        self.words += (_words(message.get(name)) for name in ("content", "text", "refusal"))
        for position, call in enumerate(_objects(message.get("tool_calls"))):
            self.take_call(_index(call, "index", position), _object(call.get("function")))
        self.take_call(0, _object(message.get("function_call")))

    def take_call(self, index: int, call: dict[str, Any]) -> None:
        if call:
            self.calls[index].name.append(_words(call.get("name")))
            self.calls[index].arguments.append(_words(call.get("arguments")))

    def text(self) -> str:
        calls = [call.text() for _, call in sorted(self.calls.items())]
        return "\n".join(filter(None, ["".join(self.words), *calls]))


def _items(body: bytes) -> Iterator[dict[str, Any]]:
    # An event stream begins with a field name, a colon or a blank line, never with a brace.
    texts = [body] if body.lstrip().startswith(b"{") else (event.data for event in events(body))
    for text in texts:
        try:
            yield _object(read_json(text))
        except ValueError:
            continue  # [DONE], or what only a stream that is not recorded would hold


def _take_choices(item: dict[str, Any], parts: defaultdict[int, _Part]) -> None:
    for choice in _objects(item.get("choices")):
        message = choice.get("delta") or choice.get("message") or choice
        parts[_index(choice, "index", 0)].take(_object(message))


def _take_output(response: dict[str, Any], parts: defaultdict[int, _Part]) -> None:
    for index, item in enumerate(_objects(response.get("output"))):
        if item.get("type") == "message":
            for content in _objects(item.get("content")):
                parts[index].take(content)
        elif item.get("type") == "function_call":
            parts[index].take_call(0, item)


def _take_response_event(event: dict[str, Any], parts: defaultdict[int, _Part]) -> None:
    index, delta = _index(event, "output_index", 0), event.get("delta")
    match event.get("type"):
        case "response.output_text.delta" | "response.refusal.delta":
            parts[index].words.append(_words(delta))
        case "response.output_item.added" if _object(event.get("item")).get("type") == "function_call":
            parts[index].take_call(0, {"name": event["item"].get("name")})
        case "response.function_call_arguments.delta":
            parts[index].take_call(0, {"arguments": delta})


def _words(value: object) -> str:
    """A text as it is, or joined from a list of content parts."""
    if isinstance(value, list):
        return "".join(_words(content.get("text")) for content in _objects(value))
    return value if isinstance(value, str) else ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _index(item: dict[str, Any], name: str, default: int) -> int:
    index = item.get(name)
    return index if type(index) is int else default


def _with_whole_characters(text: str) -> str:
    # Two deltas may hold half an emoji each; a half without the other could not be printed.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
