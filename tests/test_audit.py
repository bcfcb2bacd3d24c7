"""Every predictor of this project before the auditor, and the auditor before predictors that cheat."""

import importlib
import json
import math
import pkgutil

import numpy as np
import pandas as pd
import pytest
import torch

import golf
from golf.adapt.gradients import EmpiricalBayes, james_stein
from golf.adapt.ttt import TTT
from golf.auditor.audit import audit, audit_arms, with_audits
from golf.auditor.material import sliding
from golf.auditor.report import FAIL, LEVELS, NOT_RUN, PASS, UNSURE, AuditReport, Level, Result
from golf.auditor.subjects import Loop, Losses, Scored, Session, Steps, Subject, Total
from golf.auditor.watch import TESTS
from golf.base.files import GolfError
from golf.count.ngram import SMOOTHINGS, NGram, Uniform
from golf.count.packets import Packets, distil
from golf.mix.gates import Entropy, Fixed, Selective, Support
from golf.mix.mixtures import Ensemble, Mix
from golf.mix.products import Hinted, Product
from golf.mix.rules import EM, Gradient, GridBayes, Hedge, Logistic, online
from golf.net.model import GPT, preset
from golf.net.windows import Banded, SlidingWindow
from golf.predict.dist import Dense, Unnormalised
from golf.predict.stream import Predictor

V, CHUNK = 64, 64
SMALL = Level("small", tokens=288, chunks=4, positions=6, futures=2, streams=3, rows=288,
              substitutions=2, ids=4, draws=32, runs=256)  # fmt: skip
RNG = np.random.default_rng(0)
LAW = RNG.dirichlet(np.full(V, 0.1), V)
LONG = [1]
for _ in range(5000):
    LONG.append(int(RNG.choice(V, p=LAW[LONG[-1]])))
LONG = np.array(LONG)
LONG[100::301] = 1
TOKENS = LONG[:701]
LOGITS = torch.tensor(np.log(LAW + 1e-6)).float()

TO_BE_CAUGHT = {f"golf.auditor.{room}" for room in ("toys", "specimens", "outside")}


def window() -> SlidingWindow:
    "A model of two layers over 64 ids, untrained, with short windows."
    torch.manual_seed(0)
    shape = preset("tiny", vocab_size=V, layers=2, width=32, heads=2, kv_heads=1, mlp_width=48,
                   context=32, bigram_rows=64, value_layers=(1,), xsa_layers=(1,), rope_dims=8)  # fmt: skip
    model = GPT(shape)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return SlidingWindow(model.eval())


def adapted(**changes) -> TTT:
    "Test-time training of it, as quick as it gets."
    return TTT(window(), 40, **{"epochs": 1, "lr": 0.01, "batch": 2} | changes)


def windows():
    from golf.auditor.adapters import Windows

    return Windows(window().model, 32, 16)


def packets(**changes) -> Packets:
    return Packets(distil(TOKENS[::-1].copy(), V, order=2, top=8), **changes)


def mixes() -> dict:
    "Every gate and rule."
    gates = {
        "Fixed": Fixed((0.7, 0.3)), "Entropy": Entropy(), "Selective": Selective(),
        "Support": Support(),
    } | {r.__name__: online(r()) for r in (EM, Gradient, GridBayes, Hedge, Logistic)}  # fmt: skip
    return {f"Mix {n}": lambda g=g: Mix([NGram(V, 2), NGram(V, 3)], g) for n, g in gates.items()}


def published() -> dict:
    "What other people's scripts did, as far as it is legal."
    from golf.published import pr953_adapt, pr953_mixer, pr953_repaired, pr1043, pr1185

    prior = distil(TOKENS[::-1].copy(), V, order=2, top=8)
    return {
        "pr1043.Pairs": lambda: pr1043.Pairs(prior),
        "pr1043.PacketPower": lambda: pr1043.PacketPower(NGram(V, 2), pr1043.Pairs(prior)),
        "pr1185.Backoff": lambda: pr1185.Backoff(V, 4),
        "pr953_mixer.Grams": lambda: pr953_mixer.Grams(V, 2),
        "pr953_adapt.Calibrated": lambda: pr953_adapt.Calibrated(adapted()),
        "pr953_mixer.Honest": lambda: pr953_mixer.Honest(five()),
        "pr953_repaired.TemperatureBayes": lambda: pr953_repaired.TemperatureBayes(NGram(V, 2)),
    }


