"""What no chapter should teach: kills, several processes, damaged files."""

import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.auditor import lints
from golf.auditor.report import AuditReport, Result
from golf.base.cache import cache_dir
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.count import kernels
from golf.count.ngram import NGram, Uniform
from golf.lab import plots
from golf.mix.gates import Fixed
from golf.mix.mixtures import Mix
from golf.mix.recorded import Pass, record_pass
from golf.predict.compare import arm_key, compare, stale_arms
from golf.predict.dist import Dense
from golf.predict.evaluate import Scores, evaluate
from golf.predict.stream import Predictor, Stream
from golf.predict.yardsticks import scoreboard
from golf.text.corpus import load_corpus

TOKENS = np.random.default_rng(0).integers(0, 40, 1500) % np.random.default_rng(1).integers(
    1, 40, 1500
)
STREAM = Stream(TOKENS, 64)


class Counted(NGram):
    "An n-gram that notes each time it learns."

    def __init__(self, vocab_size, order=2):
        NGram.__init__(self, vocab_size, order)
        self._learnt = 0

    def learn(self, chunk):
        NGram.learn(self, chunk)
        self._learnt += 1


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def stored() -> list[Path]:
    return sorted(cache_dir("arms").iterdir())


SCRIPT = """
import sys, time
import numpy as np
from golf.count.ngram import NGram, Uniform
from golf.predict.compare import compare
from golf.predict.stream import Stream


class Slow(NGram):
    def learn(self, chunk):
        print("learns", chunk.index, flush=True)
        NGram.learn(self, chunk)
        time.sleep(float(sys.argv[1]))

tokens = np.random.default_rng(0).integers(0, 40, 1500)
tokens = tokens % np.random.default_rng(1).integers(1, 40, 1500)
arms = {"uniform": Uniform(40), "slow": Slow(40)}
found = compare(arms, Stream(tokens, 64), baseline="uniform")
print("loss", found["slow"].loss, flush=True)
"""


