"""The cache key: two requests with the same key may be given the same answer.

So everything that can change an answer takes part: the whole body with its numbers as they are spelled, absent never
the same as a default. A body that two JSON readers could read differently gets no key at all.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple
from unicodedata import normalize

import orjson

from proxy.recording import RecordedRequest

SHARED_SCOPE = "shared"
"""The scope of a store that serves every caller alike."""

_LENGTH_BYTES = 8  # before each field
_KEY_VERSION = "reprise key 1"  # to be changed with anything below that gives an old request a new key

# One field too few would give a caller's answers to another, one too many costs a miss. So the credentials of gateways
# and clouds (x-goog-api-key, ocp-apim-subscription-key, helicone-auth) are known by how their names end.
_CREDENTIAL = re.compile(r"(?:.*-)?(?:authorization|auth|(?<!idempotency-)key|apikey|token|secret)")
_PAYERS = frozenset(("openai-organization", "openai-project"))

# Twice what the largest requests hold, batches of tokens. Reading this many takes some 0.1 s in which no other thread
# gets on, and 50 MB.
_MOST_VALUES = 500_000

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")  # of an array, RFC 6901 section 4

Reason = Literal[
    "content_type",
    "content_encoding",
    "override",
    "not_json",
    "ambiguous_json",
    "not_an_object",
    "too_deep",
    "too_many_values",
    "stateful",
    "stream_flag",
]


class Uncacheable(Exception):
    """The request is forwarded as it came, and neither looked up nor recorded.

    `reason` is for the log and for `Cache-Status`. The message tells a person more, and quotes nothing of the body.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CanonicalBody(NamedTuple):
    """A request body in the one form that every spelling of it shares."""

    text: bytes
    """JSON without the ignored members: names sorted by code point, no white space, numbers as they came."""
    members: dict[str, Any]
    """The whole body as Python values, ignored members included."""


def canonical_body(raw: bytes, ignore: Sequence[tuple[str, ...]] = ()) -> CanonicalBody:
    """Bring a request body into canonical form, leaving out the members that `ignore` points to.

    A pointer is a tuple of reference tokens, unescaped (RFC 6901). It may pass through arrays, but removes only a
    member of an object; one that points nowhere is no error. The canonical form is its own canonical form.

    Raises:
        Uncacheable: `not_json`, also for what RFC 8259 permits and readers disagree about (a lone surrogate, a number
            beyond a double); `not_an_object`; `ambiguous_json` for names in one object that are one name to some
            reader, an integer outside [-2^63, 2^64) or a number too small for a double; `too_deep` for more than 254
            arrays and objects within each other; `too_many_values`.
    """
    members = _read_strictly(raw)
    try:
        tree = json.loads(raw.decode(), object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction)
        for pointer in ignore:
            _remove(tree, pointer)
        return CanonicalBody(orjson.dumps(tree, option=orjson.OPT_SORT_KEYS), members)
    except (RecursionError, orjson.JSONEncodeError) as error:
        raise Uncacheable("too_deep", "its arrays and objects are nested too deeply") from error


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


def _read_strictly(raw: bytes) -> dict[str, Any]:
    if sum(map(raw.count, (b",", b"[", b"{"))) > _MOST_VALUES:  # no fewer than there are, some may stand within texts
        raise Uncacheable("too_many_values", "it holds more values than are read for a key")
    # orjson is the judge of what is JSON, since it refuses NaN, byte order marks, UTF-16, invalid UTF-8 and lone
    # surrogates, all of which the standard library accepts.
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Uncacheable("not_json", str(error)) from error
    if not isinstance(value, dict):
        raise Uncacheable("not_an_object", "it is JSON, but no object")
    return value


def is_credential(name: str) -> bool:
    """Whether a header of that name, in lower case, says who asks."""
    return _CREDENTIAL.fullmatch(with_hyphens(name)) is not None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two members of one name some readers take the first, some the last.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Uncacheable("ambiguous_json", "a name appears twice in one object")
    names = "".join(members)
    if names.isascii() and names.islower() and "\0" not in names:  # as nearly all are: then they are what they seem
        return members
    if len({_as_loosely_read(name) for name in members}) != len(pairs):
        raise Uncacheable("ambiguous_json", "two names in one object are one to some readers")
    return members


def _as_loosely_read(name: str) -> str:
    # Go's and .NET's readers match the names of members whatever their case, Swift compares texts whatever their normal
    # form, and a reader in C may end them at NUL. Such a reader takes one of two, and the key knows no order.
    return normalize("NFC", name.partition("\0")[0].casefold())


def _integer(text: str) -> orjson.Fragment:
    # Beyond 64 bits readers round, wrap or refuse. One beyond a double, too long for int(), orjson has refused.
    if not -(2**63) <= int(text) < 2**64:
        raise Uncacheable("ambiguous_json", "an integer does not fit into 64 bits")
    return orjson.Fragment(text)


def _fraction(text: str) -> orjson.Fragment:
    # One too large has been refused by orjson; one too small becomes 0 for some readers, an error for others.
    if float(text) == 0 and text.lower().partition("e")[0].strip("-0."):
        raise Uncacheable("ambiguous_json", "a number is too small for a double")
    return orjson.Fragment(text)


def _remove(tree: Any, pointer: tuple[str, ...]) -> None:  # noqa: ANN401  # it is JSON: anything can be anywhere
    for token in pointer[:-1]:
        tree = _child(tree, token)
    if pointer and isinstance(tree, dict):
        tree.pop(pointer[-1], None)


def _child(tree: Any, token: str) -> Any:  # noqa: ANN401  # it is JSON: anything can be anywhere
    if isinstance(tree, dict):
        return tree.get(token)
    if isinstance(tree, list) and _INDEX.fullmatch(token) and int(token) < len(tree):
        return tree[int(token)]
    return None


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
