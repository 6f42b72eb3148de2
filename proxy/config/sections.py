"""The sections of the settings: each key with its type, its default, its meaning and what follows from it.

The rule: a key's meaning for a user is in `config.yaml`, too. Durations are seconds and sizes bytes, see `values.py`.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from proxy.config.addresses import BaseUrl, Host, Origin
from proxy.config.values import (
    ApiKey,
    Bytes,
    Connections,
    Directory,
    Expression,
    FileOrDirectory,
    Listed,
    NormalizeRule,
    Pointer,
    Port,
    ReplayPace,
    Retries,
    Route,
    Seconds,
    SomeBytes,
    SomeSeconds,
    Switch,
    Text,
    VaryHeader,
    Workers,
    size_text,
)
from proxy.pace import Pace

_CACHED_ROUTES = ("chat/completions", "completions", "embeddings", "responses", "moderations")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServerSettings(_Section):
    """The side that clients see."""

    host: Host = "127.0.0.1"
    """Where to listen. What is not loopback is refused while strangers would get paid answers; see `load`."""
    port: Port = 8080
    """0 picks a free one."""
    workers: Workers = 1
    """Processes that serve on that one port, for more cores than one; 0 for as many as there are cores to run on."""
    max_body_size: SomeBytes = 64 * 1024**2
    """A larger request on a cached route gets 413, since it is held in memory; passed-through bodies have no bound."""
    drain_timeout: Seconds = 30.0
    """How long SIGTERM waits for streams that are under way; then they are cut off. 0 cuts them off at once."""
    keepalive_timeout: SomeSeconds = 75.0
    """An idle connection is closed after it."""
    read_timeout: SomeSeconds = 60.0
    """Silence while a request's head or body is read; then it gets 408."""
    write_timeout: SomeSeconds = 60.0
    """A client that takes no byte of its answer for so long counts as gone."""
    max_connections: Connections = 0
    """Further connections wait in the system's queue to be accepted, idle ones count; 0 for no bound."""
    fast_lane: Switch = True
    """Plain requests whose recordings are in memory are answered ahead of the HTTP server, byte for byte the same."""
    allow_faults: Switch = False
    """A request may have its own answer go wrong by `X-Reprise-Fault`, to test what its program makes of it."""
    cors_origins: Listed[Origin] = ()
    """Origins whose pages may call the proxy, as browsers spell them, or `*`; preflights are then answered here."""


class UpstreamSettings(_Section):
    """The API that is asked on a miss."""

    base_url: BaseUrl = "https://api.openai.com/v1"
    """`/v1/X` here is `{base_url}/X` there. No slash at its end, no credentials, no query."""
    name: Text = ""
    """What stands for the upstream in the cache key, `base_url` unless given: a name outlives a change of address."""
    api_key: ApiKey = None
    """Sent upstream in place of the caller's `Authorization`, so whoever reaches the proxy spends on this key."""
    connect_timeout: SomeSeconds = 10.0
    """Dialling, TLS included; then it is tried again."""
    first_byte_timeout: SomeSeconds = 600.0
    """From the request sent to the response head; then 504. Long, since a reasoning model may think for minutes."""
    idle_timeout: SomeSeconds = 300.0
    """Silence within a body; then the transfer is broken off."""
    max_connections: Connections = 0
    """Requests beyond it wait their turn; 0 for no bound."""
    retries: Retries = 0
    """Attempts after one that the upstream answered with 408, 429 or 5xx. SDKs retry too, and both multiply."""
    fast_connection: Switch = True
    """Cached routes are asked on connections of the proxy's own; false: by aiohttp's client, at thrice the cost."""

    @field_validator("name", mode="before")
    @classmethod
    def _named_by_its_address(cls, value: object, info: ValidationInfo) -> object:
        # A wrong base_url is missing here, and is complained about already.
        return info.data.get("base_url", "unknown") if value == "" else value


class CacheSettings(_Section):
    """What is recorded, where, and for how long."""

    directory: Directory = Path(".reprise")
    """Created with mode 0700; a relative one is relative to where the proxy is started."""
    size_limit: SomeBytes = 1024**3
    """All recordings on disk; beyond it those stored longest ago go."""
    max_recording_size: SomeBytes = 16 * 1024**2
    """One recording, at most `size_limit`; a longer answer still reaches its client whole, and is not recorded."""
    memory_limit: Bytes = 64 * 1024**2
    """Answers kept in memory in front of the disk, without prompts; 0 for none, and then each hit reads the disk."""
    ttl: Seconds = 30 * 86400.0
    """An older recording answers nothing but in `replay` mode; 0 for ever."""
    mode: Literal["cache", "record", "replay", "passthrough"] = "cache"
    """`record` answers everything from upstream, `replay` nothing, `passthrough` uses no recordings at all."""
    scope: Literal["shared", "credential"] = "shared"
    """`shared` gives each caller what any caller has paid for; `credential` keeps callers apart."""
    routes: Listed[Route] = tuple(f"/v1/{route}" for route in _CACHED_ROUTES)
    """The POST routes that are cached; everything else under `/v1/` is passed through."""
    ignore: Listed[Pointer] = ()
    """Members of the request body left out of the key: requests that differ in them alone get the same answer."""
    normalize: Listed[NormalizeRule] = ()
    """Parts of texts replaced in the key, and in what is kept of a request; what goes upstream stays as it was sent."""
    vary: Listed[VaryHeader] = ("openai-beta",)
    """Request headers that are part of the key, and stored with the recording."""
    linger: Seconds = 5.0
    """How long an answer is read on, and paid for, after its last client has left; 0 cancels it at once."""
    cassette: FileOrDirectory = None
    """A cassette whose recordings answer what the store does not have, at any age; it is read at the start."""
    record_to: FileOrDirectory = None
    """A cassette's directory, to which new recordings are written as well, without the secrets in them."""
    scrub: Listed[Expression] = ()
    """Regular expressions of what else is a secret in a cassette; their group `secret`, if they name one."""

    @field_validator("max_recording_size")
    @classmethod
    def _fits(cls, value: int, info: ValidationInfo) -> int:
        limit = info.data.get("size_limit", value)
        if value > limit:
            raise ValueError(f"{size_text(value)} is more than cache.size_limit, which is {size_text(limit)}")
        return value


class ReplaySettings(_Section):
    """How a recording is played."""

    pace: ReplayPace = Pace("instant")
    """At once, in the recorded rhythm, a multiple of it, or a fixed gap; a request's `X-Reprise-Pace` wins."""


class LogSettings(_Section):
    """What is written to the log."""

    format: Literal["auto", "console", "json"] = "auto"
    """`auto`: coloured on a terminal, JSON lines otherwise."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """From `warning` on, the line for each request is left out."""


class Settings(BaseModel):
    """All sections. `Settings()` is the defaults, whatever the environment says; `load` reads the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    cache: CacheSettings = CacheSettings()
    replay: ReplaySettings = ReplaySettings()
    log: LogSettings = LogSettings()


KEYS = tuple(f"{section}.{key}" for section, keys in Settings().model_dump().items() for key in keys)
"""Every key, as `server.port`."""