def script(tmp_path, seconds: float, learn="NGram.learn(self, chunk)") -> subprocess.Popen:
    path = tmp_path / "arms.py"
    path.write_text(SCRIPT.replace("NGram.learn(self, chunk)", learn))
    root = str(Path(kernels.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_share_finished_arms_and_a_kill_leaves_no_other(tmp_path):
    process = script(tmp_path, 0.2)
    for line in process.stdout:
        if line.startswith("learns 3"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    [finished] = stored()
    assert Scores.load(finished).loss == pytest.approx(np.log(40), rel=1e-6)
    again, _ = script(tmp_path, 0).communicate(timeout=100)
    assert again.startswith("learns 0\n") and len(stored()) == 2
    found, _ = script(tmp_path, 0).communicate(timeout=100)
    assert "learns" not in found and found.splitlines()[-1] == again.splitlines()[-1]
    edited, _ = script(tmp_path, 0, "pass").communicate(timeout=100)
    assert "learns 0" in edited and len(stored()) == 3


def test_two_processes_at_once_agree(tmp_path):
    both = [script(tmp_path, 0.01) for _ in range(2)]
    lines = {process.communicate(timeout=100)[0].splitlines()[-1] for process in both}
    assert len(lines) == 1 and len(stored()) == 2


def test_one_new_arm_computes_only_itself():
    arms = {"bigram": Counted(40), "unigram": Counted(40, 1)}
    compare({"bigram": arms["bigram"]}, STREAM, baseline="bigram")
    arms["bigram"]._learnt = 0
    compare(arms, STREAM, baseline="bigram")
    assert (arms["bigram"]._learnt, arms["unigram"]._learnt) == (0, STREAM.chunks)


def scored(name: str = "a") -> bool:
    "Whether an arm of the package's own had to be scored, or was found."
    arm, learnt = NGram(40), []
    learn = arm.learn
    arm.learn = lambda chunk: (learnt.append(chunk.index), learn(chunk))
    compare({name: arm}, STREAM, baseline=name)
    return bool(learnt)


def test_code_on_the_way_of_an_arm_scores_it_again(monkeypatch):
    assert scored() and not scored()
    with monkeypatch.context() as session:  # as `@patch` does in a notebook
        session.setattr(Scores, "median", lambda self: 0.0, raising=False)
        assert scored()
    with monkeypatch.context() as session:  # three imports away
        session.setattr(kernels, "extra", lambda: 0, raising=False)
        assert scored()
    assert not scored()


def test_an_edit_in_lints_or_a_figure_discards_no_hour_of_scoring(monkeypatch):
    assert scored()
    for module in (lints, plots):
        monkeypatch.setattr(module, "extra", lambda: 0, raising=False)
        for name, value in list(vars(module).items()):
            if callable(value) and getattr(value, "__module__", "") == module.__name__:
                monkeypatch.setattr(module, name, lambda: "edited")
    assert not scored()


def test_an_edited_module_of_the_users_counts_once_it_is_loaded_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = """
from golf.count.ngram import NGram

class Mine(NGram):
    learnt = 0
    def learn(self, chunk):
        NGram.learn(self, chunk)
        vars(self)["learnt"] = FACTOR
FACTOR = 1
"""
    file = tmp_path / "users_own.py"
    file.write_text(text)
    users = importlib.import_module("users_own")

    def key():
        return arm_key(users.Mine(40), STREAM)

    first = key()
    file.write_text(text.replace("FACTOR = 1", "FACTOR = 22"))
    os.utime(file, (1, 1))
    assert key() == first  # what runs is what was loaded
    importlib.reload(users)
    assert key() != first
    file.write_text(text + "# a comment, and nothing more\n")
    os.utime(file, (2, 2))
    importlib.reload(users)
    assert key() == first
    sys.modules.pop("users_own")


made_arms = []


def test_other_weights_under_the_same_path_are_scored(tmp_path):
    path = tmp_path / "order.txt"
    made_arms.clear()

    def arm():
        made_arms.append(1)
        return NGram(40, int(path.read_text()))

    path.write_text("2")
    first = compare({"a": arm}, STREAM, baseline="a")["a"].loss
    assert compare({"a": arm}, STREAM, baseline="a")["a"].loss == first and len(made_arms) == 1
    path.write_text("1")
    assert compare({"a": arm}, STREAM, baseline="a")["a"].loss != first
    path.write_text("2")
    assert compare({"a": arm}, STREAM, baseline="a")["a"].loss == first and len(made_arms) == 2


def test_the_user_can_ask_why_an_hour_is_gone(monkeypatch, tmp_path):
    path = tmp_path / "order.txt"
    path.write_text("2")
    compare(
        {"a": Counted(40), "file": lambda: NGram(40, int(path.read_text()))}, STREAM, baseline="a"
    )
    assert stale_arms().empty
    monkeypatch.setattr(kernels, "extra", lambda: 0, raising=False)
    path.write_text("1")
    told = stale_arms().set_index("arm").changed
    assert told["a"] == "golf.count.kernels: extra"
    assert "golf.count.kernels: extra" in told["file"] and "order.txt" in told["file"]


class Slow(Counted):
    "It has a part whose name takes long to find."

    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.part = LongToName()


class LongToName:
    def digestible(self):
        time.sleep(0.2)
        return "long"


def test_an_arm_named_while_another_thread_names_its_own_keeps_its_key():
    arm = Slow(40)
    alone = arm_key(arm, STREAM)
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(arm_key(arm, STREAM))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert keys == [alone, alone]


def test_having_trained_before_changes_no_key():
    "torch wraps the `step` of an optimiser's class when the first one is made."

    class Descent(torch.optim.Optimizer):
        def step(self, closure=None):
            return closure

    before = digest(Descent)
    Descent([torch.nn.Parameter(torch.ones(1))], {})
    assert Descent.step.hooked and digest(Descent) == before


def test_keys_do_not_hang_on_hash_seeds():
    program = (
        "from golf.adapt.ttt import TTT; from golf.mix.mixtures import Mix;"
        "from golf.base.digests import code_key, digest; print(digest(code_key(TTT, Mix)))"
    )
    found = set()
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


DAMAGE = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99]


def flipped(data: bytes, place: int) -> bytes:
    """The same but for one bit."""
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage", DAMAGE + [lambda b: flipped(b, 30), lambda b: flipped(b, len(b) // 2)]
)
def test_a_damaged_cache_entry_is_scored_again(damage):
    first = compare({"a": NGram(40)}, STREAM, baseline="a")["a"]
    [path] = stored()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GolfError, match=path.name):
        Scores.load(path)
    with pytest.warns(UserWarning, match=f"{path.name}.*scored again"):
        second = compare({"a": NGram(40)}, STREAM, baseline="a")["a"]
    assert second.nll.tolist() == first.nll.tolist() == Scores.load(path).nll.tolist()


