"""`reprise serve`: the proxy.

The rule: what the program says to its user goes to stdout, what it says of requests goes to stderr.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from proxy import events
from proxy.app import App, StartFailed
from proxy.background import BackgroundStream
from proxy.commands.options import Mistake, config_option, settings_in_force
from proxy.config import Settings
from proxy.config.reloading import Reader
from proxy.run import run, serve
from proxy.store.directory import UnusableDirectory
from proxy.supervisor import Supervisor, workers_wanted

_SETTINGS = {
    "host": "server.host",
    "port": "server.port",
    "upstream": "upstream.base_url",
    "mode": "cache.mode",
    "cassette": "cache.cassette",
    "record_to": "cache.record_to",
}
"""What the options are called among the settings."""


@click.command("serve")
@config_option
@click.option("--host", metavar="H", help="Where to listen.")
@click.option("--port", metavar="P", help="0 picks a free one.")
@click.option("--upstream", metavar="URL", help="The API that is asked on a miss, such as https://api.openai.com/v1.")
@click.option("--mode", metavar="MODE", help="cache, record, replay or passthrough.")
@click.option("--cassette", metavar="FILE", help="Recordings that answer what the store does not have, at any age.")
@click.option("--record-to", metavar="DIR", help="A cassette to which new recordings are written as well.")
def command(config: Path | None, **options: str | None) -> int:
    """Run the proxy."""
    given = {key: options[name] for name, key in _SETTINGS.items()}
    settings = settings_in_force(config, given)
    announce, read_anew = partial(_announce, settings), Reader(config, given, os.environ).read
    count = workers_wanted(settings.server)
    try:
        if count > 1:
            return Supervisor(settings, count, announce, read_anew).run()
        return _serve_alone(settings, announce, read_anew)
    except (StartFailed, UnusableDirectory) as error:
        raise Mistake(str(error)) from error


def _serve_alone(settings: Settings, announce: Callable[[str], None], read_anew: Callable[[], Settings]) -> int:
    with BackgroundStream(sys.stderr) as stderr:

        def set_up_log(settings: Settings) -> None:
            events.configure(settings.log.format, settings.log.level, stderr)

        set_up_log(settings)
        return run(serve(App(settings), announce, read_anew, set_up_log))


def _announce(settings: Settings, base_url: str) -> None:
    lines = [f"export OPENAI_BASE_URL={base_url}"]
    if sys.stdout.isatty():
        lines += [
            f"# mode {settings.cache.mode}, recordings in {settings.cache.directory}",
            f"# upstream {settings.upstream.base_url}; Ctrl-C to stop",
        ]
    try:
        print("\n".join(lines), flush=True)  # noqa: T201 - it is what the command is asked for
    except OSError:
        # Nobody reads it, and serving goes on; what is left in the buffer must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
