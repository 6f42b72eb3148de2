"""What is let in, and what a request asks of the cache."""

import contextlib
import posixpath
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import admission
from proxy.admission import Controls
from proxy.errors import BadRequest, ExpectationFailed, MethodNotAllowed, RequestRefused, UnknownRoute
from proxy.pace import Pace
from proxy.policy import Directives

ROUTES = ("/v1/chat/completions", "/v1/embeddings")

PLAIN_TARGETS = [
    "/v1/",
    "/v1/models",
    "/v1/models/",
    "/v1/models/org%2Fname",
    "/v1/models/org%2fname%2Fwith%2Fmore",
    "/v1/models/ft:gpt-4.1:acme::8aBc",
    "/v1/models/gpt-4%2e1",
    "/v1/models/100%25",
    "/v1/models/what%3F%23",
    "/v1/models/..x/x../a..b/...",
    "/v1/models/~me;v=1,2!$&'()*+=@x",
    "/v1/.well-known/x",
    "/v1/files/a%20b",
    "/v1/files/caf%C3%A9",
    "/v1/files/gs%3A%2F%2Fbucket%2Ffile",
    "/v1/@169.254.1.1/x",
    "/v1/models?",
    "/v1/models?a=b&a=c;d=e+f%20g&&=?/",
    "/v1/models?a=/../b&c=//d&e=%2e%2e%2f%2e&f=%00%0d%0a&g=..",
    "/v1/models?a=\\..\\&b=[]{}|^`<>\"'&c=http://169.254.1.1/@x",
]

NOT_PLAIN_TARGETS = [
    *("http://169.254.1.1/v1/models", "https://api.openai.com/v1/models", "HTTP://x/v1/models", "file:///v1/models"),
    *("", "*", "?", "v1/models", "@169.254.1.1/v1/models", "169.254.1.1:80", ":80/v1/models", "?/v1/models"),
    *("//169.254.1.1/v1/models", "///v1/models", "/v1//models", "/v1/models//", "/v1//"),
    *("/v1/../admin", "/v1/./models", "/v1/..", "/v1/.", "/v1/x/..", "/..", "/v1/models/../../admin"),
    *("/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/.%2e/admin", "/v1/%2e/x", "/v1/%2e", "/v1/%2e%2e", "/%2e%2e/v1/x"),
    *("/v1/..%2fadmin", "/v1/x%2f..%2fadmin", "/v1/x%2F%2E%2E", "/v1/%2e%2e%2fadmin", "/v1/..%2f", "/v1%2f..%2fadmin"),
    *("/v1/%252e%252e/admin", "/v1/..%252fadmin", "/v1/x%252f..", "/v1/%252e%252e%252fadmin", "/v1/%25%32%65./x"),
    *("/v1/..;/admin", "/v1/..;x=y/admin", "/v1/..%3b/admin", "/v1/..%3f/admin", "/v1/..%23", "/v1/.;/x"),
    *("/v1/..?x", "/v1/%2e%2e?x=/v1/models"),
    *("/v1/\\models", "/v1\\..\\admin", "/v1/..\\admin", "\\v1\\models"),
    *("/v1/x%5c..%5cadmin", "/v1/x%5Cy", "/v1/%255c"),
    *("/v1/x%00", "/v1/%00/x", "/v1/x%2500", "/v1/x\x00y", "/v1/models?\x00"),
    *("/v1/x%0d%0aHost:%20evil", "/v1/x%0a", "/v1/x%0D", "/v1/x%250d%250a", "/v1/x\r\nHost: evil", "/v1/models?x\n"),
    *("/v1/x%09", "/v1/x%7f", "/v1/x%1b[2J", "/v1/x\ty", "/v1/x\x7f", "/v1/a b", "/v1/models?a b", "/v1/models "),
    *("/v1/models#x", "/v1/models?a#b", "/v1/#/../x", "#", "/#"),
    *("/v1/caf\xe9", "/v1/\udcff", "/v1/models?\udcff", "/v1/\u2025/x", "/v1/models\u2028"),
]