def same(a, b) -> bool:
    """Whether two objects of arrays and plain values agree."""
    return digest(vars(a)) == digest(vars(b))


def kept(kind):
    """Something of the kind that lies in the cache."""
    if kind is AuditReport:
        return AuditReport("a", {"name": "brief"}, 0, [Result("a1", "future", "PASS", 1e-9, 1e-5)])
    mixed = Mix([NGram(40), Uniform(40)], Fixed((0.5, 0.5)), names=("counts", "flat"))
    return evaluate(mixed, STREAM) if kind is Scores else record_pass(mixed, STREAM).record


@pytest.mark.parametrize("kind", [Scores, Pass, AuditReport])
def test_no_flipped_bit_in_a_kept_file_stops_anybody_or_changes_a_number(kind, tmp_path):
    whole = kept(kind)
    path = whole.save(tmp_path / "kept.npz")
    data, refused = path.read_bytes(), 0
    headers = [i for i, b in enumerate(data) if data[i : i + 2] == b"PK"]  # all of zip's own fields
    places = {i + j for i in headers for j in range(60) if i + j < len(data)}
    for place in sorted(places | set(range(0, len(data), 7 if kind is AuditReport else 97))):
        path.write_bytes(flipped(data, place))
        try:
            assert same(kind.load(path), whole)
        except GolfError as error:
            assert "kept.npz" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 40


class Without(Predictor):
    """Every id is equally likely but for one, which is impossible."""

    def __init__(self, vocab_size, id):
        self.vocab_size, self.id = vocab_size, id

    def distribution(self, chunk):
        logits = torch.zeros(len(chunk), self.vocab_size)
        logits[:, self.id] = -torch.inf
        return Dense(logits)


def test_one_infinite_arm_does_not_hide_the_comparison_and_is_kept():
    arms = {"uniform": Uniform(40), "counts": NGram(40), "without 3": Without(40, 3)}
    for _ in range(2):  # scored, then from the cache
        found = compare(arms, STREAM, baseline="uniform")
        table, at = found.table(), np.flatnonzero(TOKENS[1:] == 3)
        row = table.loc["without 3"]
        assert row.loss == row.difference == np.inf and row[["low", "high"]].isna().all()
        assert row.infinite == f"{len(at)} of 1,499 tokens, first at position {at[0]}"
        others = compare({n: arms[n] for n in ("uniform", "counts")}, STREAM, baseline="uniform")
        assert table.drop(index="without 3").drop(columns="infinite").equals(others.table())
        assert "nan" not in repr(found).lower() and "inf" in repr(found)
        with pytest.raises(GolfError, match="'without 3' is infinite.*first at position"):
            found.interval("without 3")
    assert len(stored()) == 3


