"""An entry of the store is read back whole and unharmed, or it is damaged: nothing in between, and nothing else."""

import json
import struct
import sys
from base64 import b85decode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.recording import Head, Recording
from proxy.store import codec, metadata
from proxy.store import summary as summary_module
from proxy.store.codec import LARGEST_BYTES, Damaged, Decoder, Summary, UnknownVersion, decode, encode, summary
from proxy.store.summary import summary_json
from tests.recordings import chat, key_of, recording, recordings, timeline

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSED = recording("one", [b"data: {}\n\n"] * 20)
PLAIN = recording("two", [bytes(range(7))])
STRANGE = PLAIN._replace(request=PLAIN.request._replace(path="/v1/\udcff", namespace="\xe9"))

FORMERLY_WRITTEN = (
    (
        COMPRESSED,
        (
            "iBeEf4GJ0x009620004)000000001d0000000013000000002U0000KwA8KP#c6J2Rc1k6mnfwA89HtF`E=3A^av;)o?}6vdm?LP"
            "c_KO@H#RvkV>4l7Gc`0YVq!QjGh;9^Fk&-dWo0%tV`MluI5#meGcq$YWnnO5Hf1+4G&5r`VPs@CGiGKqGcjdkA}k_uWn*u0WMyPu"
            "VRRxoF*h(UFfcGMFfcAMH7p`+Wprq7WFk5uP)}1-A}k_sVRUFBIwCK2F)w3iVRSEJZ*6dFWprt8ZgV0mB6eYNc_KPnTOx08Wo}_<"
            "En;PKVInLdcs(&9U0p09ZeeX@b8ul}Wg<EvbY*jNb0RDvb75_8Y-J)kGAtr<bYXOLb0Ru2Ffc44a%Ew2Z*C$wB2P;qEFx%SVPs`;"
            "b0RuhTOvbmZggdCbS+eQaAhJaB6MYVbT4IgWo~pWb98cLVQo7gV`yP=b7gcrb#!JeI3isvTOxQZa%FLKWpi{bX=EZSB64MMUoj$G"
            "T`VGKWnpArb#o#*GBhwSFfc44V`yb#Ya%)#WN&U|A}k_vbaG{3Z6Z2!a&=`aB5iMEWo#lkB4==PEi`W}ZE0?4A}k_xb75y?B05_+"
            "EHYhvD77#BU=RV70|1hS7ay=E9Sp+&0>~B=k?XD8k0AtS>t-lQ!4&EsJ@SGu2?jv0I11x9nsyEsljaQDv%<4gBQI-FNCuEaC_bkr"
            "sf-GZ*_HA6DVdQor5{cL2R`rmt~9t2&Uyt^uiOF#028Dbco=vHATgj#+?6V4"
        ),
    ),
    (
        STRANGE,
        (
            "iBeEf4GJ0x009610004x000000001M0000000013000000000700001Qx{=mkB7c})pmbFq>^Eh<6==_%=i5iHR}KNSi`P&dm?LP"
            "c_KO@GiGBnV`FAzH#9XkH!x)~V=!bnIc7I8W-~BmW-vB2He)zsWn^SDF=JyfWH)3pWHUE5VlZT4Wi~i9Win<nA}k_uWn*u0WMyPu"
            "VRRxoF*h(UFfcGMFfcAMH7p`+Wprq7WFk5uP)}1-A}k_sVRUFBIwCK2F)v(oWMgJ#A}k_yVRCsQI$K*JZ*XO9VQDR5WprU8EFyS4"
            "F(O@EEFx}UZDn(CVPj<?IwD+kFfe5~A}k_vVQp}1Wg<E<EFyDsVRUtKB04fKFf1Z+Wnpt~ZX!A&PfH>!B4}k{WMy)5B05`JB13O("
            "bY*UIEmV1MWg;vhbY*ySFJ*RRZgeekbaG{3Z95=iXkl`5Wpq7tbY?9$B3&$7B6uxwWpQ<7b960fWFjmga%FK}F(O@EEFx%SVPs!*"
            "b0Ru2G%zqQFf1ZtXk}w-B03^uZ*FBGEFyDsa%Ev{B06+(b!99fZEs{{Y$7@$XK-{aG;b|!X>MsEEFyJtVP|C`I$Jp`GF^RpB5h@J"
            "b75y?b0Ruhdm>|RZggdCbRs$;Q(<`^Xk~0{Zz3!ra&K&9B03^<b7gWOeO)XfZEs{{Y$7@$XK-{aG;b|!X>MsEEFyDsa%Ev{B06+("
            "b!B}30RjUA1qKHI005BC0{{R3000"
        ),
    ),
)


