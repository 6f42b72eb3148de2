"""What the head of a request says: read in one place, and remembered, since clients send the same head again and again.

The rule: an `Intake` follows from the head and the settings alone, never from a body, a clock or what goes on.
"""

from typing import NamedTuple

from proxy import admission, headers, policy
from proxy.admission import Controls, Route
from proxy.canonical import Uncacheable
from proxy.cors import Cors
from proxy.errors import BadRequest
from proxy.key import with_hyphens
from proxy.policy import Mode, Plan
from proxy.question import KeyRules, Premise
from proxy.recording import Head, Headers

# Heads hold credentials. They are remembered in memory alone, these few, and for as long as the settings are in force
# or until so many others have come; a client chooses them, so that they take 4 MB at most.
_MOST_HEADS = 512
_LARGEST_HEAD_BYTES = 8 * 1024
_FIELD_BYTES = 128  # that a field takes besides its bytes

_LENGTH = b"content-length"
_LENGTH_SPELLINGS = frozenset((b"Content-Length", b"content-length"))  # in another one it is part of the head

_NO_PLAN = Plan(read=False, forward=False, record=False)


class Intake(NamedTuple):
    """What is to be done for a request, as far as its head says so."""

    route: Route | None
    """None of a preflight, which may be for any target."""
    cors: Headers
    """What every answer to this page carries."""
    preflight: Head | None = None
    """The answer to it."""
    refusal: BadRequest | None = None
    """Why its controls can't be read, for when the request is let in."""
    controls: Controls = Controls()
    plan: Plan = _NO_PLAN
    fields: Headers = ()
    """As the upstream gets them; on a cached route without the length of the body."""
    premise: Premise | None = None
    """Of a question; None if it can be none, whatever its body is."""
    bypass: str = ""
    """Why it can be none."""


class HeadReader:
    """Reads heads of requests, as long as the settings that it is made of are in force."""

    def __init__(  # noqa: PLR0913 - what the settings say, each by its name
        self,
        *,
        mode: Mode,
        routes: frozenset[str],
        keys: KeyRules,
        cors: Cors,
        authorization: bytes | None,
        allow_faults: bool,
    ) -> None:
        """`authorization` is sent upstream in place of the caller's."""
        self._mode = mode
        self._routes = routes
        self._keys = keys
        self._cors = cors
        self._authorization = authorization
        self._allow_faults = allow_faults
        # A length differs from body to body. Nothing of an `Intake` follows from it, unless it is part of the key.
        self._length_matters = _LENGTH in {with_hyphens(name).lower().encode() for name in keys.vary}
        self._known: dict[tuple[str, str, tuple[int, int], Headers], Intake] = {}

    def read(self, method: str, target: str, version: tuple[int, int], fields: Headers) -> Intake:
        """What this head says; `target` and `fields` are those that were sent.

        Raises:
            BadRequest, ExpectationFailed: see `admission.refuse_odd_head`.
            BadRequest, UnknownRoute, MethodNotAllowed: see `admission.route`; a preflight is none of it.
        """
        if method == "POST" and target.partition("?")[0] in self._routes and not self._length_matters:
            fields = tuple([field for field in fields if field[0] not in _LENGTH_SPELLINGS])
        head = (method, target, version, fields)
        intake = self._known.get(head)
        if intake is None:
            intake = self._read(*head)
            if intake.refusal is None and _size_bytes(target, fields) <= _LARGEST_HEAD_BYTES:
                if len(self._known) >= _MOST_HEADS:
                    self._known.clear()
                self._known[head] = intake
        return intake

    def _read(self, method: str, target: str, version: tuple[int, int], fields: Headers) -> Intake:
        admission.refuse_odd_head(version, fields)
        cors = self._cors.fields_for(fields)
        if preflight := self._cors.preflight(method, fields):
            return Intake(None, cors, preflight)
        route = admission.route(method, target, self._routes)
        if route in ("healthz", "readyz"):
            return Intake(route, cors)
        try:
            controls = self._controls(fields)
        except BadRequest as refusal:
            return Intake(route, cors, refusal=refusal)
        cached = route == "cached"
        intake = Intake(
            route,
            cors,
            controls=controls,
            plan=policy.plan(self._mode, controls.directives),
            fields=headers.for_upstream(fields, cached_route=cached, authorization=self._authorization),
            bypass="route",
        )
        return self._with_premise(intake, method, target, fields) if cached else intake

    def _controls(self, fields: Headers) -> Controls:
        controls = admission.controls(fields)
        if controls.fault is not None and not self._allow_faults:
            # Not ignored: the test that asks for a fault would pass without having met one.
            raise BadRequest(
                "X-Reprise-Fault is not taken by this proxy. Set server.allow_faults: true in one that tests use."
            )
        return controls

    def _with_premise(self, intake: Intake, method: str, target: str, fields: Headers) -> Intake:
        try:
            premise = self._keys.premise(method, target, fields, intake.controls)
        except Uncacheable as uncacheable:
            return intake._replace(bypass=uncacheable.reason)
        return intake._replace(premise=premise, bypass="")


def _size_bytes(target: str, fields: Headers) -> int:
    return len(target) + sum([len(name) + len(value) + _FIELD_BYTES for name, value in fields])
