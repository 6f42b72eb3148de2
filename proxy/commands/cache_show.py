"""`reprise cache show`: one recording, for the eye, for a program, or as the bytes that came."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from proxy.commands.display import age_text, bytes_text, console, counted, duration_text, printable
from proxy.commands.options import Mistake, config_option, json_option
from proxy.commands.recordings import Listed, Recordings, asked, recordings
from proxy.recording import Recording
from proxy.store.codec import Damaged
from proxy.transcript import assembled_text


@click.command("show")
@config_option
@click.argument("prefix", metavar="KEY")
@click.option("--raw", is_flag=True, help="The bytes of the body, exactly as they came.")
@json_option
def command(*, config: Path | None, prefix: str, raw: bool, as_json: bool) -> None:
    """Show a recording. The beginning of its key will do if no other key begins so."""
    if raw and as_json:
        raise Mistake("--raw and --json are two ways to show it; take one")
    with recordings(config) as recorded:
        (key,) = recorded.find([prefix])
        recording = _read(recorded, key)
        listed = recorded.of_key(key)
    if raw:
        sys.stdout.buffer.write(recording.body)
        sys.stdout.buffer.flush()
    elif as_json:
        click.echo(json.dumps(_document(recording, listed), indent=2))
    else:
        _print(recording, listed)


def _read(recorded: Recordings, key: str) -> Recording:
    try:
        recording = recorded.read(key)
    except Damaged as damage:
        raise click.ClickException(f"{key} can't be shown: {damage}") from damage
    if recording is None:
        raise click.ClickException(f"{key} was removed a moment ago")
    return recording


def _document(recording: Recording, listed: Listed | None) -> dict[str, Any]:
    request, timeline = recording.request, recording.timeline
    return {
        "key": recording.key,
        "recorded_at": recording.recorded_at,
        "model": recording.model,
        "stream": recording.stream,
        "check": recording.check,
        "usage": recording.usage and recording.usage._asdict(),
        "stored_bytes": listed and listed.stored_bytes,
        "hits": listed and listed.hits,
        "request": {
            "method": request.method,
            "path": request.path,
            "vary": request.vary,
            "namespace": request.namespace,
            "sample": request.sample,
            "body": request.body.decode(errors="replace"),
        },
        "response": {
            "status": recording.head.status,
            "reason": recording.head.reason,
            "headers": _headers(recording),
            "body": recording.body.decode(errors="replace"),
        },
        "timeline": {
            "head_us": timeline.head_us,
            "lengths": list(timeline.lengths),
            "arrived_us": list(timeline.arrived_us),
        },
    }


def _headers(recording: Recording) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in recording.head.headers]


def _print(recording: Recording, listed: Listed | None) -> None:
    paper = console()
    for name, fact in _facts(recording, listed):
        paper.print(f"{name:<10}", style="bold", end="")
        paper.print(printable(fact), soft_wrap=True)
    for title, text in (("Prompt", _conversation(recording)), ("Answer", _answer(recording))):
        paper.print(f"\n{title}", style="bold")
        paper.print(printable(text), soft_wrap=True)


def _facts(recording: Recording, listed: Listed | None) -> Iterator[tuple[str, str]]:
    request, timeline, usage = recording.request, recording.timeline, recording.usage
    yield "key", recording.key
    yield "recorded", f"{_moment(recording.recorded_at)}, {age_text(time.time() - recording.recorded_at)} ago"
    yield "request", f"{request.method} {request.path}"
    yield from (("", f"{name}: {value}") for name, value in request.vary)
    if request.namespace or request.sample:
        yield "set", f"namespace {request.namespace or '-'}, sample {request.sample}"
    yield "model", recording.model or "-"
    yield "answer", f"{recording.head.status} {recording.head.reason}"
    yield from (("", f"{name}: {value}") for name, value in _headers(recording))
    yield "usage", f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out" if usage else "-"
    yield "frames", f"{counted(len(timeline.lengths), 'frame')}, {bytes_text(len(recording.body))}"
    yield "timing", f"head after {duration_text(timeline.head_us / 1e6)}, {_timing(recording)}"
    yield "finished", recording.check
    if listed:
        yield "stored", f"{bytes_text(listed.stored_bytes)}, replayed {counted(listed.hits, 'time')}"


def _moment(unix_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_s).astimezone():%Y-%m-%d %H:%M:%S %z}"
    except (ValueError, OverflowError, OSError):  # a clock that was wrong by thousands of years
        return f"{unix_s:.0f} s after 1970"


def _timing(recording: Recording) -> str:
    arrived_us = recording.timeline.arrived_us
    if not arrived_us:
        return "no frames"
    first, last = (duration_text(moment_us / 1e6) for moment_us in (arrived_us[0], arrived_us[-1]))
    return f"first frame after {first}, last after {last}"


def _answer(recording: Recording) -> str:
    """The text of the answer; of one without text, such as embeddings, the beginning of what came."""
    return assembled_text(recording.body) or recording.body[:1000].decode(errors="replace")


def _conversation(recording: Recording) -> str:
    """What was asked, of a request of any cached route, each message under who spoke."""
    request = asked(recording)
    messages = request.get("messages") or request.get("input") or request.get("prompt") or []
    turns = messages if isinstance(messages, list) else [messages]
    return "\n\n".join(filter(None, map(_turn, turns)))


def _turn(turn: object) -> str:
    if not isinstance(turn, dict):
        return turn if isinstance(turn, str) else json.dumps(turn)
    content = turn.get("content", turn.get("text"))
    parts = content if isinstance(content, list) else [content]
    said = "\n".join(_part(part) for part in parts if part is not None)
    calls = turn.get("tool_calls")
    return f"[{turn.get('role') or turn.get('type')}]\n{said}" + (f"\n{json.dumps(calls)}" if calls else "")


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return f"({part.get('type')})" if isinstance(part, dict) else json.dumps(part)
