"""Papermill's command line with this package installed beside it: pseudo-terminal, pipes, errors."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from golf.base.files import GolfError
from golf.lab.engine import output_path, parse_command
from golf.lab.knobs import run_key

ROOT = Path(__file__).resolve().parent.parent
PAPERMILL = Path(sys.executable).with_name("papermill")
CELLS = [
    ('reset_every = 100  # chunks between resets\ncorpus = "stdlib"', ["parameters"]),
    ('print("resets", reset_every)', []),
]


@pytest.fixture
def project(tmp_path):
    """A project of this package with one small notebook."""
    folder = tmp_path / "a {b} project"  # papermill fills braces in paths
    nodes = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": tags}, "source": source}
        | {"outputs": [], "execution_count": None}
        for i, (source, tags) in enumerate(CELLS)
    ]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    notebook = {"cells": nodes, "metadata": {"kernelspec": kernel}}
    (folder / "nbs").mkdir(parents=True)
    (folder / "settings.ini").write_text("[DEFAULT]\nlib_name = golf\nnbs_path = nbs\n")
    text = json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5})
    (folder / "nbs" / "tiny.ipynb").write_text(text)
    return folder


def expected(project: Path, **overrides) -> Path:
    """Where the executed copy of the small notebook belongs."""
    parameters = {"reset_every": 100, "corpus": "stdlib"} | overrides
    key = run_key("tiny", parameters, project)
    return project / "runs" / "tiny" / key / "notebook.ipynb"


def write_cells(project: Path, *sources: str) -> None:
    """Give the small notebook other cells after its parameters."""
    path = project / "nbs" / "tiny.ipynb"
    notebook = json.loads(path.read_text())
    first, last, *_ = notebook["cells"]
    more = [last | {"id": f"d{i}", "source": source} for i, source in enumerate(sources)]
    path.write_text(json.dumps(notebook | {"cells": [first, *more]}))


def printed(path: Path) -> str:
    """What the second cell of an executed notebook printed."""
    cells = json.loads(path.read_text())["cells"]
    return "".join("".join(o.get("text", "")) for o in cells[-1]["outputs"])


def run(
    project: Path, *arguments: str, program=(PAPERMILL,), **options
) -> subprocess.CompletedProcess:
    """Papermill without a terminal."""
    options = {"stdin": subprocess.DEVNULL} | options
    if "input" in options:
        del options["stdin"]
    environment = os.environ | {"JUPYTER_PLATFORM_DIRS": "1"}
    options = {"cwd": project, "capture_output": True, "text": True, "env": environment} | options
    return subprocess.run([*map(str, program), *arguments], check=False, timeout=120, **options)


def run_on_terminal(project: Path, *arguments: str) -> tuple[int, str]:
    """Papermill on a pseudo-terminal: exit status and everything it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(project)
        os.execv(PAPERMILL, ["papermill", *arguments])
    shown = b""
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not block:
            break
        shown += block
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode(errors="replace")


def test_terminal(project):
    code, shown = run_on_terminal(project, "nbs/tiny.ipynb", "-p", "reset_every", "50")
    assert code == 0, shown
    path = expected(project, reset_every=50)
    assert "resets 50" in printed(path)
    assert str(path.relative_to(project)) in shown.replace("\r\n", "")


def test_redirected_from_another_folder(project, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        streams = {"capture_output": False, "stdout": file, "stderr": file}
        done = run(project / "nbs", "tiny.ipynb", "-p", "reset_every", "50", **streams)
    assert done.returncode == 0, log.read_text()
    assert "resets 50" in printed(expected(project, reset_every=50))
    assert '"cells"' not in log.read_text()  # the notebook itself is not streamed


RECORDED = """
from golf.lab.runs import Run

run = Run.here()
assert (run.parameters["reset_every"], run.notebook) == (reset_every, "tiny")
assert type(reset_every) is int
print(run.folder)
"""
FIGURE = """
from golf.lab.plots import Picture, save_figure

save_figure(Picture(), "tiny-text", run.folder)
print(run.save())
"""


@pytest.fixture
def repository(project):
    """The project as a fresh clone: committed, with our .gitignore and a figure of ours."""
    shutil.copy(Path(__file__).parent.parent / ".gitignore", project)
    for place in ("runs/published/tiny/0123456789/record.json", "figures/tiny-text.svg"):
        (project / place).parent.mkdir(parents=True)
        (project / place).write_text("ours")
    (project / "texts").mkdir()
    (project / "texts" / "a.txt").write_text("one text\n")
    write_cells(project, RECORDED, FIGURE)
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=project, check=True)
    return project


