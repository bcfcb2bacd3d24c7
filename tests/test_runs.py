"""Records under kill and under several writers, and what must never enter them."""

import json
import math
import os
import re
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golf.base.cache import cached
from golf.base.files import GolfError, project_root
from golf.base.task import Budget, budget_table
from golf.lab.charts import plot_arms
from golf.lab.facts import git_state, portable
from golf.lab.plots import (
    Picture,
    plot_cumulative,
    plot_difference,
    plot_drift,
    plot_shuffled,
    save_figure,
)
from golf.lab.publish import publish, published, published_list
from golf.lab.records import (
    arms_table,
    drift,
    drift_table,
    find_record,
    newest_record,
    phase_profile,
    read_record,
    records,
)
from golf.lab.runs import Run


def frame(level: float, arms=("none", "ttt"), chunks: int = 30) -> pd.DataFrame:
    """Chunks whose scores tell which writer they came from."""
    c = np.tile(np.arange(chunks), len(arms))
    columns = {"stream": "original", "arm": np.repeat(arms, chunks), "chunk": c, "start": 8 * c}
    return pd.DataFrame(columns | {"tokens": 8, "bytes": 20, "nll": level + 0.01 * c})


def documents(level: float) -> pd.DataFrame:
    """The same scores, by document."""
    table = frame(level).rename(columns={"chunk": "document"})
    return table.drop(columns="start")


def save(root: Path, level: float) -> Path:
    """One complete run whose record and tables all hold `level`."""
    run = Run("demo", {"seed": 1}, root=root)
    run.stage("adapted", level=level)
    return run.save(frame(level), documents(level))


def level_of(folder: Path) -> float:
    """The level that record and both tables agree on."""
    record = read_record(folder)
    found = {record.stages["adapted"]["level"], record.chunks.nll[0], record.documents.nll[0]}
    assert len(found) == 1, found
    return found.pop()


def forked(work) -> int:
    """Process id of a child that runs `work` and leaves without cleaning up."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def status(process: int) -> int:
    """How a child ended: 0, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    constant = {"git_state": {"commit": None, "clean": None}, "code_digest": "", "versions": {}}
    for name, value in constant.items():  # slow, and not what is tested here
        monkeypatch.setattr(f"golf.lab.runs.{name}", lambda *_, value=value: value)


def killed_at(root: Path, step: int) -> bool:
    """Save in a child that dies, by SIGKILL, before its file operation number `step`."""
    done = iter(range(10**6))

    def counting(real):
        def wrapped(*arguments, **options):
            if next(done) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return wrapped

    def work():
        for name in ("replace", "unlink", "fsync", "chmod"):
            setattr(os, name, counting(getattr(os, name)))
        save(root, 2.0)

    return status(forked(work)) == -signal.SIGKILL


@pytest.mark.parametrize("before", [False, True])
def test_kill_between_any_two_writes(tmp_path, before):
    outcomes = []
    for step in range(100):
        root = tmp_path / str(step)
        folder = save(root, 1.0).parent if before else Run("demo", {"seed": 1}, root=root).folder
        if not killed_at(root, step):
            assert level_of(folder) == 2.0
            break
        try:
            outcomes.append(level_of(folder))
        except GolfError as error:
            assert "no complete record" in str(error)
            outcomes.append(None)
        assert len(records("demo", root=root)) == (outcomes[-1] is not None)
        save(root, 3.0)  # the next run finds nothing in its way and leaves nothing behind
        assert level_of(folder) == 3.0
        assert {p.name for p in folder.iterdir()} == {
            "record.json",
            "chunks.parquet",
            "documents.parquet",
        }
    assert len(outcomes) > 8
    assert set(outcomes) == {1.0 if before else None, 2.0}  # the old record whole, or the new one


def test_two_processes_save_the_same_run(tmp_path):
    def work(level):
        for _ in range(6):
            save(tmp_path, level)

    children = [forked(lambda level=level: work(level)) for level in (1.0, 2.0)]
    assert [status(child) for child in children] == [0, 0]
    folder = Run("demo", {"seed": 1}, root=tmp_path).folder
    assert level_of(folder) in (1.0, 2.0)
    assert len(list(folder.iterdir())) == 3


