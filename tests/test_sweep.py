"""A sweep that is disturbed: workers killed, points that fail, two sweeps at once, records that are there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_repo import ROOT
from typer.testing import CliRunner

from golf.base.files import GolfError
from golf.lab import sweep as room
from golf.lab.cli import app
from golf.lab.sweep import backend_for, grid_of, points, sweep, table_of

WORK = """
import os, signal
from pathlib import Path
import golf

run = golf.Run.here()
here = Path(golf.base.files.project_root())
with open(here / "begun", "a") as file:
    print(seed, file=file)
if seed == 2 and not (here / "killed").exists():
    (here / "killed").touch()
    os.kill(os.getppid(), signal.SIGKILL)  # the worker that runs this point
    import time
    time.sleep(20)
assert seed != 7, "no such seed"
run.stage("last", bpb=1.0 + rate)
run.save()
with open(here / "written", "a") as file:
    print(rate, seed, file=file)
"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A project with a small notebook that notes which points began and which were written."""
    cell = {"cell_type": "code", "outputs": [], "execution_count": None}
    knobs = "rate = 0.5  # a rate; in (0, inf)\nseed = 0  # of chance; in [0, inf)"
    sources = [(knobs, ["parameters"]), (WORK, [])]
    cells = [
        cell | {"id": f"c{i}", "metadata": {"tags": tags}, "source": source}
        for i, (source, tags) in enumerate(sources)
    ]
    about = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    text = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = golf\nnbs_path = nbs\n")
    path = tmp_path / "nbs" / "small.ipynb"
    path.write_text(json.dumps(text))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return path


def lines(notebook: Path, name: str) -> list[str]:
    path = notebook.parents[1] / name
    return path.read_text().splitlines() if path.exists() else []


def disturbed(notebook: Path, backend: str) -> None:
    said: list[str] = []
    grid = grid_of(["rate=0.5", "seed=1,2"])
    found = sweep(notebook, grid, workers=2, backend=backend, progress=False, say=said.append)
    assert found.failed == {} and len(found.done) == 2
    assert (notebook.parents[1] / "killed").exists()
    written = lines(notebook, "written")
    assert sorted(written) == ["0.5 1", "0.5 2"]  # none is missing, none was written twice
    assert lines(notebook, "begun").count("2") == 2
    assert said == [
        f"2 points, 0 with a record; 2 points at a time, {'by joblib' if backend == 'joblib' else 'on Ray'}"
    ]
    assert list(table_of(found).bpb) == [1.5, 1.5]
    again = sweep(notebook, grid, workers=2, backend=backend, progress=False, say=said.append)
    assert len(again.passed) == 2 and lines(notebook, "written") == written


def test_a_killed_worker_of_joblib_loses_nothing(notebook):
    disturbed(notebook, "joblib")


def test_a_killed_worker_of_ray_loses_nothing(notebook):
    pytest.importorskip("ray")
    disturbed(notebook, "ray")


def test_a_point_that_fails_is_tried_again_and_listed_and_the_others_go_on(notebook):
    command = [Path(sys.executable).with_name("golf"), "sweep", notebook, "-g", "seed=7,1"]
    command = [*map(str, command), "--backend", "in turn", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    found = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert found["failed"] == {"seed=7": "AssertionError: no such seed"}
    assert [row["seed"] for row in found["rows"]] == [1]
    assert lines(notebook, "begun") == ["7", "1", "7"]
    assert sorted(p.name for p in Path(found["folder"]).iterdir()) == [
        "sweep.png",
        "sweep.svg",
        "table.csv",
    ]


@pytest.mark.parametrize(
    "pair, said",
    [
        ("sed=1", "unknown parameter 'sed'; did you mean 'seed'?"),
        ("seed=-1", "seed must be in [0, inf), not -1"),
        ("seed=x", "seed"),
        ("seed", "expected NAME=VALUE"),
        ("seed=", "seed"),
    ],
)
def test_a_grid_that_the_notebook_cannot_run_is_one_line_before_any_work(notebook, pair, said):
    done = CliRunner().invoke(app, ["sweep", str(notebook), "-g", pair])
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert said in done.stderr
    assert lines(notebook, "begun") == []


def test_a_point_written_in_two_ways_is_one_point(notebook):
    assert len(points(notebook, grid_of(["rate=0.5,5e-1", "seed=0,0"]))) == 1


def test_without_ray_a_sweep_says_so_and_goes_on(monkeypatch):
    find = room.importlib.util.find_spec
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda n: n != "ray" and find(n))
    name, line = backend_for(2, 0)
    assert name == "joblib" and "pip install 'golf[sweep]'" in line
    assert backend_for(2, 8)[0] == "in turn"  # nobody shares the GPUs out
    with pytest.raises(GolfError, match="'ray' is not installed"):
        backend_for(2, 0, "ray")
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda n: None)
    assert backend_for(2, 0)[0] == "in turn"


def test_a_cluster_that_does_not_start_is_one_line(notebook, monkeypatch):
    ray = pytest.importorskip("ray")

    def fails(**options):
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(GolfError, match="Ray did not start .The current node timed out during"):
        sweep(notebook, {"seed": [1]}, backend="ray", progress=False)
    assert lines(notebook, "begun") == []


def test_a_sweep_of_no_workers_is_refused(notebook):
    for wrong in (dict(workers=0), dict(gpus=-1), dict(retries=-1)):
        with pytest.raises(GolfError, match="a sweep needs workers"):
            sweep(notebook, {"seed": [1]}, **wrong)
