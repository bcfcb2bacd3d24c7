"""Work that is killed anywhere and begun again ends as if nothing had happened, and leaves nothing over.

`python tests/test_kills.py 100 [SEED]` kills a hundred times: comparisons with learners and audits,
an experiment under papermill, and two exporters at once. A few kills of the first and the last are
tests.
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
DAYS = 2 * 24 * 3600


def compared(cache: str, out: str) -> None:
    """Learners and counts beside each other and an audit, with this cache; what came out, written to a file."""
    os.environ["XDG_CACHE_HOME"] = cache
    import numpy as np
    import torch

    from golf.adapt.ttt import TTT
    from golf.auditor.audit import audit_arms
    from golf.base.small import SMALL
    from golf.count.ngram import NGram
    from golf.net.model import GPT, GPTConfig
    from golf.net.windows import SlidingWindow
    from golf.predict.compare import compare
    from golf.predict.stream import Stream

    torch.set_num_threads(1)
    tokens = np.random.default_rng(0).integers(2, 32, 1281)
    shape = GPTConfig(**SMALL)
    window = lambda: SlidingWindow(GPT(shape, seed=1))
    arms = {
        "none": window,
        "ttt": lambda: TTT(window(), 10, lr=0.01, epochs=1),
        "reset": lambda: TTT(window(), 10, lr=0.01, epochs=1, reset_every=3),
        **{f"{n}-gram": lambda n=n: NGram(32, n) for n in (2, 3)},
    }
    found = compare(arms, Stream(tokens, 128), baseline="none")
    audits = audit_arms({"2-gram": lambda: NGram(32, 2)}, Stream(tokens[:257], 64))
    told = {k: v.headline() for k, v in audits.items()}
    Path(out).write_text(json.dumps([{k: found[k].nll.tolist() for k in arms}, told]))


def kill(pid: int) -> None:
    """End a process and all that it started, without asking."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass


def run(command: list, folder: Path, cache: Path, *, after: float | None = None) -> str:
    """What a command prints; killed `after` so many seconds if it has not ended, it prints nothing."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, error = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        process.wait()
        return ""
    assert process.returncode == 0, error[-2000:]
    return output


def left_over(*folders: Path) -> list[Path]:
    """Temporary files in folders; all are made two days old, as if their writers had died long ago."""
    hidden = [p for f in folders for p in f.rglob(".*") if p.name not in (".gitignore", ".lock")]
    for path in [p for one in hidden for p in (one, *one.rglob("*"))]:
        os.utime(path, (time.time() - DAYS,) * 2)
    return hidden


class Comparison:
    """`compare` with learners, and an audit, in a process that has imported all before it is forked."""

    def __init__(self, folder: Path):
        self.folder, self.kept = folder, folder / "cache"

    def go(self, after: float | None = None, *, fresh: bool = False) -> str:
        """Run in the cache that was left, or in a fresh one."""
        cache, out = self.folder / "fresh" if fresh else self.kept, self.folder / "found.json"
        out.unlink(missing_ok=True)
        forks = multiprocessing.get_context("forkserver")
        process = forks.Process(target=compared, args=(str(cache), str(out)))
        process.start()
        process.join(after)
        if process.is_alive():
            kill(process.pid)
            process.join()
            return ""
        assert process.exitcode == 0
        return out.read_text()

    def leftovers(self) -> list[Path]:
        """Files that nobody will use again."""
        left_over(self.kept)
        for origin in self.kept.rglob("*.npz"):  # one arm again, so that every folder is written
            origin.unlink()
        self.go()
        return [p for p in left_over(self.kept) if not p.name.endswith(".lock")]


class Experiment:
    """`ttt_reset` in miniature, as papermill runs it."""

    SMALL = "-p train_steps 5 -p chunk_tokens 256 -p prefix_tokens 6144 -p reset_every 10 -p audit_level"

    def __init__(self, folder: Path):
        self.folder, self.cache = folder, folder / "cache"
        for name in ("kept", "fresh"):
            (folder / name / "nbs").mkdir(parents=True)
            shutil.copy(ROOT / "settings.ini", folder / name)
            shutil.copy(ROOT / "nbs" / "ttt_reset.ipynb", folder / name / "nbs")

    def go(self, after: float | None = None, *, fresh: bool = False) -> str:
        """Scores of every chunk as the record has them, '' after a kill."""
        home = self.folder / ("fresh" if fresh else "kept")
        papermill = str(Path(sys.executable).with_name("papermill"))
        cache = self.folder / "other" if fresh else self.cache
        command = [papermill, "nbs/ttt_reset.ipynb", "-p", "artifact", "", *self.SMALL.split(), ""]
        run(command, home, cache, after=after)
        found = sorted(home.glob("runs/ttt_reset/*/record.json"))
        if after is not None or not found:
            return ""
        stages = json.loads(found[-1].read_text())["stages"]
        return json.dumps({k: v.get("bpb") for k, v in stages.items()}, sort_keys=True)

    def leftovers(self) -> list[Path]:
        """Files that nobody will use again, of a run that is made once more."""
        left_over(self.folder / "kept", self.cache)
        shutil.rmtree(self.folder / "kept" / "runs")
        self.go()
        return [
            p for p in left_over(self.folder / "kept", self.cache) if not p.name.endswith(".lock")
        ]


class Exporters:
    """Two exports of one tree at once; of `parts` of the package, or of all."""

    parts: tuple[str, ...] = ("base", "count", "mix", "predict")

    def __init__(self, folder: Path):
        self.folder = folder / "tree"
        for name in ("nbs", "golf", "tools"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=self.others)
        for name in ("settings.ini", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.before = self.files()

    def others(self, folder: str, names: list[str]) -> set[str]:
        """What is not copied: compiled files, and parts that are not wanted."""
        top = Path(folder) in (ROOT / "nbs", ROOT / "golf")
        parts = {n for n in names if top and self.parts and (Path(folder) / n).is_dir()}
        alone = {n for n in names if top and self.parts and n.endswith((".ipynb", "__main__.py"))}
        return {"__pycache__"} | (parts - set(self.parts)) | alone

    def go(self, after: float | None = None, *, fresh: bool = False) -> str:
        """The digest of the package after two exporters, one or both killed."""
        export = [sys.executable, "tools/export.py"]
        environment = os.environ | {"PYTHONPATH": ""}
        pair = [
            subprocess.Popen(export, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL)
            for _ in range(1 if after is None else 2)
        ]
        if after is not None:
            time.sleep(after)
            kill(pair[0].pid)
            pair[0].wait()
        assert pair[-1].wait() == 0
        files = sorted(
            p for p in (self.folder / "golf").rglob("*") if p.suffix in (".py", ".typed")
        )
        text = b"".join(str(p.relative_to(self.folder)).encode() + p.read_bytes() for p in files)
        return hashlib.sha256(text).hexdigest()

    def files(self) -> set[Path]:
        """The files of the package, compiled ones apart."""
        return {p for p in (self.folder / "golf").rglob("*") if p.is_file() and p.suffix != ".pyc"}

    def leftovers(self) -> list[Path]:
        """Files that the tree did not have."""
        return sorted(self.files() - self.before)


def torture(kind: Callable, folder: Path, kills: int, luck: random.Random) -> None:
    """Kill `kind` at random moments, let it end, and hold it against a run that nobody touched."""
    folder.mkdir(parents=True, exist_ok=True)
    subject = kind(folder)
    begun = time.monotonic()
    expected = subject.go(fresh=True)
    whole = time.monotonic() - begun
    assert expected
    for _ in range(kills):
        subject.go(luck.uniform(0.1, 1.1 * whole))
    assert subject.go() == expected
    left = subject.leftovers()
    assert left == [], left


@pytest.mark.parametrize("kind", [Comparison, Exporters], ids=lambda kind: kind.__name__)
def test_killed_work_ends_as_if_nothing_had_happened(kind, tmp_path):
    torture(kind, tmp_path / "work", 2, random.Random(0))


if __name__ == "__main__":
    import tempfile

    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    shares = {Comparison: count - count // 5 - 2 * count // 5, Experiment: count // 5}
    shares[Exporters] = 2 * count // 5
    Exporters.parts = ()
    for kind, kills in shares.items():
        with tempfile.TemporaryDirectory() as scratch:
            begun = time.monotonic()
            torture(kind, Path(scratch) / "work", kills, random.Random(seed))
            spent = time.monotonic() - begun
        print(
            f"{kind.__name__}: {kills} kills, equal, nothing left over, {spent:.0f} s", flush=True
        )
