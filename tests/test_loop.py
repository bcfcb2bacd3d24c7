"""Every option and every wrong argument of distributions, streams, predictors, scores and comparisons."""

import math
import warnings

import numpy as np
import pytest
import torch

from golf.base.files import GolfError, Undigestable
from golf.base.small import OneByte, rhyme, rhyme_tokens, test_near
from golf.predict.compare import arm_key, compare
from golf.predict.composed import Mixture, heated
from golf.predict.dist import Counts, Dense, Unnormalised
from golf.predict.evaluate import Scores, evaluate
from golf.predict.stream import Predictor, Stream

near = test_near
del test_near  # which pytest would collect
VERSES, TOKENS = rhyme(), rhyme_tokens()
STREAM = Stream(TOKENS, 64, name="rhyme")
BYTED = Stream(TOKENS, 32, byte_table=OneByte(), name="rhyme")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def refused(message, call):
    with pytest.raises(GolfError) as caught:
        call()
    assert message in str(caught.value)


class Letters(Predictor):
    "Counts of all observed ids, plus `extra`, as a distribution."

    def __init__(self, vocab_size=256, extra=0.5):
        self.vocab_size, self.extra, self.counts = vocab_size, extra, torch.zeros(vocab_size)

    def distribution(self, chunk):
        return Dense((self.counts + self.extra).log().expand(len(chunk), -1))

    def learn(self, chunk):
        self.counts += chunk.targets.bincount(minlength=self.vocab_size)

    def get_state(self):
        return {"counts": self.counts}

    def set_state(self, state):
        self.counts = state["counts"]


class Fading(Letters):
    "Letter counts that are multiplied by `keep` after every chunk."

    def __init__(self, vocab_size=256, extra=0.5, keep=0.5):
        Letters.__init__(self, vocab_size, extra)
        self.keep = keep

    def learn(self, chunk):
        Letters.learn(self, chunk)
        self.counts *= self.keep


class Claims(Letters):
    "Says of every id that it is as good as certain."

    def distribution(self, chunk):
        value = lambda at, ids: torch.full(ids.shape, -0.1)
        return Unnormalised(value, n=len(chunk), vocab_size=self.vocab_size)


class Forgets(Letters):
    "Does not keep its argument."

    def __init__(self, size):
        Letters.__init__(self)


class Both(Predictor):
    "The mean of all letter counts and recent ones."

    vocab_size = 256

    def __init__(self):
        self.experts = [Letters(extra=0.05), Fading(extra=0.05)]

    def distribution(self, chunk):
        found = Mixture([expert.predict(chunk) for expert in self.experts], [0.5, 0.5])
        found.names = ("all", "recent")
        return found

    def learn(self, chunk):
        for expert in self.experts:
            expert.observe(chunk)

    def get_state(self):
        return {"experts": [expert.state() for expert in self.experts]}

    def set_state(self, state):
        for expert, own in zip(self.experts, state["experts"], strict=True):
            expert.load(own)


# Distributions


def test_dense_asks_for_logits_as_often_as_needed_and_checks_them():
    asked, three = [], torch.tensor([1.0, 2.0, 5.0]).log()

    def logits_at(positions):
        asked.append(len(positions))
        return three.repeat(len(positions), 1)

    lazy = Dense(logits_at, n=5, vocab_size=3, slice_size=2)
    wrong = Dense(lambda at: torch.zeros(len(at), 4), n=2, vocab_size=3)
    refused("returned (2, 4), not (2, 3)", wrong.rows)
    refused("one-dimensional", lambda: lazy.log_prob(torch.zeros(5, 1)))
    refused("Dense needs n and vocab_size", lambda: Dense(logits_at))
    refused("positions must lie in [0, 5)", lambda: lazy.rows([5]))
    refused("one id for each of 5 positions", lambda: lazy.log_prob([0]))
    refused("a survey finds entropy, peak, best, not hit", lambda: lazy.survey(["hit"]))
    assert Dense(torch.zeros(0, 3)).log_prob([]).shape == (0,)
    assert Dense(torch.zeros(0, 3)).survey(["best"])["best"].dtype == torch.int64
    lazy.log_prob([0] * 5).zero_()  # the caller's copy
    near(lazy.log_prob([0] * 5), [-math.log(8)] * 5, 1e-6)
    asked.clear()
    lazy.rows([4, 0])
    assert asked == [2]
    lazy.close()
    for stale in (lambda: lazy.rows([0]), lambda: lazy.survey(["peak"])):
        refused("stale", stale)


