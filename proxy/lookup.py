"""Where the answer to a request comes from: a recording, a flight that is under way, or a new one.

The rule: between the last look at what is there and the launch of a new flight there is no await.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from proxy import policy
from proxy.admission import Controls
from proxy.config import Settings
from proxy.cors import Cors
from proxy.errors import ReplayMiss
from proxy.flights import Flights
from proxy.intake import HeadReader
from proxy.key import credential_scope
from proxy.missed import Missed
from proxy.normalize import Normalizer
from proxy.outlet import Outlet
from proxy.pace import FRAME_BY_FRAME
from proxy.playback import Playback
from proxy.policy import CacheWord, Plan
from proxy.question import KeyRules, Question
from proxy.recording import Head, Headers, RecordedAnswer, Usage
from proxy.store.tiered import Store
from proxy.upstream import Outgoing, Upstream


class Response(Protocol):
    """One listener's side of a source."""

    def head(self) -> Coroutine[Any, Any, Head]:
        """The head, as soon as it is there."""
        ...

    def play(self, outlet: Outlet) -> Coroutine[Any, Any, None]:
        """Write every frame from the first one on, as soon as it is there."""
        ...


class Source(Protocol):
    """A response, recorded or still arriving."""

    def listening(self) -> AbstractContextManager[Response]:
        """Take part in it."""
        ...


@dataclass(slots=True)
class Ask:
    """A request that has been let in."""

    outgoing: Outgoing
    controls: Controls
    plan: Plan
    question: Question | None
    bypass: str = ""
    """Why it is no question, if it is none."""
    may_join: bool = True
    is_absent: bool = False
    """Its answer was looked for on disk a moment ago."""


@dataclass(slots=True)
class Found:
    """Where the answer comes from, and what the client is told of that."""

    source: Source
    word: CacheWord
    status: str
    """The parameters of our member of `Cache-Status` (RFC 9211)."""
    age_s: int | None = None
    """Of a recording."""
    usage: Usage | None = None
    """Of a recording; that of a live answer is known when it has ended."""
    borrowed: bool = False
    """It was asked for with another credential."""


def head_reader(settings: Settings, cors: Cors) -> HeadReader:
    """What these settings make of the head of a request."""
    api_key = settings.upstream.api_key
    return HeadReader(
        mode=settings.cache.mode,
        routes=frozenset(settings.cache.routes),
        keys=key_rules(settings),
        cors=cors,
        authorization=b"Bearer " + api_key.get_secret_value().encode() if api_key else None,
        allow_faults=settings.server.allow_faults,
    )


def key_rules(settings: Settings) -> KeyRules:
    """What these settings make of a request."""
    normalize = settings.cache.normalize
    return KeyRules(
        upstream=settings.upstream.name,
        per_credential=settings.cache.scope == "credential",
        vary=settings.cache.vary,
        ignore=settings.cache.ignore,
        normalize=Normalizer(normalize, time.thread_time).apply if normalize else None,
    )


