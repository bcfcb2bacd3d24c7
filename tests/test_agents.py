"""From an idea to a verdict without a human: `AGENTS.md` followed, `golf compare`, `--json`, exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from test_repo import ROOT, docs_module
from typer.testing import CliRunner

from golf.base.files import GolfError
from golf.lab.cli import app
from golf.lab.verdict import arm_from, verdict_on

AGENTS = (ROOT / "AGENTS.md").read_text(encoding="utf-8")
NEW = """


class Own(golf.NGram):
    def __init__(self):
        super().__init__(1024, {})
"""
WORDS = {"gains", "loses", "PASS", "UNSURE", "FAIL"}
BARE = "class A(golf.Predictor):\n    distribution = lambda self, chunk: 3\n"
SHORT = ("--tokens", "5120", "--chunk-tokens", "256")


def golf(*arguments) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a `golf` command."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def commands(group=None, prefix=()):
    """Every command that does something, by its words."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


@pytest.fixture(autouse=True)
def no_trace(monkeypatch):
    """Files of one test are no modules of the next."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest-" in file:
            del sys.modules[name]


@pytest.fixture
def arm(tmp_path):
    """Writes a file with an arm and gives its FILE.py:arm; `of` is what the function returns."""

    def write(of: str, before: str = "", name: str = "idea.py") -> str:
        code = f"import golf\n\n{before}\n\ndef arm():\n    return {of}\n"
        (tmp_path / name).write_text(code)
        return f"{tmp_path / name}:arm"

    return write


# AGENTS.md


def test_who_follows_agents_md_in_a_blank_folder_gets_a_verdict(tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", AGENTS, re.DOTALL)
    assert len(blocks) == 3 and "<<'END'" in blocks[0]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    limits = ("", " --level brief", f" {' '.join(SHORT)}")
    said = []
    for block, limit in zip(blocks, limits, strict=True):
        done = subprocess.run(
            ["bash", "-ec", block.strip() + limit], cwd=tmp_path, env=env, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    audit, verdict = map(json.loads, said[1:])
    assert audit["verdict"] == "PASS" and verdict["verdict"] == "gains"
    assert verdict["high"] < 0 and verdict["exit_code"] == 0 and verdict["tokens"] == 5120
    for field in re.findall(r"`(\w+)`", AGENTS.partition("| field |")[2].partition("\n\n")[0]):
        assert field in {*verdict, *verdict["audit"]} | WORDS, field


def test_the_predictor_of_agents_md_can_be_compared_as_it_stands(tmp_path):
    [block] = re.findall(r"```python\n(.*?)```", AGENTS, re.DOTALL)
    (tmp_path / "letters.py").write_text(block)
    code, out, _ = golf("compare", f"{tmp_path}/letters.py:Letters", *SHORT, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "loses")
    assert json.loads(out)["audit"]["verdict"] == "PASS"


def test_agents_md_names_commands_and_options_that_exist():
    assert len(AGENTS.splitlines()) < 120
    known = {" ".join(words): command for words, command in commands()} | {"data": None}
    for name in re.findall(r"`golf ([a-z-]+(?: fineweb)?)", AGENTS):
        assert name in known, name
    options = {o for c in known.values() if c for p in c.params for o in p.opts}
    given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", AGENTS)) - {"--help", "--help-notebook"}
    assert given <= options, given - options
    for path in re.findall(r"`((?:nbs|golf|runs|figures)/[\w./]*)`", AGENTS):
        made = re.fullmatch(r"runs/(\w+)/", path)  # by a notebook of that name, once it has run
        assert (ROOT / (f"nbs/{made[1]}.ipynb" if made else path)).exists(), path


# A verdict


def test_an_arm_that_reads_its_targets_gains_and_is_refused(arm):
    cheat = """
import torch


class Peeking(golf.Predictor):
    vocab_size = 1024

    def distribution(self, chunk):
        rows = torch.zeros(len(chunk), 1024).scatter_(1, chunk.targets[:, None], 9.0)
        return golf.Dense(rows.log_softmax(-1))
