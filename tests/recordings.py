"""Recordings for tests, and what hypothesis makes of them."""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import accumulate

from hypothesis import strategies as st

from proxy.recording import Check, Head, RecordedRequest, Recording, Timeline, Usage

EVENTS = (b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n', b'data: {"choices":[{}]}\n\n', b"data: [DONE]\n\n")
HEAD = Head(200, "OK", ((b"Content-Type", b"text/event-stream; charset=utf-8"), (b"x-request-id", b"req_1")))


def key_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def recording(
    name: str = "one",
    frames: Sequence[bytes] = EVENTS,
    *,
    prompt: str = "Say hello",
    recorded_at: float = 1_700_000_000.25,
) -> Recording:
    """A streamed answer; its key is made of `name` alone."""
    return Recording(
        key=key_of(name),
        recorded_at=recorded_at,
        request=RecordedRequest("POST", "/v1/chat/completions", chat(prompt), (("openai-beta", "x=1"),), "tests", 2),
        head=HEAD,
        body=b"".join(frames),
        timeline=timeline(map(len, frames), (250_000 + 20_000 * number for number in range(len(frames)))),
        check="done",
        stream=True,
        model="gpt-4o-mini",
        usage=Usage(9, 2),
    )


def chat(prompt: str) -> bytes:
    return b'{"messages":[{"content":"%s","role":"user"}],"model":"gpt-4o-mini","stream":true}' % prompt.encode()


def timeline(lengths: Iterable[int], arrived_us: Iterable[int], head_us: int = 240_000) -> Timeline:
    return Timeline(head_us, array("I", lengths), array("Q", arrived_us))


def sized(name: str, size_bytes: int) -> Recording:
    """A recording that takes exactly so many bytes while it waits to be written."""
    one = recording(name, [b"."])
    body = bytes(size_bytes - one.size_bytes + 1)
    return one._replace(body=body, timeline=timeline([len(body)], [1]))


def with_answer_of(name: str, size_bytes: int) -> Recording:
    """A recording whose answer takes exactly so many bytes in the memory tier."""
    request_bytes = recording(name).size_bytes - recording(name).answer.size_bytes
    return sized(name, size_bytes + request_bytes)


# Bytes that are no UTF-8 reach a path as lone surrogates.
_texts = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=20)
_field_values = st.binary(max_size=20).map(lambda value: value.translate(None, bytes([*range(9), *range(10, 32), 127])))
_field_names = st.sampled_from([b"Content-Type", b"x-request-id", b"OpenAI-Version", b"openai-model"])
_counts = st.integers(0, 2**63 - 1)
_checks: st.SearchStrategy[Check] = st.sampled_from(("json", "done", "response_completed", "finish_reason"))


@st.composite
def recordings(draw: st.DrawFn) -> Recording:
    """Any recording that can be."""
    frames = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=12))
    gaps = draw(st.lists(st.integers(0, 2**39), min_size=len(frames), max_size=len(frames)))
    request = RecordedRequest(
        method=draw(st.sampled_from(["POST", "GET"])),
        path=draw(_texts),
        body=draw(st.binary(max_size=200)),
        vary=tuple(draw(st.lists(st.tuples(_texts, _texts), max_size=3))),
        namespace=draw(_texts),
        sample=draw(_counts),
    )
    return Recording(
        key=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        recorded_at=draw(st.floats(0, 2**40, exclude_max=True)),
        request=request,
        head=Head(
            status=200,
            reason=draw(st.sampled_from(["OK", "", "Alles klar, \xe4\t\udcff"])),
            headers=tuple(draw(st.lists(st.tuples(_field_names, _field_values), max_size=4))),
        ),
        body=b"".join(frames),
        timeline=timeline(map(len, frames), accumulate(gaps), draw(st.integers(0, 2**42))),
        check=draw(_checks),
        stream=draw(st.booleans()),
        model=draw(st.none() | _texts),
        usage=draw(st.none() | st.builds(Usage, _counts, _counts)),
    )