def five():
    from golf.published.pr953_mixer import FiveExperts

    return FiveExperts(NGram(V, 2), warm_up=0)


def kept():
    from golf.lab.arms import Kept

    return Kept(window(), {})


def placebo():
    from golf.adapt.placebo import Placebo

    return Placebo(NGram(V, 3), np.roll(LONG, 500))


def lora():
    from golf.adapt.lora import LoRA

    return LoRA(window(), rank=2)


def temperatures():
    from golf.mix.products import Temperatures

    return Temperatures(NGram(V, 2))


MAKE = {
    "Uniform": lambda: Uniform(V),
    "SlidingWindow": window,
    "Banded": lambda: Banded(window().model),
    "Windows": windows,
    "Kept": kept,
    "TTT": adapted,
    "TTT reset": lambda: adapted(reset_every=2),
    "TTT reset on BOS": lambda: adapted(reset_on=1),
    "TTT adamw": lambda: adapted(optimiser="adamw", lr=0.001),
    "TTT muon": lambda: adapted(optimiser="muon"),
    "TTT polyak, anchor": lambda: adapted(polyak=0.9, anchor=0.1),
    "TTT James-Stein": lambda: adapted(batch=4, gradients=EmpiricalBayes(james_stein)),
    "LoRA": lora,
    "Placebo": placebo,
    "NGram chunk": lambda: NGram(V, 3, semantics="chunk"),
    "NGram split": lambda: NGram(V, 3, documents="split"),
    "Packets": packets,
    "Packets offline": lambda: packets(online=False),
    "Packets lending": lambda: packets(smoothing="kneser_ney"),
    "Product": lambda: Product([NGram(V, 2), NGram(V, 3)], rate=0.1),
    "Hinted": lambda: Hinted(NGram(V, 2), NGram(V, 3)),
    "Temperatures": temperatures,
    "TTT + NGram": lambda: Mix([adapted(), NGram(V, 2)], online(EM())),
    **{f"NGram {s}": lambda s=s: NGram(V, 3, smoothing=s) for s in SMOOTHINGS},
    **mixes(),
    **published(),
}
FIXED = {"Uniform", "SlidingWindow", "Windows"}  # learn nothing and claim nothing


IDLE = {"Packets offline"}  # could learn and does not
STORES = {"Kept"}  # keeps what it worked out, and says nothing else for it


def found(report: AuditReport) -> dict:
    "What a failing assertion should show."
    return {r.test: (r.verdict, r.worst, r.note) for r in report.results if r.verdict == "FAIL"}


@pytest.mark.parametrize("name", MAKE)
def test_every_predictor_is_audited(name, request):
    "With `--flags slow` at level quick, a hundred seconds more."
    slow = "slow" in request.config.getoption("--flags").split()
    level, size = ("quick", 2 * CHUNK) if slow else ("brief", CHUNK)
    report = audit(MAKE[name](), LONG, level, chunk_tokens=size)
    assert report.error is None and not report.failed, found(report)
    unsure = {t for t, v in report.verdicts.items() if v == UNSURE}
    assert unsure == ({"c1", "c2", "c3", "c4"} if name in IDLE else set()), found(report)
    assert report.facts["state changed"] == (name not in FIXED)
    assert report.facts["learning shows"] == (name not in FIXED | IDLE | STORES)


