"""`reprise demo`: what the proxy does, shown in a few seconds and without a key.

The rule: the log is silent until the table is out.
"""

import asyncio
import io
import sys
from typing import TextIO

import click
from rich.table import Table

from proxy import events
from proxy.app import StartFailed
from proxy.commands.display import console, counted, duration_text
from proxy.commands.options import Mistake
from proxy.demo import PROMPT, Told, perform, stage
from proxy.run import run, until_stopped

_TRY_IT = """
Try it, twice; Ctrl-C to stop:

  curl -N {base_url}/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Play it again."}}]}}'

  from openai import OpenAI

  client = OpenAI(base_url="{base_url}", api_key="not needed here")
  messages = [{{"role": "user", "content": "Play it again."}}]
  for chunk in client.chat.completions.create(model="{model}", messages=messages, stream=True):
      print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


class _Curtain(io.StringIO):
    """The log's way to stderr, closed until it is raised."""

    def __init__(self, stage: TextIO) -> None:
        super().__init__()
        self._stage = stage
        self.raised = False

    def write(self, text: str) -> int:
        return self._stage.write(text) if self.raised else len(text)

    def flush(self) -> None:
        self._stage.flush()

    def isatty(self) -> bool:
        return self._stage.isatty()


@click.command("demo")
@click.option("--once", is_flag=True, help="End after the table.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 picks a free one.")
def command(*, once: bool, port: int) -> None:
    """Show a miss, a joined stream and a hit.

    The upstream is simulated, so no key is needed. Afterwards the proxy goes on, to be tried.
    """
    try:
        run(until_stopped(_demonstrate(port, once=once)))
    except StartFailed as failed:
        raise Mistake(str(failed)) from failed


async def _demonstrate(port: int, *, once: bool) -> None:
    curtain = _Curtain(sys.stderr)
    events.configure("auto", "info", curtain)
    async with stage(port) as (simulator, app):
        click.echo("One streamed prompt, asked four times of a proxy in front of a simulated upstream:\n")
        told = await perform(app.base_url)
        console().print(_table(told))
        click.echo(f"\n{_summary(told, simulator.requests_seen)}")
        if once:
            return
        click.echo(_TRY_IT.format(base_url=app.base_url, model=PROMPT["model"]))
        curtain.raised = True
        await asyncio.Event().wait()


def _table(told: list[Told]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("REQUEST")
    table.add_column("X-Cache-Status", style="bold")
    for name in ("FIRST BYTE", "WHOLE ANSWER", "BYTES"):
        table.add_column(name, justify="right")
    table.add_column("SHA-256")
    for each in told:
        times = duration_text(each.first_byte_s), duration_text(each.total_s)
        table.add_row(each.how, each.cache_status, *times, f"{len(each.body):,}", each.digest[:12])
    return table


def _summary(told: list[Told], requests_seen: int) -> str:
    miss, *others = told
    same = "The same bytes each time." if len({each.digest for each in told}) == 1 else "THE BYTES DIFFER."
    tokens = sum(miss.usage) if miss.usage else 0
    saved = f"{len(others) * tokens:,} tokens and {duration_text(len(others) * miss.total_s)} of the upstream's time"
    return f"{same} The upstream saw {counted(requests_seen, 'request')}; saved: {saved}."
