"""What the head of a request says, and that it says the same when it is remembered."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import headers
from proxy.admission import Controls
from proxy.cors import Cors
from proxy.errors import BadRequest, ExpectationFailed, MethodNotAllowed, RepriseError, UnknownRoute
from proxy.intake import HeadReader, Intake
from proxy.policy import Directives, Plan
from proxy.question import KeyRules, read_body
from proxy.recording import Headers

CHAT = "/v1/chat/completions"
ROUTES = frozenset((CHAT, "/v1/embeddings"))
HTTP_1_1 = (1, 1)
PAGE = b"https://app.example.com"
BODY = b'{"model":"m-1"}'

OPENAI: Headers = (
    (b"Host", b"127.0.0.1:8080"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Connection", b"keep-alive"),
    (b"Accept", b"application/json"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 2.8.0"),
    (b"X-Stainless-Lang", b"python"),
    (b"Authorization", b"Bearer sk-CANARY"),
    (b"x-stainless-retry-count", b"0"),
)


def reader(
    *,
    vary: tuple[str, ...] = ("openai-beta",),
    origins: tuple[str, ...] = (),
    authorization: bytes | None = None,
    allow_faults: bool = False,
) -> HeadReader:
    keys = KeyRules("u", per_credential=True, vary=vary, ignore=())
    return HeadReader(
        mode="cache",
        routes=ROUTES,
        keys=keys,
        cors=Cors(origins),
        authorization=authorization,
        allow_faults=allow_faults,
    )


def with_length(length: bytes, spelling: bytes = b"Content-Length") -> Headers:
    return (*OPENAI, (spelling, length))


def outcome(read: Callable[[], Intake]) -> object:
    """What is read, or the error; an error equals another one of its kind that says the same."""
    try:
        intake = read()
    except RepriseError as error:
        return type(error), error.message
    return intake._replace(refusal=None), str(intake.refusal)


NAMES = [b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Connection", b"OpenAI-Beta", b"Origin", b"api-key"]
NAMES += [b"Content-Encoding", b"X-Reprise-Sample", b"Expect", b"X-HTTP-Method", b"Access-Control-Request-Method"]
VALUES = [b"1", b"2", b"", b"gzip", b"100-continue", b"openai-beta, api-key", PAGE]
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=3).map(tuple)
HEADS = st.tuples(
    st.sampled_from(["POST", "GET", "OPTIONS"]),
    st.sampled_from([CHAT, f"{CHAT}?a", "/v1/models", "/healthz", "/x"]),
    st.sampled_from([HTTP_1_1, (1, 0), (2, 0)]),
    FIELDS.map(lambda fields: (*OPENAI[:5], *fields)),
)


@settings(max_examples=60)
@given(st.lists(HEADS, max_size=12), st.sampled_from([("openai-beta",), ("content_length",)]))
def test_a_head_says_what_it_says_whatever_came_before_it(
    heads: list[tuple[str, str, tuple[int, int], Headers]], vary: tuple[str, ...]
) -> None:
    """What is remembered of others, and of itself, makes no difference to it."""
    used = reader(vary=vary, origins=(PAGE.decode(),))

    for head in (*heads, *heads):
        new = reader(vary=vary, origins=(PAGE.decode(),))
        assert outcome(lambda head=head: used.read(*head)) == outcome(lambda head=head, new=new: new.read(*head))  # type: ignore[misc]


def test_a_question_is_asked_for_with_what_its_head_says() -> None:
    """Controls and plan, the upstream's fields, and all of the key but the body."""
    said = ((b"Cache-Control", b"no-cache"), (b"X-Reprise-Sample", b"2"), (b"OpenAI-Beta", b"b"))
    fields = (*with_length(b"15"), *said)

    intake = reader(authorization=b"Bearer sk-OURS").read("POST", f"{CHAT}?key=k", HTTP_1_1, fields)

    assert (intake.route, intake.preflight, intake.refusal, intake.bypass) == ("cached", None, None, "")
    assert intake.controls == Controls(Directives(no_cache=True), sample=2)
    assert intake.plan == Plan(read=False, forward=True, record=True)
    assert intake.fields == headers.for_upstream(fields, cached_route=True, authorization=b"Bearer sk-OURS")
    assert intake.premise
    request = read_body(intake.premise, BODY, ()).request
    assert (request.path, request.vary, request.sample) == (CHAT, (("openai-beta", "b"),), 2)
    assert "CANARY" not in repr(intake.premise)