def test_no_predictor_of_the_package_is_left_out():
    def below(kind):
        for sub in kind.__subclasses__():
            yield from (sub, *below(sub))

    for module in pkgutil.walk_packages(golf.__path__, "golf."):
        importlib.import_module(module.name)
    public = {
        kind.__name__
        for kind in below(Predictor)
        if kind.__module__.startswith("golf.") and kind.__name__[0] != "_"
        if kind.__module__ not in TO_BE_CAUGHT
        if kind is not Ensemble  # what the others have in common
    }
    audited = {type(make()).__name__ for make in MAKE.values()}
    assert public - audited == {"Recorded", "FiveExperts"}  # by its losses; and to its shame: below


def test_a_recorded_pass_is_audited_by_its_losses():
    from golf.mix.recorded import record_pass
    from golf.predict.evaluate import evaluate
    from golf.predict.stream import Stream

    def replayed(tokens):
        stream = Stream(tokens, CHUNK)
        return torch.as_tensor(evaluate(record_pass(NGram(V, 3), stream), stream).nll)

    report = audit(Losses(replayed, V), TOKENS, SMALL, chunk_tokens=CHUNK)
    assert not report.failed and report["a1"].verdict == report["e2"].verdict == PASS


def test_an_arm_has_a_report_and_a_level(monkeypatch, tmp_path):
    from golf.predict.stream import Stream

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stream, early = Stream(TOKENS, CHUNK), says(lambda c: Dense(LOGITS.log_softmax(1)[c.targets]))
    arms = {"counts": lambda: NGram(V, 2), "window": window(), "the targets": early}
    first = audit_arms(arms, stream, SMALL, chunk_tokens=CHUNK)
    assert [r.name for r in first.values()] == [*arms]
    assert not first["counts"].failed and not first["window"].failed
    assert {"a2", "b3"} <= set(first["the targets"].failed)
    assert "none found by" in first["counts"].short() and "a2" in first["the targets"].short()
    again = audit_arms(arms, stream, SMALL, chunk_tokens=CHUNK)  # from the cache
    assert {n: r.verdicts for n, r in again.items()} == {n: r.verdicts for n, r in first.items()}
    other = audit_arms(
        arms, stream, Level("other", tokens=200, chunks=3), chunk_tokens=CHUNK, seed=1
    )
    assert other["counts"].level["tokens"] == 200 and other["counts"].seed == 1
    brief = audit_arms({"counts": lambda: NGram(V, 2)}, stream, "brief")["counts"]
    assert brief.level["name"] == "brief" and brief.facts["chunk_tokens"] != CHUNK
    table = pd.DataFrame({"arm": ["counts", "the targets", "another"], "bpb": 1.0}).set_index("arm")
    for audits in (first, {arm: report.short() for arm, report in first.items()}):
        said = with_audits(table, audits).violations.tolist()
        assert said == [first["counts"].short(), first["the targets"].short(), ""]
    with pytest.raises(GolfError, match="brief"):
        audit_arms(arms, stream, "breif")


def test_no_verdict_stands_beside_what_was_not_audited():
    report = AuditReport("a", {"name": "brief"}, 0, [Result("a1", "future", PASS)])
    report.facts = {"positions": 1024, "chunk_tokens": 256}
    where = "none found by 1 tests, on 1,024 tokens in chunks of 256"
    assert report.short() == where
    told = report.short("reset every 2 chunks")
    assert told == f"{where}; but reset every 2 chunks"
    rows = [
        (text, arm) for text in ("original", "shuffled", "full") for arm in ("none", "reset 50")
    ]
    index = pd.MultiIndex.from_tuples(rows, names=["stream", "arm"])
    table = pd.DataFrame({"bpb": 1.0}, index=index)
    found = with_audits(table, {"none": report, "reset 50": told}, stream="original").violations
    assert found.tolist() == [where, told, "", "", "", ""]


def test_every_level_is_harder_than_the_one_before():
    sizes = [
        (x.tokens, x.positions, x.rows, x.draws)
        for x in map(LEVELS.get, ("brief", "quick", "full"))
    ]
    assert all(a < b for one, two in zip(sizes, sizes[1:]) for a, b in zip(one, two))