@pytest.mark.parametrize("target", PLAIN_TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_what_is_plainly_under_v1_is_passed_on(method: str, target: str) -> None:
    """Percent-encoding that hides nothing is the client's own affair, and so is the whole query."""
    assert admission.route(method, target, ROUTES) == "passed"


@pytest.mark.parametrize("target", NOT_PLAIN_TARGETS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_what_could_lead_elsewhere_is_refused(method: str, target: str) -> None:
    """Absolute forms, empty and dot segments, backslashes, controls and fragments, however they are encoded."""
    with pytest.raises(BadRequest, match="not plainly under /v1/"):
        admission.route(method, target, ROUTES)


@pytest.mark.parametrize(
    "target", ["/", "/v1", "/v1?x=/v1/", "/v1.0/models", "/v1%2fmodels", "/%76%31/models", "/V1/models", "/v2/models"]
)
def test_other_paths_are_not_served(target: str) -> None:
    """The prefix is compared as it was sent, and the answer says what to set."""
    with pytest.raises(UnknownRoute, match="OPENAI_BASE_URL"):
        admission.route("GET", target, ROUTES)


BITS = ["x", "x/", "/x", "2e", "2f", "%", "%25", "/", ".", "..", "%2e", "%2f", ";", "?"]
ODD_BITS = ["//", "%2E%2e", "%252e", "%252F", "\\", "%5c", "%3b", "#", "%00", "%250a", "\t", "\xe9"]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(BITS * 4 + ODD_BITS), max_size=8).map("".join))
def test_what_is_let_in_stays_under_v1_for_every_reader(rest: str) -> None:
    """Whether it takes the path as it is, decodes it, or decodes it twice, and tidies it up then."""
    target = "/v1/" + rest
    try:
        admission.route("GET", target, ROUTES)
    except BadRequest:
        return

    path = target.partition("?")[0]
    for reading in (path, unquote(path, "latin-1"), unquote(unquote(path, "latin-1"), "latin-1")):
        without_parameters = "/".join(segment.partition(";")[0] for segment in reading.replace("\\", "/").split("/"))
        assert posixpath.normpath(without_parameters).startswith("/v1")
        assert without_parameters.isascii()
        assert without_parameters.isprintable()


# A percent sign could hide something from who decodes twice; the rest are the characters that mean something in a path.
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="%\\/."), min_size=1)


@given(st.lists(NAMES, min_size=1))
def test_a_name_that_is_encoded_whole_is_let_in(names: list[str]) -> None:
    """Whatever an upstream calls its models and files, a client that encodes the name can ask for it."""
    target = "/v1/files/" + "%2F".join(quote(name, safe="") for name in names)

    assert admission.route("GET", target, ROUTES) == "passed"


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/chat/completions?x=%2f..", "/v1/embeddings?"])
def test_a_post_to_a_cached_route_is_cached(target: str) -> None:
    """With or without a query."""
    assert admission.route("POST", target, ROUTES) == "cached"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/chat/completions"),
        ("HEAD", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/Chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/x?/v1/embeddings"),
    ],
)
def test_other_methods_and_spellings_are_passed_on(method: str, target: str) -> None:
    """Only what is surely the route is cached."""
    assert admission.route(method, target, ROUTES) == "passed"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ["healthz", "readyz"])
def test_health_is_asked_after_with_get(method: str, name: str) -> None:
    """With a query, too, as some probes add one against caches."""
    assert admission.route(method, f"/{name}", ROUTES) == name
    assert admission.route(method, f"/{name}?probe=1", ROUTES) == name


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/healthz", b"GET, HEAD"),
        ("DELETE", "/readyz", b"GET, HEAD"),
        ("CONNECT", "169.254.1.1:443", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE", "/v1/models", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("TRACE", "/healthz", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    ],
)
def test_a_refused_method_comes_with_those_allowed(method: str, target: str, allow: bytes) -> None:
    """RFC 9110 section 15.5.6 demands the list."""
    with pytest.raises(MethodNotAllowed) as refused:
        admission.route(method, target, ROUTES)

    assert refused.value.headers == ((b"Allow", allow),)


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b" chunked "])
def test_chunked_is_the_one_transfer_coding(value: bytes) -> None:
    """Its name is case-insensitive."""
    admission.refuse_odd_head((1, 1), ((b"Transfer-encoding", value), (b"TE", b"gzip")))
    admission.refuse_odd_head((1, 1), ())


@pytest.mark.parametrize(
    "values",
    [
        *([b"gzip, chunked"], [b"chunked, gzip"], [b"gzip"], [b"identity"], [b""]),
        *([b"xchunked"], [b"\x0bchunked"], [b"chunked\xa0"], [b"chunked;x"]),
        *([b"chunked", b"chunked"], [b"gzip", b"chunked"], [b"chunked,"], [b"chunked, identity"]),
    ],
)
def test_other_transfer_codings_are_refused(values: list[bytes]) -> None:
    """What the next server could frame in another way would let one request hide in another's body."""
    with pytest.raises(BadRequest, match="chunked"):
        admission.refuse_odd_head((1, 1), tuple((b"Transfer-Encoding", value) for value in values))


