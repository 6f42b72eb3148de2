"""The command line: the name of each command, and where to find it.

The rule: a mistake of the user's is a sentence on stderr and exit code 2, never a traceback. A command returns its exit
code, or nothing for 0; 1 says that it ran and found a fault.
"""

import gc
import io
import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TextIO

import click

_COMMANDS = ("serve", "demo", "simulate", "check", "cache", "explain")
_ANSWERED_HERE = ("--help", "-h", "--version")
_INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


class _Commands(click.Group):
    """Imports a command when it is called, and takes `serve` for the one that is not named."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        # All that is imported stays; to look through it over and over takes a twentieth of the time to start.
        gc.disable()
        try:
            command: click.Command = import_module(f"proxy.commands.{cmd_name}").command
        finally:
            gc.enable()
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names_none = not args or (args[0].startswith("-") and args[0] not in _ANSWERED_HERE)
        return super().parse_args(ctx, ["serve", *args] if names_none else args)


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click's signature
    if not asked:
        return
    try:
        installed = version("reprise")
    except PackageNotFoundError:
        installed = "(not installed)"
    click.echo(f"reprise {installed}")
    ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version)
def _reprise() -> None:
    """An OpenAI-compatible caching proxy. Without a command it serves."""


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    _make_streams_writable()
    try:
        code = _reprise.main(prog_name="reprise", standalone_mode=False)
    except click.ClickException as mistake:
        mistake.show()
        code = mistake.exit_code
    except click.Abort:
        code = _INTERRUPTED
    except OSError as error:
        # A full disk under stdout, most likely: what is left in the buffer must not be tried again at the end.
        click.echo(f"Error: {error}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _make_streams_writable() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Started with it closed, and what is opened next would take its number: libuv aborts when it closes that.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        # A prompt may hold what the terminal's character set lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")
