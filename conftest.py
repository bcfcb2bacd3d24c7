"""Notebook cells as tests: `pytest` runs each code cell of `nbs/` in its notebook's own namespace.

A cell is named by the heading above it and by its id, which stays when cells are inserted:
`nbs/net/01_model.ipynb::Rotary positions[d0eb5b91]`; without `[...]`, all cells of that heading.
The raw cell tagged `quick` of an experiment holds the parameters that it is tested with. What a cell
with `#| echo: false` answers from committed records must be what its page has saved.
"""

import ast
import configparser
import gc
import os
import re
import shutil
import sys
import tempfile
import traceback
from contextlib import chdir
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():  # as `import golf` does, too late
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
os.environ["IN_TEST"] = "1"  # the last cell of a notebook then exports nothing
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores
if kind := os.environ.get("ATEN_CPU_CAPABILITY"):  # which torch's cache of compiled code ignores
    place = Path(tempfile.gettempdir()) / f"golf-inductor-{kind}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(place))

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output
from traitlets.config import Config

ROOT = Path(__file__).parent
LONGEST = """
tests/test_ranks.py
tests/test_train.py
nbs/quantisers.ipynb
"""  # these files begin first, so that the workers end together; `--durations=40` tells which
# bytes that the tests of a file may need, with the processes that they start
MEMORY = 2_500_000_000
DIRECTIVE = re.compile(r"#\s*\|\s*(\w+):?\s*(.*)")


