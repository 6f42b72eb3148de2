"""The questions and the answers that are due to them, as bytes; upstream, load generator and checks share them.

The rule: an answer is a function of its question, but for the stamps of a paced stream, so every byte can be checked.
"""

from functools import lru_cache
from typing import NamedTuple

PATH = b"/v1/chat/completions"
KEY = b"sk-benchmark-0000000000000000000000000000000000000000"

# About as much as a short system prompt; it is what a proxy has to hash.
_SENTENCE = (
    b"You are a careful assistant. You answer in one paragraph, name your sources and say what you do not know. "
)
_CONTEXT = _SENTENCE * 8

# The fields that OpenAI's Python SDK sends, and those that OpenAI answers with, in number and size.
_REQUEST_FIELDS = (
    b"""\
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 2.8.0
Authorization: Bearer %b
X-Stainless-Lang: python
X-Stainless-Package-Version: 2.8.0
X-Stainless-OS: Linux
X-Stainless-Arch: x64
X-Stainless-Runtime: CPython
X-Stainless-Runtime-Version: 3.11.7
X-Stainless-Async: async:asyncio
X-Stainless-Retry-Count: 0
X-Stainless-Read-Timeout: 600
""".replace(b"\n", b"\r\n")
    % KEY
)
_ANSWER_FIELDS = b"""\
Date: Sat, 21 Nov 2026 10:00:00 GMT
openai-organization: org-benchmark
openai-processing-ms: 5
openai-project: proj_benchmark
openai-version: 2020-10-01
x-ratelimit-limit-requests: 10000
x-ratelimit-limit-tokens: 200000
x-ratelimit-remaining-requests: 9999
x-ratelimit-remaining-tokens: 199950
x-ratelimit-reset-requests: 8.64s
x-ratelimit-reset-tokens: 15ms
cf-cache-status: DYNAMIC
Server: cloudflare
cf-ray: 8f0000000000benc-AMS
alt-svc: h3=":443"; ma=86400
""".replace(b"\n", b"\r\n")

_SAID = b"Nothing here was thought of by anyone, which makes it quick to say. " * 4
_PLAIN = (
    b'{"id":"chatcmpl-%010d","object":"chat.completion","created":1764000000,"model":"gpt-4o-mini-2024-07-18",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"' + _SAID + b'","refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":190,"completion_tokens":60,"total_tokens":250,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}},"service_tier":"default"}'
)

_FRAME = (
    b'data: {"id":"chatcmpl-%010d","object":"chat.completion.chunk","created":1764000000,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_benchmark",'
    b'"choices":[{"index":0,"delta":{"content":"%04d %019d"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-%010d","object":"chat.completion.chunk","created":1764000000,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req_%010d\r\n" + _ANSWER_FIELDS + b"\r\n"
)
_PLAIN_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % len(_PLAIN % 0)
    + b"x-request-id: req_%010d\r\n"
    + _ANSWER_FIELDS
    + b"\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


class Question(NamedTuple):
    """One request. What answers it reads from the prompt what is asked for, whatever a proxy does to the rest."""

    number: int
    frames: int = 0
    """Of the streamed answer; 0 asks for a plain one."""
    gap_us: int = 0
    """From one frame to the next; 0 asks for all at once, without stamps."""
    body_bytes: int = 0
    """Of the request's body at least: what it lacks is added to the context."""

    def body(self) -> bytes:
        return _body(self.frames, self.gap_us, self.body_bytes) % self.number

    def request(self, port: int) -> bytes:
        return self.request_format(port) % self.number

    def request_format(self, port: int) -> bytes:
        """The request with a hole for the number, for who asks many that differ in nothing else."""
        return _request(self.frames, self.gap_us, self.body_bytes, port)


@lru_cache
def _body(frames: int, gap_us: int, body_bytes: int) -> bytes:
    asked = b"Question %%010d, %04d frames, %09d us apart" % (frames, gap_us)
    stream = b',"stream":true,"stream_options":{"include_usage":false}' if frames else b""
    form = b'{"model":"gpt-4o-mini","messages":[{"role":"system","content":"%b"},{"role":"user","content":"%b"}],'
    form += b'"temperature":0.7%b}'
    missing = body_bytes - len(form % (_CONTEXT, asked, stream) % 0)
    more = _SENTENCE * (missing // len(_SENTENCE) + 1) if missing > 0 else b""
    return form % (_CONTEXT + more[:missing], asked, stream)


@lru_cache
def _request(frames: int, gap_us: int, body_bytes: int, port: int) -> bytes:
    body = _body(frames, gap_us, body_bytes)
    length = len(body % 0)
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%bContent-Length: %d\r\n\r\n"
    return head % (PATH, port, _REQUEST_FIELDS, length) + body


def plain_body(number: int) -> bytes:
    return _PLAIN % number


def plain_answer(number: int) -> bytes:
    """Head and body."""
    return _PLAIN_HEAD % number + plain_body(number)


def stream_head(number: int) -> bytes:
    return _STREAM_HEAD % number


def frame(number: int, index: int, stamp_ns: int = 0) -> bytes:
    """One frame, always `FRAME_BYTES` long; the stamp is the monotonic time at which it was sent."""
    return _FRAME % (number, index, stamp_ns)


FRAME_BYTES = len(frame(0, 0))


def end(number: int) -> bytes:
    """What a stream says after its last frame."""
    return _LAST % number


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@lru_cache(maxsize=256)
def stream_body(number: int, frames: int) -> bytes:
    """The whole of a stream without stamps."""
    return b"".join(frame(number, index) for index in range(frames)) + end(number)


@lru_cache(maxsize=256)
def stream_answer(number: int, frames: int) -> bytes:
    """Head and body of a stream without stamps, a chunk each frame."""
    chunks = (chunk(frame(number, index)) for index in range(frames))
    return b"".join((stream_head(number), *chunks, chunk(end(number)), LAST_CHUNK))


def answer_formats() -> bytes:
    """What all answers are made of, as native/wire.h reads it: each text after a line with its length."""
    return b"".join(b"%d\n%b" % (len(each), each) for each in (_PLAIN_HEAD, _PLAIN, _STREAM_HEAD, _FRAME, _LAST, _SAID))
