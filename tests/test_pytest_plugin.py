"""The pytest plugin, in a project of somebody else's: recorded once, replayed with the upstream gone, and counted."""

import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from tests.harness import NOWHERE

pytest_plugins = ["pytester"]


HELPER = """
import json, os, urllib.error, urllib.request

def ask(text, base_url=None, **more):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = (base_url or os.environ["OPENAI_BASE_URL"]) + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.headers["X-Cache-Status"], answer.read()
    except urllib.error.HTTPError as refused:
        raise AssertionError(refused.read().decode()) from None
"""


class Project:
    """A directory with tests in it, run as its owner would."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        self._monkeypatch = monkeypatch
        pytester.makepyfile(helper=HELPER)
        self.path: Path = pytester.path

    def write(self, **files: str) -> None:
        self._pytester.makepyfile(
            **{name: f"from helper import ask\nimport pytest\n{text}" for name, text in files.items()}
        )

    def run(self, *arguments: str, upstream: str = NOWHERE, apart: bool = False, **env: str) -> pytest.RunResult:
        """Run its tests, with nothing set that is not given; `apart`: in a process that has imported nothing yet."""
        for name in ("CI", "OPENAI_API_KEY", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
            self._monkeypatch.delenv(name, raising=False)
        python_path = os.fspath(Path(__file__).parent.parent)
        given = {"OPENAI_BASE_URL": upstream, "PYTHONPATH": python_path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env}
        for name, value in given.items():
            self._monkeypatch.setenv(name, value)
        plugins = [part for name in ("no:cacheprovider", "reprise", "xdist") for part in ("-p", name)]
        if apart:
            return self._pytester.runpytest_subprocess(*plugins, *arguments, timeout=60)
        return self._pytester.runpytest_inprocess(*plugins, *arguments)

    def cassette(self, name: str) -> Sequence[str]:
        return sorted(path.stem for path in (self.path / "cassettes" / name).glob("*.json"))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(pytester, monkeypatch)


def test_a_test_is_recorded_once_and_then_needs_neither_upstream_nor_key(project: Project, simulator: str) -> None:
    """The same bytes each time; where CI is set nothing is recorded by itself."""
    project.write(
        test_river="""
import hashlib

def test_river(reprise):
    word, body = ask("Name a river.", stream=True)
    print(f"[{word} {hashlib.sha256(body).hexdigest()}]")
    assert body.endswith(b"data: [DONE]\\n\\n")
"""
    )
    unrecorded = project.run("-s", CI="true")
    first = project.run("-s", upstream=simulator)
    again = project.run("-s", CI="true")

    unrecorded.assert_outcomes(failed=1)
    first.assert_outcomes(passed=1)
    again.assert_outcomes(passed=1)
    said = [
        [line for line in result.outlines if line.startswith(("[", "test_river.py ["))] for result in (first, again)
    ]
    assert said[0][0].replace("MISS", "HIT") == said[1][0]
    assert len(project.cassette("test_river")) == 1
    again.stdout.fnmatch_lines(["recordings: 1 used, 0 missed, 0 new, 0 that no test asked for"])


def test_who_changes_a_word_reads_what_was_recorded_and_what_was_asked(project: Project, simulator: str) -> None:
    """In the failure itself."""
    project.write(test_river='def test_river(reprise):\n    ask("It is Tuesday. Name a river.")\n')
    project.run(upstream=simulator)
    project.write(test_river='def test_river(reprise):\n    ask("It is Wednesday. Name a river.")\n')

    result = project.run()

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "replay_miss" in text
    assert "Tuesday" in text
    result.stdout.fnmatch_lines(
        [
            "recordings: 0 used, 1 missed, 0 new, 1 that no test asked for",
            "To record what was missed: pytest --reprise-record=new_episodes",
        ]
    )


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [("none", None, None), ("once", "HIT", None), ("new_episodes", "HIT", "MISS"), ("all", "REFRESH", "REFRESH")],
)
def test_record_modes_do_what_they_do_in_vcrpy(
    mode: str, first: str | None, second: str | None, project: Project, simulator: str
) -> None:
    """With a cassette that holds the answer to one of two questions, or none at all."""
    if mode != "none":
        project.write(test_two='def test_first(reprise):\n    ask("one")\n')
        project.run(upstream=simulator)
    project.write(
        test_two=f"""
def test_first(reprise):
    assert ask("one")[0] == {first!r}

def test_second(reprise):
    assert ask("two")[0] == {second!r}
"""
    )

    result = project.run(f"--reprise-record={mode}", upstream=simulator)

    passed = sum(word is not None for word in (first, second))
    result.assert_outcomes(passed=passed, failed=2 - passed)
    assert len(project.cassette("test_two")) == {"none": 0, "once": 1, "new_episodes": 2, "all": 2}[mode]


def test_what_this_run_has_recorded_is_no_old_cassette(project: Project, simulator: str) -> None:
    """Where tests of one module want other options, and so another proxy, each is recorded in the first run."""
    project.write(
        test_paces="""