def test_a_table_of_another_record_is_noticed(tmp_path):
    folder = save(tmp_path / "a", 1.0).parent
    other = save(tmp_path / "b", 2.0).parent
    (folder / "chunks.parquet").write_bytes((other / "chunks.parquet").read_bytes())
    with pytest.raises(GolfError, match="not the table"):
        _ = read_record(folder).chunks
    (folder / "chunks.parquet").unlink()
    with pytest.raises(GolfError, match="expected beside its record"):
        _ = read_record(folder).chunks


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "\x00\xff"])
def test_a_file_that_is_no_record(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(GolfError, match=r"record\.json"):
        read_record(path)


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_bad_table_leaves_the_old_record(tmp_path, bad):
    folder = save(tmp_path, 1.0).parent
    with pytest.raises(GolfError, match="expected numbers as nll"):
        save(tmp_path, bad)
    assert level_of(folder) == 1.0


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1}', '{"format": 1, "date": 3, "key": "k"}', "\x00\xff", "null"]
)
def test_one_corrupt_record_hides_itself_and_no_other(tmp_path, text):
    kept = save(tmp_path, 1.0).parent
    broken = kept.parent / "0123456789"
    broken.mkdir()
    (broken / "record.json").write_bytes(text.encode("latin-1"))
    for read in (records, newest_record, find_record):
        with pytest.warns(UserWarning, match="left out: .*0123456789.record.json") as said:
            found = read("demo", root=tmp_path)
        assert len(said) == 1 and "\n" not in str(said[0].message)
    assert found.key == kept.name


