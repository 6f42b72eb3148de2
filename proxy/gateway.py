"""One request, from its arrival to its log line. Start reading here.

    admit -> read the body -> key -> policy -> source (store, flight, or a new one) -> relay -> log

A miss, a joined stream and a hit take the same way; they differ in where the frames come from, and `_relay` can't tell.
The rule: every request gets one answer and one line in the log, whatever happens on the way.
"""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus

from aiohttp import web

from proxy import admission, events, headers, staging
from proxy.asking import Asking
from proxy.canonical import Uncacheable
from proxy.client import Client
from proxy.config import Settings
from proxy.cors import Cors
from proxy.errors import (
    ClientGone,
    Draining,
    InternalError,
    Outcome,
    ReplayMiss,
    RepriseError,
    UpstreamBroken,
)
from proxy.events import RequestLine, log
from proxy.flight import Flight
from proxy.flights import Flights
from proxy.incoming import Incoming, PlainRequest
from proxy.intake import Intake
from proxy.lane import FastLane
from proxy.lookup import Ask, Found, Lookup, head_reader, key_rules
from proxy.question import Questions
from proxy.recording import Head, Headers
from proxy.sessions import Turn
from proxy.staged import StagedFault
from proxy.store.tiered import Store
from proxy.traffic import Traffic
from proxy.upstream import Outgoing, Upstream
from proxy.verdict import Verdict

# Answers about the caller rather than about what was asked: not his credential, no credit, no leave, too many of his.
_ABOUT_THE_CALLER = frozenset((401, 402, 403, 429))

_JSON: Headers = ((b"Content-Type", b"application/json"),)
_HEALTHY = Head(200, "OK", _JSON), b'{"status":"ok"}'
_NOT_READY = Head(503, "Service Unavailable", _JSON), b'{"status":"not_ready"}'


@dataclass(slots=True)
class _Exchange:
    """One request: as it came, who is to be answered, and what the log will say."""

    request: Incoming
    client: Client
    line: RequestLine
    intake: Intake | None = None
    head: Head | None = None
    """That of the source; it is read for the log when the answer is out."""
    flight: Flight | None = None
    turn: Turn | None = None
    """In a session."""
    fault: StagedFault | None = None


