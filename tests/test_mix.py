"""Every option and every wrong argument of gates, rules, mixtures, products and hints."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from fastcore.test import expect_fail
from fastcore.test import test_eq as same

from golf.base.files import GolfError
from golf.base.small import test_near as near
from golf.count.ngram import NGram, Uniform
from golf.mix.gates import Entropy, Fixed, Selective, Support, feature
from golf.mix.mixtures import Mix, expert_names
from golf.mix.products import Hinted, Product, Temperatures
from golf.mix.rules import EM, Bins, Gradient, GridBayes, Hedge, Logistic, online, simplex
from golf.predict.compare import arm_key
from golf.predict.dist import Distribution, Unnormalised
from golf.predict.evaluate import evaluate
from golf.predict.stream import Predictor, Stream

torch.set_num_threads(1)


class Exact(Distribution):
    "Log-probabilities [n, V] as given, in float64."

    def __init__(self, table):
        Distribution.__init__(self, *table.shape)
        self.table = table

    def _rows(self, positions):
        return self.table[positions]


class Told(Predictor):
    "Predicts what it is told: probabilities [N, V]."

    def __init__(self, table):
        self.table = torch.as_tensor(table, dtype=torch.float64)
        self.vocab_size = self.table.shape[1]

    def distribution(self, chunk):
        return Exact(self.table[chunk.start : chunk.stop].log())


class Claims(Predictor):
    "Claims that every id has probability one."

    vocab_size = 2

    def distribution(self, chunk):
        return Unnormalised(lambda at, ids: 0.0 * ids, n=len(chunk), vocab_size=2)


rng = np.random.default_rng(0)
tokens = rng.integers(0, 6, 401) % rng.integers(1, 6, 401)
tables = [rng.dirichlet(np.full(6, 0.5), 400) for _ in range(2)]


def walk(rule, log_probs, **features):
    gate, log_probs = online(rule), torch.tensor(log_probs, dtype=torch.float64)
    state = gate.start(log_probs.shape[1])
    features = {
        k.replace("_", ":"): torch.tensor(v, dtype=torch.float64) for k, v in features.items()
    }
    return gate.walk(state, features, log_probs), state


def target_probs(*columns):
    "Experts over two ids; id 0 is always the target and gets the told probabilities."
    return [Told([[p, 1 - p] for p in column]) for column in columns]


def play(mix, tokens, chunk_tokens):
    "Losses [N] and weights [N, K] of a whole stream, in float64."
    losses, weights = [], []
    for chunk in Stream(tokens, chunk_tokens):
        found = mix.predict(chunk)
        losses.append(-found.log_prob(chunk.targets))
        weights.append(found.weights())
        mix.observe(chunk)
    return torch.cat(losses), torch.cat(weights)


bins = (Bins("entropy:0", (0.6, 1.2)), Bins("total:1", (1, 4, 16)))


gates = {
    "fixed": Fixed((0.5, 0.3, 0.2)),
    "Bayes": online(Hedge()),
    "Hedge": online(Hedge(eta=0.1)),
    "fixed share": online(Hedge(share=0.02)),
    "EM in cells": online(EM(cells=bins)),
    "gradient": online(Gradient(rate=0.1)),
    "Soft-Bayes": online(Gradient(rate=0.1, soft=True)),
    "grid in cells": online(GridBayes(steps=8, cells=bins, share=0.001)),
    "logistic": online(Logistic(features=("entropy:0", "peak:2"), rate=0.1)),
}
two = {"entropy": Entropy(centre=1.0), "support": Support(), "selective": Selective(least=2.0)}


def mixed(gate):
    experts = [Told(tables[0]), NGram(6), Told(tables[1])]
    return Mix(experts[: gate.experts or 3], gate)


def product_of(**options):
    return Product([Told(tables[0]), NGram(6)], **options)


def losses_of(predictor, tokens, chunk_tokens=64):
    found = []
    for chunk in Stream(tokens, chunk_tokens):
        part = predictor.predict(chunk)
        near(part.rows().exp().sum(1), 1)
        found.append(-part.log_prob(chunk.targets))
        predictor.observe(chunk)
    return torch.cat(found)


def changes(one, other):
    return not np.allclose(*(play(mixed(g), tokens, 64)[0] for g in (one, other)))


def test_features_refuse_what_no_gate_may_see():
    flat = Exact(torch.full((1, 4), 0.25).double().log())
    (chunk,) = Stream([5, 6, 7, 5, 6, 8, 5, 6, 7, 9, 5, 6, 7], 12)
    counted = NGram(10).predict(chunk)
    for part, name, message in [
        (flat, "total", "needs an expert that counts"),
        (flat, "target", "a gate may see entropy, peak, order"),
    ]:
        with expect_fail(GolfError, message):
            feature(part, name)
    same(feature(Uniform(10).predict(chunk), "total").tolist(), [0.0] * 12)
    same(feature(counted, "order")[:4].tolist(), [1, 1, 1, 2])


def test_hedge_stays_exact_however_far_behind_an_expert_falls():
    rule = Hedge(prior=(0.9, 0.07, 0.03), share=0.005)
    near(walk(rule, [[-2, -1.5, -3.0]] * 2)[0][1], [0.876927034, 0.112224701, 0.010848266], 6e-10)

    # P10: prior (.8, .1, .1), shared out uniformly; the rule with a uniform prior is set there by hand
    gate = online(Hedge(share=0.01))
    state = np.array([[0.8, 0.1, 0.1, 0, 0, 0]])
    log_probs = torch.tensor([[0.02, 0.3, 0.1]]).double().log()
    before = gate.walk(state, {}, log_probs)
    near(-(before.log() + log_probs).logsumexp(1), 2.8824036, 6e-8)
    near(Hedge().belief(state), [[0.286190, 0.533690, 0.180119]], 6e-7)

    far = [[-1e4, 0.0]] + [[0.0, -1.0]] * 9999 + [[0.0, -1e3]] * 2  # 10,000 nats behind, and back
    near(walk(Hedge(), far)[0][-1], [1, 0], 1e-6)
    never = walk(Hedge(), [[-math.inf, -math.inf], [-1.0, -2.0]])[0]
    same(never[1].tolist(), [0.5, 0.5])
    near(Hedge().belief(walk(Hedge(share=0.1), [[-math.inf, 0.0]])[1]), [[0.05, 0.95]])
    near(walk(Hedge(), [[-1e4, 0.0], [0.0, -3e4], [0.0, -9.0]])[0][:, 0], [0.5, 0, 1])


def test_grid_bayes_stays_exact_and_impossible_targets_teach_nothing():
    far = [[-400.0, 0.0]] * 20 + [[0.0, -400.0]] * 19  # 8,000 nats behind, and back to 400
    state = walk(GridBayes(steps=8), far)[1]
    log_probs, grid = torch.tensor(far).double(), torch.from_numpy(simplex(2, 8))
    exact = torch.logsumexp(grid.log()[None] + log_probs[:, None], 2).sum(0).softmax(0)  # [M]
    near(GridBayes().belief(state)[0], exact, 1e-9)
    weights = walk(GridBayes(steps=1), [*far, *[[0.0, -400.0]] * 2, [0.0, 0.0]])[0]  # no mixtures
    near(weights[[20, 40, 41], 0], [0, 0.5, 1])
    for rule in (GridBayes(steps=8), GridBayes(steps=8, share=0.1), EM(), Gradient()):
        never, state = walk(rule, [[-math.inf, -math.inf], [-1.0, -1.0]])
        near(never[1], never[0])
        assert np.isfinite(state).all()
    only = walk(GridBayes(steps=8), [[-math.inf, 0.0], [0.0, -math.inf], [0.0, 0.0]])[0]
    assert (only[2] > 0.4).all()  # the pure experts are out, their mixtures are not


def test_mixtures_refuse_experts_and_gates_that_do_not_fit():
    pair = target_probs([0.5] * 9, [0.4] * 9)
    for bad, message in [
        (lambda: Mix([], Fixed((1.0,))), "at least one expert"),
        (
            lambda: Mix([Uniform(4), Uniform(5)], Fixed((0.5, 0.5))),
            "experts must share one vocabulary",
        ),
        (lambda: Mix([pair[0], pair[0]], Fixed((0.5, 0.5))), "listed twice"),
        (lambda: Mix(pair, Hedge()), "gate must be a Gate or online(rule)"),
        (lambda: Mix(pair, Fixed((1.0,))), "the gate serves 1 experts, not 2"),
        (lambda: Mix(pair, online(Hedge(prior=(0.5, 0.3, 0.2)))), "the gate serves 3 experts"),
        (lambda: Mix(pair, online(EM(start=(1.0, 1.0, 1.0)))), "the gate serves 3 experts"),
        (lambda: Mix(pair, online(Logistic(features=("target:0",)))), "it asks for 'target:0'"),
        (
            lambda: Mix(pair, online(Hedge(cells=(Bins("entropy:2", (1.0,)),)))),
            "asks for 'entropy:2'",
        ),
        (lambda: Mix(pair, online(Logistic(features=("peak",)))), "asks for 'peak'"),
        (
            lambda: play(Mix(pair, Fixed((0.7, 0.7))), [0] * 9, 4),
            "Fixed: shares must be numbers >= 0",
        ),
        (
            lambda: evaluate(Mix(pair, Entropy()), Stream([0] * 9, 4)),
            "expert 1, Told 2, does not count",
        ),
    ]:
        with expect_fail(GolfError, message):
            bad()


def test_rules_refuse_options_that_cannot_be():
    for bad, message in [
        (lambda: online(Entropy()), "online needs a Rule"),
        (lambda: online(Hedge(eta=0)), "Hedge: eta must be in (0, inf)"),
        (lambda: online(Hedge(share=1.0)), "Hedge: share must be in [0, 1)"),
        (
            lambda: online(Hedge(prior=(0.9, 0.2))),
            "Hedge: prior must be numbers above 0 that sum to 1",
        ),
        (lambda: online(Gradient(rate=1.5)), "Gradient: rate must be in (0, 1)"),
        (lambda: online(GridBayes(steps=0)), "GridBayes: steps must be in [1, inf)"),
        (lambda: online(GridBayes(trust=1.0)), "GridBayes: trust must be in (0, 1)"),
    ]:
        with expect_fail(GolfError, message):
            bad()


def test_nothing_is_committed_when_a_mixture_is_refused_midway():
    class Late(Uniform):
        "Uniform at first, then as `Claims`."

        def distribution(self, chunk):
            return (Claims if chunk.index > 1 else Uniform).distribution(self, chunk)

    with expect_fail(GolfError, "Mix needs normalised experts"):
        evaluate(Mix([Uniform(2), Claims()], Fixed((0.5, 0.5))), Stream([0] * 9, 4))
    for gate in (online(EM()), online(Hedge(cells=(Bins("total:1", (1,)),)))):
        mix, pieces = Mix([NGram(2), Late(2)], gate), list(Stream([0, 1] * 9, 4))
        for piece in pieces[:2]:
            mix.predict(piece)
            mix.observe(piece)
        before = mix.state()
        for piece, message in [
            (pieces[1], "chunk 1 starts at position 4, but this Mix has observed 8"),
            (pieces[3], "chunk 3 starts at position 12, but this Mix has observed 8"),
            (pieces[2], "Mix needs normalised experts, not Unnormalised"),
        ]:
            with expect_fail(GolfError, message):
                mix.predict(piece)
            with expect_fail(GolfError):
                mix.observe(piece)
        for one in (mix, *mix.experts):
            same(one.position, 8)
        same(repr(mix.state()), repr(before))  # nothing was committed
    claims = Mix([Uniform(2), Claims()], Fixed((0.5, 0.5)), allow_unnormalised=True)
    assert not evaluate(claims, Stream([0] * 9, 4), allow_unnormalised=True).normalised
    moved = Uniform(2)
    evaluate(moved, Stream([0] * 9, 4))
    with expect_fail(GolfError, "equally many positions"):
        Mix([Uniform(2), moved], Fixed((0.5, 0.5)))


def test_the_order_of_experts_does_not_matter():
    for rule in (Hedge(eta=0.3, share=0.02), EM(start=(1, 1, 1)), Gradient(), GridBayes(steps=8)):
        loss = play(mixed(online(rule)), tokens, 64)[0]
        experts = [Told(tables[1]), Told(tables[0]), NGram(6)]
        near(play(Mix(experts, online(rule)), tokens, 64)[0], loss)


def test_states_go_from_one_mixture_to_another():
    reference = {name: play(mixed(gate), tokens, 64) for name, gate in (gates | two).items()}

    chunks = list(Stream(tokens, 64))
    for name, gate in (gates | two).items():  # the state goes from one predictor to another
        first, second = mixed(gate), mixed(gate)
        for chunk in chunks[:3]:
            first.predict(chunk)
            first.observe(chunk)
        second.load(first.state())
        for chunk in chunks[3:]:
            loss = -second.predict(chunk).log_prob(chunk.targets)
            near(loss, reference[name][0][chunk.start : chunk.stop])
            second.observe(chunk)


def test_a_mixture_learns_what_it_is_shown():
    reference = {name: play(mixed(gate), tokens, 64) for name, gate in (gates | two).items()}

    chunks = list(Stream(tokens, 64))
    mix = mixed(gates["Bayes"])  # asked about one future, shown another: it learns what it is shown
    other = Stream(5 - tokens, 64)
    mix.predict(chunks[0])
    mix.predict(next(iter(other))).log_prob(next(iter(other)).targets)
    mix.observe(chunks[0])
    near(-mix.predict(chunks[1]).log_prob(chunks[1].targets), reference["Bayes"][0][64:128])
    stale = mix.predict(chunks[1])
    mix.observe(chunks[1])
    with expect_fail(GolfError, "stale"):
        stale.log_prob(chunks[1].targets)


def test_every_option_of_a_rule_or_gate_changes_the_outcome():
    for one, other in [  # every switch changes the outcome
        (Hedge(), Hedge(eta=0.9)),
        (Hedge(), Hedge(share=0.01)),
        (Hedge(), Hedge(prior=(0.8, 0.1, 0.1))),
        (Hedge(), Hedge(cells=bins)),
        (EM(), EM(start=(1, 1, 1))),
        (Gradient(), Gradient(rate=0.1)),
        (Gradient(rate=0.1), Gradient(rate=0.1, soft=True)),
        (GridBayes(steps=8), GridBayes(steps=2)),
        (GridBayes(steps=8), GridBayes(steps=8, trust=0.9)),
        (GridBayes(steps=8), GridBayes(steps=8, share=0.01)),
        (Logistic(), Logistic(rate=0.1)),
        (Logistic(), Logistic(features=("peak:0",))),
        (Logistic(), Logistic(start=((1, 0), (0, 0), (0, 0)))),
    ]:
        assert changes(online(one), online(other)), (one, other)
    for options in ({"low": 0.1}, {"span": 0.1}, {"slope": 1.0}, {"centre": 2.0}, {"order": None}):
        assert changes(Entropy(centre=1.0), Entropy(**{"centre": 1.0} | options)), options
    for options in ({"scale": 0.1}, {"margin": 0.2}, {"least": 0.0}):
        assert changes(two["selective"], Selective(**{"least": 2.0} | options)), options
    assert changes(Support(), Support(strength=1.0))


def test_experts_of_mixtures_have_names():
    same(expert_names([NGram(6), NGram(6), Uniform(6)], None), ("NGram", "NGram 2", "Uniform"))
    for bad in (["a"], ["a", "a"]):
        with expect_fail(GolfError, "names must be 2 different ones"):
            Mix([NGram(6), Uniform(6)], Fixed((0.5, 0.5)), names=bad)
    inner = Mix([NGram(6), Uniform(6)], Fixed((0.5, 0.5)))
    found = evaluate(Mix([inner, Told(tables[0])], online(EM())), Stream(tokens, 64))
    same(set(found.parts), {"Mix", "Mix: NGram", "Mix: Uniform", "Told"})
    near(found.parts["Mix: Uniform"].nll, math.log(6), 1e-6)


def test_products_learn_causally_and_go_on_from_a_state():
    plain, alone = losses_of(product_of(rate=0.0), tokens), losses_of(Told(tables[0]), tokens)
    near(plain, alone)  # exponents (1, 0)
    learnt = losses_of(product_of(rate=0.5), tokens)
    assert learnt.mean() < plain.mean()
    assert not np.allclose(learnt, losses_of(product_of(rate=0.5, start=(0.5, 0.5)), tokens))
    changed = tokens.copy()
    changed[201] = (changed[201] + 1) % 6
    same(losses_of(product_of(rate=0.5), changed)[:200].tolist(), learnt[:200].tolist())
    first, second, chunks = product_of(rate=0.5), product_of(rate=0.5), list(Stream(tokens, 64))
    for chunk in chunks[:3]:
        first.predict(chunk)
        first.observe(chunk)
    second.load(first.state())
    near(-second.predict(chunks[3]).log_prob(chunks[3].targets), learnt[192:256])
    with expect_fail(GolfError, "must have 2 exponents"):
        product_of(start=(1.0,))
    with expect_fail(GolfError, "Product needs normalised experts"):
        evaluate(Product([Uniform(2), Claims()]), Stream([0] * 9, 4))


def test_temperatures_are_a_mixture_in_one_pass():
    grid = (0.5, 0.7, 1.0, 1.4)
    reference = losses_of(Temperatures(Told(tables[0]), grid), tokens)
    for chunk_tokens in (1, 37, 400):
        near(losses_of(Temperatures(Told(tables[0]), grid), tokens, chunk_tokens), reference)
    by_hand = [Told(F.softmax(torch.from_numpy(tables[0]).log() / t, 1)) for t in grid]
    near(losses_of(Mix(by_hand, online(Hedge(share=0.001))), tokens), reference)
    for other in (grid[:3], (0.5, 0.7, 1.0, 1.5)):
        assert not np.allclose(losses_of(Temperatures(Told(tables[0]), other), tokens), reference)
    for rule in (Hedge(), EM(), Fixed((0.25,) * 4), online(EM(cells=(Bins("entropy:2", (1.0,)),)))):
        assert not np.allclose(
            losses_of(Temperatures(Told(tables[0]), grid, rule), tokens), reference
        )


def test_temperatures_go_on_from_a_state_and_refuse_what_cannot_be():
    grid, chunks = (0.5, 0.7, 1.0, 1.4), list(Stream(tokens, 64))
    first, second = (Temperatures(NGram(6), grid) for _ in range(2))
    for chunk in chunks[:3]:
        first.predict(chunk)
        first.observe(chunk)
    second.load(first.state())
    near(*(one.predict(chunks[3]).log_prob(chunks[3].targets) for one in (first, second)))
    for bad, message in [
        ({"grid": (1.0, 0.0)}, "Temperatures: grid must be in (0, inf)"),
        ({"grid": (1.0, 1.0)}, "different temperatures"),
        ({"rule": Fixed((1.0,))}, "the gate serves 1 experts, not 5"),
        ({"rule": Hedge(cells=(Bins("entropy:5", (1.0,)),))}, "asks for 'entropy:5'"),
    ]:
        with expect_fail(GolfError, message):
            Temperatures(NGram(6), **bad)
    with expect_fail(GolfError, "expert 0, 1, does not count"):
        evaluate(
            Temperatures(NGram(6), (1.0,), EM(cells=(Bins("total:0", (1,)),))), Stream(tokens, 64)
        )
    with expect_fail(GolfError, "Temperatures needs normalised experts"):
        evaluate(Temperatures(Claims()), Stream([0] * 9, 4))


def test_hints_learn_causally_and_every_option_matters():
    chunks, changed = list(Stream(tokens, 64)), tokens.copy()
    changed[201] = (changed[201] + 1) % 6

    def hinted_by(**options):
        return Hinted(NGram(6), Told(tables[0]), **options)

    learnt = losses_of(hinted_by(), tokens)
    for chunk_tokens in (1, 37, 400):
        near(losses_of(hinted_by(), tokens, chunk_tokens), learnt)
    near(losses_of(hinted_by(), changed)[:200], learnt[:200])
    assert not np.allclose(losses_of(hinted_by(), changed)[201:], learnt[201:])
    assert not np.allclose(losses_of(hinted_by(cells=()), tokens), learnt)
    assert not np.allclose(losses_of(hinted_by(start=(3.0, 1.0)), tokens), learnt)
    first, second = hinted_by(), hinted_by()
    for chunk in chunks[:3]:
        first.predict(chunk)
        first.observe(chunk)
    second.load(first.state())
    near(-second.predict(chunks[3]).log_prob(chunks[3].targets), learnt[192:256])
    with expect_fail(GolfError, "asks for 'target:1'"):
        hinted_by(cells=(Bins("target:1", (0.5,)),))
    with expect_fail(GolfError, "Hinted needs normalised experts"):
        evaluate(Hinted(Claims(), Uniform(2)), Stream([0] * 9, 4))


def test_arms_have_different_names_if_they_differ():
    named, halves = Stream(tokens, 64), Bins("entropy:0", (1.0,))
    ways = [Fixed((0.5, 0.5)), Support(), online(EM()), online(Hedge())]
    ways += [online(Hedge(eta=0.5)), online(Hedge(cells=(halves,)))]
    keys = [arm_key(Mix([NGram(6), Uniform(6)], gate), named) for gate in ways]
    keys += [arm_key(Mix([Uniform(6), NGram(6)], ways[2]), named)]
    keys += [arm_key(Product([NGram(6), Uniform(6)], rate=rate), named) for rate in (0.1, 0.2)]
    keys += [arm_key(Hinted(NGram(6), Uniform(6), cells=cells), named) for cells in ((), (halves,))]
    keys += [arm_key(Temperatures(NGram(6), grid), named) for grid in ((1.0,), (0.9, 1.0))]
    keys += [arm_key(Temperatures(NGram(6), rule=Hedge()), named)]
    same(len(set(keys)), len(keys))
    same(arm_key(Mix([NGram(6), Uniform(6)], online(EM())), named), keys[2])
    inner = Mix([NGram(6), Uniform(6)], online(GridBayes(steps=4)))
    nested = Mix([inner, Uniform(6)], online(EM()))  # a mixture is an expert, too
    start, once_more = nested.state(), losses_of(nested, tokens, 64)
    nested.load(start)
    near(losses_of(nested, tokens, 7), once_more)