class Lookup:
    """Looks an answer up, or has it fetched."""

    def __init__(self, settings: Settings, store: Store, flights: Flights, upstream: Upstream) -> None:
        self._mode = settings.cache.mode
        self._ttl_s = settings.cache.ttl
        self._pace = settings.replay.pace
        self._store = store
        self._flights = flights
        self._upstream = upstream
        self._missed = Missed(settings, store)

    async def find(self, ask: Ask) -> Found:
        """The source of the answer.

        Raises:
            ReplayMiss: the upstream may not be asked, and there is no recording that will do.
        """
        if ask.question is None:
            if not ask.plan.forward:
                raise ReplayMiss(f"{self._forbidden()} A request like this one is never recorded ({ask.bypass}).")
            return self._launch(ask, "BYPASS", f"fwd=bypass; detail={ask.bypass}")
        key = ask.question.key
        recording = self._store.recall(key) if ask.plan.read else None
        if recording is None and (search := self._search(key, ask)) is not None:
            recording = await search
            # While we waited for the disk it may have been recorded anew.
            recording = self._store.recall(key) or recording
        if recording is not None and self._will_do(recording, ask):
            return self._replay(recording, ask)
        word, forwarded = self._why_forwarded(ask, recording)
        if not ask.plan.forward:
            raise ReplayMiss(await self._why_missed(ask.question, ask, word))
        status = f'{forwarded}; key="{key}"'
        if ask.plan.read and ask.may_join and (flight := self._flights.join(key)):
            borrowed = not _has_same_credentials(flight.sent, ask.outgoing.headers)
            return Found(flight, "JOINED", f"{status}; collapsed", borrowed=borrowed)
        return self._launch(ask, word, status)

    def _search(self, key: str, ask: Ask) -> asyncio.Future[RecordedAnswer | None] | None:
        """For what can't be recalled; None where there is nothing to find, or somebody to join."""
        if not ask.plan.read or ask.is_absent:
            return None
        joins = ask.plan.forward and ask.may_join and self._flights.join(key) is not None
        return None if joins else self._store.look_for(key)

    def _will_do(self, recording: RecordedAnswer, ask: Ask) -> bool:
        age_s = time.time() - recording.recorded_at  # not in whole seconds, as the Age header counts
        is_lasting = self._store.is_lasting(recording.key)
        return policy.is_fresh(age_s, self._ttl_s, ask.plan, ask.controls.directives, is_lasting=is_lasting)

    def _replay(self, recording: RecordedAnswer, ask: Ask) -> Found:
        self._store.count_hit(recording.key)
        pace = ask.controls.pace or self._pace
        if ask.controls.fault is not None and pace.kind == "instant":
            pace = FRAME_BY_FRAME  # since faults count frames
        return Found(
            source=Playback(recording, pace),
            word="HIT",
            status=f'hit; key="{recording.key}"',
            age_s=recording.age_s(time.time()),
            usage=recording.usage,
        )

    def _why_forwarded(self, ask: Ask, recording: RecordedAnswer | None) -> tuple[CacheWord, str]:
        if recording is not None:
            return "STALE", "fwd=stale"
        if ask.plan.read:
            return "MISS", "fwd=uri-miss"
        if not ask.plan.record:
            return "BYPASS", f"fwd=bypass; detail={'request' if self._mode == 'cache' else self._mode}"
        return "REFRESH", "fwd=request" if ask.controls.directives.no_cache else "fwd=bypass; detail=record"

    def _launch(self, ask: Ask, word: CacheWord, status: str) -> Found:
        bypass = ask.bypass or ("passthrough" if self._mode == "passthrough" else "no_store")
        question = ask.question if ask.plan.record else None
        flight = self._flights.launch(self._upstream, ask.outgoing, question, bypass)
        return Found(flight, word, status)

    async def _why_missed(self, question: Question, ask: Ask, word: CacheWord) -> str:
        if word == "STALE":
            return f"{self._forbidden()} The recording of this request is older than it or cache.ttl allows."
        if not ask.plan.read:
            return f"{self._forbidden()} Its Cache-Control or the mode forbids an answer from the store, too."
        nearest = await self._missed.told(question, ask.outgoing.target)
        return (
            f"{self._forbidden()} Nothing is recorded under the key of this request, {question.key}. "
            f"{nearest}{' ' if nearest else ''}"
            "To record it, ask with cache.mode cache; `reprise explain` shows what its key is made of."
        )

    def _forbidden(self) -> str:
        why = "cache.mode is replay" if self._mode == "replay" else "the request says only-if-cached"
        return f"The upstream is not asked, since {why}."


def _has_same_credentials(one: Headers, other: Headers) -> bool:
    """Whether the same caller asks, as the upstream sees it."""
    return one == other or _credentials(one) == _credentials(other)  # one caller's fields are mostly all the same


def _credentials(fields: Headers) -> str:
    """A digest of who asks."""
    return credential_scope((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