@pytest.mark.reprise(pace="recorded")
def test_first():
    ask("one")

@pytest.mark.reprise(pace="instant")
def test_second():
    ask("two")
"""
    )

    project.run(upstream=simulator).assert_outcomes(passed=2)

    assert len(project.cassette("test_paces")) == 2


def test_strict_fails_on_recordings_that_no_test_asks_for(project: Project, simulator: str) -> None:
    """Not where only some of the tests have run."""
    both = 'def test_first(reprise):\n    ask("one")\n\ndef test_second(reprise):\n    ask("two")\n'
    project.write(test_two=both)
    project.run(upstream=simulator)

    some = project.run("--reprise-strict", "-k", "first")
    project.write(test_two='def test_first(reprise):\n    ask("one")\n')
    strict, lenient = project.run("--reprise-strict"), project.run()

    assert (some.ret, strict.ret, lenient.ret) == (0, 1, 0)
    strict.stdout.fnmatch_lines(["no test asked for these in cassettes/test_two: *", "*--reprise-strict*"])


def test_several_processes_share_cassettes_and_one_report(project: Project, simulator: str) -> None:
    """What one of them has just recorded is no old cassette to the others."""
    project.write(test_many='@pytest.mark.parametrize("n", range(6))\ndef test_it(n, reprise):\n    ask(str(n))\n')

    first = project.run("-n", "2", upstream=simulator)
    again = project.run("-n", "2", "--reprise-strict", CI="1")

    first.assert_outcomes(passed=6)
    again.assert_outcomes(passed=6)
    first.stdout.fnmatch_lines(["recordings: 0 used, 0 missed, 6 new, *"])
    again.stdout.fnmatch_lines(["recordings: 6 used, 0 missed, 0 new, 0 that no test asked for"])


def test_a_marker_sets_options_for_one_test(project: Project, simulator: str) -> None:
    """Here, what is no part of the key; and a cassette of its own."""
    project.write(
        test_user="""
@pytest.mark.reprise(ignore=["/user"], per="test")
@pytest.mark.parametrize("user", ["one", "other"])
def test_users_are_all_alike(user, reprise):
    ask("Hello?", user="ann")
    assert ask("Hello?", user=user)[0] == "HIT"

def test_users_are_not(reprise):
    ask("Hello?", user="ann")
    assert ask("Hello?", user="bob")[0] == "MISS"

@pytest.mark.reprise(pase="instant")
def test_a_mistake(reprise):
    pass
"""
    )

    result = project.run(upstream=simulator)

    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*pase*"])
    kept = sorted(path.relative_to(project.path / "cassettes").as_posix() for path in project.path.rglob("*.body"))
    assert [path.rpartition("/")[0] for path in kept] == [
        *["test_user"] * 2,
        "test_user/test_users_are_all_alike[one]",
        "test_user/test_users_are_all_alike[other]",
    ]


def test_it_is_there_before_the_other_fixtures_of_a_test(project: Project, simulator: str) -> None:
    """In whatever order they are named: one may make a client, another change the environment and change it back."""
    project.write(
        test_order="""
import os

@pytest.fixture
def client():
    return os.environ["OPENAI_BASE_URL"]

def test_client(client, reprise):
    assert client == reprise.base_url
    ask("Hello?")

def test_change(monkeypatch, reprise):
    ask("Hello?")
    monkeypatch.setenv("OPENAI_BASE_URL", "elsewhere")
    monkeypatch.setenv("OPENAI_API_KEY", "another")

def test_afterwards():
    assert "OPENAI_API_KEY" not in os.environ
    assert os.environ["OPENAI_BASE_URL"] == os.environ["UPSTREAM"]
"""
    )

    project.run(upstream=simulator, UPSTREAM=simulator).assert_outcomes(passed=3)


def test_tests_with_odd_names_have_cassettes_of_their_own(project: Project, simulator: str) -> None:
    """Also where their names are the same but for what no file may have in its own, or are longer than one can be."""
    project.write(
        test_odd="""
@pytest.mark.reprise(per="test")
@pytest.mark.parametrize("text", [pytest.param(id, id=id) for id in ("a b", "a/b", "a-b", "z" * 300, "z" * 301)])
def test_it(text):
    ask(text)
"""
    )

    recorded, replayed = project.run(upstream=simulator), project.run("--reprise-strict")

    recorded.assert_outcomes(passed=5)
    replayed.assert_outcomes(passed=5)
    kept = sorted(path.name for path in (project.path / "cassettes" / "test_odd").iterdir())
    assert len(kept) == 5
    assert "test_it[a-b]" in kept
    assert max(map(len, kept)) <= 120


def test_programs_that_a_test_starts_ask_the_proxy(project: Project, simulator: str) -> None:
    """All they need is the environment, which is as it was when the test is over; a real key does not go anywhere."""
    project.write(
        test_program="""