def test_one_array_for_all_answers_hides_nothing():
    array = np.zeros(5000)

    def ahead(tokens):
        "Half of its weight on the token after next, in the place where the last answer was."
        law = 0.5 * LAW + 0.5 / V
        tokens = np.asarray(tokens)
        array[: len(tokens) - 1] = -np.log(law[tokens[:-1], tokens[1:]])
        array[: len(tokens) - 2] *= 1 - 0.1 * (tokens[2:] % 2)
        return array[: len(tokens) - 1]

    assert {"a1", "a2"} <= set(small(Losses(ahead, V, slow=False)).failed)


def test_cheats_at_few_tokens_are_found_without_rows():
    def free(tokens):
        losses = bigram_losses(tokens).clone()
        losses[::64] = 0
        return losses

    report = audit(Losses(free, V, slow=True), LONG, "quick", chunk_tokens=CHUNK)
    assert report.failed == ["R"] and report["b3"].verdict == NOT_RUN
    report = audit(Losses(bigram_losses, V, slow=True), LONG, "quick", chunk_tokens=CHUNK)
    assert not report.failed and report["R"].worst < 7


class Counts(Predictor):
    "Pairs, learnt when `when(position)` says so, used from `begin` on."

    vocab_size = V

    def __init__(self, when=lambda stop: True, begin=0):
        self.when, self.begin, self.counts, self.kept = when, begin, torch.full((V, V), 0.5), []

    def distribution(self, chunk):
        counts = self.counts if chunk.start >= self.begin else torch.ones(V, V)
        return Dense((counts / counts.sum(1, keepdim=True)).log()[chunk.inputs])

    def learn(self, chunk):
        self.kept.append((chunk.inputs, chunk.targets))
        if self.when(chunk.stop):
            for a, b in self.kept:
                self.counts = self.counts.index_put((a, b), torch.ones(len(a)), accumulate=True)
            self.kept = []

    def get_state(self):
        return {"counts": self.counts, "kept": list(self.kept)}

    def set_state(self, state):
        self.counts, self.kept = state["counts"], list(state["kept"])


def test_learning_that_no_score_shows_is_never_a_pass():
    late = small(Counts(begin=10_000))
    rare = small(Counts(when=lambda stop: stop % 10_000 == 0))
    for report in (late, rare):
        assert report.facts["state changed"] and not report.facts["learning shows"]
        assert {report.verdicts[f"c{i}"] for i in (1, 2, 3, 4)} == {UNSURE}
    assert small(Counts()).verdicts["c1"] == PASS


TABLE = torch.zeros(V, V)


class Global(Counts):
    "The same with its counts in a table of the module, emptied when a scorer is made."

    def __init__(self):
        Counts.__init__(self)
        TABLE.fill_(0.5)

    def distribution(self, chunk):
        return Dense((TABLE / TABLE.sum(1, keepdim=True)).log()[chunk.inputs])

    def learn(self, chunk):
        TABLE.index_put_((chunk.inputs, chunk.targets), torch.ones(len(chunk)), accumulate=True)

    def get_state(self):
        return {"counts": TABLE.clone()}

    def set_state(self, state):
        TABLE.copy_(state["counts"])


@pytest.mark.parametrize("seed", range(4))
def test_copies_that_do_not_repeat_are_not_trusted(seed):
    report = audit(lambda tokens: Global(), TOKENS, SMALL, seed=seed, chunk_tokens=CHUNK)
    assert not report.failed and "replays" in report.facts["copies"]