def forge(
    one: Recording,
    facts: dict[str, Any] | None = None,
    *,
    text: bytes | None = None,
    stored: bytes | None = None,
    **lengths: Any,
) -> bytes:
    """An entry with a checksum that is right, made by somebody who knows the format and means no good."""
    entry = encode(one)
    layout = codec._Layout._make(codec._LAYOUT.unpack_from(entry))
    stored_at = codec._HEADER_BYTES + layout.metadata_bytes
    if text is None:
        text = json.dumps(json.loads(entry[codec._HEADER_BYTES : stored_at]) | (facts or {})).encode()
    stored = entry[stored_at:] if stored is None else stored
    layout = layout._replace(metadata_bytes=len(text), stored_bytes=len(stored))._replace(**lengths)
    packed = codec._LAYOUT.pack(*layout)
    return packed + codec._digest(packed, text, stored) + text + stored


def payload_of(one: Recording) -> bytes:
    return b"".join((one.request.body, one.body, codec._packed(one.timeline)))


@given(recordings())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_is_decoded_is_what_was_encoded(one: Recording) -> None:
    """Any recording comes back as it was: bytes, times, header fields in no character set, paths in no UTF-8."""
    entry = encode(one)

    assert decode(entry, one.key) == one


def slow_planes(numbers: list[int], size: int) -> bytes:
    whole = [number.to_bytes(size, "little", signed=size == 8) for number in numbers]
    return b"".join(bytes(number[plane] for number in whole) for plane in range(size))


def slowly_encoded(one: Recording) -> bytes:
    """The entry as the format's description has it, uncompressed."""
    request, head, times = one.request, one.head, one.timeline
    facts = {
        "key": one.key,
        "recorded_at": float(one.recorded_at),
        "method": request.method,
        "path": request.path,
        "vary": request.vary,
        "namespace": request.namespace,
        "sample": request.sample,
        "status": head.status,
        "reason": head.reason,
        "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers],
        "head_us": times.head_us,
        "check": one.check,
        "stream": one.stream,
        "model": one.model,
        "usage": one.usage,
    }
    text = json.dumps(facts, separators=(",", ":")).encode("ascii")
    gaps = [later - earlier for earlier, later in pairwise([0, *times.arrived_us])]
    payload = request.body + one.body + slow_planes(list(times.lengths), 4) + slow_planes(gaps, 8)
    lengths = (len(text), len(payload), len(request.body), len(one.body), len(times.lengths))
    layout = struct.pack(">8sHHIQQQI", b"\x89RPR\r\n\x1a\n", 1, 0, *lengths)
    return layout + sha256(layout + text + payload).digest() + text + payload


@given(recordings())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_entries_are_in_the_format_that_is_described(one: Recording) -> None:
    """What was written by the book is read, and what is written has the same facts and payload."""
    described, entry = slowly_encoded(one), encode(one)

    assert decode(described, one.key) == one
    assert facts_of(entry) == facts_of(described)
    assert payload_of(one) == described[len(described) - len(payload_of(one)) :]


def facts_of(entry: bytes) -> Any:
    layout = codec._Layout._make(codec._LAYOUT.unpack_from(entry))
    text = entry[codec._HEADER_BYTES : codec._HEADER_BYTES + layout.metadata_bytes]
    return json.loads(text.decode("ascii"))