import os, subprocess, sys

def test_program(reprise):
    said = subprocess.check_output([sys.executable, "-c", "import helper; print(helper.ask('Hello?')[0])"], text=True)
    assert said.strip() in ("MISS", "HIT")
    assert os.environ["OPENAI_BASE_URL"] == reprise.base_url
    assert os.environ["OPENAI_API_KEY"] == ("sk-none-needed" if reprise.replays else "sk-real")

def test_afterwards():
    assert os.environ["OPENAI_API_KEY"] == "sk-real"
    assert os.environ["OPENAI_BASE_URL"] != "none"
"""
    )

    for _ in range(2):
        project.run(upstream=simulator, OPENAI_API_KEY="sk-real").assert_outcomes(passed=2)
    text = b"".join(path.read_bytes() for path in project.path.rglob("*.json"))
    assert b"sk-" not in text


def test_a_run_without_the_fixture_imports_nothing_of_the_proxy(project: Project) -> None:
    """Everybody who has it installed loads the plugin."""
    project.write(
        test_idle="""
import sys

def test_idle():
    loaded = {name for name in sys.modules if name.startswith("proxy.")}
    assert loaded == {"proxy.tally", "proxy.pytest_run", "proxy.pytest_plugin"}
"""
    )

    result = project.run(apart=True)

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*recordings*")


def test_a_cassette_is_for_people_to_review(project: Project, simulator: str) -> None:
    """Two files a recording, and nothing else."""
    project.write(test_river='def test_river(reprise):\n    ask("Name a river.")\n')
    project.run(upstream=simulator)

    (key,) = project.cassette("test_river")
    files = sorted(path.name for path in (project.path / "cassettes" / "test_river").iterdir())
    assert files == [f"{key}.body", f"{key}.json"]
    described = (project.path / "cassettes" / "test_river" / f"{key}.json").read_bytes()
    assert b"Name a river." in described
    assert orjson.loads(described)["key"] == key


def test_a_client_may_outlive_the_test_that_made_it(project: Project, simulator: str) -> None:
    """One that is made once for all tests finds the proxy of each at the same address."""
    first = (
        'def test_it(reprise):\n    import helper\n    helper.kept = reprise.base_url\n    ask("one", helper.kept)\n'
    )
    later = (
        'def test_it(reprise):\n    import helper\n    ask("two", helper.kept)\n    assert len(reprise.recorded) == 1\n'
    )
    project.write(
        test_1=first,
        test_2=later,
        test_3=f'{later}\n@pytest.mark.reprise(record="all")\ndef test_anew(reprise):\n    import helper\n'
        '    assert ask("two", helper.kept)[0] == "REFRESH"\n    assert len(reprise.requests) == 1\n',
    )

    result = project.run(upstream=simulator)

    result.assert_outcomes(passed=4)
    assert [len(project.cassette(name)) for name in ("test_1", "test_2", "test_3")] == [1, 1, 1]


def test_a_test_that_sends_the_proxy_nothing_is_named(project: Project, simulator: str) -> None:
    """Its client was made before the fixture was there, and asks the model itself."""
    project.write(test_idle=f'early = "{simulator}"\n\ndef test_it(reprise):\n    ask("Hello?", early)\n')

    lenient, strict = project.run(), project.run("--reprise-strict")

    assert (lenient.ret, strict.ret) == (0, 1)
    lenient.stdout.fnmatch_lines(["sent it nothing * test_idle.py::test_it"])


def test_what_a_test_has_left_in_mid_stream_is_its_own(project: Project, simulator: str) -> None:
    """It is read on while its client has gone, and is no request of the next test."""
    project.write(
        test_leaving="""
import json, os, urllib.request

def test_leaving(reprise):
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Name a river."}]}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        answer.read(1)

def test_next(reprise):
    assert reprise.requests == []
    ask("Hello?")
    assert len(reprise.requests) == 1