def known_flags() -> set[str]:
    """The words that keep a cell out of the tests, from `settings.ini`."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini")
    return set(settings["DEFAULT"]["tst_flags"].split())


def pytest_addoption(parser):
    text = f"also run cells with these flags, of: {' '.join(sorted(known_flags()))}"
    parser.addoption("--flags", default="", metavar="WORDS", help=text)
    text = "off: torch rounds as on a machine without oneDNN"
    parser.addoption("--onednn", choices=["on", "off"], default="on", help=text)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """For `-n auto`: a file at a time for each core, up to eight, as long as there is memory for each."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it itself
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(8, cores, memory // MEMORY))


def pytest_configure(config):
    gc.set_threshold(100_000, 50, 100)  # what a chapter leaves is looked for when it ends
    unknown = set(config.getoption("--flags").split()) - known_flags()
    if unknown:
        raise pytest.UsageError(f"--flags: {' '.join(unknown)} is none of {known_flags()}")
    if config.getoption("--onednn") == "off":
        import torch

        torch.backends.mkldnn.enabled = False


def pytest_collect_file(file_path, parent):
    hidden = file_path.name.startswith(("_", ".")) or ".ipynb_checkpoints" in file_path.parts
    if file_path.suffix == ".ipynb" and not hidden:
        return Notebook.from_parent(parent, path=file_path)


def pytest_collection_modifyitems(items):
    order = {ROOT / name: number for number, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: order.get(item.path, len(order)))  # a file's tests stay together


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # modules and tests stay: looking at them again took a third of a chapter's time


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """What follows must not compute on more threads than there are cores: it would take twice as long."""
    result = yield
    most = max(os.cpu_count() or 1, int(os.environ.get("OMP_NUM_THREADS") or 1))
    if (torch := sys.modules.get("torch")) and (left := torch.get_num_threads()) > most:
        torch.set_num_threads(most)
        raise AssertionError(f"{item.nodeid} leaves torch with {left} threads")
    return result


class Shell(InteractiveShell):
    """IPython without a history, which leaves the report of an error to pytest."""

    def __init__(self):
        super().__init__(config=Config(HistoryManager={"enabled": False}))
        InteractiveShell._instance = self
        select_figure_formats(self, {"png"})

    def showtraceback(self, *args, **kwargs):
        pass

    def showsyntaxerror(self, *args, **kwargs):
        pass


def assignments(source: str) -> dict:
    """The names and values of lines of the form `name = literal`."""
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


TOY = "toy.golf"  # what quick settings may name as their artifact


def write_toy(path: Path) -> None:
    """A model of the shipped one's kind and tokenizer, small and hardly trained, where it only has to run."""
    from dataclasses import replace

    import torch

    from golf import GPT, Plan, corpus_for, load_artifact, load_model, model_path
    from golf.store.saved import export_model

    shipped = load_model(load_artifact(model_path("tiny")))
    narrow = dict(width=32, heads=2, kv_heads=1, mlp_width=64, rope_dims=8, context=64)
    tables = dict(bigram_rows=64, bigram_width=8, value_rows_width=8)
    toy, text = GPT(replace(shipped.config, **narrow, **tables)), corpus_for(model_path("tiny"))
    for begin in range(0, 20 * 1024, 1024):
        ids = torch.as_tensor(text.train[begin : begin + 1025].astype("int64"))
        toy.loss(ids[:-1].view(16, 64), ids[1:].view(16, 64)).backward()
        for p in toy.parameters():
            p.data -= 0.003 * p.grad.sign()  # by hand: torch.optim takes seconds to import
            p.grad = None
    toy.tokenizer = shipped.tokenizer
    path.write_bytes(export_model(toy, plan=Plan.lossless("zstd")))


class Notebook(pytest.File):
    """A notebook: its cells share one shell, which lives while they are tested."""

    def collect(self):
        heading = ""
        for cell in nbformat.read(self.path, as_version=4).cells:
            if cell.cell_type == "markdown":
                titles = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
                heading = titles[0].replace("::", ":") if titles else heading
            elif cell.cell_type == "code" and cell.source.strip():
                name = f"{heading}[{cell.id}]"
                settings = "parameters" in cell.metadata.get("tags", [])
                known = dict(source=cell.source, settings=settings, saved=cell.outputs)
                yield Cell.from_parent(self, name=name, **known)

    def quick(self) -> dict:
        """The parameters that this notebook is tested with, from its raw cell tagged `quick`."""
        cells = nbformat.read(self.path, as_version=4).cells
        tagged = [c for c in cells if "quick" in c.metadata.get("tags", [])]
        if any(cell.cell_type != "raw" for cell in tagged):
            raise ValueError(f"{self.path.name}: the cell tagged `quick` is no raw cell")
        return assignments("\n".join(cell.source for cell in tagged))

    def setup(self):
        self.main = sys.modules["__main__"]
        self.shell, self.failed, self.ran = Shell(), None, set()
        self.cells = list(self.collect())
        self.home, self.scratch = self.path.parent, None
        if any(cell.settings for cell in self.cells):  # an experiment writes records and figures
            self.scratch = Path(tempfile.mkdtemp(prefix="golf-test-"))
            shutil.copy(ROOT / "settings.ini", self.scratch)
            shutil.copytree(ROOT / "runs", self.scratch / "runs")
            self.home = self.scratch / "nbs"
            self.home.mkdir()
            for page in ROOT.glob("nbs/*.ipynb"):  # `Run.here` reads the parameters of its own
                shutil.copy(page, self.home)
            if (params := ROOT / "nbs/params").is_dir():
                shutil.copytree(params, self.home / "params")
            if self.quick().get("artifact") == TOY:
                write_toy(self.home / TOY)

    def teardown(self):
        if self.scratch:
            shutil.rmtree(self.scratch)
        if watch := sys.modules.get("golf.auditor.watch"):
            watch.forget_session()  # a chapter of the auditor enters its tests, from this session
        if dynamo := sys.modules.get("torch._dynamo"):
            dynamo.reset()  # what was compiled here refers to names that go now
        self.shell.reset(new_session=False)
        self.shell = None
        sys.modules["__main__"] = self.main
        gc.collect()
        gc.freeze()  # see pytest_collection_finish

    def run(self, cell):
        """Run a cell; results are formatted as on a page and figures are drawn."""
        self.failed = cell  # until it has ended well
        self.ran.add(cell.name)
        with chdir(self.home):
            quick = self.quick() if cell.settings else {}
            if unknown := quick.keys() - assignments(cell.source if quick else ""):
                raise ValueError(f"quick settings of no parameter: {' '.join(sorted(unknown))}")
            with capture_output(stdout=False, stderr=False) as shown:
                result = self.shell.run_cell(cell.source)
            self.shell.user_ns.update(quick)
            error = result.error_before_exec or result.error_in_exec
            if error is None:
                draw_figures()
                last, _ = self.shell.display_formatter.format(result.result)
                cell.compare([*(output.data for output in shown.outputs), last])
        if error is None or isinstance(error, pytest.skip.Exception):
            self.failed = None
        if error is not None:
            raise error


def draw_figures():
    """Draw and close every figure that a cell left open, as a page would."""
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib import pyplot

        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        pyplot.close("all")
        for figure in figures:
            figure.canvas.draw()


class Cell(pytest.Item):
    """One code cell."""

    def __init__(self, *, source, settings=False, saved=(), **kwargs):
        super().__init__(**kwargs)
        self.source, self.settings, self.saved = source, settings, saved

    def directives(self) -> dict[str, str]:
        """What the comments `#| name: value` at its top say."""
        found = {}
        for line in self.source.splitlines():
            if not (match := DIRECTIVE.match(line.strip())):
                break
            found[match[1]] = match[2].strip().lower()
        return found

    def reason_to_skip(self) -> str:
        """Why this cell is no test: a flag, or `eval: false`."""
        found = self.directives()
        if found.get("eval") == "false":
            return "eval: false"
        flags = known_flags() - set(self.config.getoption("--flags").split())
        return " ".join(sorted(flags & found.keys()))

    def compare(self, shown: list[dict]) -> None:
        """An answer, which a cell without echo reads from committed records, must be what the page has saved."""
        if self.directives().get("echo") != "false":
            return
        now, saved = (
            [data["text/markdown"] for data in outputs if "text/markdown" in data]
            for outputs in (shown, [output.get("data", {}) for output in self.saved])
        )
        assert now == saved, f"{self.name} has saved another answer: run it and save the page"

    def runtest(self):
        notebook = self.parent
        if reason := self.reason_to_skip():
            pytest.skip(reason)
        if notebook.failed is not None:
            pytest.skip(f"{notebook.failed.name} failed")
        for cell in notebook.cells:  # what this cell stands on, when it is run alone
            if cell.name == self.name:
                break
            if cell.name not in notebook.ran and not cell.reason_to_skip():
                notebook.run(cell)
        notebook.run(self)

    def repr_failure(self, info):
        error, cell = info.value, self.parent.failed or self
        report = traceback.TracebackException.from_exception(error)
        frames = report.stack
        own = [i for i, frame in enumerate(frames) if frame.filename.startswith("<ipython-input")]
        line = frames[own[0]].lineno if own else getattr(error, "lineno", None)
        report.stack = traceback.StackSummary.from_list(frames[own[0] :] if own else [])
        numbered = [
            f"{'-->' if i == line else '   '} {i:3} {text}"
            for i, text in enumerate(cell.source.splitlines(), 1)
        ]
        title = f"{self.path.relative_to(ROOT)}, {cell.name}"
        return "\n".join([title, "", *numbered, "", *"".join(report.format()).splitlines()])

    def reportinfo(self):
        return self.path, None, self.name