@pytest.mark.parametrize(("one", "written"), FORMERLY_WRITTEN, ids=["compressed", "no UTF-8"])
def test_entries_of_former_releases_are_read(one: Recording, written: str) -> None:
    """The format has not changed, whatever writes it faster."""
    assert decode(b85decode(written), one.key) == one


def test_threads_that_encode_at_once_do_not_mix_their_entries() -> None:
    """They share one compressor, each of whose calls makes a whole frame."""
    many = [recording(f"{number}", [b"data: %d\n\n" % number * 5000]) for number in range(40)]

    with ThreadPoolExecutor(4) as threads:
        entries = list(threads.map(encode, many))

    assert [decode(entry, one.key) for entry, one in zip(entries, many, strict=True)] == many


def test_frames_that_are_far_apart_keep_their_times() -> None:
    """A timeline is good for gaps that no 32 bits hold, and for none at all."""
    frames = [b"a", b"b", b"c"]
    slow = recording(frames=frames)._replace(timeline=timeline(map(len, frames), (0, 2**33, 2**63)))

    assert decode(encode(slow), slow.key).timeline == slow.timeline


def test_compression_is_used_where_it_pays() -> None:
    """An event stream shrinks to a fraction; what does not shrink is kept as it is, without a byte to spare."""
    stream = recording(frames=[b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'] * 500)
    noise = PLAIN._replace(body=(body := bytes.fromhex(key_of("noise"))), timeline=timeline([len(body)], [1]))

    assert len(encode(stream)) * 10 < len(stream.body)
    assert encode(noise)[codec._HEADER_BYTES + len(metadata.dump(noise)) :] == payload_of(noise)


@pytest.mark.parametrize("one", [COMPRESSED, PLAIN], ids=["compressed", "plain"])
@pytest.mark.parametrize("flip", [0xFF, 0x01, 0x80])
def test_a_flip_at_any_byte_is_found(one: Recording, flip: int) -> None:
    """No bit of an entry can change unnoticed, be it in the header, the metadata or the payload."""
    entry = encode(one)

    for place in range(len(entry)):
        harmed = bytearray(entry)
        harmed[place] ^= flip
        with pytest.raises(Damaged):
            decode(bytes(harmed), one.key)


@pytest.mark.parametrize("one", [COMPRESSED, PLAIN], ids=["compressed", "plain"])
def test_a_cut_at_any_byte_is_found(one: Recording) -> None:
    """An entry that lost its end, or has more of it than it should, is damaged."""
    entry = encode(one)

    for length in range(len(entry)):
        with pytest.raises(Damaged):
            decode(entry[:length], one.key)
    for more in (b"\0", entry):
        with pytest.raises(Damaged):
            decode(entry + more, one.key)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_damaged_and_nothing_worse(noise: bytes) -> None:
    """Whatever lies in the store, decoding fails in the one way that its caller expects."""
    with pytest.raises(Damaged):
        decode(noise, key_of("one"))
    with pytest.raises(Damaged):
        decode(encode(PLAIN)[:8] + noise, PLAIN.key)


def test_the_entry_of_another_key_is_damaged() -> None:
    """An entry that was moved to another key answers nothing there."""
    with pytest.raises(Damaged, match="another key"):
        decode(encode(PLAIN), key_of("elsewhere"))
    with pytest.raises(Damaged, match="another key"):
        decode(encode(PLAIN._replace(key="../../etc")), "../../etc")


def test_an_entry_of_another_version_is_told_apart() -> None:
    """It may be whole, only not for us."""
    with pytest.raises(UnknownVersion, match="version 2"):
        decode(forge(PLAIN, version=2), PLAIN.key)


def test_a_forged_entry_with_nothing_forged_is_read() -> None:
    """The tests below prove something only if a forger's checksum is a right one."""
    assert decode(forge(COMPRESSED), COMPRESSED.key) == COMPRESSED
    assert decode(forge(PLAIN), PLAIN.key) == PLAIN


@pytest.mark.parametrize(
    "facts",
    [
        {"headers": [["content-type", "text/plain\r\nSet-Cookie: a=b"]]},
        {"headers": [["content-type", "text/plain\n"]]},
        {"headers": [["content-type", "a\0b"]]},
        {"headers": [["content-type", "\x1b[2J"]]},
        {"headers": [["content-type\n", "a"]]},
        {"headers": [["content-type", "\u20ac"]]},
        {"headers": [["", "a"]]},
        {"headers": [["content-type:", "a"]]},
        {"headers": [["Transfer-Encoding", "chunked"]]},
        {"headers": [["Set-Cookie", "a=b"]]},
        {"headers": [["content-type"]]},
        {"headers": {"content-type": "a"}},
        {"reason": "OK\r\nSet-Cookie: a=b"},
        {"reason": None},
        {"status": 99},
        {"status": 101},
        {"status": "200"},
        {"status": True},
        {"recorded_at": float("nan")},
        {"recorded_at": float("inf")},
        {"recorded_at": -1.0},
        {"recorded_at": 1e300},
        {"recorded_at": "now"},
        {"head_us": -1},
        {"head_us": 10**40},
        {"sample": 1.5},
        {"sample": True},
        {"vary": [["a", 1]]},
        {"vary": "ab"},
        {"path": None},
        {"method": 1},
        {"namespace": []},
        {"check": "surely"},
        {"check": ["done"]},
        {"stream": 1},
        {"model": 1},
        {"usage": [1]},
        {"usage": [1, -2]},
        {"usage": [1, 2**80]},
        {"usage": {"input_tokens": 1}},
        {"key": None},
    ],
    ids=str,
)
def test_a_forged_fact_is_damaged(facts: dict[str, Any]) -> None:
    """What could end a header line, steer the transfer or upset whoever reckons with it never leaves the codec."""
    with pytest.raises(Damaged):
        decode(forge(PLAIN, facts), PLAIN.key)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"key":' + b"9" * 5000 + b"}"], ids=repr
)
def test_forged_metadata_is_damaged(text: bytes) -> None:
    """Metadata that is no JSON object is damage, however it tries to overstrain the parser."""
    with pytest.raises(Damaged):
        decode(forge(PLAIN, text=text), PLAIN.key)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(json.loads(metadata.dump(PLAIN)))), _json_values)
