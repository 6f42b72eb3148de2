"""The questions and the answers that are due to them, as bytes; upstream, load generator and checks share them.

The rule: an answer is a function of its question, but for the stamps of a paced stream, so every byte can be checked.
"""

import re
from functools import lru_cache
from typing import NamedTuple, Self

PATH = b"/v1/chat/completions"

_QUESTION = re.compile(rb"Question (\d{10}), (\d{4}) frames, (\d{9}) us apart")

# About as much as a short system prompt; it is what a proxy has to hash.
_CONTEXT = (
    b"You are a careful assistant. You answer in one paragraph, name your sources and say what you do not know. " * 8
)

# The fields that OpenAI's Python SDK sends, and those that OpenAI answers with, in number and size.
_REQUEST_FIELDS = b"""\
Accept: application/json
Content-Type: application/json
User-Agent: OpenAI/Python 2.8.0
Authorization: Bearer sk-benchmark-0000000000000000000000000000000000000000
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

_PLAIN = (
    b'{"id":"chatcmpl-%010d","object":"chat.completion","created":1764000000,"model":"gpt-4o-mini-2024-07-18",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b","refusal":null,"annotations":[]},'
    b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":190,"completion_tokens":60,"total_tokens":250,'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0}},"service_tier":"default"}'
)
_SAID = b"Nothing here was thought of by anyone, which makes it quick to say. " * 4

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
    b"x-request-id: req_%010d\r\n%b\r\n"
)
_PLAIN_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nx-request-id: req_%010d\r\n%b\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"


class Question(NamedTuple):
    """One request. What answers it reads from the prompt what is asked for, whatever a proxy does to the rest."""

    number: int
    frames: int = 0
    """Of the streamed answer; 0 asks for a plain one."""
    gap_us: int = 0
    """From one frame to the next; 0 asks for all at once, without stamps."""

    def body(self) -> bytes:
        return _body(self.frames, self.gap_us) % self.number

    def request(self, port: int) -> bytes:
        return _request(self.frames, self.gap_us, port) % self.number

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The question that a request's body asks.

        Raises:
            ValueError: it is none of ours.
        """
        found = _QUESTION.search(body)
        if found is None:
            raise ValueError("not a question of this benchmark")
        return cls(*map(int, found.groups()))


@lru_cache
def _body(frames: int, gap_us: int) -> bytes:
    asked = b"Question %%010d, %04d frames, %09d us apart" % (frames, gap_us)
    stream = b',"stream":true,"stream_options":{"include_usage":false}' if frames else b""
    messages = b'[{"role":"system","content":"%b"},{"role":"user","content":"%b"}]' % (_CONTEXT, asked)
    return b'{"model":"gpt-4o-mini","messages":%b,"temperature":0.7%b}' % (messages, stream)


@lru_cache
def _request(frames: int, gap_us: int, port: int) -> bytes:
    body = _body(frames, gap_us)
    length = len(body % 0)
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%bContent-Length: %d\r\n\r\n"
    return head % (PATH, port, _REQUEST_FIELDS, length) + body


def plain_body(number: int) -> bytes:
    return _PLAIN % (number, _SAID)


def plain_answer(number: int) -> bytes:
    """Head and body."""
    body = plain_body(number)
    return _PLAIN_HEAD % (len(body), number, _ANSWER_FIELDS) + body


def stream_head(number: int) -> bytes:
    return _STREAM_HEAD % (number, _ANSWER_FIELDS)


def frame(number: int, index: int, stamp_ns: int = 0) -> bytes:
    """One frame, always `FRAME_BYTES` long; the stamp is the monotonic time at which it was sent."""
    return _FRAME % (number, index, stamp_ns)


FRAME_BYTES = len(frame(0, 0))
_A_STAMP = 10**18  # as wide as they all are
_STAMP_AT = frame(0, 0, _A_STAMP).index(b"%d" % _A_STAMP)
_STAMP_BYTES = 19


def stamp_of(received: bytes) -> int:
    """When a frame was sent, in nanoseconds of the monotonic clock.

    Raises:
        ValueError: it is no frame.
    """
    return int(received[_STAMP_AT : _STAMP_AT + _STAMP_BYTES])


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
