"""Where settings come from: the command line, the environment and a YAML file.

The rule: a source knows the names of the keys and what a person calls each place, not what a value means. Text stays
the text that was written, from every source alike; a key that nobody knows is a problem, never ignored.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

PREFIX = "REPRISE_"
CONFIG_VARIABLE = "REPRISE_CONFIG"
DEFAULT_FILE = Path("config.yaml")

_FLAGS = {
    "server.host": "--host",
    "server.port": "--port",
    "upstream.base_url": "--upstream",
    "cache.mode": "--mode",
    "cache.cassette": "--cassette",
    "cache.record_to": "--record-to",
}
_CLOSE = 0.8  # of 1; lower, and the name of the section alone makes any two of its keys look alike
_NULL = "tag:yaml.org,2002:null"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Given(NamedTuple):
    """A value and what a person calls the place it stands in, such as `config.yaml: cache.ttl` or `--port`."""

    place: str
    value: object


@dataclass(frozen=True, slots=True)
class Source:
    """What one place says, by dotted key, and what is wrong with how it says it."""

    given: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    readable: bool = True
    """If not, nobody knows what it says."""


def from_command_line(overrides: Mapping[str, object], keys: Collection[str]) -> Source:
    """Options by dotted key; one that is None was not given."""
    source = Source()
    for key, value in overrides.items():
        if key not in keys:
            source.problems.append(_unknown_key("", key, keys))
        elif value is not None:
            source.given[key] = Given(_FLAGS.get(key, key), value)
    return source


def from_environment(environ: Mapping[str, str], keys: Collection[str]) -> Source:
    """`REPRISE_SERVER__PORT` and its like; a variable that is set to nothing counts as unset."""
    source = Source()
    names = {PREFIX + key.upper().replace(".", "__"): key for key in keys}
    for name in environ:
        if name in names and environ[name]:
            source.given[names[name]] = Given(name, environ[name])
        elif name.startswith(PREFIX) and name not in names and name != CONFIG_VARIABLE:
            source.problems.append(_unknown_variable(name, names))
    return source


def from_file(config: Path | None, environ: Mapping[str, str], keys: Collection[str]) -> Source:
    """The YAML file `config`, else `$REPRISE_CONFIG`, else `config.yaml` if there is one.

    A section or key without a value is not given.
    """
    path, named_by = _path(config, environ)
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path is DEFAULT_FILE:
            return Source()
        return _unreadable(f"{named_by}{path}: {_reason(error)}")
    except UnicodeDecodeError:
        return _unreadable(f"{path}: not UTF-8 text")
    try:
        # Composed, not constructed: `no`, `1.10` and `0777` stay the text that they are in the environment, too.
        document = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        return _unreadable(f"{path}: {_yaml_reason(error, text)}")
    except RecursionError:
        return _unreadable(f"{path}: lists and mappings within each other, too many of them")
    source = Source()
    _read_document(document, str(path), keys, source)
    return source


def file_in_use(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that `from_file` reads; None where it does without one."""
    path, _ = _path(config, environ)
    return None if path is DEFAULT_FILE and not path.exists() else path


def from_reference(key: str, given: Mapping[str, Given], environ: Mapping[str, str]) -> Source:
    """The variable that the value of `key` names as `${NAME}`, if it does."""
    place, text = given.get(key, Given("", None))
    reference = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
    if reference is None:
        return Source()
    if environ.get(reference[1]):
        return Source({key: Given(place, environ[reference[1]])})
    return Source({key: Given(place, None)}, [f"{place}: the environment variable {reference[1]} is not set"])


def by_section(given: Mapping[str, Given]) -> dict[str, dict[str, object]]:
    """The values as sections of keys."""
    sections: dict[str, dict[str, object]] = {}
    for key, (_, value) in given.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return sections


def _path(config: Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    if config is not None:
        return config, "--config: "
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE]), f"{CONFIG_VARIABLE}: "
    return DEFAULT_FILE, ""


def _unreadable(problem: str) -> Source:
    return Source(problems=[problem], readable=False)


