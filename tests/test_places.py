"""Full disks, folders that cannot be written, hostile checkouts: one line, before the work."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import golf.base.files as files
import golf.text.corpus as corpora
from golf.adapt.gradients import read_log
from golf.auditor.whole import tokenizer_of_size
from golf.base.cache import cache_dir, cached
from golf.base.files import GolfError, atomic_path, atomic_write, check_room
from golf.base.small import SMALL
from golf.count.ngram import NGram
from golf.lab.cli import app
from golf.lab.facts import git_state
from golf.lab.runs import Run
from golf.lab.terminal import measure
from golf.mix.recorded import record_pass
from golf.net.model import GPTConfig
from golf.net.ranks import Ranks, join
from golf.predict.compare import arm_key, compare
from golf.predict.stream import Stream
from golf.store.artifact import load_artifact
from golf.store.saved import load_model
from golf.text.corpus import Corpus
from golf.text.tokenizers import ByteTable, load_tokenizer
from golf.train import pace
from golf.train.fit import fit, unsqueezed
from golf.train.loop import Trainer, validate
from golf.train.settings import TrainConfig

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A fresh interpreter that runs some code."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def full(monkeypatch):
    """A disk with no byte left."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))


@pytest.fixture
def read_only(monkeypatch):
    """Folders that may not be written, for root too."""
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)


# Where things are written


def test_a_disk_fills_up_while_a_file_is_written(tmp_path):
    target = atomic_write(tmp_path / "model.golf", b"old")
    code = f"""
import resource, signal
from golf.base.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write({str(target)!r}, bytes(100_000))
except ValueError as error:
    print(type(error).__name__, error)
"""
    done = python(code, tmp_path)
    assert "GolfError" in done.stdout and "cannot be written (File too large)" in done.stdout
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.golf"]


def test_an_error_of_the_writer_itself_stays_what_it_was(tmp_path):
    with pytest.raises(ConnectionError), atomic_path(tmp_path / "a"):
        raise ConnectionError("the network went away")


@pytest.mark.parametrize("where", ["file/a", "folder", "file/b/c"])
def test_a_place_that_can_hold_no_file(where, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GolfError):
        check_room(tmp_path / where)
    if where != "folder":
        with pytest.raises(GolfError, match="cannot be written"):
            atomic_write(tmp_path / where, "")


def test_a_home_that_is_a_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(GolfError, match="XDG_CACHE_HOME"):
        cache_dir("arms")


def test_a_cache_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = cached("things", "key", lambda path: path.write_text("made"))

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refused)
    assert cached("things", "key", refused) == made
    shutil.rmtree(tmp_path / "golf" / "locks")
    (tmp_path / "golf" / "locks").write_text("")
    with pytest.raises(GolfError, match="XDG_CACHE_HOME"):
        cached("things", "another", refused)


def test_a_cache_on_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch, full):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(GolfError, match="bytes are needed"):
        cached("things", "key", lambda path: pytest.fail("an hour of work"))


# Before the work


def trainer(folder: Path) -> Trainer:
    """A very small model at its first step."""
    text = np.frombuffer(b"the quick brown fox. " * 300, dtype=np.uint8).astype("uint16")
    (folder / "bytes.txt").write_text("an id is a byte")
    none = torch.zeros(256, dtype=torch.bool)
    table = ByteTable(torch.ones(256, dtype=torch.long), none, none)
    corpus = Corpus("fox", text[:4200], text[4200:], folder / "bytes.txt", table, 256)
    return Trainer(
        GPTConfig(**SMALL | {"vocab_size": 256}), TrainConfig(steps=2, batch_tokens=64), corpus
    )


def test_training_is_refused_before_its_first_step(tmp_path, monkeypatch, full):
    small = trainer(tmp_path)
    monkeypatch.setattr(Trainer, "prime", lambda self: pytest.fail("priming"))
    with pytest.raises(GolfError, match="bytes are needed"):
        small.run(tmp_path / "a.checkpoint", progress=False)


