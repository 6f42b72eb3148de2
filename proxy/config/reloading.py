"""The settings of a running proxy: read anew, and what becomes of them.

The rule: where and to how many it listens, how many serve, and where its recordings are, can't change while it runs;
all else can.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from proxy.config import KEYS, Settings, SettingsError, load
from proxy.config.exposure import exposed_by
from proxy.config.sources import file_in_use

_FIXED = (
    *("server.host", "server.port", "server.workers", "server.max_connections"),
    *("cache.directory", "cache.cassette", "cache.record_to", "cache.scrub"),
)


class Reader:
    """Reads the settings from where they came."""

    def __init__(self, config: Path | None, overrides: Mapping[str, object], environ: Mapping[str, str]) -> None:
        self._config = config
        self._overrides = overrides
        self._environ = environ
        self._file = file_in_use(config, environ)

    def read(self) -> Settings:
        """The settings as they are now; takes a while, as files do.

        A file that was there at the start and is not, or is empty, is being written, or was lost. Taken for one that
        leaves everything at its default, it would send what is meant for one upstream to another.

        Raises:
            SettingsError: anything is wrong with them.
        """
        if self._file is not None and not self._file.is_file():
            raise SettingsError([f"{self._file}: it is no file any more"])
        if self._file is not None and not self._file.stat().st_size:
            raise SettingsError([f"{self._file}: it is empty; to have the defaults, restart without it"])
        return load(self._file or self._config, self._overrides, self._environ)


def differing(one: Settings, other: Settings, keys: Iterable[str] = KEYS) -> list[str]:
    """The keys in which they differ."""
    return [key for key in keys if _value(one, key) != _value(other, key)]


def without_restart(running: Settings, asked: Settings) -> tuple[Settings, list[str]]:
    """The settings that were asked for as far as a running proxy can take them on, and the keys that need a restart.

    Raises:
        SettingsError: the two together would give strangers paid answers.
    """
    waiting = differing(running, asked, _FIXED)
    settings = asked
    for key in waiting:
        section, _, name = key.partition(".")
        kept = getattr(settings, section).model_copy(update={name: _value(running, key)})
        settings = settings.model_copy(update={section: kept})
    if reason := exposed_by(settings.server.host, settings.cache.scope, settings.upstream.api_key):
        raise SettingsError([f"server.host: {settings.server.host}, which stays until a restart, {reason}"])
    return settings, waiting


def _value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)