"""
    )

    result = project.run("--reprise-strict", upstream=simulator)

    result.assert_outcomes(passed=2)
    assert result.ret == 0
    result.stdout.no_fnmatch_line("sent it nothing*")


def test_the_upstream_is_the_one_that_the_program_has_set(project: Project, simulator: str) -> None:
    """Perhaps by a file that it reads when it is imported."""
    set_it = f'import os\nos.environ["OPENAI_BASE_URL"] = "{simulator}"\n\n'
    project.write(test_late=f'{set_it}def test_it(reprise):\n    ask("Hello?")\n')

    project.run().assert_outcomes(passed=1)


def test_recordings_of_tests_that_did_not_run_are_not_called_unused(project: Project, simulator: str) -> None:
    """They were skipped here, and are needed elsewhere."""
    both = 'def test_it(reprise):\n    ask("Hello?")\n\ndef test_more(reprise):\n    ask("More?")\n'
    project.write(test_it=both)
    project.run(upstream=simulator)
    project.write(test_it=f"@pytest.mark.skip\n{both}")

    result = project.run("--reprise-strict")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["recordings: 1 used, 0 missed, 0 new"])


@pytest.mark.parametrize(
    ("ahead", "options", "plugins"),
    [
        ('pytest.skip("not here", allow_module_level=True)', [], "no:cacheprovider"),
        ('pytest.importorskip("nothing_of_that_name")', [], "no:cacheprovider"),
        ("", ["--ignore=test_more.py"], "no:cacheprovider"),
        ("", ["--ignore-glob=*_more.py"], "no:cacheprovider"),
        ("", ["--last-failed"], "cacheprovider"),
    ],
)
def test_recordings_of_files_that_were_left_out_are_not_called_unused(
    ahead: str, options: Sequence[str], plugins: str, project: Project, simulator: str
) -> None:
    """In whatever way: somebody would remove them."""
    more = 'def test_more(reprise):\n    ask("More?")\n'
    project.write(
        test_it="""
import os

def test_it(reprise):
    ask("Hello?")
    assert not os.path.exists("failing")

def test_other(reprise):
    ask("Other?")
""",
        test_more=more,
    )
    (project.path / "failing").touch()
    project.run("-p", plugins, upstream=simulator)
    (project.path / "failing").unlink()
    project.write(test_more=f"{ahead}\n{more}")

    result = project.run("-p", plugins, "--reprise-strict", *options)

    assert result.ret == 0
    result.stdout.no_fnmatch_line("no test asked for these*")


def test_a_cassette_that_modules_share_is_judged_after_a_run_of_everything(project: Project, simulator: str) -> None:
    """What one of them does not ask for the other may need."""
    for name in ("one", "two"):
        test = f'@pytest.mark.reprise(cassette="both")\ndef test_it():\n    ask("{name}")\n'
        project.write(**{f"test_{name}": test})
    project.run("--reprise-record=new_episodes", upstream=simulator).assert_outcomes(passed=2)

    one_file, everything = project.run("--reprise-strict", "test_one.py"), project.run("--reprise-strict")
    project.write(test_two='@pytest.mark.reprise(cassette="both")\ndef test_it():\n    ask("one")\n')
    unused = project.run("--reprise-strict")

    assert (one_file.ret, everything.ret, unused.ret) == (0, 0, 1)


def test_a_cassette_that_no_test_opens_any_more_is_named(project: Project, simulator: str) -> None:
    """Where the test has another name now; not in a run of some files."""
    marker = "pytestmark = pytest.mark.reprise(per='test')\n\n"
    project.write(test_it=f'{marker}def test_old():\n    ask("Hello?")\n\ndef test_kept():\n    ask("More?")\n')
    project.run(upstream=simulator)
    project.write(test_it=f'{marker}def test_kept():\n    ask("More?")\n')

    everything, one_file = project.run("--reprise-strict"), project.run("--reprise-strict", "test_it.py")

    assert (everything.ret, one_file.ret) == (1, 0)
    everything.stdout.fnmatch_lines(["no test asked for these in cassettes/test_it/test_old: *"])


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ('"all"', "*takes its options by name*"),
        ('record="some"', "*record is one of none, once, new_episodes, all; got 'some'"),
        ('per="tests"', "*per is one of module, test; got 'tests'"),
        ('mode="none"', "*has no option mode; it takes pace, *, record"),
        ('cassette="damaged"', "E * can't start: cache.cassette: *.body: it is missing*"),
        ('cassette="helper.py"', "*the cassette of a test is a directory*"),
    ],
)
def test_a_mistake_in_a_marker_is_told(marker: str, says: str, project: Project) -> None:
    """By whoever made it, in a sentence; the marker alone is enough to have the proxy."""
    project.write(test_it=f"@pytest.mark.reprise({marker})\ndef test_it():\n    pass\n")
    (project.path / "cassettes" / "damaged").mkdir(parents=True)
    (project.path / "cassettes" / "damaged" / f"{'0' * 64}.json").touch()
    (project.path / "cassettes" / "helper.py").touch()

    result = project.run()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([says])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*direct cause*")


def test_what_goes_past_all_proxies_goes_past_them_still(project: Project) -> None:
    """`*` is one only by itself."""
    project.write(test_it='import os\n\ndef test_it(reprise):\n    assert os.environ["NO_PROXY"] == "*"\n')

    project.run(NO_PROXY="*").assert_outcomes(passed=1)