def test_a_run_is_refused_where_its_record_cannot_go(tmp_path, read_only):
    with pytest.raises(GolfError, match="read-only"):
        Run("demo", {"seed": 0}, root=tmp_path)


@pytest.mark.parametrize("command", [["audit", "tiny", "--out"], ["artifact", "tiny", "--out"]])
def test_an_output_that_cannot_be_written_is_named_first(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, [*command, str(tmp_path / "file" / "out")])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    assert "cannot be written" in done.stderr


# Unreadable records


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"format": 2}', "\xff", "9" * 5000]
)
def test_an_audit_of_an_unreadable_record_is_no_success(text, tmp_path):
    (tmp_path / "record.json").write_bytes(text.encode("latin-1"))
    done = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, (done.output, done.exception)


# Ranks


@pytest.mark.parametrize("given", [
    {"WORLD_SIZE": "2"}, {"RANK": "1"}, {"WORLD_SIZE": "two", "RANK": "0"}, {"WORLD_SIZE": ""},
    {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "5"},
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "-1", "RANK": "0"},
])  # fmt: skip
def test_an_environment_of_ranks_set_by_half(given, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GolfError, match="torchrun"):
        join()


def test_ranks_that_see_different_folders_do_not_part_ways(tmp_path, monkeypatch):
    import torch.distributed as dist

    def gathered(names, own):
        names[:] = [own, "True"]

    monkeypatch.setattr(dist, "all_gather_object", gathered)
    with pytest.raises(GolfError, match="differs between the ranks"):
        Ranks(0, 2).all_see(tmp_path / "absent.golf")
    (tmp_path / "there.golf").write_text("")
    assert Ranks(0, 2).all_see(tmp_path / "there.golf")


# Other people's checkouts


def hostile(folder: Path) -> Path:
    """A checkout whose settings, hooks and filters each leave a mark; the mark."""
    mark, git = (
        folder / "mark",
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=b@c"],
    )
    run = lambda *words: subprocess.run([*git, *words], check=True, capture_output=True)
    run("init", "-q")
    (folder / "a.txt").write_text("one\n")
    run("add", ".")
    run("commit", "-qm", "one")
    script = folder / ".git" / "evil.sh"
    script.write_text(f"#!/bin/sh\necho $0 >> {mark}\ncat\n")
    script.chmod(0o755)
    shutil.copy(script, folder / ".git" / "hooks" / "post-index-change")
    (folder / ".git" / "info" / "attributes").write_text("* filter=evil\n*.txt filter=a=b\n")
    run("config", "core.fsmonitor", str(script))
    run("config", "core.hooksPath", str(folder / ".git" / "hooks"))
    for name in ("evil", "a=b"):
        for key in ("clean", "process"):
            run("config", f"filter.{name}.{key}", str(script))
        run("config", f"filter.{name}.required", "true")
    (folder / "a.txt").write_text("two\n")
    return mark


def test_a_strangers_checkout_executes_nothing(tmp_path):
    mark = hostile(tmp_path)
    state = git_state(tmp_path)
    assert state["commit"] and state["clean"] is False and not mark.exists()
    subprocess.run(["git", "-C", str(tmp_path), "status"], capture_output=True, timeout=60)
    assert mark.exists(), "plain git runs none of it, so this test shows nothing"


def texts(folder: Path, size: int) -> Path:
    """A folder with a text of that many bytes, most of which trains."""
    folder.mkdir()
    for name, count in (("train.txt", size), ("val.txt", 4000)):
        (folder / name).write_text(("the quick brown fox jumps over the lazy dog. " * size)[:count])
    return folder


def test_tokenising_is_refused_before_the_tokenizer_is_trained(tmp_path, monkeypatch, full):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "_build_corpus", lambda *_, **__: pytest.fail("training"))
    done = CliRunner().invoke(app, ["data", "text", str(texts(tmp_path / "texts", 50_000))])
    assert done.exit_code == 2 and "bytes are needed, 0 are free" in done.output
    assert not list((tmp_path / "cache" / "golf" / "corpora").iterdir())


