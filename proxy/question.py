"""What a request asks, in the form under which its answer can be found again.

The rule: whatever two upstreams, or two readers, could understand differently is no question, and is only passed on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy import headers
from proxy.admission import Controls
from proxy.key import (
    SHARED_SCOPE,
    Uncacheable,
    cache_key,
    canonical_body,
    choices_expected,
    credential_scope,
    refuse_stateful,
    selected_headers,
    wants_stream,
    with_hyphens,
)
from proxy.recording import Headers, RecordedRequest

# JSON has no parameters (RFC 8259 section 11). The one that is often sent may only say what is so anyway; others could
# name another charset to a reader that knows them (`charset*`), or a second type (`x=y, text/plain`).
_JSON_IN_UTF_8 = re.compile(
    r'application/json[ \t]*(?:;[ \t]*charset[ \t]*=[ \t]*(?:utf-8|"utf-8")[ \t]*)?;?', re.IGNORECASE
)

# To a server that heeds one of these it is another request than its method and target say, with an answer of its own.
_OVERRIDES = frozenset(
    ("x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url")
)


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer can be recorded."""

    key: str
    request: RecordedRequest
    stream: bool
    model: str | None
    choices_expected: int


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the settings say of the key."""

    upstream: str
    per_credential: bool
    vary: Sequence[str]
    ignore: Sequence[tuple[str, ...]]

    def question(self, method: str, target: str, fields: Headers, controls: Controls, body: bytes) -> Question:
        """Read a request on a cached route.

        Raises:
            Uncacheable: it has no key, with the reason.
        """
        _refuse_other_than_json(fields)
        canonical = canonical_body(body, self.ignore)
        refuse_stateful(canonical.members)
        # What `Connection` takes away the upstream will not see, so it can't tell answers apart.
        seen = headers.end_to_end(fields)
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in seen]
        _refuse_overrides(texts)
        request = RecordedRequest(
            method=method,
            path=target,
            body=canonical.text,
            vary=selected_headers(texts, self.vary),
            namespace=controls.namespace,
            sample=controls.sample,
        )
        scope = credential_scope(texts) if self.per_credential else SHARED_SCOPE
        model = canonical.members.get("model")
        return Question(
            key=cache_key(request, upstream=self.upstream, scope=scope),
            # A query may hold a credential (`?key=...`); it is part of the key, and nothing else needs it.
            request=replace(request, path=target.partition("?")[0]),
            stream=wants_stream(canonical.members),
            model=model if isinstance(model, str) else None,
            choices_expected=choices_expected(canonical.members, target),
        )


def _refuse_other_than_json(fields: Headers) -> None:
    types = headers.values(fields, b"content-type")
    if len(types) != 1 or not _JSON_IN_UTF_8.fullmatch(types[0]):
        raise Uncacheable("content_type", "the request's content type is not plainly application/json, in UTF-8")
    if headers.is_encoded(fields):
        raise Uncacheable("content_encoding", "the request's body is compressed")


def _refuse_overrides(fields: Sequence[tuple[str, str]]) -> None:
    for name, _ in fields:
        if with_hyphens(name.lower()) in _OVERRIDES:
            raise Uncacheable("override", f"to some servers its {name} makes it another request")