def test_two_infinite_arms_have_no_difference_and_the_table_says_so():
    arms = {"a": Without(40, 3), "b": Without(40, 5), "uniform": Uniform(40)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(arms, STREAM, baseline="a", cache=False)
        table = found.table()
    assert "no difference, as the baseline's is infinite, too" in table.infinite["b"]
    assert np.isnan(table.difference["b"]) and table.difference["uniform"] == -np.inf
    assert "nan" not in repr(found).lower() and "nan" not in found._repr_html_().lower()


def test_a_note_of_an_origin_that_is_damaged_stops_nothing():
    compare({"a": NGram(40)}, STREAM, baseline="a")
    [note] = cache_dir("origins").iterdir()
    data = note.read_bytes()
    for bad in (
        b"[]",
        b"{}",
        b'{"files": 3}',
        b"\xff",
        *(flipped(data, i) for i in range(0, 900, 7)),
    ):
        note.write_bytes(bad)
        stale_arms()
        compare({"a": NGram(40)}, STREAM, baseline="a")


def test_a_state_travels_to_another_predictor_through_bytes():
    whole, half, chunks = evaluate(NGram(40), STREAM).nll, NGram(40), list(STREAM)
    for chunk in chunks[:9]:
        half.predict(chunk)
        half.observe(chunk)
    other = NGram(40)
    other.load(pickle.loads(pickle.dumps(half.state())))
    for chunk in chunks[9:]:
        nll = -other.predict(chunk).log_prob(chunk.targets).float()
        other.observe(chunk)
        assert nll.tolist() == whole[chunk.start : chunk.stop].tolist()


def test_compare_restores_states_even_when_an_arm_fails():
    class Fails(Counted):
        def learn(self, chunk):
            Counted.learn(self, chunk)
            if chunk.index == 5:
                raise KeyboardInterrupt

    arm = Fails(40)
    with pytest.raises(KeyboardInterrupt):
        compare({"a": NGram(40), "b": arm}, STREAM, baseline="a")
    assert arm.position == 0 and arm._tables.learnt == 0 and len(stored()) == 1


def test_arms_that_share_a_model_do_not_touch_each_other():
    weight = torch.zeros(40)

    class Shared(Predictor):
        vocab_size = 40

        def __init__(self, rate):
            self.rate = rate

        def distribution(self, chunk):
            return Dense(weight.expand(len(chunk), -1).clone())

        def learn(self, chunk):
            weight.add_(self.rate * chunk.targets.bincount(minlength=40))

        def get_state(self):
            return {"weight": weight}

        def set_state(self, state):
            weight.copy_(state["weight"])

    arms = {"still": Shared(0.0), "made": lambda: Shared(0.01), "moving": Shared(0.01)}
    found = compare(arms, STREAM, baseline="still")
    assert found["still"].loss == pytest.approx(np.log(40), rel=1e-6)
    assert found["made"].nll.tolist() == found["moving"].nll.tolist()
    assert found["moving"].loss < found["still"].loss and weight.abs().sum() == 0


def test_names_of_arms_follow_what_decides_the_scores():
    table = torch.arange(3)
    base = arm_key(NGram(40), STREAM)
    names = {
        base,
        arm_key(NGram(40, 1), STREAM),
        arm_key(NGram(40, semantics="chunk"), STREAM),
        arm_key(NGram(40), Stream(TOKENS, 65)),
        arm_key(NGram(40), Stream(TOKENS, 64, limit=1000)),
        arm_key(NGram(40), STREAM, table),
        arm_key(lambda: NGram(40), STREAM),
        arm_key(lambda: NGram(40, 1), STREAM),
    }
    assert len(names) == 8
    assert arm_key(NGram(40), Stream(TOKENS, 64, name="other name")) == base


def test_what_cannot_be_named_is_scored_each_time_and_said_once():
    handle = object()
    arms = {"a": lambda: handle and Uniform(40), "b": lambda: handle and Uniform(40)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(arms, STREAM, baseline="a")
    assert len(caught) == 1 and "'a'" in str(caught[0].message) and not stored()


def test_a_long_stream_keeps_memory_and_time_bounded():
    tokens = np.random.default_rng(0).integers(0, 1024, 400_001)
    begin = time.perf_counter()
    found = evaluate(NGram(1024), Stream(tokens, 4096))
    assert time.perf_counter() - begin < 30 and len(found.nll) == 400_000


# What a user would have suffered: an old score for another question


class Reads(Uniform):
    "Learns by reading a file, or a variable of the environment."

    def __init__(self, vocab_size, path, name=""):
        Uniform.__init__(self, vocab_size)
        self.path, self.name = str(path), name

    def learn(self, chunk):
        self.__class__.learnt += 1
        Path(self.path).read_text()
        os.environ.get(self.name or "HOME")


def read_again(arm) -> bool:
    "Whether an arm had to be scored, or was found."
    Reads.learnt = 0
    compare({"a": arm}, STREAM, baseline="a")
    return Reads.learnt > 0


def test_a_file_that_is_read_while_learning_and_has_changed_gives_no_old_score(tmp_path):
    path = tmp_path / "hints.txt"
    path.write_text("1")
    assert read_again(Reads(40, path)) and not read_again(Reads(40, path))
    path.write_text("2")
    assert read_again(Reads(40, path)) and not read_again(Reads(40, path))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_again(Reads(40, path))


def test_a_variable_that_the_arm_asks_for_and_has_changed_gives_no_old_score(tmp_path, monkeypatch):
    path = tmp_path / "hints.txt"
    path.write_text("1")
    arm = Reads(40, path, "RATE")
    monkeypatch.setenv("RATE", "0.1")
    assert read_again(arm) and not read_again(arm)
    monkeypatch.setenv("RATE", "0.2")
    assert read_again(arm) and not read_again(arm)
    monkeypatch.delenv("RATE")
    assert read_again(arm) and not read_again(arm)
    monkeypatch.setenv("UNASKED", "1")
    assert not read_again(arm)
    monkeypatch.setenv("RATE", "0.3")
    assert set(stale_arms().changed) == {"$RATE"}
    assert type(os.environ).__getitem__.__name__ == "__getitem__"  # nobody is listened to now


class Notes(Uniform):
    "Reads a file that somebody else writes meanwhile."

    def __init__(self, vocab_size, path):
        Uniform.__init__(self, vocab_size)
        self.path = str(path)

    def learn(self, chunk):
        Notes.learnt += 1
        before = Path(self.path).read_text()
        Path(self.path).write_text(f"{before}{chunk.index}")


def test_a_file_that_changes_while_it_is_read_is_never_taken_for_what_it_was(tmp_path):
    path = tmp_path / "notes.txt"
    for _ in range(2):
        path.write_text("0")
        Notes.learnt = 0
        compare({"a": Notes(40, path)}, STREAM, baseline="a")
        assert Notes.learnt == STREAM.chunks


class Even(Uniform):
    "A predictor of the user's, who edits it."

    def distribution(self, chunk):
        return Dense(torch.zeros(len(chunk), self.vocab_size))


def test_a_predictor_whose_code_was_edited_is_recorded_again(monkeypatch):
    from golf.lab.arms import recorded

    first = recorded(Even(40), STREAM).record.log_prob
    edited = lambda self, chunk: Dense(torch.eye(40)[0].expand(len(chunk), -1))
    monkeypatch.setattr(Even, "distribution", edited)
    assert (recorded(Even(40), STREAM).record.log_prob != first).any()


# One clear line


class Wrong(Uniform):
    "Sure of what does not come."

    def distribution(self, chunk):
        logits = torch.zeros(len(chunk), self.vocab_size)
        logits[torch.arange(len(chunk)), (chunk.inputs + 20) % self.vocab_size] = 30.0
        return Dense(logits)


def test_a_baseline_worse_than_guessing_evenly_is_told_in_one_line():
    with pytest.warns(UserWarning, match="'wrong' is worse than guessing evenly") as told:
        found = compare({"wrong": Wrong(40), "even": Uniform(40)}, STREAM, baseline="wrong")
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert "belong together?" in str(told[0].message)
    assert "worse than guessing evenly" in repr(found["wrong"])
    assert "worse" not in repr(found["even"])
    with warnings.catch_warnings():  # neither an arm that is, nor a baseline that just guesses
        warnings.simplefilter("error")
        compare({"even": Uniform(40), "wrong": Wrong(40)}, STREAM, baseline="even")
    with pytest.warns(UserWarning, match="worse than guessing evenly"):  # from the cache, too
        compare({"wrong": Wrong(40)}, STREAM, baseline="wrong")


class Held:
    "What a corpus has."

    val, byte_table = TOKENS, None


class Needs(Uniform):
    def __init__(self, vocab_size):
        Uniform.__init__(self, vocab_size)


CASES = [
    (lambda: evaluate(Uniform, STREAM), "not the class Uniform: call it, as Uniform()"),
    (lambda: evaluate(torch.nn.Linear(2, 2), STREAM), "golf.SlidingWindow(model) makes one"),
    (lambda: evaluate(Held(), STREAM), "expected a golf.Predictor, not a Held"),
    (lambda: evaluate("arm.py:arm", STREAM), "expected a golf.Predictor, not a str"),
    (lambda: evaluate(Predictor(), STREAM), "Predictor has no vocab_size"),
    (lambda: evaluate(Uniform(40), Held()), "golf.Stream(corpus.val, 512, byte_table="),
    (lambda: evaluate(Uniform(40), TOKENS), "golf.Stream(tokens, 512) makes one"),
    (lambda: evaluate(Uniform(40), STREAM, Held()), "a byte table was expected"),
    (lambda: compare({"a": Needs}, STREAM, baseline="a"), "'a': it is called without arguments"),
    (lambda: compare({"a": Held}, STREAM, baseline="a"), "not the class Held"),
    (lambda: compare({"a": Held()}, STREAM, baseline="a"), "expected a golf.Predictor, not a Held"),
    (
        lambda: compare({"a": lambda: 3}, STREAM, baseline="a"),
        "expected a golf.Predictor, not an int",
    ),
    (
        lambda: compare({"a": Uniform(40)}, Held(), baseline="a"),
        "expected a golf.Stream, not a Held",
    ),
    (lambda: compare([Uniform(40)], STREAM, baseline="a"), "must be a dictionary"),
    (lambda: Stream(Held(), 64), "corpus.val holds them"),
    (lambda: Stream("tokens.bin", 64), "tokens must be whole numbers, not str"),
    (lambda: Stream((i for i in range(9)), 64), "tokens must be whole numbers, not generator"),
    (lambda: Stream(torch.zeros(9, dtype=torch.long, device="meta"), 64), "on meta"),
    (lambda: Stream(torch.full((9,), 1.5), 64), "tokens must be whole numbers, not float32"),
    (lambda: Stream([[1], [2, 3]], 64), "tokens must be whole numbers, not list"),
    (lambda: scoreboard(Held()), "must be scores or bits per byte by name, not a Held"),
    (lambda: scoreboard({"a": "x"}), "'a': expected its scores or bits per byte, not a str"),
    (lambda: load_corpus(""), "the path of your text, not an empty text"),
]


@pytest.mark.parametrize("wrong, complaint", CASES, ids=[line for _, line in CASES])
def test_what_is_handed_over_instead_is_told_in_one_line(wrong, complaint):
    with pytest.raises(GolfError) as caught:
        wrong()
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_class_that_needs_no_arguments_is_an_arm():
    class Forty(Uniform):
        def __init__(self, vocab_size=40):
            Uniform.__init__(self, vocab_size)

    found = compare({"a": Forty, "b": Uniform(40)}, STREAM, baseline="a")
    assert found["a"].nll.tolist() == found["b"].nll.tolist() and found["a"].vocab_size == 40


def test_who_scores_without_learning_does_not_wait_for_a_compiler():
    "Every process that only reads would begin two seconds later."
    code = """
import sys
import numpy as np
import golf

model = golf.load_model(golf.load_artifact(golf.model_path("tiny")))
stream = golf.Stream(np.arange(513) % 1000, 256)
golf.evaluate(golf.SlidingWindow(model), stream), golf.Run, golf.run_arms
print([m for m in ("torch._dynamo", "scipy.stats", "seaborn", "papermill") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
