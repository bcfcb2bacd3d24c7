"""What must agree across the repository: settings, pins, notebooks, package, README, test collector."""

import ast
import configparser
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import nbformat
import pytest

import golf
from golf.lab.engine import overrides, parse_command
from golf.lab.knobs import notebook_parameters, parse_parameters, resolve
from golf.lab.publish import published
from golf.published.recipes import HOMES

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if p.name[0] not in "_." and ".ipynb_checkpoints" not in p.parts
)
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "nbs" and p.stem != "index"]
each_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}"
)


def settings() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def code_of(path: Path) -> str:
    """All code of a notebook, magics left out."""
    cells = nbformat.read(path, as_version=4).cells
    lines = [line for c in cells if c.cell_type == "code" for line in c.source.splitlines()]
    return "\n".join(line for line in lines if not re.match(r"\s*[%!]", line))


def imports_of(path: Path) -> set[str]:
    """The full names of all modules and members a notebook imports."""
    found = set()
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


@functools.cache
def docs_module(name: str):
    """A module of the `docs` folder, which is no package."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


# Settings and pins


def test_settings_and_pyproject_agree():
    ours, theirs = settings(), pyproject()
    project, nbdev = theirs["project"], theirs["tool"]["nbdev"]
    assert golf.__version__ == ours["version"]
    assert project["requires-python"] == f">={ours['min_python']}"
    assert project["name"] == ours["lib_name"]
    assert project["description"] == ours["description"]
    assert project["license"].lower() == ours["license"]
    assert nbdev["tst_flags"] == ours["tst_flags"]
    assert nbdev["jupyter_hooks"] is ours.getboolean("jupyter_hooks")
    assert nbdev["allowed_cell_metadata_keys"] == ours["allowed_cell_metadata_keys"].split()
    assert project["entry-points"]["papermill.engine"] == {"golf": "golf.lab.engine"}


def test_every_direct_dependency_is_pinned():
    project = pyproject()["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {re.match(r"[\w.-]+", text)[0].lower() for texts in lists for text in texts}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert direct <= {pin.split("==")[0].lower() for pin in pins}
    assert "torch==2.13.0" in pins


def test_types_are_checked_without_the_extras():
    "What the package names in an import comes with it or with `dev`: a type checker finds it there."
    project = pyproject()["project"]
    plain = lambda name: re.match(r"[\w.-]+", name)[0].lower().replace("_", "-")
    there, waiting = {"golf"}, [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    while waiting:  # and what these bring with them
        text = waiting.pop()
        if "extra ==" in text or (name := plain(text)) in there:
            continue
        there.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            waiting += importlib.metadata.requires(name) or []
    homes = importlib.metadata.packages_distributions()
    for path in (ROOT / "golf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                found = {plain(home) for home in homes.get(top, [top])}
                assert found & there, f"{path.name} imports {top}: load it by name"


# Notebooks


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("name", ["laptop", "h200", "8xh100"])
def test_parameter_files_fit_every_experiment_that_shares_its_work(
    name, path, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    file = ROOT / "nbs" / "params" / f"{name}.yaml"
    values = overrides(parse_command([str(path), "-f", str(file)]))
    knobs = {p.name for p in notebook_parameters(path)}
    if not values.keys() <= knobs:  # pages of one process, or without a text
        assert path.stem in ("benchmarks", "findings", "published")
        return
    for key in values.keys() & {"data_path", "tokenizer_path"}:
        (tmp_path / values[key]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / values[key]).touch()
    found = resolve(path, values, tmp_path, tmp_path)
    assert {k: found[k] for k in ("ranks", "device", "corpus")} == {
        k: values[k] for k in ("ranks", "device", "corpus")
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_experiments_have_one_literal_parameters_cell(path):
    parameters = notebook_parameters(path)  # refuses two cells and anything but literals
    assert parameters, "no cell is tagged `parameters`"
    missing = [p.name for p in parameters if not p.help]
    assert not missing, f"a comment behind each parameter is its help: {missing}"


@functools.cache
def room(module: str) -> tuple[int, int] | None:
    """The place of a module in the order of ideas: its part's number, and its own in that part."""
    names = module.split(".")
    parts = list(docs_module("notebooks").PARTS)
    if len(names) < 3 or names[1] not in parts:
        return None
    rooms = [default_module(p) for p in NOTEBOOKS if p.parent.name == names[1]]
    name = ".".join(names[1:3])
    return (parts.index(names[1]), rooms.index(name)) if name in rooms else None