def changes(project: Path) -> str:
    """What git sees that no commit holds."""
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


def test_a_run_changes_nothing_that_git_tracks(repository):
    done = run(repository, "nbs/tiny.ipynb", "-p", "corpus", "texts", "-p", "reset_every", "5")
    assert done.returncode == 0, done.stderr
    assert changes(repository) == ""
    folder = expected(repository, corpus="texts", reset_every=5).parent
    names = ["notebook.ipynb", "record.json", "tiny-text.png", "tiny-text.svg"]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert (repository / "figures" / "tiny-text.svg").read_text() == "ours"


def test_the_executed_notebook_lies_with_its_record(repository):
    (repository / "texts" / "a.txt").write_text("another text\n")
    done = run(repository / "nbs", "tiny.ipynb", "-p", "corpus", "../texts")
    assert done.returncode == 0, done.stderr
    (found,) = (repository / "runs" / "tiny").iterdir()
    assert {"notebook.ipynb", "record.json"} <= {p.name for p in found.iterdir()}
    assert found == expected(repository, corpus="texts").parent


def test_a_place_is_found_from_the_projects_root_and_a_number_is_what_it_means(repository):
    asked = ("-p", "corpus", "texts", "-p", "reset_every", "5e0")
    done = run(repository / "nbs", "tiny.ipynb", *asked)
    assert done.returncode == 0, done.stderr
    found = expected(repository, corpus="texts", reset_every=5).parent
    assert {"notebook.ipynb", "record.json"} <= {p.name for p in found.iterdir()}
    assert json.loads((found / "record.json").read_text())["parameters"]["reset_every"] == 5


def test_a_run_that_fails_half_way_leaves_git_clean(repository):
    write_cells(repository, RECORDED, "1 / 0", FIGURE)
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    before = changes(repository)
    done = run(repository, "nbs/tiny.ipynb")
    assert done.returncode != 0
    assert changes(repository) == before
    path = expected(repository)
    assert [p.name for p in path.parent.iterdir()] == ["notebook.ipynb"]
    assert "ZeroDivisionError" in path.read_text()


def test_explicit_output(project):
    done = run(project, "nbs/tiny.ipynb", "out.ipynb", "-p", "reset_every", "7")
    assert done.returncode == 0, done.stderr
    assert "resets 7" in printed(project / "out.ipynb")
    assert not (project / "runs").exists()


def test_piped_input_leaves_the_notebook_alone(project):
    source = (project / "nbs" / "tiny.ipynb").read_bytes()
    done = run(project, "nbs/tiny.ipynb", input="")
    assert done.returncode == 0, done.stderr
    assert (project / "nbs" / "tiny.ipynb").read_bytes() == source
    assert "resets 100" in printed(expected(project))


def test_as_a_module_and_as_the_named_engine(project):
    program = (sys.executable, "-m", "papermill")
    done = run(project, "nbs/tiny.ipynb", "--engine", "golf", program=program)
    assert done.returncode == 0, done.stderr
    assert "resets 100" in printed(expected(project))