def test_counts_refuse_what_does_not_fit():
    table = torch.tensor([[0, 0, 0, 0, 0, 4, 4, 2, 1, 1], [0, 0, 0, 0, 0, 0, 0, 2, 1, 0]])
    events, kinds = table.sum(1, keepdim=True), (table > 0).sum(1, keepdim=True)
    count = lambda at, ids: table[:, ids]
    refused("one shape [K, n]", lambda: Counts(count, events, kinds[:1], vocab_size=10))
    base = Dense(torch.zeros(2, 10))
    refused(
        "Counts needs parts of 1 positions and 10 ids",
        lambda: Counts(count, events, kinds, vocab_size=10, base=base),
    )
    refused(
        "discount must lie in [0, 1]",
        lambda: Counts(count, events, kinds, vocab_size=10, discount=2.0),
    )


def test_mixtures_refuse_weights_that_are_none_and_heat_that_is_none():
    pair = [Dense(torch.zeros(2, 3)), Dense(torch.ones(2, 3))]
    refused("sum to 1", lambda: Mixture(pair, [0.5, 0.6]))
    refused("weights >= 0", lambda: Mixture(pair, [1.5, -0.5]))
    refused("weights of shape (2,) or (2, 2)", lambda: Mixture(pair, [1.0, 0.0, 0.0]))
    refused("at least one part", lambda: Mixture([], []))
    for bad in ((), (1.0, 0.0), (-1.0,)):
        refused("temperatures must be above 0", lambda grid=bad: heated(pair[0], grid))


# Streams, predictors, scores


def test_a_stream_is_cut_without_loss_and_refuses_what_is_no_stream():
    chunks = list(STREAM)
    assert torch.cat([c.targets for c in chunks]).tolist() == TOKENS[1:]
    assert torch.cat([c.inputs for c in chunks]).tolist() == TOKENS[:-1]
    assert torch.equal(chunks[3].previous, chunks[3].inputs)
    assert [c.stop for c in chunks[:-1]] == [c.start for c in chunks[1:]]
    assert Stream(TOKENS, 64, limit=100).chunks == 2
    assert Stream(np.array(TOKENS, dtype=np.uint16), 64).tokens.tolist() == TOKENS
    refused("two tokens or more", lambda: Stream([1], 4))
    refused("Stream: chunk_tokens must be in [1, inf)", lambda: Stream([1, 2], 0))
    refused("Stream: limit must be in [1, inf)", lambda: Stream([1, 2], 4, limit=0))
    refused("whole numbers", lambda: Stream([0.5, 1.0], 4))


def test_a_state_is_a_copy_that_only_its_own_kind_loads():
    letters, (one, two, *_) = Letters(), list(STREAM)
    letters.predict(one)
    letters.observe(one)
    saved, fork = letters.state(), Letters()
    fork.load(saved)
    before = letters.predict(two).log_prob(two.targets)
    assert torch.equal(fork.predict(two).log_prob(two.targets), before)
    fork.observe(two)
    assert saved["own"]["counts"].sum() == 64  # learning never reaches into a saved state
    words = {"predictor": "Words", "position": 0, "own": {}}
    refused("Letters cannot load a state of Words", lambda: fork.load(words))
    refused("cannot load a state of list", lambda: fork.load([]))