@functools.cache
def default_module(path: Path) -> str:
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", code_of(path), re.MULTILINE)
    return found[1] if found else ""


def imported(path: Path, module: str) -> set[str]:
    """The package's modules that a module imports at any depth, lazily too, by full name."""
    found, package = set(), module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            name = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            found |= {name} | {f"{name}.{member.name}" for member in node.names}
    return {name for name in found if name.startswith("golf.")}


def test_imports_follow_the_order_of_ideas():
    against = []
    for path in sorted((ROOT / "golf").glob("*/*.py")):
        module = f"golf.{path.parent.name}.{path.stem}"
        if path.stem == "__init__" or (here := room(module)) is None:
            continue
        for name in imported(path, module):
            there = room(name)
            if there is not None and there > here:
                against.append(f"{module} imports {name}, which comes later")
            if name.startswith("golf.published") and here[0] < room("golf.published.recipes")[0]:
                against.append(f"{module} imports {name}")
    assert not against, "\n".join(sorted(set(against)))


def test_editors_see_the_names_that_the_surface_finds():
    tree = ast.parse((ROOT / "golf" / "__init__.py").read_text())
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].asname:
            assert all(name.name == name.asname for name in node.names)  # an explicit re-export
            seen |= {name.name: node.module.removeprefix("golf.") for name in node.names}
    assert seen == golf.NAMES
    assert sorted(golf.__all__) == sorted(golf.NAMES)
    assert not golf.NAMES.keys() & set(docs_module("notebooks").PARTS)


def test_the_users_file_holds_what_readme_agents_and_experiments_call():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    blocks += [
        line for line in (ROOT / "AGENTS.md").read_text().splitlines() if "import" not in line
    ]
    used = {name for block in blocks for name in re.findall(r"\bgolf\.([A-Za-z_]\w*)", block)}
    assert used <= golf.NAMES.keys(), "README or AGENTS calls what golf does not offer"
    for path in EXPERIMENTS:
        used |= {name.removeprefix("golf.") for name in imports_of(path)} & golf.NAMES.keys()
        used |= {*re.findall(r"\bgolf\.([A-Za-z_]\w*)", code_of(path))} & golf.NAMES.keys()
    text = (ROOT / "tests" / "users_file.py").read_text()
    missing = {name for name in used if not re.search(rf"\b{name}\b", text)}
    assert not missing, f"add them to tests/users_file.py: {missing}"


def test_every_module_is_a_room_of_a_part():
    modules = {f"{p.parent.name}.{p.stem}" for p in (ROOT / "golf").glob("*/*.py")}
    chapters = {default_module(p) for p in NOTEBOOKS if p.parent.name != "nbs"}
    assert {m for m in modules if not m.endswith(".__init__")} == chapters - {
        "__init__",
        "__main__",
        "",
    }
    folders = {p.name for p in (ROOT / "nbs").iterdir() if p.is_dir() and p.name[0] != "."}
    assert folders == {*docs_module("notebooks").PARTS, "guides", "params"}


@each_notebook
def test_notebooks_show_no_errors_and_no_paths_of_a_machine(path):
    here = re.compile(rf"(?<![\w.:/-]){re.escape(str(ROOT))}\b")
    folders = re.compile(
        rf"{here.pattern}|(?<![\w.:/-])/(?:home|root|Users|tmp|var|mnt|opt)/[\w.-]+"
    )
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        assert not here.search(cell.source), f"cell {number} names this folder"
        for output in cell.get("outputs", []):
            assert output.output_type != "error", f"cell {number} shows an error"
            data = output.get("data", {})
            texts = [str(v) for k, v in data.items() if not k.startswith("image/png")]
            text = "\n".join([*texts, str(output.get("text", ""))])
            assert not folders.search(text), f"cell {number}: {folders.search(text)[0]}"