def test_no_flipped_bit_in_a_record_hides_the_others(tmp_path):
    other = save(tmp_path, 1.0).parent
    broken = Run("demo", {"seed": 2}, root=tmp_path).save(frame(2.0))
    data = broken.read_bytes()
    for place in range(0, len(data), 11):
        bit = bytes([data[place] ^ 1 << place % 8])
        broken.write_bytes(data[:place] + bit + data[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert other.name in records("demo", root=tmp_path).index


def one_infinite(arms=("none", "ttt", "ruled out")) -> pd.DataFrame:
    """Sixty chunks an arm; the third calls a token of chunk 7 impossible."""
    table = frame(2.0, arms, 60)
    table.loc[table.arm != "none", "nll"] += np.tile(np.sin(np.arange(60)) - 0.3, len(arms) - 1)
    table.loc[(table.arm == "ruled out") & (table.chunk == 7), "nll"] = math.inf
    return table


def test_an_infinite_arm_is_saved_and_shown_and_the_others_stay_what_they_were(tmp_path):
    table, run = one_infinite(), Run("demo", {"seed": 1}, root=tmp_path)
    run.stage("ruled out", bpb=math.inf)
    path = run.save(table)
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    record = read_record(path)
    found, others = arms_table(record), arms_table(table[table.arm != "ruled out"])
    row = found.loc[("original", "ruled out")]
    assert row.bpb == row.difference == math.inf and row.infinite == "1 of 60 chunks, first chunk 7"
    kept = found.drop(index=("original", "ruled out"))
    pd.testing.assert_frame_equal(kept.drop(columns="infinite"), others)
    assert not kept.infinite.any() and "infinite" not in others
    trends = drift_table(record)
    assert trends.loc[("original", "ruled out"), "verdict"] == "infinite loss"
    assert trends.loc[("original", "ttt"), "verdict"] == drift(record, "ttt").verdict
    with pytest.raises(GolfError, match="'ruled out' is infinite.*first chunk 7"):
        drift(record, "ruled out")
    for draw in (plot_cumulative, plot_difference, plot_drift, plot_shuffled, plot_arms):
        with pytest.warns(UserWarning, match="not drawn, as their loss is infinite: ruled out"):
            draw(record)


def test_against_an_infinite_baseline_there_is_no_number_that_looks_like_one():
    table = one_infinite(("none", "ruled out", "ttt"))
    table.loc[(table.arm == "ttt") & (table.chunk == 3), "nll"] = math.inf
    found = arms_table(table, "ruled out").loc["original"]
    assert found.difference["none"] == -math.inf and found[["low", "high"]].isna().all().all()
    assert math.isnan(found.difference["ttt"]) and "no difference" in found.infinite["ttt"]
    for draw in (plot_cumulative, plot_drift, plot_shuffled, plot_arms):
        with pytest.raises(GolfError, match="'ruled out' is infinite: nothing can be drawn"):
            draw(table, baseline="ruled out")
    with pytest.raises(GolfError, match="infinite loss in one chunk"):
        phase_profile(one_infinite().replace("ttt", "x"), "ruled out", 5, baseline="ruled out")


def strings(value):
    """All texts in a record, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
    elif isinstance(value, str):
        yield value


def test_no_absolute_path_enters_a_record(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    parameters = {
        "corpus": tmp_path / "texts",
        "data_path": "../shared/fineweb10B",
        "note": "made from ~/x/y.bin, /home/somebody/notes and file:///home/somebody/z",
        "nested": [{"/home/somebody/key": "C:\\Users\\Somebody\\a.bin"}],
    }
    run = Run("demo", parameters, root=tmp_path)
    run.configuration = {"folder": tmp_path, "loss": np.float64("nan"), "make": portable}
    artifact = tmp_path / "model.golf"
    artifact.write_bytes(b"weights")
    run.artifact("model", artifact, code=1)
    text = run.save(frame(1.0)).read_text()
    for found in strings(json.loads(text)):
        assert not any(Path(word).is_absolute() for word in found.split()), found
    for word in (str(tmp_path), "somebody", "Somebody", "/home", "NaN"):
        assert word not in text
    assert read_record(run.folder).parameters["data_path"] == "fineweb10B"


part = st.text("abcdefgh-_.0123456789", min_size=2, max_size=8).filter(lambda s: s.strip("."))


@given(st.lists(part, min_size=1, max_size=5), part, st.sampled_from(["", " ", "=", "('", "a b: "]))
def test_portable_keeps_the_last_component_only(folders, name, before):
    text = before + "/" + "/".join([f"Q{f}" for f in folders] + [f"N{name}"])
    found = portable(text)
    assert "Q" not in found
    assert found.endswith(f"N{name}")
    assert portable(found) == found


@given(st.text("abc ._-:,()", max_size=30))
def test_portable_leaves_other_text_alone(text):
    assert portable(text) == text


def test_cached_is_made_once_by_many_processes(tmp_path):
    def make(path):
        time.sleep(0.2)
        with open(tmp_path / "calls", "a") as file:
            file.write("x")
        path.write_bytes(b"weights")

    children = [forked(lambda: cached("models", "key", make)) for _ in range(4)]
    assert [status(child) for child in children] == [0] * 4
    assert (tmp_path / "calls").read_text() == "x"
    assert cached("models", "key", make).read_bytes() == b"weights"


def test_cached_after_a_kill_or_an_error(tmp_path):
    def die(path):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("interrupted")

    assert status(forked(lambda: cached("models", "key", die))) == -signal.SIGKILL
    with pytest.raises(RuntimeError):
        cached("models", "key", fail)
    made = cached("models", "key", lambda path: path.write_bytes(b"whole"))
    assert made.read_bytes() == b"whole"


def test_git_state(tmp_path):
    import subprocess

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert git_state(tmp_path) == {"commit": None, "clean": None}
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    for folder in ("runs", "figures"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "new").write_text("written by the run itself")
    assert git_state(tmp_path) == {"commit": commit, "clean": True}
    (tmp_path / "a.py").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "clean": False}
    own, foreign = tmp_path / "a.py", tmp_path.parent / "b.py"
    assert git_state(tmp_path, own, foreign)[
        "clean"
    ]  # a shipped model, made again by `golf artifact`
    (tmp_path / "*.py").write_text("3")
    assert (
        not git_state(tmp_path, own)["clean"]
        and not git_state(tmp_path, tmp_path / "*.py")["clean"]
    )


def text_of(folder: Path, text: str) -> Path:
    """A folder with one document."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "one.txt").write_text(text)
    return folder


def test_a_run_on_other_data_never_overwrites(tmp_path):
    def level_on(corpus: Path, level: float | None = None) -> float:
        run = Run("demo", {"seed": 1, "corpus": str(corpus)}, root=tmp_path)
        if level is not None:
            run.stage("adapted", level=level)
            run.save(frame(level), documents(level))
        return level_of(run.folder)

    a, b = text_of(tmp_path / "a", "one text"), text_of(tmp_path / "b", "another")
    assert (level_on(a, 1.0), level_on(b, 2.0), level_on(a)) == (1.0, 2.0, 1.0)
    text_of(a, "1ne text")  # as long as before, under the same path
    assert (level_on(a, 3.0), level_on(b)) == (3.0, 2.0)
    text_of(a, "one text")
    assert level_on(a) == 1.0
    moved = a.rename(tmp_path / "moved")
    assert level_on(moved) == 1.0  # the same question about the same text, elsewhere
    assert len(records("demo", root=tmp_path)) == 3


@pytest.mark.parametrize("name", ["data_path", "tokenizer_path"])
def test_shards_named_by_the_environment_are_the_same_data(tmp_path, monkeypatch, name):
    for variable in ("DATA_PATH", "TOKENIZER_PATH"):
        monkeypatch.delenv(variable, raising=False)
    folder = text_of(tmp_path / "shards", "tokens")
    settings = {"corpus": "shards", "data_path": "", "tokenizer_path": ""}
    named = Run("demo", settings | {name: str(folder)}, root=tmp_path).key
    assert named != Run("demo", settings, root=tmp_path).key
    monkeypatch.setenv(name.upper(), str(folder))
    assert Run("demo", settings, root=tmp_path).key == named


@pytest.mark.parametrize("place", [0, 40_000_000, 70_000_000 - 1])
def test_large_data_is_sampled_from_its_first_byte_to_its_last(tmp_path, place):
    file = tmp_path / "train.bin"
    with file.open("wb") as made:
        made.truncate(70_000_000)
    before = Run("demo", {"data_path": str(file)}, root=tmp_path).key
    with file.open("r+b") as made:
        made.seek(place)
        made.write(b"x" * min(5_000_000, 70_000_000 - place))
    assert Run("demo", {"data_path": str(file)}, root=tmp_path).key != before


def test_an_arm_whose_loss_is_no_number_is_named(monkeypatch):
    from golf.base.small import OneByte, rhyme_tokens
    from golf.predict.compare import compare
    from golf.predict.dist import Dense
    from golf.predict.stream import Predictor, Stream

    class Broken(Predictor):
        vocab_size = 256

        def distribution(self, chunk):
            rows = torch.zeros(len(chunk), 256)
            return Dense(rows if chunk.index < 2 else rows * math.nan)

    stream = Stream(rhyme_tokens(), 100, byte_table=OneByte())
    with pytest.raises(GolfError, match="^arm 'the broken one': position 200 has log-prob.* nan"):
        compare({"the broken one": Broken()}, stream, baseline="the broken one", cache=False)


def a_notebook(folder: Path, name: str, *parameters: str) -> Path:
    """A notebook file with a parameters cell and nothing else."""
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": "\n".join(parameters),
    }
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"cells": [cell]}))
    return folder / name


