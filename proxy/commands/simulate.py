"""`reprise simulate`: the simulated upstream by itself, a test double for whoever calls the API."""

import asyncio
import sys

import click

from proxy.app import reason_of
from proxy.commands.options import Mistake, duration_option
from proxy.run import run, until_stopped
from proxy.simulator import Rhythm, Simulator


@click.command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0 picks a free one.")
@duration_option("--first-byte", "From request to answer.", default="300ms")
@duration_option("--gap", "From one event of a stream to the next.", default="20ms")
@click.option("--tokens", type=click.IntRange(1), default=60, show_default=True, help="In a text.")
def command(host: str, port: int, first_byte: float, gap: float, tokens: int) -> None:
    """Run a simulated upstream, without a key."""
    simulator = Simulator(Rhythm(first_byte * 1000, gap * 1000, tokens))
    run(until_stopped(_simulate(simulator, host, port)))


async def _simulate(simulator: Simulator, host: str, port: int) -> None:
    try:
        await simulator.start(host, port)
    except OSError as error:
        raise Mistake(f"can't listen on {host} port {port}: {reason_of(error)}; choose another with --port") from error
    try:
        click.echo(simulator.base_url)
        if sys.stdout.isatty():
            click.echo(f"# try: reprise serve --upstream {simulator.base_url}; Ctrl-C to stop")
        await asyncio.Event().wait()
    finally:
        await simulator.stop()