def test_scores_by_chunk_and_document_and_without_bytes():
    scores, bare = evaluate(Letters(), STREAM, OneByte()), evaluate(Letters(), STREAM)
    assert scores.by_document().bytes.tolist() == [len(v) for v in VERSES]
    assert scores.by_chunk().start.tolist() == [c.start for c in STREAM]
    assert len(scores.by_document()) == len(VERSES)
    assert Scores(scores.nll, None, scores.document, 64).by_chunk().bpb.isna().all()
    refused("bits per byte need a byte_table", lambda: bare.bpb)
    assert "bpb" not in repr(bare) and bare.parts == {}
    assert evaluate(Letters(), Stream(TOKENS, 64, byte_table=OneByte())).bpb == scores.bpb
    named = Letters()
    named.tokenizer = "0" * 16
    assert evaluate(named, Stream(TOKENS, 64, tokenizer="0" * 16)).loss == bare.loss
    for limit in (1, 63, 64, 65):
        part = evaluate(Letters(), Stream(TOKENS, 64, limit=limit), OneByte())
        assert part.nll.tolist() == scores.nll[:limit].tolist()


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_what_is_no_log_probability_is_refused_with_its_place(value):
    class Broken(Letters):
        def distribution(self, chunk):
            found = Letters.distribution(self, chunk)
            found._log_prob = lambda ids: torch.full((len(ids),), value)
            return found

    refused(f"position 0 has log-probability {value}", lambda: evaluate(Broken(), STREAM))


def test_a_distribution_of_another_size_is_refused():
    class Short(Letters):
        def distribution(self, chunk):
            return Dense(torch.zeros(1, self.vocab_size))

    rule = "Short must predict 64 positions and 256 ids"
    refused(rule, lambda: evaluate(Short(), STREAM))


# Comparisons


def test_the_name_of_an_arm_follows_closures_byte_tables_and_states():
    key = arm_key(Letters(), STREAM)
    a, b = (lambda: Letters(extra=2)), (lambda: Letters(extra=3))  # two functions on one line
    assert arm_key(a, STREAM) != arm_key(b, STREAM)
    other = type("T", (), {"digestible": lambda self: 1})()
    assert arm_key(Letters(), STREAM, other) != key
    with pytest.raises(Undigestable, match="Forgets does not keep its argument 'size'"):
        arm_key(Forgets(4), STREAM)

    def package_made(value):
        "A function as one of this package's modules would make it, with `value` in its closure."
        made = lambda: Letters(extra=value)
        made.__module__ = "golf.letters"
        return made

    assert arm_key(package_made(1), STREAM) != arm_key(package_made(2), STREAM)
    assert arm_key(package_made(1), STREAM) == arm_key(package_made(1), STREAM)
    advanced, one = Letters(), next(iter(STREAM))
    advanced.predict(one)
    advanced.observe(one)
    assert arm_key(advanced, STREAM) != key


def test_tables_and_intervals_of_a_comparison_agree():
    arms = {"letters": Letters(), "extra 0.05": Letters(extra=0.05), "fading": Fading()}
    comparison = compare(arms, BYTED, baseline="letters")
    table = comparison.table()
    near(table.loc["fading", "difference"], table.bpb["fading"] - table.bpb["letters"])
    near(comparison.interval("fading").mean, table.loc["fading", "difference"])
    assert table.loc["extra 0.05", "high"] < 0 < table.loc["fading", "low"]
    between = comparison.interval("fading", "extra 0.05")
    near(between.mean, table.bpb["fading"] - table.bpb["extra 0.05"])
    assert comparison.table(by="document").low.isna().all()  # eleven documents
    refused("at least 20 blocks", lambda: comparison.interval("fading", by="document"))
    refused("by must be 'chunk' or 'document'", lambda: comparison.interval("fading", by="page"))
    refused("there is no arm 'fadin'; did you mean 'fading'?", lambda: comparison["fadin"])
    assert comparison.interval("fading", block=2).blocks < comparison.interval("fading").blocks
    assert len(comparison.per_document()) == 3 * 11
    near(comparison.per_document().nll.sum(), comparison.per_chunk().nll.sum())
    assert "NaN" not in repr(comparison) and "<table" in comparison._repr_html_()
    plain = compare(arms, STREAM, baseline="letters", cache=False)
    assert plain.table().columns[0] == "loss"
    near(plain.table().loss["fading"], plain["fading"].loss)
    refused(
        "baseline 'leters' is not an arm; did you mean 'letters'?",
        lambda: compare(arms, STREAM, baseline="leters"),
    )


