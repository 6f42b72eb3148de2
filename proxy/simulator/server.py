"""The simulator on a socket: one request in, one answer out, in the rhythm that it was given."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from proxy.simulator.account import Account
from proxy.simulator.answer import Answer, refusal
from proxy.simulator.chat import chat, completion
from proxy.simulator.embeddings import embedding
from proxy.simulator.files import Files
from proxy.simulator.models import model, models
from proxy.simulator.moderations import moderation
from proxy.simulator.request import Refused, RequestBody
from proxy.simulator.responses import response

_BACKLOG = 1024  # connections that wait to be accepted: load generators open theirs all at once
_SHUTDOWN_S = 0.1  # then streams under way are cut off

_BY_A_MODEL: dict[str, Callable[[RequestBody, int], Answer]] = {
    "POST /v1/chat/completions": chat,
    "POST /v1/completions": completion,
    "POST /v1/embeddings": embedding,
    "POST /v1/moderations": moderation,
    "POST /v1/responses": response,
}
_ROUTES = {*_BY_A_MODEL, "GET /v1/models", "GET /v1/models/{model}", "POST /v1/files", "GET /v1/files"}
_MODEL_PATH = "/v1/models/"


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How fast the simulated model is, and how much it has to say.

    Raises:
        ValueError: a negative time, or less than one token.
    """

    first_byte_ms: float = 250.0
    """From a request to the head of a model's answer, streamed or plain."""
    gap_ms: float = 15.0
    """From one event of a stream to the next."""
    tokens: int = 60
    """In a text, each of which is an event of a stream; a request's own limit may cut it short."""

    def __post_init__(self) -> None:
        if self.first_byte_ms < 0 or self.gap_ms < 0 or self.tokens < 1:
            raise ValueError("a rhythm needs times of at least 0 and at least 1 token")


_BELIEVABLE = Rhythm()


class Simulator:
    """The API on a socket of its own, in the event loop that starts it."""

    def __init__(self, rhythm: Rhythm = _BELIEVABLE, *, required_key: str | None = None) -> None:
        """`required_key`: the API key that callers must send; None takes any, or none at all."""
        self.rhythm = rhythm
        self.base_url = ""
        """Known once it has started; ends in `/v1`."""
        self.requests_seen_by_route: Counter[str] = Counter()
        """Such as `POST /v1/chat/completions`; whatever is no route of the API is `other`."""
        self._required_key = required_key
        self._account = Account()
        self._files = Files()
        self._runner: web.ServerRunner | None = None

    @property
    def requests_seen(self) -> int:
        """Requests whose head has arrived, whatever became of them."""
        return self.requests_seen_by_route.total()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            OSError: the address cannot be had.
        """
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=_BACKLOG).start()
        bound_host, bound_port = self._runner.addresses[0][:2]
        self.base_url = str(URL.build(scheme="http", host=bound_host, port=bound_port, path="/v1"))

    async def stop(self) -> None:
        """Let go of the address; streams under way break off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        arrived_s = time.monotonic()
        route = _route(request)
        self.requests_seen_by_route[route] += 1
        try:
            answer = await self._answer(request, route)
        except Refused as refused:
            answer = refusal(refused)
        if answer.model is not None and self.rhythm.first_byte_ms:
            await asyncio.sleep(self.rhythm.first_byte_ms / 1000)
        now_s = time.monotonic()
        headers = self._account.headers(answer, now_s - arrived_s, now_s)
        if answer.stream:
            return await self._stream(request, answer, headers)
        return web.Response(body=answer.pieces[0], status=answer.status, headers=headers)

    async def _answer(self, request: web.BaseRequest, route: str) -> Answer:
        self._check_key(request)
        match route:
            case "GET /v1/models":
                return models()
            case "GET /v1/models/{model}":
                return model(request.path.removeprefix(_MODEL_PATH))
            case "GET /v1/files":
                return self._files.listing()
            case "POST /v1/files":
                return await self._files.upload(request)
            case "other":
                raise _no_route(request)
        raw = await request.content.read()  # not request.read(), which stops at 1 MiB
        return _answer_of_a_model(route, raw, self.rhythm.tokens)

    def _check_key(self, request: web.BaseRequest) -> None:
        sent = request.headers.get("Authorization", "")
        if self._required_key is None or sent == f"Bearer {self._required_key}":
            return
        if not sent:
            message = "You didn't provide an API key. You need to provide it in an Authorization header."
            raise Refused(401, message)
        raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")

    async def _stream(self, request: web.BaseRequest, answer: Answer, headers: CIMultiDict[str]) -> web.StreamResponse:
        stream, gap_s = web.StreamResponse(headers=headers), self.rhythm.gap_ms / 1000
        with contextlib.suppress(ConnectionResetError):  # the client has left
            await stream.prepare(request)
            for event in answer.pieces[:-1]:
                await stream.write(event)
                if gap_s:
                    await asyncio.sleep(gap_s)
            # The last event and the end of the body in one write: who has read the event has read the end.
            await stream.write_eof(answer.pieces[-1])
        return stream


def _answer_of_a_model(route: str, raw: bytes, usual_tokens: int) -> Answer:
    try:
        return _BY_A_MODEL[route](RequestBody(raw), usual_tokens)
    except orjson.JSONEncodeError as error:  # orjson reads more than it can write
        message = "Invalid body: nested too deeply, or a number that is too large."
        raise Refused(400, message, code="invalid_value") from error


def _route(request: web.BaseRequest) -> str:
    route = f"{request.method} {_place(request)}"
    return route if route in _ROUTES else "other"


def _place(request: web.BaseRequest) -> str:
    return f"{_MODEL_PATH}{{model}}" if request.path.startswith(_MODEL_PATH) else request.path


def _no_route(request: web.BaseRequest) -> Refused:
    if any(route.endswith(f" {_place(request)}") for route in _ROUTES):
        message = f"Not allowed to {request.method} on {request.path}."
        return Refused(405, message, code="method_not_supported")
    return Refused(404, f"Invalid URL ({request.method} {request.path})")