def test_the_same_head_is_read_once_whatever_the_length_of_its_body() -> None:
    """So do clients ask: what differs is what they say."""
    heads = reader()
    first = heads.read("POST", CHAT, HTTP_1_1, with_length(b"1"))

    assert heads.read("POST", CHAT, HTTP_1_1, with_length(b"2", b"content-length")) is first
    assert heads.read("POST", CHAT, HTTP_1_1, OPENAI) is first


@pytest.mark.parametrize("name", ["content-length", "content_length"])
def test_a_length_that_is_part_of_the_key_tells_heads_apart(name: str) -> None:
    """Nobody asks for that, but it is a setting."""
    heads = reader(vary=(name,))

    one, other = (heads.read("POST", CHAT, HTTP_1_1, with_length(length)).premise for length in (b"1", b"2"))

    assert one != other


def test_elsewhere_the_length_travels() -> None:
    """The body is passed on as it comes, so its length is part of what is said."""
    heads = reader()

    for length in (b"1", b"2"):
        intake = heads.read("POST", "/v1/files", HTTP_1_1, with_length(length))
        assert (intake.route, intake.bypass, intake.premise) == ("passed", "route", None)
        assert headers.values(intake.fields, b"content-length") == [length.decode()]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((b"Content-Type", b"text/plain"), "content_type"),
        ((b"Content-Encoding", b"gzip"), "content_encoding"),
        ((b"X-HTTP-Method-Override", b"GET"), "override"),
    ],
)
def test_a_head_can_say_that_there_is_no_question(more: tuple[bytes, bytes], reason: str) -> None:
    """Whatever the body is, it is only passed on."""
    intake = reader().read("POST", CHAT, HTTP_1_1, (*OPENAI, more))

    assert (intake.route, intake.premise, intake.bypass) == ("cached", None, reason)


@pytest.mark.parametrize(
    ("method", "target", "version", "more", "error"),
    [
        ("TRACE", "/x", HTTP_1_1, (b"Expect", b"x"), ExpectationFailed),
        ("OPTIONS", "/x", (2, 0), (b"Access-Control-Request-Method", b"POST"), BadRequest),
        ("TRACE", "/x", HTTP_1_1, (b"X-Reprise-Pace", b"x"), MethodNotAllowed),
        ("GET", "/x", HTTP_1_1, (b"X-Reprise-Pace", b"x"), UnknownRoute),
    ],
)
def test_of_several_faults_the_first_one_is_told(
    method: str, target: str, version: tuple[int, int], more: tuple[bytes, bytes], error: type[RepriseError]
) -> None:
    """HTTP first, then the route; and again if it is asked again."""
    heads = reader(origins=("*",))

    for _ in range(2):
        with pytest.raises(error):
            heads.read(method, target, version, ((b"Origin", PAGE), more))


def test_controls_are_of_no_account_where_nothing_is_asked_for() -> None:
    """A health check and a preflight are answered whatever they say to the cache; a request hears when it is let in."""
    bad = (b"X-Reprise-Pace", b"x")
    preflight = ((b"Origin", PAGE), (b"Access-Control-Request-Method", b"POST"))
    heads = reader(origins=("*",))

    assert heads.read("GET", "/healthz", HTTP_1_1, (bad,)).refusal is None
    assert heads.read("OPTIONS", "*", HTTP_1_1, (*preflight, bad)).preflight
    refusals = [heads.read("GET", "/v1/models", HTTP_1_1, (bad,)).refusal for _ in range(2)]
    assert all(refusals)
    assert refusals[0] is not refusals[1]  # an error tells of one request, and is not told again


def test_what_a_page_may_read_is_said_with_every_answer() -> None:
    """Also with those that the proxy gives itself."""
    heads = reader(origins=(PAGE.decode(),))

    for target in (CHAT, "/v1/models", "/healthz"):
        intake = heads.read("GET", target, HTTP_1_1, ((b"Origin", PAGE),))
        assert intake.cors == Cors([PAGE.decode()]).headers_for(PAGE)


def test_no_client_can_fill_the_memory_with_heads() -> None:
    """Large ones are read again each time; of many small ones the first is forgotten."""
    heads = reader()
    large = (*OPENAI, (b"X-Large", b"x" * 8192))
    first = heads.read("POST", CHAT, HTTP_1_1, OPENAI)

    assert heads.read("POST", CHAT, HTTP_1_1, large) is not heads.read("POST", CHAT, HTTP_1_1, large)
    assert heads.read("POST", CHAT, HTTP_1_1, OPENAI) is first
    for number in range(512):
        heads.read("GET", f"/v1/models/{number}", HTTP_1_1, ())
    assert heads.read("POST", CHAT, HTTP_1_1, OPENAI) is not first
    assert heads.read("POST", CHAT, HTTP_1_1, OPENAI) == first