def _reason(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()


def _yaml_reason(error: yaml.YAMLError, text: str) -> str:
    """Where it is, and what it mostly is; the library's own words are about tokens, and may quote what is a secret."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: a control character, which YAML does not allow"
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    line = mark.line + 1 if mark else 1
    return (
        f"line {line}: not valid YAML; look there and just above for a tab, uneven indentation, a missing colon "
        "or text that needs quotes"
    )


def _read_document(document: yaml.Node | None, path: str, keys: Collection[str], source: Source) -> None:
    sections = dict.fromkeys(key.partition(".")[0] for key in keys)
    if document is None or document.tag == _NULL:
        return
    if not isinstance(document, yaml.MappingNode):
        source.problems.append(f"{path}: expected the sections {', '.join(sections)}")
        return
    for section, body in _pairs(document, f"{path}: ", source.problems):
        if section not in sections:
            source.problems.append(_unknown_key(f"{path}: ", section, [*sections, *keys]))
        elif isinstance(body, yaml.MappingNode):
            _read_section(body, path, section, keys, source)
        elif body.tag != _NULL:
            source.problems.append(f"{path}: {section}: expected keys with their values below it")


def _read_section(body: yaml.MappingNode, path: str, section: str, keys: Collection[str], source: Source) -> None:
    for name, node in _pairs(body, f"{path}: {section}.", source.problems):
        key = f"{section}.{name}"
        if key not in keys:
            source.problems.append(_unknown_key(f"{path}: ", key, keys))
        elif node.tag != _NULL:
            source.given[key] = Given(f"{path}: {key}", _value(node, f"{path}: {key}.", source.problems))


def _pairs(mapping: yaml.MappingNode, prefix: str, problems: list[str]) -> Iterator[tuple[str, yaml.Node]]:
    lines: dict[str, int] = {}
    for key, value in mapping.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        line = key.start_mark.line + 1
        if name in lines:
            problems.append(f"{prefix}{name}: given twice, on lines {lines[name]} and {line}")
        else:
            lines[name] = line
            yield name, value


def _value(node: yaml.Node, prefix: str, problems: list[str]) -> object:
    """Text, or a list of texts and mappings of texts.

    An alias can make a node contain itself, so this looks no deeper than that.
    """
    if not isinstance(node, yaml.SequenceNode):
        return _scalar(node)
    return [_item(item, prefix, problems) for item in node.value]


def _item(node: yaml.Node, prefix: str, problems: list[str]) -> object:
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node)
    return {name: _scalar(value) for name, value in _pairs(node, prefix, problems)}


def _scalar(node: yaml.Node) -> object:
    """The text of a scalar, None for null; of anything else no more than its kind."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == _NULL else node.value
    return [] if isinstance(node, yaml.SequenceNode) else {}


def _unknown_key(prefix: str, key: str, keys: Collection[str]) -> str:
    nearest = _nearest(key, keys)
    section, _, name = key.rpartition(".")
    if nearest == key:  # `cache.ttl: 7d` in one line
        return f"{prefix}{key}: unknown key; write '{name}' below '{section}'"
    if nearest and nearest.rpartition(".")[0] == section:
        nearest = nearest.rpartition(".")[2]
    return f"{prefix}{key}: unknown key" + (f"; did you mean '{nearest}'?" if nearest else "")


def _unknown_variable(name: str, names: Mapping[str, str]) -> str:
    key = name.removeprefix(PREFIX).lower().replace("__", ".")
    known = {key: name for name, key in names.items()} | {"config": CONFIG_VARIABLE}
    nearest = _nearest(key, known)
    return f"{name}: unknown key" + (f"; did you mean '{known[nearest]}'?" if nearest else "")


def _nearest(key: str, keys: Collection[str]) -> str | None:
    """The key that is spelled nearly so, else one of the same name in another section."""
    namesake = (known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2])
    return next(iter(difflib.get_close_matches(key, keys, 1, _CLOSE)), None) or next(namesake, None)