class Gateway:
    """Answers every request that comes in while its settings are in force."""

    def __init__(
        self, settings: Settings, store: Store, flights: Flights, upstream: Upstream, traffic: Traffic
    ) -> None:
        self._traffic = traffic
        self._server = settings.server
        self._store = store
        self._lookup = Lookup(settings, store, flights, upstream)
        self._cors = Cors(settings.server.cors_origins)
        self._heads = head_reader(settings, self._cors)
        keys = key_rules(settings)
        questions = Questions(keys.ignore, keys.normalize)
        self._asking = Asking(keys, questions, traffic.sessions)
        self.lane = FastLane(settings, self._heads, questions, flights, traffic)
        """For connections to ask first: what it answers never comes to `serve`."""

    async def serve(self, request: Incoming) -> web.StreamResponse:
        """Answer one request. Raises nothing but the cancellation that a client's leaving is."""
        line = RequestLine(events.new_id(), request.method, admission.loggable(request.raw_path))
        exchange = _Exchange(request, Client(request, self._server.read_timeout, self._server.write_timeout), line)
        task = self._traffic.enter()
        try:
            await self._answer(exchange)
        except RepriseError as error:
            await self._refuse(exchange, error)
            error.__traceback__ = None  # held by who told of it, it would hold bodies until a collection
        except UpstreamBroken as broken:
            _break_off(exchange, "upstream_truncated", str(broken))
            broken.__traceback__ = None
        except ClientGone as gone:
            _let_go(exchange, str(gone))
            gone.__traceback__ = None
        except asyncio.CancelledError:
            self._end_early(exchange)
            raise
        except Exception:  # noqa: BLE001 - the one place that catches what nobody foresaw
            log.exception(events.CRASHED, id=line.id)
            await self._refuse(exchange, InternalError("The proxy failed. Its log tells how, under this id."))
        finally:
            self._traffic.bodies.give_back(exchange.client.body.held_bytes)
            self._traffic.leave(task)
            self._finish(exchange)
        return exchange.client.response

    async def _answer(self, exchange: _Exchange) -> None:
        request = exchange.request
        intake = self._heads.read(request.method, request.raw_path, request.version, request.raw_headers)
        exchange.intake = intake
        if intake.preflight:
            exchange.line.quiet = True
            await exchange.client.answer(intake.preflight, b"", _own_id(exchange))  # what CORS adds is in it already
            return
        if intake.route in ("healthz", "readyz"):
            ready = intake.route == "healthz" or (not self._traffic.draining and await self._store.is_writable())
            await self._answer_here(exchange, *(_HEALTHY if ready else _NOT_READY))
            return
        if self._traffic.draining:
            raise Draining("The proxy is shutting down. Ask again in a moment.")
        if intake.refusal:
            raise intake.refusal
        ask = await self._ask(exchange, intake)
        if (fault := intake.controls.fault) is not None:
            exchange.fault, exchange.line.fault = fault, fault.text
            await staging.refuse(fault)
        if not await self._relay(exchange, await self._lookup.find(ask)):
            await self._relay(exchange, await self._lookup.find(replace(ask, may_join=False)))

    async def _ask(self, exchange: _Exchange, intake: Intake) -> Ask:
        """What is asked for. On a cached route the body is read to its end, elsewhere it is passed on as it comes."""
        request, client = exchange.request, exchange.client
        if intake.route != "cached":
            stream = client.body.pieces if request.body_exists else None
            outgoing = Outgoing(request.method, request.raw_path, intake.fields, stream)
            return Ask(outgoing, intake.controls, intake.plan, question=None, bypass=intake.bypass)
        body = await client.body.whole(self._server.max_body_size, self._traffic.bodies)
        outgoing = Outgoing(request.method, request.raw_path, intake.fields, body)
        if intake.premise is None:
            return Ask(outgoing, intake.controls, intake.plan, question=None, bypass=intake.bypass)
        try:
            plain = request if isinstance(request, PlainRequest) else None
            question = await self._asking.question(intake.premise, body, plain)
            if intake.controls.session:
                question, exchange.turn = await self._asking.in_turn(request, intake, question, body)
        except Uncacheable as uncacheable:
            return Ask(outgoing, intake.controls, intake.plan, question=None, bypass=uncacheable.reason)
        line = exchange.line
        line.key, line.model, line.stream = question.key, question.model, question.stream
        is_absent = plain is not None and plain.is_absent
        return Ask(outgoing, intake.controls, intake.plan, question, is_absent=is_absent)

    async def _relay(self, exchange: _Exchange, found: Found) -> bool:
        """Play the source to the client: the one way that a miss, a joined stream and a hit share.

        False where it tells of another caller than this one, who has to ask for himself then; nothing was played.
        """
        client, line = exchange.client, exchange.line
        line.cache, line.usage = found.word, found.usage
        exchange.flight = found.source if isinstance(found.source, Flight) else None
        with found.source.listening() as response:
            if exchange.fault is not None:
                target = exchange.request.raw_path
                response = staging.staged(response, exchange.fault, target, exchange.flight)  # noqa: PLW2901
            head = await response.head()
            if found.borrowed:
                if head.status in _ABOUT_THE_CALLER:
                    return False
                head = head._replace(headers=headers.for_another_caller(head.headers))
            exchange.head = head
            shown = headers.for_client(head.headers, own_cors=self._cors.enabled)
            client.begin(Head(head.status, head.reason, shown), self._added(exchange, found))
            await response.play(client)
        await client.end()
        return True

    def _added(self, exchange: _Exchange, found: Found) -> Headers:
        """Our own fields, behind those of the source."""
        return headers.of_our_own(found.status, found.word, found.age_s, exchange.line.id) + self._for_page(exchange)

    def _for_page(self, exchange: _Exchange) -> Headers:
        intake = exchange.intake
        return intake.cors if intake else self._cors.fields_for(exchange.request.raw_headers)

    async def _answer_here(self, exchange: _Exchange, head: Head, body: bytes) -> None:
        exchange.line.quiet = True
        await exchange.client.answer(head, body, _own_id(exchange) + self._for_page(exchange))

    def _end_early(self, exchange: _Exchange) -> None:
        if self._traffic.cut_off:
            _break_off(exchange, Draining.outcome, Draining.code)
        else:
            _let_go(exchange, "closed the connection")

    async def _refuse(self, exchange: _Exchange, error: RepriseError) -> None:
        """Answer with an error of our own; where an answer has begun, it can only be broken off."""
        exchange.line.error = error.code
        if isinstance(error, ReplayMiss):
            exchange.line.cache = "MISS"
        if exchange.client.begun:
            _break_off(exchange, error.outcome, error.code)
            return
        exchange.line.outcome = error.outcome
        head = Head(error.status, HTTPStatus(error.status).phrase, _JSON + error.headers)
        try:
            await exchange.client.answer(head, error.body(), _own_id(exchange) + self._for_page(exchange))
        except ClientGone as gone:
            _let_go(exchange, str(gone))

    def _finish(self, exchange: _Exchange) -> None:
        """Write the log line, as soon as it is known whether the answer is stored."""
        line, flight = exchange.line, exchange.flight
        exchange.client.measure(line)
        if exchange.turn is not None:
            failed = exchange.fault is not None and exchange.fault.has_failed(line.outcome)
            settled = flight.settled if flight is not None else None
            exchange.turn.end(settled, replayed=line.cache == "HIT", failed=failed)
        if flight is None:
            self._traffic.ledger.enter(line, exchange.head)
        elif flight.settled.done():
            self._finish_settled(line, exchange.head, flight, flight.settled)
        else:
            flight.settled.add_done_callback(partial(self._finish_settled, line, exchange.head, flight))

    def _finish_settled(
        self, line: RequestLine, head: Head | None, flight: Flight, settled: asyncio.Future[Verdict]
    ) -> None:
        line.attempts = 0 if line.cache == "JOINED" else flight.attempts  # so that all lines add up to what was paid
        line.stored, line.not_stored_because, line.usage = settled.result()
        if line.stored and line.outcome == "client_disconnected" and line.bytes == flight.size_bytes:
            # It had every event, and left before the end of the framing.
            line.outcome, line.error = "complete", None
        self._traffic.ledger.enter(line, head)


def _own_id(exchange: _Exchange) -> Headers:
    return ((b"X-Reprise-Id", exchange.line.id.encode()),)


def _break_off(exchange: _Exchange, outcome: Outcome, why: str) -> None:
    exchange.line.outcome, exchange.line.error = outcome, why
    exchange.client.abort()


def _let_go(exchange: _Exchange, why: str) -> None:
    """The client has left; if it had heard the end, as the official SDKs do, that is no loss."""
    if exchange.client.has_heard_the_end:
        exchange.client.abort()
    else:
        _break_off(exchange, "client_disconnected", why)