"""
    code, out, _ = golf("compare", arm("Peeking()", cheat), *SHORT, "--json")
    said = json.loads(out)
    assert (code, said["verdict"], said["audit"]["verdict"]) == (1, "gains", "FAIL")
    assert said["audit"]["failed"] and said["exit_code"] == 1


def test_an_arm_beside_itself_shows_no_difference(arm):
    other = arm("golf.NGram(1024, 2)", name="other.py")
    same = arm("golf.NGram(1024, 2)")
    code, out, _ = golf("compare", same, "--baseline", other, *SHORT, "--json")
    said = json.loads(out)
    assert (code, said["verdict"], said["difference"]) == (1, "no clear difference", 0.0)
    with open(same.removesuffix(":arm"), "a") as file:
        file.write("\n\ndef more():\n    return golf.NGram(1024, 3)\n")
    code, out, _ = golf("compare", same, "--baseline", same.replace(":arm", ":more"), *SHORT)
    assert code == 1 and "idea.py:more |" in out  # two arms of one file
    assert said["baseline"] == other and golf("compare", same, "--baseline", same, *SHORT)[0] == 2


def test_an_arm_that_calls_impossible_what_happened_loses_and_json_has_no_infinity(arm):
    sure = """
import torch


class Sure(golf.Predictor):
    vocab_size = 1024

    def distribution(self, chunk):
        rows = torch.full((len(chunk), 1024), -torch.inf)
        rows[:, 7] = 0.0
        return golf.Dense(rows)