MISTAKES = {
    "a device that is not there": ("-p device cuda:99", "device 'cuda:99' is not there"),
    "a reset after the last chunk": ("-p reset_every 500", "[0, prefix_tokens / chunk_tokens) = [0, 160)"),
    "too few blocks": ("-p prefix_tokens 4096", "[20 * chunk_tokens, inf) = [10240, inf), not 4096"),
    "no such chunk": ("-p chunk_tokens 0", "chunk_tokens must be in [1, prefix_tokens / 20] = [1, 4096]"),
    "a chunk longer than the text": ("-p chunk_tokens 1e6", "[1, 4096], not 1000000"),
    "one of two paths": ("-p corpus shards -p data_path nbs", "needs tokenizer_path, a Sentence"),
    "a path that leads nowhere": ("-p tokenizer_path gone.model", "'gone.model': nothing is there"),
    "shards that nobody reads": ("-p data_path nbs", "data_path is read where corpus is 'shards'"),
    "an unknown name": ("-p reset_evry 50", "did you mean 'reset_every'?"),
    "a word for a number": ("-p ttt_lr fast", "ttt_lr must be a number, not 'fast'"),
    "a number for a word": ("-p preset 3", "preset must be text, which papermill's -r leaves"),
    "a word that is none of them": ("-p preset tinny", "did you mean 'tiny'?"),
    "an artifact that is not there": ("-p artifact poxy", "did you mean 'proxy'?"),
    "half a token": ("-p prefix_tokens 1e4.5", "prefix_tokens must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("words, said", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("output", ["", "out.ipynb"], ids=["named", "left out"])
def test_each_mistake_is_one_line_before_anything_starts(words, said, output, monkeypatch):
    for name in ("DATA_PATH", "TOKENIZER_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    with pytest.raises(GolfError) as caught:
        output_path(["nbs/ttt_reset.ipynb", *filter(None, [output]), *words.split()])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("nbs/ttt_reset.ipynb: ")


def test_numbers_are_read_as_they_are_meant(monkeypatch):
    monkeypatch.chdir(ROOT)
    plain = ["nbs/ttt_reset.ipynb", "-p", "prefix_tokens", "40960", "-p", "ttt_lr", "0.001"]
    typed = ["nbs/ttt_reset.ipynb", "-p", "prefix_tokens", "4.096e4", "-y", "ttt_lr: 1e-3"]
    assert output_path(plain) == output_path(typed)


@pytest.mark.parametrize(
    "name", ["nbs/ttt_rest.ipynb", "ttt_reset.ipynb", "nbs/ttt_reset", "ttt_reset"]
)
def test_the_nearest_notebook_is_told(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(GolfError, match="no such notebook; did you mean 'ttt_reset'"):
        output_path([name, "-p", "reset_every", "5"])


@pytest.mark.parametrize("output", [[], ["out.ipynb"]])
def test_unknown_parameter(project, output):
    done = run(project, "nbs/tiny.ipynb", *output, "-p", "reset_evry", "50")
    assert done.returncode == 2
    assert done.stderr == (
        "papermill: nbs/tiny.ipynb: unknown parameter 'reset_evry'; did you mean 'reset_every'? "
        "(it has reset_every, corpus)\n"
    )
    assert not (project / "runs").exists()
    assert not (project / "out.ipynb").exists()


def test_other_projects_are_left_to_papermill(project):
    (project / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    code, shown = run_on_terminal(project, "nbs/tiny.ipynb")
    assert code == 2
    assert "Missing argument 'OUTPUT_PATH'" in shown


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["nbs/tiny.ipynb", "--help-notebook"]]
)
def test_questions_are_answered(project, arguments):
    done = run(project, *arguments)
    assert not (project / "runs").exists()
    assert done.stdout
    assert "Traceback" not in done.stderr


def test_options_are_papermills_own():
    from papermill.cli import papermill

    params = {p.name: p for p in papermill.params if p.name != "help"}
    ours = parse_command([])
    assert {"notebook_path", "output_path"} <= params.keys()
    options = {name for name, p in params.items() if p.param_type_name == "option"}
    assert options <= ours.keys()
    assert ours.keys() <= options | {"notebook", "output", "help", "version"}
    for name in options:
        param = params[name]
        option = next(o for o in param.opts if o.startswith("--"))
        words = [] if param.is_flag else ["1"] * param.nargs
        assert parse_command(["a.ipynb", option, *words, "b.ipynb"])["output"] == "b.ipynb", option
        for other in param.opts + param.secondary_opts:
            assert parse_command(["a.ipynb", other, *words, "b.ipynb"]), other


def test_import_is_light():
    code = "import sys, golf.lab.engine; print(*(m for m in ('torch', 'numpy', 'papermill') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_papermill_is_the_one_beside_this_python():
    assert PAPERMILL.exists()
    assert shutil.which("papermill", path=PAPERMILL.parent)