@each_notebook
def test_notebooks_open_with_a_title_and_one_sentence(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# .+\n\n> .+", first.source), (
        "expected `# Title`, a blank line, `> one sentence`"
    )


def run_tool(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    options = {"capture_output": True, "text": True, "env": environment, "cwd": cwd}
    return subprocess.run(command, check=False, **options)


def test_the_package_is_what_the_notebooks_export():
    done = run_tool(sys.executable, "tools/export.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_notebooks_are_clean(tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".ipynb_*"))
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = run_tool(str(Path(sys.executable).with_name("nbdev_clean")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [path.relative_to(ROOT) for path in NOTEBOOKS]
    unclean = [str(n) for n in names if (tmp_path / n).read_bytes() != (ROOT / n).read_bytes()]
    assert not unclean, "run nbdev_clean"


def test_no_notebook_exports_by_itself():
    "The package is made by `make export` alone: a bare export would undo the folding."
    assert not [p.name for p in NOTEBOOKS if "nbdev_export()" in code_of(p)]


def test_installing_the_hooks_for_merges_changes_no_tracked_file(tmp_path):
    run_tool("git", "init", "-q", str(tmp_path))
    here = {"cwd": tmp_path, "env": os.environ | {"HOME": str(tmp_path / "home")}}
    (tmp_path / "home").mkdir()
    tool = str(Path(sys.executable).with_name("nbdev_install_hooks"))
    subprocess.run([tool], check=True, capture_output=True, **here)
    for name in (".gitattributes", ".gitconfig"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()


# README and site


def test_readme_is_made_from_the_index():
    text = docs_module("readme").readme()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == text, "run make readme"
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), f"README.md links to {target}, which is absent"


def test_readme_counts_the_recipes_and_the_ways_to_round():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    arms = published("quantisers", corpus="shards").chunks.arm.nunique()
    assert int(re.search(r"(\d+) public entries", text)[1]) == len(HOMES)
    assert (
        int(re.search(r"rounds one model in (\d+) ways", text)[1]) == arms - 1
    )  # one is not rounded


def test_every_notebook_is_a_chapter():
    groups = docs_module("notebooks").chapters()
    found = [path for paths in groups.values() for path in paths]
    assert sorted(found) == sorted(p for p in NOTEBOOKS if p.stem != "index")
    assert groups["Experiments"] == EXPERIMENTS


def test_signatures_are_those_of_the_source():
    module = docs_module("notebooks")
    source = """
@patch
def learn(self: Model, chunk: Chunk, /, *rest, lr: float = 0.1, on=True, **more) -> None:
    "Learn."

class Config:
    width: int = 64

def many(a_long_name: int = 1, another_long_name: str = "text", *, a_third_name: float = 0.5): ...
"""
    named = module.definitions(source)
    shown = {name: module.signature(name, node) for name, node in named.items()}
    assert shown == {
        "Model.learn": "def Model.learn(chunk: Chunk, /, *rest, lr: float = 0.1, on=True, **more)"
        " -> None",
        "Config": "class Config(width: int = 64)",
        "many": "def many(\n    a_long_name: int = 1,\n    another_long_name: str = 'text',\n"
        "    *,\n    a_third_name: float = 0.5,\n)",
    }


def test_links_of_chapters_lead_to_pages_and_definitions():
    module = docs_module("notebooks")
    labels = {"predict/stream.evaluate"}
    text = (
        "[a](../net/01_model.ipynb), [b](02_stream.ipynb#evaluate), [c](../ttt_reset.ipynb), "
        "[d](/predict/stream.html#evaluate), [e](/net/model.html#gone), [f](no/such.html), "
        "![g](../../figures/drift.svg)"
    )
    assert module.markdown(text, labels, module.NOTEBOOKS / "predict") == (
        "[a](/net/model.ipynb), [b](#predict/stream.evaluate), [c](/ttt_reset.ipynb), "
        "[d](#predict/stream.evaluate), [e](/net/model.ipynb), f, ![g](/figures/drift.svg)"
    )


@each_notebook
def test_links_between_notebooks_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", cell.source):
                assert (path.parent / target).exists(), f"{target} is absent"


SURFACE = {
    "__init__.py": """
        __all__ = ["train", "Config", "EXACT"]
        def __getattr__(name):
            import importlib
            home = {"train": ".net.model", "Config": ".net.model", "EXACT": ".count.ngram"}[name]
            return getattr(importlib.import_module(home, __name__), name)
    """,
    "net/model.py": """
        from dataclasses import dataclass
        from typing import ClassVar
        __all__ = ["Shape", "Config", "train"]
        @dataclass
        class Shape:
            kind: ClassVar[str] = "shape"
            width: int = 64
        @dataclass
        class Config(Shape):
            "The shape of a model. Frozen."
            depth: int = 2
        def train(config: Config, *, steps: int = 1) -> float:
            "A loss after `steps`. It falls."
    """,
    "count/ngram.py": "__all__ = ['EXACT']\nEXACT = 3",
}


def test_the_api_page_lists_the_public_surface_by_part(tmp_path, monkeypatch):
    for name, text in SURFACE.items():
        (tmp_path / "toy_surface" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy_surface" / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module("toy_surface")
    made = docs_module("notebooks").api_page(package, {"net/model.train"})
    assert made.split("\n\n", 2)[2] == (
        "## Counting\n\n[`EXACT`](/count/ngram.ipynb)\n: `int`\n\n\n"
        "## The network\n\n[`train`](#net/model.train)\n: A loss after `steps`.\n\n"
        "  ```python\n  def train(config: Config, *, steps: int = 1) -> float\n  ```\n\n\n"
        "[`Config`](/net/model.ipynb)\n: The shape of a model.\n\n"
        "  ```python\n  class Config(width: int = 64, depth: int = 2)\n  ```\n\n"
    )


def test_a_package_without_a_surface_has_no_api_page():
    assert docs_module("notebooks").api_page(nbformat.v4.nbbase, set()) == ""


# The collector of notebook cells


def small_project(folder: Path, cells: list[tuple[str, str]], to="10_small.ipynb", **tags) -> None:
    """A project of a notebook of cells (id, source): the first is text, raw what is tagged quick."""
    nodes = []
    for number, (name, source) in enumerate(cells):
        tag = tags.get(name, "")
        kind = "raw" if tag == "quick" else "code" if number else "markdown"
        make = getattr(nbformat.v4, f"new_{kind}_cell")
        nodes.append(make(source, id=name, metadata={"tags": [tag]} if tag else {}))
    for part in ("nbs", "runs"):
        (folder / part).mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), folder / "nbs" / to)
    for name in ("conftest.py", "settings.ini"):
        shutil.copy(ROOT / name, folder / name)


def collected(folder: Path, *runs: list[str]) -> list[str]:
    """What pytest shows in `folder` for each list of arguments, from one process."""
    code = "import pytest, sys\nfor run in {!r}: pytest.main(run); print('and then')"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-c", code.format([options + run for run in runs])]
    options = {"cwd": folder, "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **options).stdout.split("and then\n")


def test_cells_are_tests(tmp_path):
    cells = ["# Title\n\n> Lead.", "#| slow\n1 / 0", "#| eval: false\n1 / 0", "x = 1", "x / 0", "x"]
    small_project(tmp_path, [(f"id{number}", cell) for number, cell in enumerate(cells)])
    alone = "nbs/10_small.ipynb::Title[id4]"
    shown, slow, one, heading, _ = collected(
        tmp_path, ["nbs"], ["nbs", "--flags", "slow"], [alone], [alone.partition("[")[0]]
    )
    assert "1 failed, 1 passed, 3 skipped" in shown
    assert "-->   1 x / 0" in shown
    assert "ZeroDivisionError: division by zero" in shown
    assert f"FAILED {alone}" in shown
    assert "1 failed, 4 skipped" in slow
    assert "ZeroDivisionError" in one and "1 failed" in one  # with what it stands on
    assert "NameError" not in one
    assert "1 failed, 1 passed, 3 skipped" in heading  # all cells below that heading


def test_an_experiment_is_tested_with_its_own_quick_settings(tmp_path):
    for name, quick in [("good", "steps = 5"), ("bad", "step = 5")]:
        cells = [("text", "# Title"), ("knobs", "steps = 400\nwidth = 2"), ("fast", quick)]
        cells += [("check", "assert (steps, width) == (5, 2)")]
        small_project(tmp_path, cells, f"{name}.ipynb", knobs="parameters", fast="quick")
    good, bad, _ = collected(tmp_path, ["nbs/good.ipynb"], ["nbs/bad.ipynb"])
    assert "2 passed" in good
    assert "quick settings of no parameter: step" in bad and "1 failed, 1 skipped" in bad


@pytest.mark.parametrize(
    "cores, gigabytes, named, files",
    [(2, 24, "", 2), (64, 512, "", 8), (8, 8, "", 3), (2, 1, "", 1), (8, 64, "5", 5)],
)
def test_no_more_files_are_tested_at_once_than_cores_and_memory_allow(
    cores, gigabytes, named, files, monkeypatch, pytestconfig
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    pages = gigabytes * 10**9 // 4096
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}.get)
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    if named:
        monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", named)
    assert pytestconfig.hook.pytest_xdist_auto_num_workers(config=pytestconfig) == files


def test_an_answer_that_is_not_what_a_page_has_saved_fails(tmp_path):
    answer = (
        '#| echo: false\nfrom IPython.display import Markdown, display\ndisplay(Markdown("A"))\n'
    )
    cells = [("text", "# Title"), ("told", f'{answer}Markdown("gains")'), ("free", answer[15:])]
    small_project(tmp_path, cells)
    page = tmp_path / "nbs/10_small.ipynb"
    notebook = nbformat.read(page, as_version=4)
    for name, words in [("good", "gains"), ("stale", "loses")]:
        notebook.cells[1].outputs = [
            nbformat.v4.new_output("display_data", {"text/markdown": text}) for text in ("A", words)
        ]
        nbformat.write(notebook, page.with_stem(name))
    good, stale, none, _ = collected(
        tmp_path, *([f"nbs/{n}.ipynb"] for n in ("good", "stale", "10_small"))
    )
    assert "2 passed" in good
    assert "[told] has saved another answer" in stale and "1 failed, 1 skipped" in stale
    assert "1 failed, 1 skipped" in none  # nothing is saved at all


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_quick_settings_stand_below_the_parameters_and_papermill_passes_them_by(
    path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.golf").write_bytes((ROOT / "golf/models/tiny.golf").read_bytes())
    cells = nbformat.read(path, as_version=4).cells
    tags = [c.metadata.get("tags", []) for c in cells]
    if ["quick"] in tags:
        place = tags.index(["quick"])
        assert tags[place - 1] == ["parameters"] and tags.count(["quick"]) == 1
        assert cells[place].cell_type == "raw", "a code cell would undo what papermill is given"
        resolve(path, {p.name: p.default for p in parse_parameters(cells[place].source)})


@each_notebook
def test_cells_have_ids_of_their_own(path):
    ids = [cell["id"] for cell in json.loads(path.read_text())["cells"]]
    assert len(ids) == len(set(ids))


def test_the_longest_files_exist():
    listed = re.search(r'LONGEST = """(.*?)"""', (ROOT / "conftest.py").read_text(), re.DOTALL)[1]
    assert [name for name in listed.split() if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "golf").rglob("*.py")), ids=lambda p: p.stem)
def test_what_only_checks_sets_nothing(path):
    """An entry is written without calls of `check…`, so whatever one of them sets would be missing there."""
    from golf.lab.dropped import _CHECK

    functions = [
        f for f in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(f, ast.FunctionDef)
    ]
    for function in functions:
        if not _CHECK.fullmatch(function.name):
            continue
        for node in ast.walk(function):
            stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            assert not stored, f"{path}: {function.name} sets {ast.unparse(node)}"