@settings(max_examples=200, deadline=None)
def test_any_forged_fact_is_taken_or_damaged(name: str, value: object) -> None:
    """Whatever stands for a fact, there is a recording that can be encoded again, or the one error."""
    try:
        one = decode(forge(PLAIN, {name: value}), PLAIN.key)
    except Damaged:
        return
    assert decode(encode(one), one.key) == one


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(lambda: forge(PLAIN, flags=2), id="unknown flag"),
        pytest.param(lambda: forge(PLAIN, response_bytes=LARGEST_BYTES), id="states more than an entry may hold"),
        pytest.param(lambda: forge(COMPRESSED, frames=2**32 - 1), id="states frames without end"),
        pytest.param(lambda: forge(COMPRESSED, stored_bytes=7), id="stored bytes not as many as stated"),
        pytest.param(lambda: forge(PLAIN, response_bytes=6), id="payload longer than stated"),
        pytest.param(lambda: forge(PLAIN, response_bytes=8), id="payload shorter than stated"),
        pytest.param(lambda: forge(COMPRESSED, response_bytes=1), id="frame holds more than stated"),
        pytest.param(lambda: forge(COMPRESSED, response_bytes=1000), id="frame holds less than stated"),
        pytest.param(lambda: forge(COMPRESSED, stored=zstd.compress(bytes(2**28))), id="bomb"),
        pytest.param(lambda: forge(COMPRESSED, stored=zstd.compress(payload_of(COMPRESSED)) + b"x"), id="a tail"),
        pytest.param(lambda: forge(COMPRESSED, stored=zstd.compress(payload_of(COMPRESSED))[:-3]), id="a cut frame"),
        pytest.param(lambda: forge(COMPRESSED, stored=payload_of(COMPRESSED)), id="not compressed at all"),
        pytest.param(
            lambda: forge(PLAIN, request_bytes=len(PLAIN.request.body) + 1, response_bytes=6),
            id="frames beside the body",
        ),
        pytest.param(
            lambda: forge(PLAIN, stored=payload_of(PLAIN)[:-8] + bytes([0] * 7 + [0x80])), id="a frame before the start"
        ),
        pytest.param(lambda: encode(PLAIN._replace(timeline=timeline([7, 0], [1, 2]))), id="an empty frame"),
    ],
)
def test_forged_lengths_and_payloads_are_damaged(forged: Callable[[], bytes]) -> None:
    """Lengths that lie, payloads that are not what they should be, and little that would become a lot."""
    one = PLAIN if decode_key(entry := forged()) == PLAIN.key else COMPRESSED

    with pytest.raises(Damaged):
        decode(entry, one.key)