def test_whole_sequences_are_no_violation_and_a_part_is_one():
    def whole(tokens):
        return bigram_losses(tokens)[: (len(tokens) - 1) // 100 * 100]

    for n in (601, 651):
        report = audit(Losses(whole, V), TOKENS[:n], SMALL, chunk_tokens=CHUNK)
        assert (
            not {"d", "e2"} & set(report.failed)
            and "e2" not in report.short().split("undecided")[0]
        )
    report = small(Losses(lambda tokens: bigram_losses(tokens)[:100], V))
    assert "d" in report.failed


def test_what_no_loss_can_be():
    assert "d" in small(Losses(lambda t: bigram_losses(t) - 0.5, V, slow=True)).failed
    report = small(Total(lambda t: math.nan, V))
    assert report.verdicts["R"] == UNSURE
    halved = Total(lambda t: float(bigram_losses(t).sum()) / 2, V)
    exact = says(lambda c: Dense(LOGITS.log_softmax(1)[c.inputs]))
    assert audit(halved, LONG, "quick", reference=exact, chunk_tokens=CHUNK).failed == ["R"]


@pytest.mark.parametrize("n", [CHUNK + 6, CHUNK + 30, 2 * CHUNK - 1, 2 * CHUNK + 1])
def test_short_streams(n):
    report = audit(Steps(lambda tokens: NGram(V, 2)), TOKENS[: n + 1], SMALL, chunk_tokens=CHUNK)
    assert not report.failed
    assert not [r.note for r in report.results if "could not end" in r.note]


def test_an_object_that_shares_with_its_copies_is_refused():
    counts = torch.full((V, V), 0.5)

    def learn(chunk):
        counts[chunk.inputs, chunk.targets] += 1

    shared = says(lambda c: Dense((counts / counts.sum(1, keepdim=True)).log()[c.inputs]))
    shared.learn = learn
    report = small(shared)
    assert report.error is None or "function" in report.error


def test_a_ready_object_is_said_to_be_copied():
    assert "copied" in small(NGram(V, 2))["a3"].note
    assert not small(Steps(lambda tokens: NGram(V, 2)))["a3"].note


def test_wrong_tests_and_subjects_are_named():
    assert set(small(NGram(V, 2), "b").verdicts) == {"noise", "b1", "b2", "b3"}
    report = audit(NGram(V, 2), TOKENS, SMALL, only="b1", chunk_tokens=CHUNK)
    assert set(report.verdicts) == {"noise", "b1"}
    with pytest.raises(GolfError, match="no test 'f1'"):
        small(NGram(V, 2), "f1")
    with pytest.raises(GolfError, match="golf.auditor.adapters"):
        small(torch.nn.Linear(2, 2))
    assert "golf.auditor.adapters" in small(bigram_losses).error


def says(function, ids=V) -> Predictor:
    "A predictor that learns nothing, from a function of the chunk."
    made = Predictor()
    made.vocab_size, made.distribution = ids, function
    return made


def bigram_losses(tokens):
    return -LOGITS.log_softmax(1)[tokens[:-1], tokens[1:]].double()


def flattered(tokens):
    return bigram_losses(tokens).clamp_max(3.0)


def small(subject, *only, **material) -> AuditReport:
    return audit(subject, TOKENS, SMALL, only=only or None, chunk_tokens=CHUNK, **material)


def test_the_published_five_expert_mixer_fails_by_its_sum():
    report = small(five())
    assert "b1" in report.failed
    assert float(report["b1"].note.split()[-1]) > 1.01, report["b1"].note
    assert not small(
        __import__("golf.published.pr953_mixer", fromlist=["Honest"]).Honest(five())
    ).failed


def test_a_cache_with_the_target_in_its_key_fails_and_one_without_passes():
    base = LOGITS.log_softmax(1)

    def rows(chunk, at, a, context_only):
        key = chunk.inputs[at] * 31 if context_only else chunk.inputs[at] * 31 ^ a * 17
        hit = (key % 8 == 0).double()
        value = 0.5 * hit + (1 - 0.5 * hit) * base[chunk.inputs[at], a].exp()
        return (base[chunk.inputs[at], a].exp() if context_only else value).log()

    def cache(context_only):
        return says(lambda chunk: Unnormalised(
            lambda at, a: rows(chunk, at, a, context_only), n=len(chunk), vocab_size=V))  # fmt: skip

    found = small(cache(False))
    assert {"b1", "R"} <= set(found.failed) and not small(cache(True)).failed
    assert float(found["b1"].note.split()[-1]) > 2

    def keyed(tokens):  # only losses are seen: every id is tried
        hit = ((tokens[:-1] * 31 ^ tokens[1:] * 17) % 8 == 0).double()
        return -(0.5 * hit + (1 - 0.5 * hit) * (-bigram_losses(tokens)).exp()).log()

    assert "b3" in small(Losses(keyed, V)).failed
    assert not small(Losses(bigram_losses, V)).failed


def test_only_a_total():
    assert small(Total(lambda t: float(bigram_losses(t).sum()), V)).verdicts["R"] == PASS
    report = small(Total(lambda t: float(bigram_losses(t).sum()) * 0.3, V))
    assert report.failed == ["R"] and report["b3"].verdict == NOT_RUN


def test_a_loop_is_watched():
    def honest(stream, ledger):
        for chunk in stream:
            ledger.commit(bigram_losses(chunk.tokens)[-len(chunk) :])

    def twice(stream, ledger):
        try:
            list(stream)
            list(stream)
        except GolfError:
            pass

    def early(stream, ledger):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimiser = torch.optim.SGD([weight], lr=0.1)
        for chunk in stream:
            optimiser.step()
            ledger.commit(bigram_losses(chunk.tokens)[-len(chunk) :])

    assert not small(Loop(honest, V, CHUNK)).failed
    assert small(Loop(early, V, CHUNK), "d").verdicts["d"] == UNSURE
    report = small(Loop(twice, V, CHUNK), "d")
    assert report.error or "d" in report.failed


def test_a_session_of_ones_own_without_rows():
    class Mine(Session):
        factor = 1.0

        def score(self, chunk):
            return Scored(self.factor * bigram_losses(chunk.tokens)[-len(chunk) :])

    class Made(Subject):
        vocab_size = V

        def __init__(self, session):
            self.session = session

        def start(self, tokens):
            return self.session()

    report = small(Made(Mine))
    assert not report.failed and report["b1"].verdict == NOT_RUN and report["b3"].verdict == PASS
    cheap = type("Cheap", (Mine,), {"factor": 0.5})
    assert {"b3", "R"} <= set(small(Made(cheap)).failed)


def test_copies_that_share_state_are_found_and_replaced_by_replay():
    shared = {}

    def make(tokens):
        shared.clear()
        shared["counts"] = torch.ones(V, V)

        class Global(Predictor):
            vocab_size = V

            def __init__(self):
                self.look = lambda: shared

            def distribution(self, chunk):
                return Dense(shared["counts"].log()[chunk.inputs])

            def learn(self, chunk):
                one = torch.ones(len(chunk))
                pairs = chunk.inputs, chunk.targets
                shared["counts"] = shared["counts"].index_put(pairs, one, accumulate=True)

        return Global()

    report = small(make)
    assert "share" in report.facts["copies"] and not report.failed, found(report)


def test_what_cannot_start_or_end_is_said_so():
    def broken(tokens):
        raise ImportError("flash_attn_interface")

    report = small(broken)
    assert "flash_attn_interface" in report.error and set(report.verdicts.values()) == {NOT_RUN}
    assert "could not start" in report.headline() and "flash_attn" in report.markdown()
    assert small(lambda tokens: 3).error
    started = NGram(V, 2)
    started.position = 5
    with pytest.raises(GolfError, match="at its start"):
        small(started)


@pytest.mark.parametrize("tokens", [np.array([1]), np.full(300, V), np.full(40, 2)])
def test_tokens_that_cannot_be(tokens):
    with pytest.raises(GolfError):
        audit(NGram(V, 2), tokens, SMALL, chunk_tokens=CHUNK)


def test_seed_only_and_level_change_what_is_done():
    late = says(lambda c: Dense(LOGITS[c.inputs] + 0.1 * (c.start + torch.arange(len(c)) > 250)[:, None]
                                * torch.nn.functional.one_hot(c.targets, V)))  # fmt: skip
    a, b = (small(late, "a1", "a2").results for _ in range(2))
    assert a == b and [r.test for r in a] == ["noise", "a1", "a2"]
    other = audit(late, TOKENS, SMALL, only=["a2"], chunk_tokens=CHUNK, seed=1)
    assert other.seed == 1 and other["a2"] != a[2]
    assert audit(late, TOKENS, "quick", only=["a2"])["a2"].positions == LEVELS["quick"].positions
    quick = small(Losses(bigram_losses, V, slow=True))
    assert quick["b3"].verdict == NOT_RUN and quick["a1"].positions == 4
    with pytest.raises(GolfError, match="no test 'zz'"):
        quick["zz"]


def test_a_report_is_saved_and_read(tmp_path):
    report = small(says(lambda c: Dense(LOGITS[c.targets])))
    path = report.save(tmp_path / "audit.json")
    assert AuditReport.load(path) == report
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))  # plain JSON
    assert "valid" not in report.headline() and "FAIL" in report._repr_html_()
    for bad in ("{}", "[]", "no", json.dumps({"format": 2})):
        path.write_text(bad)
        with pytest.raises(GolfError):
            AuditReport.load(path)
    power = report.power()
    m = power.loc["a2 target flip"]
    assert math.isclose(m["at 5%"], 1 - 0.95 ** m["positions"])