def in_notebook(**names) -> tuple[Run, dict]:
    """What `Run.here()` makes of these names in a notebook, and the names afterwards."""
    exec("from golf.lab.runs import Run\nrun = Run.here()", names)
    return names["run"], names


def test_a_run_reads_the_notebook_that_it_is_in(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_name = golf\n")
    first = a_notebook(tmp_path / "nbs", "first.ipynb", "lr = 0.1  # rate; in (0, 1]", "seed = 0")
    copy = a_notebook(tmp_path / "nbs", "copy.ipynb", "lr = 0.1", "seed = 0")
    a_notebook(tmp_path / "nbs", "other.ipynb", "chunk_tokens = 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    run, names = in_notebook(lr=0.5, seed=2.0, __vsc_ipynb_file__=str(first))
    assert (run.notebook, run.parameters, names["seed"]) == ("first", {"lr": 0.5, "seed": 2}, 2)
    monkeypatch.setenv("JPY_SESSION_NAME", str(copy))
    assert in_notebook(lr=5.0, seed=2)[0].notebook == "copy"  # which has no rule
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "nbs" / "other.ipynb"))  # of a parent
    with pytest.raises(GolfError, match="it could be copy.ipynb or first.ipynb: say Run.here"):
        in_notebook(lr=0.5, seed=2)
    copy.unlink()
    assert in_notebook(lr=0.5, seed=2)[0].notebook == "first"
    with pytest.raises(GolfError, match=r"^first: lr must be in \(0, 1\], not 5.0$") as caught:
        in_notebook(lr=5.0, seed=2)
    assert caught.value._render_traceback_() == [f"GolfError: {caught.value}"]  # a cell shows this
    with pytest.raises(GolfError, match="no file has them"):
        in_notebook(seed=2)