def test_a_disk_too_small_for_the_tokens_is_found_before_them(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.name != "posix" or shutil.which("mount") is None or subprocess.run(mount).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        monkeypatch.setattr(corpora, "_build_corpus", lambda *_, **__: pytest.fail("training"))
        with pytest.raises(
            GolfError, match=r"2,00\d,000 bytes are needed, .* are free on that disk"
        ):
            corpora.load_corpus(texts(tmp_path / "texts", 2_000_000), progress=False)
        assert not list((disk / "golf" / "corpora").iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_scores_that_could_not_be_kept_are_refused_before_they_are_made(
    tmp_path, monkeypatch, full
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arm, stream = NGram(32), Stream(torch.arange(99) % 32, 8)
    monkeypatch.setattr(NGram, "distribution", lambda *_: pytest.fail("an hour of scoring"))
    with pytest.raises(GolfError, match="bytes are needed"):
        compare({"a": arm}, stream, baseline="a")
    with pytest.raises(GolfError, match="bytes are needed"):
        record_pass(arm, stream, tmp_path / "pass.npz")


# What was kept is read with care


def test_two_runs_that_differ_in_their_validation_only_are_compared_on_the_same_tokens(tmp_path):
    small = trainer(tmp_path)
    options = {"squeeze": unsqueezed, "progress": False}
    longer, shorter = (replace(small.config, validation_tokens=n) for n in (1024, 256))
    paths = [fit(small.shape, c, small.corpus, tmp_path, **options) for c in (longer, shorter)]
    assert paths[0] == paths[1]  # the weights are the same, so they are not trained twice
    run = Run("demo", {"seed": 0}, root=tmp_path)
    measure(run, paths[1], small.corpus)
    found = {name: stage["bpb"] for name, stage in run.stages.items()}
    model = load_model(load_artifact(paths[1]))
    assert found["quantised"] == found["averaged"]  # nothing was rounded: no difference may appear
    assert found["quantised"] != validate(model, small.corpus, 256).bpb


def test_two_streams_of_other_lengths_share_no_score(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = torch.arange(999) % 31
    whole, part = Stream(text, 64), Stream(text, 64, limit=500)
    assert arm_key(NGram(32), whole) != arm_key(NGram(32), part)
    scores = [compare({"a": NGram(32)}, s, baseline="a")["a"] for s in (whole, part, whole)]
    assert [len(s.nll) for s in scores] == [998, 500, 998]
    assert (scores[0].nll == scores[2].nll).all()


def test_a_pace_measured_when_threads_waited_otherwise_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = iter(range(9))
    for spins, expected in [("0", 0), ("1000", 1), ("0", 0)]:
        monkeypatch.setenv("GOMP_SPINCOUNT", spins)
        assert pace._remembered("demo", 1, lambda: next(found)) == expected


@pytest.mark.parametrize("kind", ["pace", "tokenizer", "scales"])
def test_a_damaged_file_of_the_cache_is_made_again(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if kind == "pace":
        make = lambda: pace._remembered("demo", 1, lambda: {"threads": 2})
    elif kind == "tokenizer":
        make = lambda: len(load_tokenizer(tokenizer_of_size(64)))
    else:
        log = pd.DataFrame({"chunk": [0, 1], "step": 0, "group": "a", "layer": 0, "role": "a"})
        log = log.assign(scale=0.5, noise=1.0, size=1.0)
        check = lambda path: read_log(path, 2)
        write = lambda path: log.to_parquet(path)
        make = lambda: len(check(cached("scales", "key", write, suffix=".parquet", check=check)))
    first = make()
    (kept,) = [
        p for p in (tmp_path / "golf").rglob("*.*") if p.suffix in (".json", ".model", ".parquet")
    ]
    kept.write_bytes(kept.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="it is made again"):
        assert make() == first
