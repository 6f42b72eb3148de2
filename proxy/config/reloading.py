"""What other settings change in a running proxy.

The rule: where it listens and where its recordings are can't change while it runs; everything else can.
"""

from collections.abc import Iterable

from proxy.config import KEYS, Settings

_FIXED = ("server.host", "server.port", "server.max_connections", "cache.directory")


def differing(one: Settings, other: Settings, keys: Iterable[str] = KEYS) -> list[str]:
    """The keys in which they differ."""
    return [key for key in keys if _value(one, key) != _value(other, key)]


def without_restart(running: Settings, asked: Settings) -> tuple[Settings, list[str]]:
    """The settings that were asked for as far as a running proxy can take them on, and the keys that need a restart."""
    waiting = differing(running, asked, _FIXED)
    settings = asked
    for key in waiting:
        section, _, name = key.partition(".")
        kept = getattr(settings, section).model_copy(update={name: _value(running, key)})
        settings = settings.model_copy(update={section: kept})
    return settings, waiting


def _value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)
