"""What a request asks, in the form under which its answer can be found again.

The rule: whatever two upstreams, or two readers, could understand differently is no question, and is only passed on.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from proxy import headers
from proxy.admission import Controls
from proxy.canonical import Normalize, Uncacheable, canonical_body
from proxy.key import (
    SHARED_SCOPE,
    choices_expected,
    credential_scope,
    key_of_body,
    key_prefix,
    refuse_stateful,
    selected_headers,
    wants_stream,
    with_hyphens,
)
from proxy.pointers import Pointer
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

# Known bodies: a few MB at most, since a client chooses what is in them.
_MOST_GISTS = 2048
_LONGEST_PREFIX_BYTES = 1024
_LONGEST_MODEL = 256


class Premise(NamedTuple):
    """What the head of a request says of its answer, whatever the body is."""

    unworded: RecordedRequest
    """What a recording will keep of it, without the body."""
    key_prefix: bytes


class Gist(NamedTuple):
    """What is needed of a question to find its answer, and to judge one."""

    key: str
    stream: bool
    model: str | None
    choices_expected: int


@dataclass(slots=True)
class Question:
    """A request whose answer can be recorded."""

    key: str
    stream: bool
    model: str | None
    choices_expected: int
    unworded: RecordedRequest
    body: bytes
    """In canonical form, or as it came where it was known by its digest."""
    ignore: Sequence[Pointer] | None = None
    """What the canonical form leaves out, where the body is still to be brought into it."""

    @property
    def gist(self) -> Gist:
        return Gist(self.key, self.stream, self.model, self.choices_expected)

    @property
    def unread_bytes(self) -> int:
        """What `request` has to read first."""
        return 0 if self.ignore is None else len(self.body)

    @property
    def request(self) -> RecordedRequest:
        """What was asked, as a recording keeps it."""
        canonical = self.body if self.ignore is None else canonical_body(self.body, self.ignore).text
        asked = self.unworded  # not _replace(), which takes twice as long
        return RecordedRequest(asked.method, asked.path, canonical, asked.vary, asked.namespace, asked.sample)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the settings say of the key."""

    upstream: str
    per_credential: bool
    vary: Sequence[str]
    ignore: Sequence[Pointer]
    normalize: Normalize | None = None

    def question(self, method: str, target: str, fields: Headers, controls: Controls, body: bytes) -> Question:
        """Read a request on a cached route.

        Raises:
            Uncacheable: it has no key, with the reason.
        """
        return read_body(self.premise(method, target, fields, controls), body, self.ignore, self.normalize)

    def premise(self, method: str, target: str, fields: Headers, controls: Controls) -> Premise:
        """Read the head of a request on a cached route.

        Raises:
            Uncacheable: `content_type`, `content_encoding` or `override`; it has no key, whatever its body is.
        """
        _refuse_other_than_json(fields)
        # What `Connection` takes away the upstream will not see, so it can't tell answers apart.
        seen = headers.end_to_end(fields)
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in seen]
        _refuse_overrides(texts)
        request = RecordedRequest(
            method=method,
            path=target,
            body=b"",
            vary=selected_headers(texts, self.vary),
            namespace=controls.namespace,
            sample=controls.sample,
        )
        scope = credential_scope(texts) if self.per_credential else SHARED_SCOPE
        prefix = key_prefix(request, upstream=self.upstream, scope=scope)
        # A query may hold a credential (`?key=...`); it is part of the key, and nothing else needs it.
        path, mark, _ = target.partition("?")
        return Premise(request._replace(path=path) if mark else request, prefix)


class Questions:
    """Reads the bodies of requests, and remembers by their digest what it has read.

    So a body that comes again, byte for byte and on the same premise, is not parsed again. What is kept are premises,
    digests, keys and the names of models; no prompt.
    """

    def __init__(self, ignore: Sequence[Pointer], normalize: Normalize | None = None) -> None:
        self._ignore = ignore
        self._normalize = normalize
        self.take_long = normalize is not None
        """Whether even a short body may, since there are rules to apply to it."""
        self._gists: dict[tuple[bytes, bytes], Gist] = {}

    def question(self, premise: Premise, body: bytes, digest: bytes | None = None) -> Question:
        """Read the body of a request, whose SHA-256 `digest` may be known. May be called in a thread.

        Raises:
            Uncacheable: it has no key, with the reason.
        """
        digest = digest or sha256(body).digest()
        # What takes long is not put off to the moment at which there is an answer to record.
        if not self.take_long and (gist := self.gist(premise, digest)):
            return Question(*gist, unworded=premise.unworded, body=body, ignore=self._ignore)
        question = read_body(premise, body, self._ignore, self._normalize)
        self._remember(premise, digest, question)
        return question

    def gist(self, premise: Premise, digest: bytes) -> Gist | None:
        """What is known of the body with this SHA-256 digest, on this premise."""
        return self._gists.get((premise.key_prefix, digest))

    def _remember(self, premise: Premise, digest: bytes, question: Question) -> None:
        if len(premise.key_prefix) > _LONGEST_PREFIX_BYTES or len(question.model or "") > _LONGEST_MODEL:
            return
        if len(self._gists) >= _MOST_GISTS:
            self._gists.clear()
        self._gists[premise.key_prefix, digest] = question.gist


def read_body(premise: Premise, body: bytes, ignore: Sequence[Pointer], normalize: Normalize | None = None) -> Question:
    """Read the body of a request whose head is known; `ignore` and `normalize` are for `canonical_body`.

    Raises:
        Uncacheable: it has no key, with the reason.
    """
    canonical = canonical_body(body, ignore, normalize)
    refuse_stateful(canonical.members)
    model = canonical.members.get("model")
    return Question(
        key=key_of_body(premise.key_prefix, canonical.text),
        stream=wants_stream(canonical.members),
        model=model if isinstance(model, str) else None,
        choices_expected=choices_expected(canonical.members, premise.unworded.path),
        unworded=premise.unworded,
        body=canonical.text,
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