def decode_key(entry: bytes) -> str:
    layout = codec._Layout._make(codec._LAYOUT.unpack_from(entry))
    facts = json.loads(entry[codec._HEADER_BYTES : codec._HEADER_BYTES + layout.metadata_bytes])
    return str(facts["key"])


def test_a_bomb_is_not_unpacked() -> None:
    """Of a frame that holds more than was stated, no more is unpacked than was stated, and one byte."""
    bomb = zstd.compress(bytes(2**28))

    with pytest.raises(Damaged, match="not one whole"):
        codec.Decoder()._decompressed(bomb, 1000)


def test_an_entry_that_states_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """However right the rest of it is, nobody makes us take more memory than an entry may."""
    entry = encode(COMPRESSED)
    monkeypatch.setattr(codec, "LARGEST_BYTES", 100)

    with pytest.raises(Damaged, match="makes no sense"):
        decode(entry, COMPRESSED.key)


def test_a_recording_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read back is not written."""
    monkeypatch.setattr(codec, "LARGEST_BYTES", 100)

    with pytest.raises(ValueError, match="more than an entry may hold"):
        encode(COMPRESSED)


def test_a_summary_says_what_a_listing_shows() -> None:
    """All of it is there without the body."""
    assert summary(recording("one", prompt="Say  hello\\n\\tto\\u001b[31m me")) == Summary(
        key=key_of("one"),
        recorded_at=1_700_000_000.25,
        method="POST",
        path="/v1/chat/completions",
        model="gpt-4o-mini",
        stream=True,
        status=200,
        body_bytes=87,
        frames=3,
        duration_s=0.29,
        input_tokens=9,
        output_tokens=2,
        namespace="tests",
        sample=2,
        prompt="Say hello to [31m me",
    )


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}', "a"),
        (
            b'{"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"tool","content":"c"}]}',
            "b",
        ),
        (b'{"messages":[{"role":"user","content":[{"type":"image_url"},{"type":"text","text":"look"}]}]}', "look"),
        (b'{"messages":[{"role":"system","content":"be brief"}]}', ""),
        (b'{"input":"embed me"}', "embed me"),
        (b'{"input":["one","two"]}', "two"),
        (b'{"input":[[1,2],[3]]}', ""),
        (b'{"input":[{"type":"text","text":"judge me"}]}', "judge me"),
        (b'{"input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]},{"type":"reasoning"}]}', "hi"),
        (b'{"prompt":"Once upon"}', "Once upon"),
        (b'{"prompt":[1,2]}', ""),
        (b'{"messages":[{"role":"user","content":null}]}', ""),
        (b'{"messages":{"role":"user"}}', ""),
        (b"{}", ""),
        (b"[]", ""),
        (b"not JSON", ""),
        (chat("x" * 500), "x" * 80),
        (chat("\u4f60\u597d " * 60), ("\u4f60\u597d " * 60)[:80]),
        (chat("\u202ea\u2028b\u00ad"), "a b"),
        (chat("x" * 5_000_000), "x" * 80),
        *((chat("x" * before + r"\u001b[0m" + "y" * 70_000), "x" * 80) for before in range(1293, 1302)),
        (b'{"input":"%s"}' % (b"x" * 5_000_000), ""),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_prompt_is_recognised(body: bytes, prompt: str) -> None:
    """The last words of the user stand for the request, on one line, on every route."""
    one = recording()

    assert summary(one._replace(request=one.request._replace(body=body))).prompt == prompt


_said = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\{}:, \n'), max_size=30
) | st.sampled_from(["", '"role":"user"', '{"content":"x","role":"user"}', '\\"', "\U0001f600" * 400])
_parts = st.one_of(
    st.builds(lambda text: {"text": text, "type": "text"}, _said),
    st.builds(lambda text: {"image_url": {"url": text}, "type": "image_url"}, _said),
)
_messages = st.fixed_dictionaries(
    {"content": _said | st.lists(_parts, max_size=3) | st.none()},
    optional={"name": _said},
).flatmap(lambda said: st.sampled_from(["user", "assistant", "system"]).map(lambda role: {**said, "role": role}))


@given(st.lists(_messages, max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_prompt_of_a_long_request_is_that_of_a_short_one(messages: list[dict[str, Any]]) -> None:
    """It is found without parsing what may be megabytes, and what somebody said is not taken for a part of the form."""
    body = orjson.dumps({"messages": messages, "model": "m", "stream": True}, option=orjson.OPT_SORT_KEYS)
    short = summary(asked(body)).prompt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(summary_module, "_SHORT_BYTES", 0)
        assert summary(asked(body)).prompt == short
        patched.setattr(summary_module, "_LONGEST_READ_BYTES", 0)
        found = summary(asked(body)).prompt
    assert found == short or not found


def asked(body: bytes) -> Recording:
    return PLAIN._replace(request=PLAIN.request._replace(body=body))


@given(recordings())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_summary_of_anything_can_be_written_read_and_shown(one: Recording) -> None:
    """It survives its JSON, and no text in it can steer a terminal or break a line."""
    first = summary(one)

    assert summary_json(one) == first.to_json()
    assert Summary.from_json(first.to_json()) == first
    assert all(text.isprintable() for text in (first.path, first.model or "", first.namespace, first.prompt))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b"null", summary(PLAIN).to_json().replace(b"200", b'"200"')], ids=repr
)
def test_what_is_no_summary_is_damaged(data: bytes) -> None:
    """A listing passes over it."""
    with pytest.raises(Damaged):
        Summary.from_json(data)


def test_a_planted_summary_can_not_steer_a_terminal() -> None:
    """What is read is cleaned as what is written."""
    planted = summary(PLAIN).to_json().replace(b"Say hello", b"\\u001b]0;gotcha\\u0007")

    assert Summary.from_json(planted).prompt == "]0;gotcha"


@given(recordings())
def test_a_request_can_be_read_without_its_answer(one: Recording) -> None:
    """The same as with it; unless it is longer than wanted."""
    length = len(one.request.body)

    assert Decoder().decode_request(encode(one), one.key, length) == one.request
    assert length == 0 or Decoder().decode_request(encode(one), one.key, length - 1) is None


@pytest.mark.parametrize("one", [COMPRESSED, PLAIN], ids=["compressed", "plain"])
def test_a_request_is_read_from_no_damaged_entry(one: Recording) -> None:
    """Whichever byte of it was changed, and wherever it was cut."""
    entry = encode(one)
    for at in range(len(entry)):
        for damaged in (entry[:at], entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]):
            with pytest.raises(Damaged):
                Decoder().decode_request(damaged, one.key, LARGEST_BYTES)


def test_a_status_line_keeps_its_spelling() -> None:
    """A reason phrase may be empty, and may hold bytes that are no ASCII."""
    one = PLAIN._replace(head=Head(200, "", ()))

    assert decode(encode(one), one.key).head == one.head
