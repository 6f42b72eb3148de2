"""Whether strangers would get paid answers: those who reach an address that is not loopback, and need no credential.

The rule: it is asked before anything listens, and again before anything changes.
"""

from collections.abc import Iterator, Mapping

from proxy.config.addresses import is_host, is_loopback
from proxy.config.sources import Given


def of_given(given: Mapping[str, Given]) -> Iterator[str]:
    """Judged by what was given, valid or not, so that it is reported together with all other mistakes."""
    place, host = given.get("server.host", Given("", None))
    _, scope = given.get("cache.scope", Given("", "shared"))
    if isinstance(host, str) and is_host(host) and (reason := exposed_by(host, scope, "upstream.api_key" in given)):
        yield f"{place}: {host} {reason}"


def exposed_by(host: str, scope: object, has_key: object) -> str:
    """Why it would be so, in words that follow the host; empty if it would not."""
    reasons = ["cache.scope is shared"] * (scope == "shared") + ["upstream.api_key is set"] * bool(has_key)
    if not reasons or is_loopback(host):
        return ""
    return (
        f"is not a loopback address, and {' and '.join(reasons)}: strangers would get paid "
        "answers; listen on 127.0.0.1, or set cache.scope: credential and no upstream.api_key, "
        "so that every caller is known by a credential of its own"
    )