@pytest.mark.parametrize(
    "values", [[], [b""], [b"100-continue"], [b" 100-Continue,"], [b"100-continue", b"100-CONTINUE"]]
)
def test_to_wait_for_an_invitation_is_the_one_expectation(values: list[bytes]) -> None:
    """However it is spelled, and however often."""
    admission.refuse_odd_head((1, 1), tuple((b"eXpect", value) for value in values))


@pytest.mark.parametrize("values", [[b"200-ok"], [b"100-continue;x"], [b"100-continue, x"], [b"100-continue", b"x"]])
def test_other_expectations_are_refused(values: list[bytes]) -> None:
    """RFC 9110 section 10.1.1; one that is met does not make up for another."""
    with pytest.raises(ExpectationFailed, match="100-continue"):
        admission.refuse_odd_head((1, 1), tuple((b"Expect", value) for value in values))


def test_a_request_that_says_nothing_asks_for_nothing() -> None:
    """No control header, no directive."""
    fields = ((b"Host", b"x"), (b"Authorization", b"Bearer sk-CANARY"), (b"X-Repris", b"1"))

    assert admission.controls(fields) == Controls()


def test_controls_are_read_whatever_their_case() -> None:
    """Header names are case-insensitive; the values are not."""
    fields = (
        (b"cache-control", b"No-Store"),
        (b"X-REPRISE-NAMESPACE", b"team/A:run.7_x@y+z-"),
        (b"x-reprise-sample", b"12"),
        (b"X-Reprise-Pace", b"20ms"),
        (b"Cache-Control", b"max-age=60"),
    )

    assert admission.controls(fields) == Controls(
        directives=Directives(no_store=True, max_age_s=60),
        namespace="team/A:run.7_x@y+z-",
        sample=12,
        pace=Pace("gap", 0.02),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X-Reprise-Namespace", value) for value in ["", " ", "a b", "a,b", "caf\xe9", 'a"b', "a;b", "x" * 129]),
        *(("X-Reprise-Sample", value) for value in ["", "-1", "+1", "1.0", "1e3", "1_0", "0x1", "a", "1, 2"]),
        *(("X-Reprise-Sample", value) for value in ["1000000000", "\xb2", " 1", "1 ", "1\n"]),
        *(("X-Reprise-Pace", value) for value in ["", "fast", "-1x", "0x", "61s", "1", "1e3x", "nan", "instant, 2x"]),
        *(("Cache-Control", value) for value in ["max-age", "max-age=", "max-age=-1", "max-age=soon", "max-age=1.5"]),
        ("X-Reprise-Name", "x"),
        ("X-Reprise-Id", "x"),
        ("x-reprise-", "x"),
    ],
)
def test_a_bad_control_is_refused_by_its_name(name: str, value: str) -> None:
    """A control header that is misread would be an answer from the wrong place; the message helps to mend it."""
    with pytest.raises(BadRequest, match=name):
        admission.controls(((name.encode(), value.encode("latin-1")),))


@pytest.mark.parametrize("name", [b"X-Reprise-Namespace", b"X-Reprise-Sample", b"X-Reprise-Pace"])
def test_a_control_given_twice_is_refused(name: bytes) -> None:
    """Even if both say the same: the next one who edits one of them would be surprised."""
    with pytest.raises(BadRequest, match="twice"):
        admission.controls(((name, b"1"), (name.lower(), b"1")))


@given(st.text(), st.lists(st.tuples(st.binary(), st.binary())))
def test_whatever_comes_is_read_or_refused(target: str, fields: list[tuple[bytes, bytes]]) -> None:
    """A request of any bytes gets an answer of ours, never a crash."""
    controls = tuple((b"x-reprise-" + name, value) for name, value in fields)
    for read in (
        lambda: admission.route("GET", target, ROUTES),
        lambda: admission.controls((*fields, *controls)),
        lambda: admission.refuse_odd_head((1, 1), tuple((b"transfer-encoding", value) for _, value in fields)),
        lambda: admission.refuse_odd_head((1, 1), tuple((b"expect", value) for _, value in fields)),
    ):
        with contextlib.suppress(RequestRefused):
            read()
