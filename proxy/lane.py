"""The fast lane: hits that take no more than looking them up, answered as soon as their bytes arrive.

Clients send the same head again and again. When the server behind this has read one, and it was that of a plain
request on a cached route, its bytes are remembered with what they said: nothing is parsed here, the same bytes say the
same. A request that begins with such bytes, has come whole in one read, and asks what a recording answers, gets that in
one write: at once if it is in memory, from disk a moment later.

The rule: it answers only what it is sure of, and then just as the gateway would. Everything else it leaves alone.
"""

import asyncio
import time
from collections.abc import Sequence
from hashlib import sha256

from aiohttp import hdrs
from aiohttp.http import HttpVersion11, RawRequestMessage

from proxy import admission, events, framing, headers, policy
from proxy.canonical import Uncacheable
from proxy.config import Settings
from proxy.connection import ClientConnection
from proxy.errors import RepriseError
from proxy.events import RequestLine
from proxy.flights import Flights
from proxy.incoming import KnownHead, PlainRequest
from proxy.intake import HeadReader
from proxy.playback import replayed_head
from proxy.question import Questions
from proxy.recording import Headers, RecordedAnswer
from proxy.traffic import Traffic

# A head differs from the next by the length of its body alone, so there are some more of them than clients.
_MOST_HEADS = 1024
_LARGEST_HEAD_BYTES = 8 * 1024
_END_OF_HEAD = b"\r\n\r\n"

_DIGESTED_BYTES = 32 * 1024  # takes 12 µs; the digest of a larger body is a matter for a thread
_WRITTEN_BYTES = 60 * 1024  # with its head no more than a transport takes without asking to be waited for


class FastLane:
    """Answers hits within the client's connection, as long as the settings that it is made of are in force."""

    def __init__(
        self, settings: Settings, heads: HeadReader, questions: Questions, flights: Flights, traffic: Traffic
    ) -> None:
        self._ttl_s = settings.cache.ttl
        self._pace = settings.replay.pace
        self._reader = heads
        self._questions = questions
        self._store = flights.store
        self._flights = flights
        self.count = traffic.count
        self._ledger = traffic.ledger
        self._known: dict[bytes, KnownHead] = {}

    def plain_request(self, data: bytes, connection: ClientConnection) -> PlainRequest | None:
        """The request that has come on a connection between two requests, if its head is known and it is all there."""
        head_bytes = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        known = self._known.get(data[:head_bytes])
        if known is None or len(data) - head_bytes != known.body_bytes:
            return None
        return PlainRequest(known, data[head_bytes:], connection)

    def look_up(self, request: PlainRequest) -> RecordedAnswer | asyncio.Future[RecordedAnswer | None] | None:
        """What is recorded for it, if that is in memory, or soon to come from disk; None where it is not for us to say.

        A body that was not read before is read here, unless that may take long.
        """
        intake = request.known.intake
        request.digest = sha256(request.body).digest()
        if not intake.plan.read or (intake.controls.pace or self._pace).kind != "instant":
            return None
        key = self._key(request, request.digest)
        if key is None:
            return None
        if (recording := self._store.recall(key)) is not None:
            return recording
        if self._flights.join(key) is not None:
            return None
        search = self._store.look_for(key)
        request.is_absent = search is None
        return search

    def _key(self, request: PlainRequest, digest: bytes) -> str | None:
        premise = request.known.premise
        request.gist = self._questions.gist(premise, digest)
        if request.gist is None and not self._questions.take_long:
            try:
                request.question = self._questions.question(premise, request.body, digest)
            except Uncacheable:
                return None
            request.gist = request.question
        return None if request.gist is None else request.gist.key

    def replay(self, request: PlainRequest, recording: RecordedAnswer, transport: asyncio.WriteTransport) -> bool:
        """Answer it with that, unless it won't do, or is for the gateway to play."""
        intake, gist = request.known.intake, request.gist
        if gist is None or not 0 < len(recording.body) <= _WRITTEN_BYTES:
            return False
        age_s = time.time() - recording.recorded_at
        is_lasting = self._store.is_lasting(recording.key)
        if not policy.is_fresh(age_s, self._ttl_s, intake.plan, intake.controls.directives, is_lasting=is_lasting):
            return False
        if transport.get_write_buffer_size():  # a client that does not take its answers gets no more of them from here
            return False
        line = RequestLine(events.new_id(), request.method, admission.loggable(request.raw_path))
        transport.writelines(_answer(recording, line.id, intake.cors))
        self._store.count_hit(recording.key)
        line.cache, line.key, line.model, line.stream = "HIT", gist.key, gist.model, gist.stream
        line.status, line.bytes, line.usage = recording.head.status, len(recording.body), recording.usage
        line.frames = 1
        line.first_byte_ms = line.duration_ms = events.milliseconds(time.monotonic() - request.came_s)
        self._ledger.enter(line, recording.head)
        return True

    def learn(self, data: bytes, message: object) -> None:
        """Remember the head of a request that came whole, and alone, in these bytes, and what was read in them."""
        head_bytes = data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        if head_bytes > _LARGEST_HEAD_BYTES or not isinstance(message, RawRequestMessage):
            return
        body_bytes = len(data) - head_bytes
        if body_bytes > _DIGESTED_BYTES or not _is_plain(message, body_bytes):
            return
        try:
            intake = self._reader.read(message.method, message.path, message.version, message.raw_headers)
        except RepriseError:
            return
        controls = intake.controls
        if intake.premise is None or controls.session or controls.fault is not None:  # each time another answer
            return
        if len(self._known) >= _MOST_HEADS:
            self._known.clear()
        self._known[data[:head_bytes]] = KnownHead(message, body_bytes, intake, intake.premise)


def _answer(recording: RecordedAnswer, request_id: str, cors: Headers) -> Sequence[bytes]:
    age_s = recording.age_s(time.time())
    added = headers.of_our_own(f'hit; key="{recording.key}"', "HIT", age_s, request_id) + cors
    head = replayed_head(recording)
    if not recording.stream:
        return framing.head_bytes(head, added, "length", None), recording.body
    return framing.head_bytes(head, added, "chunked", None), *framing.whole_body(recording.body)


def _is_plain(message: RawRequestMessage, body_bytes: int) -> bool:
    """Whether this head asks nothing of the connection, and the body is just what came with it."""
    fields = message.headers
    return (
        message.method == "POST"
        and message.version == HttpVersion11
        and not (message.should_close or message.chunked or message.upgrade)
        and hdrs.EXPECT not in fields
        and fields.get(hdrs.CONTENT_LENGTH) == str(body_bytes)
    )