def test_code_that_an_arm_reaches_makes_it_scored_again(monkeypatch):
    observed = []

    def watched():
        letters = Letters()
        learn = letters.learn
        letters.learn = lambda chunk: (observed.append(chunk.index), learn(chunk))
        return {"letters": letters}

    first = compare(watched(), BYTED, baseline="letters")
    assert len(observed) == BYTED.chunks
    compare(watched(), BYTED, baseline="letters")
    assert len(observed) == BYTED.chunks
    monkeypatch.setattr(Scores, "edited", lambda self: "reached by all arms", raising=False)
    again = compare(watched(), BYTED, baseline="letters")
    assert len(observed) == 2 * BYTED.chunks
    assert again["letters"].nll.tolist() == first["letters"].nll.tolist()


def test_what_cannot_be_named_is_scored_with_one_warning_and_no_score_stays_none():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare({"a": Forgets(3), "b": Forgets(4)}, BYTED, baseline="a")
    assert len(caught) == 1 and "does not keep its argument" in str(caught[0].message)
    claims = {"letters": Letters(), "claims": Claims()}
    marked = compare(claims, BYTED, baseline="letters", allow_unnormalised=True)
    assert not marked["claims"].normalised and "NOT A SCORE" in repr(marked["claims"])
    # known by now, but still not a score
    refused("no probabilities, no score", lambda: compare(claims, BYTED, baseline="letters"))
    made = compare({"x": lambda: Letters(), "y": Letters()}, BYTED, baseline="x")
    assert made["x"].nll.tolist() == made["y"].nll.tolist()


def test_the_parts_of_a_mixture_come_from_the_cache_too():
    both = compare({"both": Both()}, BYTED, baseline="both: all", parts=True)
    again = compare({"both": Both()}, BYTED, baseline="both: all", parts=True)
    assert again["both"].seconds == both["both"].seconds  # it came from the cache, parts and all
    for arm in both.scores:
        assert again[arm].nll.tolist() == both[arm].nll.tolist()
        assert again[arm].bytes.tolist() == both[arm].bytes.tolist()
    assert list(compare({"both": Both()}, BYTED, baseline="both").scores) == ["both"]
    refused(
        "there is no arm 'both: al'; did you mean 'both: all'?",
        lambda: compare({"both": Both()}, BYTED, baseline="both: al", parts=True),
    )
    refused(
        "baseline 'both: all' is not an arm",
        lambda: compare({"both": Both()}, BYTED, baseline="both: all"),
    )


def test_mixtures_within_mixtures_and_parts_that_are_not_always_there():
    class Deep(Both):
        def distribution(self, chunk):
            inner = Both.distribution(self, chunk)
            found = Mixture([inner, inner.parts[0]], [0.5, 0.5])
            value = lambda at, ids: torch.full(ids.shape, -0.1)
            claims = Unnormalised(value, n=len(chunk), vocab_size=256)
            late = {"late": inner} if chunk.index else {}
            found.named_parts = lambda: {"inner": inner, "claims": claims} | late
            return found

    deep, both = evaluate(Deep(), BYTED), evaluate(Both(), BYTED)
    assert set(deep.parts) == {"inner", "inner: all", "inner: recent", "claims"}
    assert deep.parts["inner"].nll.tolist() == both.nll.tolist()
    assert [deep.parts[name].normalised for name in ("inner", "claims")] == [True, False]
    near(deep.parts["claims"].nll, 0.1, 1e-6)