CLEAN = {"commit": "0" * 40, "clean": True}


def made(root: Path, seed: int, git=CLEAN, monkeypatch=None) -> Run:
    """A saved run with one figure."""
    if monkeypatch:
        monkeypatch.setattr("golf.lab.runs.git_state", lambda _: git)
    run = Run("demo", {"seed": seed, "corpus": "stdlib"}, root=root)
    run.save(frame(seed), documents(seed))
    save_figure(Picture(), "demo-stdlib", run.folder)
    return run


def test_a_users_run_never_appears_on_our_pages(tmp_path, monkeypatch):
    ours = made(tmp_path, 1, monkeypatch=monkeypatch)
    publish(ours.key, root=tmp_path)
    committed = {p: p.read_bytes() for p in (tmp_path / "figures").iterdir()}
    made(tmp_path, 2, monkeypatch=monkeypatch)
    ours.stage("adapted", level=9.0)
    ours.save(frame(9.0))  # the published question again, with another answer
    assert published("demo", root=tmp_path).chunks.nll[0] == 1.0
    assert published("demo", root=tmp_path, seed=2) is None
    assert committed == {p: p.read_bytes() for p in (tmp_path / "figures").iterdir()}


@pytest.mark.parametrize("clean", [False, None])
def test_publish_refuses_a_run_of_code_that_no_commit_holds(tmp_path, monkeypatch, clean):
    run = made(tmp_path, 1, CLEAN | {"clean": clean}, monkeypatch)
    with pytest.raises(GolfError, match="--unclean"):
        publish(run.key, root=tmp_path)
    assert not (tmp_path / "runs/published").exists()
    assert not (tmp_path / "figures").exists()
    assert publish(run.key, root=tmp_path, unclean=True).unclean
    assert published_list(tmp_path)[0].unclean  # and the list says so


def test_publish_refuses_an_oversized_record(tmp_path, monkeypatch):
    run = made(tmp_path, 1, monkeypatch=monkeypatch)
    run.configuration = {"curve": list(range(200_000))}
    run.save(frame(1.0))
    with pytest.raises(GolfError, match=r"at most 1,000,000"):
        publish(run.key, root=tmp_path)
    assert not (tmp_path / "runs/published.toml").exists()


def test_publish_refuses_a_table_of_another_run(tmp_path, monkeypatch):
    run, other = (made(tmp_path, seed, monkeypatch=monkeypatch) for seed in (1, 2))
    (run.folder / "chunks.parquet").write_bytes((other.folder / "chunks.parquet").read_bytes())
    with pytest.raises(GolfError, match="not the table"):
        publish(run.key, root=tmp_path)
    assert not (tmp_path / "runs/published.toml").exists()


