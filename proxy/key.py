"""The cache key: two requests with the same key may be given the same answer.

So everything that can change an answer takes part, with the whole body in its canonical form: absent is never the
same as a default.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from proxy.canonical import Uncacheable
from proxy.recording import RecordedRequest

SHARED_SCOPE = "shared"
"""The scope of a store that serves every caller alike."""

SHORT_KEY = 12
"""Digits of a key that tell it from all others, in all likelihood."""

_LENGTH_BYTES = 8  # before each field
_KEY_VERSION = "reprise key 1"  # to be changed with anything below that gives an old request a new key

# One field too few would give a caller's answers to another, one too many costs a miss. So the credentials of gateways
# and clouds (x-goog-api-key, ocp-apim-subscription-key, helicone-auth) are known by how their names end.
_CREDENTIAL = re.compile(r"(?:.*-)?(?:authorization|auth|(?<!idempotency-)key|apikey|token|secret)")
_CREDENTIAL_ENDS = ("authorization", "auth", "key", "token", "secret")  # asked first, since few names have one of them
_PAYERS = frozenset(("openai-organization", "openai-project"))


def refuse_stateful(members: Mapping[str, Any]) -> None:
    """Refuse a request that changes, or depends on, what the upstream keeps.

    Raises:
        Uncacheable: `stateful`, where `background` is anything but false, or a `conversation` is named.
    """
    if members.get("background") not in (None, False) or members.get("conversation") is not None:
        raise Uncacheable("stateful", "a background or conversation request depends on the upstream's state")


def wants_stream(members: Mapping[str, Any]) -> bool:
    """Whether an event stream is asked for; absent and null mean no.

    Raises:
        Uncacheable: `stream_flag`, where `stream` is no boolean, since servers differ in what they make of it.
    """
    stream = members.get("stream")
    if stream is None or isinstance(stream, bool):
        return bool(stream)
    raise Uncacheable("stream_flag", "its stream member is neither true nor false")


def choices_expected(members: Mapping[str, Any], path: str) -> int:
    """How many choices the answer has to finish: `n`, for text completions times the number of prompts."""
    n = members.get("n")
    choices = n if isinstance(n, int) and n > 0 else 1
    if path.partition("?")[0] == "/v1/completions":
        return choices * _prompts(members.get("prompt"))
    return choices


def selected_headers(headers: Iterable[tuple[str, str]], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The fields of these names, in the order of `names` and in lower case; absent ones are left out.

    A field that came more than once is there more than once, in the order in which it came. One whose name has `_` for
    `-` is there under the name that it came with: a server that speaks CGI can't tell the two apart (RFC 3875 section
    4.1.18), others can.
    """
    if not names:
        return ()
    fields = [(with_hyphens(name.lower()), name, value) for name, value in headers]
    wanted = [with_hyphens(name.lower()) for name in names]
    return tuple([(name.lower(), value) for one in wanted for known, name, value in fields if known == one])


def with_hyphens(name: str) -> str:
    """The name of a header as a server that speaks CGI takes it."""
    return name.replace("_", "-")


def credential_scope(headers: Iterable[tuple[str, str]]) -> str:
    """The scope of one caller's credentials, organization and project, as a digest that does not reveal them."""
    fields = [(name.lower(), value) for name, value in headers]
    credentials = [field for field in fields if is_credential(field[0])]
    # Where there is a credential a cookie is none: HTTP clients send back those that a CDN sets, new ones all the time.
    sessions = [field for field in fields if field[0] == "cookie" and not credentials]
    payers = [field for field in fields if with_hyphens(field[0]) in _PAYERS]
    # The sort keeps fields of one name in their order.
    shown = sorted(credentials + sessions + payers, key=lambda field: field[0])
    return sha256(_framed((*_flat(shown), ""))).hexdigest()


def cache_key(request: RecordedRequest, *, upstream: str, scope: str) -> str:
    """The key of a request as 64 hexadecimal digits.

    `upstream` is `upstream.name`, not an address; `scope` is `SHARED_SCOPE` or a `credential_scope`. An absent vary
    header differs from an empty one, and a header sent twice from one that lists both values.
    """
    return key_of_body(key_prefix(request, upstream=upstream, scope=scope), request.body)


def key_prefix(request: RecordedRequest, *, upstream: str, scope: str) -> bytes:
    """What goes into the key before the body, whatever the body is; see `cache_key`."""
    parts = (request.method, request.path, upstream, scope, request.namespace, str(request.sample))
    return _framed((_KEY_VERSION, *parts, *_flat(request.vary)))


def key_of_body(prefix: bytes, canonical: bytes) -> str:
    """The key of a canonical body that is sent with what `prefix` was made of."""
    digest = sha256(prefix + len(canonical).to_bytes(_LENGTH_BYTES, "big"))
    digest.update(canonical)  # not joined, which would copy it
    return digest.hexdigest()


def is_credential(name: str) -> bool:
    """Whether a header of that name, in lower case, says who asks."""
    return name.endswith(_CREDENTIAL_ENDS) and _CREDENTIAL.fullmatch(with_hyphens(name)) is not None


def _prompts(prompt: object) -> int:
    # A list of integers is one prompt, given as tokens.
    if isinstance(prompt, list) and prompt and all(isinstance(one, str | list) for one in prompt):
        return len(prompt)
    return 1


def _flat(pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(text for pair in pairs for text in pair)


def _framed(texts: Iterable[str]) -> bytes:
    # Each text goes after its length, so that no two lists of texts give the same bytes. "surrogatepass" because a path
    # or a header may hold bytes that are no UTF-8, which arrive here as lone surrogates.
    fields = [text.encode(errors="surrogatepass") for text in texts]
    return b"".join([len(field).to_bytes(_LENGTH_BYTES, "big") + field for field in fields])