"""
    target = arm("Sure()", sure)
    code, out, _ = golf("compare", target, *SHORT, "--json")
    said = json.loads(out, parse_constant=lambda word: pytest.fail(word))
    assert (code, said["verdict"], said["bpb"], said["low"]) == (1, "loses", None, None)
    assert "first at position" in said["infinite"]
    assert "infinite loss at" in golf("compare", target, *SHORT)[1]


def test_an_edited_arm_and_an_edited_neighbour_are_scored_again(arm, tmp_path):
    def bpb() -> float:
        sys.modules.pop("near", None)  # as in a new process
        target = arm("golf.NGram(1024, ORDER + 1)", "from near import ORDER")
        return json.loads(golf("compare", target, *SHORT, "--json")[1])["bpb"]

    (tmp_path / "near.py").write_text("ORDER = 1\n")
    first = bpb()
    (tmp_path / "near.py").write_text("ORDER = 2\n")
    assert bpb() != first
    other = arm("golf.NGram(1024, 1)")
    assert json.loads(golf("compare", other, *SHORT, "--json")[1])["bpb"] != first


def test_why_stale_names_the_edit_of_an_arm_that_lies_here(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepared = "print('loaded')"
    target = arm("golf.NGram(1024, 1)", prepared + NEW.format(1), "edited.py")
    assert golf("compare", target.replace(":arm", ":Own"), *SHORT)[0] == 1
    arm("golf.NGram(1024, 1)", prepared + NEW.format(2), "edited.py")
    sys.modules.pop("edited")  # as in a new process
    monkeypatch.chdir(tmp_path)
    rows = json.loads(golf("why-stale", "--json")[1])["arms"]
    assert [row["changed"] for row in rows if "edited" in row["arm"]] == ["edited: Own.__init__"]


def test_what_an_arm_prints_does_not_spoil_the_json(arm):
    target = arm("print('made') or golf.NGram(1024, 2)", "print('loaded')")
    for command in (["compare", target, *SHORT], ["audit", target, "--level", "brief"]):
        _, out, err = golf(*command, "--json")
        assert json.loads(out)["format"] == 1 and "made" in err and "loaded" in err


@pytest.mark.parametrize(
    ("of", "before", "name", "options", "said"),
    [
        ("1 / 0", "", "idea.py", (), "line 6: ZeroDivisionError"),
        ("(", "", "idea.py", (), "line 6: SyntaxError"),
        ("3", "", "idea.py", (), "expected a golf.Predictor, not int"),
        ("golf.NGram(1024, 2)", "import nowhere", "idea.py", (), "line 3: ModuleNotFoundError"),
        ("golf.NGram(1024, 2)", "exit(0)", "idea.py", (), "line 3: SystemExit"),
        ("golf.NGram(1024, 2)", "", "torch.py", (), "rename the file"),
        ("golf.NGram(1024, 2)", "", "xarray.html.py", (), "rename the file"),
        ("golf.NGram(256, 2)", "", "idea.py", (), "outside the 256 ids"),
        ("golf.NGram(1024, 2)", "", "idea.py", ("--tokens", "4096"), "20 chunks or more"),
        ("golf.NGram(1024, 2)", "", "idea.py", ("--chunk-tokens", "0"), "20 chunks or more"),
        ("golf.NGram(1024, 2)", "", "idea.py", ("--level", "breif"), "did you mean 'brief'"),
        ("golf.NGram(1024, 2)", "", "idea.py", ("--baseline", "no.py:arm"), "no such file"),
        (
            "golf.NGram(1024, 2)",
            "",
            "idea.py",
            ("--artifact", "tinny"),
            "one of ['large', 'proxy', 'small', 'tiny']",
        ),
        ("type('A', (golf.Predictor,), {'vocab_size': 9})()", "", "idea.py", (), "has no distr"),
        ("A()", BARE, "idea.py", (), "has no vocab_size"),
        ("A()", BARE + "    vocab_size = 1024", "idea.py", (), "such as golf.Dense"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arm, of, before, name, options, said):
    code, out, err = golf("compare", arm(of, before, name), *SHORT, *options, "--json")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1] and "Traceback" not in err


def test_an_arm_that_cannot_start_is_not_audited(arm):
    code, out, err = golf("audit", arm("A()", BARE + "    vocab_size = 1024"), "--json")
    assert (code, out) == (2, "") and "such as golf.Dense" in err.splitlines()[-1]


# Every command


def test_every_command_answers_programs_too():
    without = [w for w, c in commands() if "--json" not in {o for p in c.params for o in p.opts}]
    assert not without


def test_commands_that_prepare_check_and_list_print_one_value(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "texts").mkdir()
    for name in ("one", "two"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"the {name} and only text\n" * 40)
    made = golf("data", "text", tmp_path / "texts", "--vocab-size", "285", "--json")
    text = json.loads(made[1])
    assert text["vocab_size"] == 285 and Path(text["folder"]).is_dir()
    checked = golf("data", "check", "--data-path", text["folder"], "--json")
    assert checked[0] == 0 and json.loads(checked[1])["damaged"] == []
    shard = next(Path(text["folder"]).glob("*_train_*.bin"))
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = golf("data", "check", "--data-path", text["folder"], "--json")
    assert damaged[0] == 1 and len(json.loads(damaged[1])["damaged"]) == 1
    kinds = json.loads(golf("cache", "--json")[1])["kinds"]
    assert "corpora" in {row["kind"] for row in kinds}
    assert json.loads(golf("cache", "--clear", "--json")[1])["freed"] > 0
    assert json.loads(golf("why-stale", "--json")[1]) == {"arms": [], "models": []}


# The site


def test_llms_txt_leads_to_every_page_with_a_sentence():
    module = docs_module("notebooks")
    text = module.llms()
    assert text.startswith("# golf\n\n> ")
    links = re.findall(r"^- \[(.+?)\]\((.+?)\.html\): (.+)$", text, re.MULTILINE)
    assert sorted(place for _, place, _ in links) == sorted(
        [*(module.pages() - {"index"}), "api", "agents", "contributing"]
    )
    assert len(links) == text.count("\n- ") and all(told.endswith((".", "?")) for *_, told in links)


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("arn", "idea.py has no function 'arn'; did you mean 'arm'?"),
        ("torhc", "idea.py has no function 'torhc'"),  # what it imports is no arm
        ("ready", "ready is a Uniform, no function or class that makes an arm"),
        ("RATE", "RATE is a float, no function or class that makes an arm"),
    ],
)
def test_a_name_that_makes_no_arm_is_told_what_could(arm, name, complaint):
    file = arm("golf.Uniform(1024)", "import torch\nready = golf.Uniform(1024)\nRATE = 0.5")
    with pytest.raises(GolfError) as caught:
        arm_from(file.replace(":arm", f":{name}"))
    assert complaint in str(caught.value)
    assert "torch'" not in str(caught.value) and "\n" not in str(caught.value)


TABLE = """
import json
from pathlib import Path

import torch


class Table(golf.Predictor):
    vocab_size = 1024

    def __init__(self):
        self._row = json.loads(Path(__file__).with_name("row.json").read_text())

    def distribution(self, chunk):
        logits = torch.zeros(len(chunk), 1024)
        logits[:, self._row] = 1.0
        return golf.Dense(logits)
"""


def test_a_table_that_an_arm_reads_when_it_is_made_and_that_was_edited_is_read_again(arm, tmp_path):
    target = arm("Table()", TABLE)
    base = arm("golf.Uniform(1024)", name="even.py")
    options = {"baseline": base, "tokens": 5120, "chunk_tokens": 256}
    found = []
    for row in (270, 270, 400):
        (tmp_path / "row.json").write_text(json.dumps(row))
        verdict = verdict_on(target, **options)
        found.append(verdict.comparison[target].bpb)
    assert found[0] == found[1] != found[2]


def test_a_corpus_and_shards_at_once_are_refused(arm, tmp_path):
    with pytest.raises(GolfError, match="give one of them"):
        verdict_on(arm("golf.Uniform(1024)"), corpus=str(tmp_path), data_path=str(tmp_path))