BUILDERS = """
from pathlib import Path
import socket
import numpy as np
import golf.auditor.material

def reads(path):
    np.fromfile({secret!r}, dtype=np.uint16)
    return golf.auditor.material.sliding(path)

def calls(path):
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError:
        pass
    return golf.auditor.material.sliding(path)

def fails(path):
    raise KeyError("DATA_PATH")
"""


@pytest.mark.parametrize(("build", "verdict"), [("reads", FAIL), ("calls", FAIL), ("fails", FAIL)])
def test_a_fresh_process_is_watched(tmp_path, monkeypatch, build, verdict):
    from golf.store.saved import model_path

    secret = tmp_path / "fineweb_train_000000.bin"
    np.arange(64, dtype=np.uint16).tofile(secret)
    (tmp_path / "builders.py").write_text(BUILDERS.format(secret=str(secret)))
    monkeypatch.syspath_prepend(tmp_path)
    tiny, tokens = model_path("tiny"), np.r_[1, RNG.integers(3, 1000, 600)]
    level = Level("quick", tokens=512, chunks=2)
    report = audit(sliding(tiny), tokens, level, only=["g2"], chunk_tokens=256,
                   artifact=tiny, build=f"builders:{build}")  # fmt: skip
    assert report["g2"].verdict == verdict, report["g2"]
    if build == "reads":
        assert "fineweb_train_000000.bin" in report["g2"].note


def test_the_command_audits_an_artifact_and_a_submission(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from golf.lab.cli import app

    monkeypatch.setitem(LEVELS, "quick", Level("quick", tokens=1024, positions=2, futures=1,
                        streams=1, rows=64, substitutions=1, ids=2, draws=4))  # fmt: skip
    out = tmp_path / "audit.json"
    done = CliRunner().invoke(app, ["audit", "tiny", "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = AuditReport.load(out)
    assert report.name == "tiny" and report["g2"].verdict == PASS and report["f"].verdict == PASS
    pytest.importorskip("golf.auditor.lints")
    claim = {"name": "x", "val_loss": 1.5, "val_bpb": 0.5, "bytes_total": 17_000_000}
    (tmp_path / "submission.json").write_text(json.dumps(claim))
    done = CliRunner().invoke(app, ["audit", str(tmp_path)])
    assert done.exit_code == 1 and "FAIL" in done.output


def test_tests_have_names():
    assert [*TESTS][0] == "noise" and len(TESTS) == 23
    assert len({title for title, _ in TESTS.values()}) == len(TESTS)
