"""What every part of a soak shares, and the settings under which the proxy runs in it.

The rule: every bound of the proxy's is small and short enough to be met within seconds.
"""

from dataclasses import dataclass
from typing import Self

from tests.chaos.findings import Findings
from tests.chaos.judge import Bounds, Judge
from tests.chaos.ledger import Ledger
from tests.chaos.logbook import Logbook
from tests.chaos.upstream import ChaosUpstream

MIB = 1024 * 1024
BOUNDS = Bounds(silence_s=2.0, ttl_s=10.0, memory_bytes=512 * 1024, recording_bytes=768 * 1024)
_DISK_BYTES = 6 * MIB
_REMEMBERED_S = 6 * BOUNDS.ttl_s  # what was sent that long ago has expired, and everyone who listened has gone


@dataclass(frozen=True, slots=True)
class Scene:
    """One soak's upstream, what it has sent, what the log has said, and what was found."""

    seed: int
    findings: Findings
    ledger: Ledger
    logbook: Logbook
    judge: Judge
    upstream: ChaosUpstream

    @classmethod
    def of(cls, seed: int) -> Self:
        findings = Findings(seed)
        ledger, logbook = Ledger(_REMEMBERED_S, BOUNDS.recording_bytes), Logbook(findings)
        judge = Judge(seed, BOUNDS, ledger, logbook, findings)
        return cls(seed, findings, ledger, logbook, judge, ChaosUpstream(seed, ledger))


def settings(upstream_url: str) -> dict[str, dict[str, object]]:
    """The proxy's settings, a section each; where recordings are is left to the caller."""
    silence = f"{int(BOUNDS.silence_s * 1000)}ms"
    return {
        "server": {"port": 0, "read_timeout": "2s", "write_timeout": "2s", "drain_timeout": "5s"},
        "upstream": {"base_url": upstream_url, "first_byte_timeout": silence, "idle_timeout": silence},
        "cache": {
            "size_limit": _DISK_BYTES,
            "memory_limit": BOUNDS.memory_bytes,
            "max_recording_size": BOUNDS.recording_bytes,
            "ttl": f"{int(BOUNDS.ttl_s)}s",
            "linger": "100ms",
        },
        "log": {"format": "json", "level": "debug"},
    }
