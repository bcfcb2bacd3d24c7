"""Two processes share the arms of one notebook: what comes out is what one process gives, and it was made once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_repo import ROOT

from golf.base.files import GolfError
from golf.lab.records import read_record

WORK = [
    (
        "ranks = 1  # processes; in [1, inf)\nspoilt = 0  # a helper that dies; in [0, 1]",
        ["parameters"],
    ),
    (
        "import os, time\nfrom pathlib import Path\nimport torch\nimport golf\nrun = golf.Run.here()",
        [],
    ),
    (
        """


class Slow(golf.NGram):
    "Counts that take their time, so that two processes meet."

    def observe(self, chunk):
        if Path(os.environ["SEEN"] + ".first").read_text() != str(os.getpid()):
            Path(os.environ["SEEN"] + ".helper").touch()
        while ranks > 1 and not os.path.exists(os.environ["SEEN"] + ".helper"):  # until the other one has an arm, too
            time.sleep(0.1)
        time.sleep(0.1)
        with Path(os.environ["SEEN"]).open("a") as file:
            print(os.getpid(), self.order, file=file)
        super().observe(chunk)


corpus = golf.corpus_for("tiny")
stream = golf.Stream(corpus.val[:4097], 512, byte_table=corpus.byte_table, name="original")
arms = {"none": golf.Uniform(corpus.vocab_size)}
arms |= {f"order {n}": Slow(corpus.vocab_size, n) for n in (1, 2, 3, 4)}
if not run.is_helper:
    Path(os.environ["SEEN"] + ".first").write_text(str(os.getpid()))
elif spoilt:
    Path(os.environ["SEEN"] + ".helper").touch()
    raise AssertionError("spoilt")
run.corpus = corpus
golf.run_arms(run, arms, stream)
if spoilt:
    run.helpers.processes[0].wait(60)
run.save()
""",
        [],
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with one small notebook, and a cache of its own."""
    tmp_path = tmp_path_factory.mktemp("project")
    cell = {"cell_type": "code", "outputs": [], "execution_count": None}
    cells = [
        cell | {"id": f"c{i}", "metadata": {"tags": tags}, "source": source}
        for i, (source, tags) in enumerate(WORK)
    ]
    about = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = golf\nnbs_path = nbs\n")
    text = json.dumps({"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5})
    (tmp_path / "nbs" / "small.ipynb").write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def one(project):
    """What one process gives."""
    return run(project, "one")


def run(project: Path, name: str, *options: str) -> tuple[pd.DataFrame, list[str], str]:
    """The chunks of a run with a cache of its own, who learned in it what, and what was printed."""
    told = {"XDG_CACHE_HOME": str(project / name), "SEEN": str(project / f"{name}.txt")}
    told |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "papermill", "nbs/small.ipynb", *options, "--no-progress-bar"]
    before = {*project.glob("runs/small/*")}
    done = subprocess.run(
        command, cwd=project, env=os.environ | told, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = {*project.glob("runs/small/*")} - before
    said = json.dumps(json.loads((folder / "notebook.ipynb").read_text()))
    assert not [*(project / name / "golf" / "helpers").glob("*")], "a helper left its folder"
    return read_record(folder).chunks, (project / f"{name}.txt").read_text().splitlines(), said


def test_two_ranks_give_what_one_gives_and_share_the_work(project, one):
    alone, seen_alone, _ = one
    both, seen_both, _ = run(project, "two", "-p", "ranks", "2")
    pd.testing.assert_frame_equal(alone, both, check_exact=True)
    orders = lambda seen: sorted(line.split()[1] for line in seen)
    assert (
        orders(seen_alone) == orders(seen_both) == sorted("1234" * 8)
    )  # every arm was scored once
    assert len({line.split()[0] for line in seen_alone}) == 1
    assert len({line.split()[0] for line in seen_both}) == 2


def test_a_helper_that_dies_costs_no_result(project, one):
    alone, _, _ = one
    both, seen, said = run(project, "spoilt", "-p", "ranks", "2", "-p", "spoilt", "1")
    pd.testing.assert_frame_equal(alone, both, check_exact=True)
    assert len({line.split()[0] for line in seen}) == 1
    assert "rank 1 ended early, and its arms were scored here" in said and "spoilt" in said


def test_more_ranks_than_gpus_are_one_line(monkeypatch):
    from golf.lab.helpers import Helpers

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(GolfError, match="ranks=3 needs so many GPUs; there are 2"):
        Helpers(Path("any.ipynb"), {}, 3, "cuda")