@pytest.mark.parametrize("text", ["[", "published = 3", '[[published]]\npage = "a"'])
def test_a_broken_list_is_named(tmp_path, text):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/published.toml").write_text(text)
    with pytest.raises(GolfError, match=r"published\.toml: not a list"):
        published_list(tmp_path)


def test_the_list_names_only_what_exists_and_everything_committed():
    root = project_root()
    entries = published_list(root)
    folders = [entry.folder(root) for entry in entries]
    pictures = [path for entry in entries for path in entry.pictures(root)]
    assert len(set(folders)) == len(folders)
    assert len(set(pictures)) == len(pictures)
    assert {p.parent for p in (root / "runs/published").glob("*/*/*")} == set(folders)
    assert set((root / "figures").iterdir()) == set(pictures)
    for entry, folder in zip(entries, folders):
        assert sum(p.stat().st_size for p in folder.iterdir()) <= 1_000_000
        if entry.page != "zoo":  # tables of its own
            record = read_record(folder)
            assert (record.notebook, record.key) == (entry.notebook, entry.key)
            assert (record.git["clean"] is not True) == entry.unclean
            assert all(len(getattr(record, kind)) for kind in record.tables)


def test_readme_and_pages_show_listed_figures_only():
    root = project_root()
    listed = {path.name for entry in published_list(root) for path in entry.pictures(root)}
    for page in [root / "README.md", *(root / "nbs").rglob("*.ipynb")]:
        shown = re.findall(r"figures/([\w.-]+\.(?:svg|png))", page.read_text("utf-8"))
        assert set(shown) <= listed, page
        assert not re.search(r'runs/\w+"\)\.glob', page.read_text("utf-8")), page


def test_what_a_cell_finds_wrong_with_a_knob_is_one_line_too(tmp_path):
    run = Run("any.ipynb", {}, root=tmp_path)
    with pytest.raises(GolfError) as caught, run.refusing():
        raise GolfError("change qk_gain=fast: not a number")
    said = caught.value._render_traceback_()
    assert said == ["GolfError: any: change qk_gain=fast: not a number"]


def test_an_arm_that_cannot_read_the_text_is_one_line_before_any_is_scored(tmp_path):
    "The baseline would have been scored for minutes before the mistake in the next arm was told."
    from golf.adapt.ttt import TTT
    from golf.base.small import OneByte, rhyme_tokens
    from golf.lab.arms import run_arms
    from golf.net.model import GPT, GPTConfig
    from golf.net.windows import SlidingWindow
    from golf.predict.stream import Predictor, Stream

    class Never(Predictor):
        vocab_size = 256

        def distribution(self, chunk):
            raise AssertionError("scored")

    shape = dict(vocab_size=256, width=16, layers=1, heads=2, kv_heads=1, mlp_width=16, context=64)
    model = GPT(GPTConfig(**shape, value_layers=(), xsa_layers=(), bigram_rows=0, rope_dims=4))
    stream = Stream(rhyme_tokens(), 32, byte_table=OneByte())
    run = Run("any.ipynb", {}, root=tmp_path)
    learner = TTT(SlidingWindow(model), stream.chunks)
    with pytest.raises(GolfError) as caught:
        run_arms(run, {"none": Never(), "next": learner}, stream)
    [said] = caught.value._render_traceback_()
    assert said.startswith("GolfError: any: arm 'next': chunk_tokens must be at least"), said


@pytest.mark.parametrize("limit", [None, 10**30, 600])
def test_a_budget_whose_limit_is_no_plain_number_is_a_table_all_the_same(limit):
    "Found by hostile records: a column of objects, in which none was compared with a number."
    budget = Budget().record()
    budget["limits"] = budget["limits"] | {"artifact": limit, "training": limit}
    table = budget_table(budget)
    assert list(table.loc[["artifact", "training in all"], "limit"].isna()) == [limit is None] * 2
    assert table.verdict["artifact"] == ("" if limit is None else "within")
