"""What every predictor of the package promises, alone and in pairs: a new one is one line in `ALL`."""

import importlib
import itertools
import pkgutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import golf
from golf.adapt.lora import LoRA
from golf.adapt.placebo import Placebo
from golf.adapt.ttt import TTT
from golf.auditor.adapters import Windows
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.count.ngram import NGram, Uniform
from golf.count.packets import Packets, distil
from golf.mix.gates import Entropy, Fixed, Gate, Selective, Support
from golf.mix.mixtures import Ensemble, Mix
from golf.mix.products import Hinted, Product, Temperatures
from golf.mix.recorded import Recorded, record_pass
from golf.mix.rules import EM, Bins, GridBayes, Hedge, online
from golf.net.model import GPT, preset
from golf.net.ranks import Ranks, join, run_ranks
from golf.net.windows import Banded, SlidingWindow
from golf.predict.composed import Mixture
from golf.predict.dist import FEATURES, Dense, Distribution
from golf.predict.evaluate import evaluate
from golf.predict.stream import Predictor, Stream
from golf.published import pr953_adapt, pr953_mixer, pr953_repaired, pr1043, pr1185

V, CHUNK, CHUNKS = 64, 64, 4
SHAPE = preset(
    "tiny", vocab_size=V, layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, context=32,
    bigram_rows=64, bigram_width=8, value_rows_width=8, value_layers=(1,), xsa_layers=(1,),
    rope_dims=8,
)  # fmt: skip
RANDOM = torch.Generator().manual_seed(0)
TEXT = torch.randint(2, V, (40,), generator=RANDOM).repeat(8)[: CHUNK * CHUNKS + 1]
TEXT[[0, 50, 170]] = 1
STREAM = Stream(TEXT, CHUNK)
PRIOR = distil(torch.randint(2, V, (2000,), generator=RANDOM).numpy() ** 2 // V, V)
FLAT = (Bins("entropy:0", (2.0, 3.0, 3.8)),)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These tensors are too small to share among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TO_BE_CAUGHT = {f"golf.auditor.{room}" for room in ("toys", "specimens", "outside")}


def network(ranks: Ranks | None = None) -> SlidingWindow:
    """Overlapping windows of a small network without training."""
    return SlidingWindow(GPT(SHAPE, seed=3), stride=16, batch=4, ranks=ranks)


def trigrams() -> NGram:
    return NGram(V, 3)


ALL: dict[str, Callable[[], Predictor]] = {
    "SlidingWindow": network,
    "Banded": lambda: Banded(GPT(SHAPE, seed=3), 32, 16),
    "Windows": lambda: Windows(GPT(SHAPE, seed=3), 32, 16),
    "TTT": lambda: TTT(network(), CHUNKS, lr=0.3, epochs=1),
    "LoRA": lambda: LoRA(network(), rank=2),
    "Placebo": lambda: Placebo(trigrams(), torch.cat([TEXT.roll(37)] * 4)),
    "NGram": trigrams,
    "NGram, kneser_ney, by chunk": lambda: NGram(V, smoothing="kneser_ney", semantics="chunk"),
    "Packets": lambda: Packets(PRIOR, 3, smoothing="witten_bell"),
    "Uniform": lambda: Uniform(V),
    "Mix": lambda: Mix([network(), trigrams()], online(Hedge(share=0.01))),
    "Product": lambda: Product([network(), trigrams()], (0.7, 0.5), rate=0.5),
    "Hinted": lambda: Hinted(network(), trigrams()),
    "Temperatures": lambda: Temperatures(network()),
    "Recorded": lambda: record_pass(trigrams(), STREAM),
    "pr953_mixer.Grams": lambda: pr953_mixer.Grams(V, 2),
    "pr953_repaired.TemperatureBayes": lambda: pr953_repaired.TemperatureBayes(network()),
    "pr953_adapt.Calibrated": lambda: pr953_adapt.Calibrated(
        TTT(network(), CHUNKS, lr=0.3, epochs=1)
    ),
    "pr953_mixer.Honest": lambda: pr953_mixer.Honest(
        pr953_mixer.FiveExperts(network(), warm_up=CHUNK)
    ),
    "pr1043.Pairs": lambda: pr1043.Pairs(PRIOR),
    "pr1043.PacketPower": lambda: pr1043.PacketPower(network(), pr1043.Pairs(PRIOR), floor=0.0),
    "pr1185.Backoff": lambda: pr1185.Backoff(V, 3),
    "pr1185.Backoff, pairs": lambda: pr1185.Backoff(V, 2),
    "NGram, dirichlet": lambda: NGram(V, 2, smoothing="dirichlet", documents="inside"),
}
NOT_DISTRIBUTIONS = {
    "pr953_mixer.FiveExperts"
}  # published as they were; `Mix` and `evaluate` refuse them
PAIRS: dict[str, Callable[[Predictor, Predictor], Predictor]] = {
    "Mix": lambda a, b: Mix([a, b], online(GridBayes(steps=4, cells=FLAT))),
    "Product": lambda a, b: Product([a, b], (0.7, 0.5), rate=0.5),
    "Hinted": Hinted,
    "Temperatures": lambda a, b: Temperatures(Mix([a, b], Fixed((0.6, 0.4))), (0.8, 1.2)),
}
BASES = [name for name in list(ALL)[:8] if name != "Windows"]
COMPOSED = list(itertools.combinations(BASES, 2))


def name_of(kind: type) -> str:
    """A class as the registry calls it."""
    home = kind.__module__.removeprefix("golf.")
    return f"{home.rpartition('.')[2]}.{kind.__name__}" if "published" in home else kind.__name__


def test_every_predictor_of_the_package_is_here():
    def below(kind: type):
        for sub in kind.__subclasses__():
            yield from (sub, *below(sub))

    for module in pkgutil.walk_packages(golf.__path__, "golf."):
        importlib.import_module(module.name)
    public = {
        name_of(kind)
        for kind in below(Predictor)
        if kind.__module__.startswith("golf.") and kind.__name__[0] != "_"
        if kind.__module__ not in TO_BE_CAUGHT
        if kind is not Ensemble  # what the others have in common
        if kind.__name__ != "Kept"  # of lab.arms: says what another predictor says
    }
    assert public == {name.partition(",")[0] for name in ALL} | NOT_DISTRIBUTIONS
    for name in ALL:
        assert name_of(type(ALL[name]())) == name.partition(",")[0]


def walk(predictor: Predictor, stream: Stream, look=None, chunks=slice(None)) -> torch.Tensor:
    """Losses of some chunks; `look(chunk, distribution)` before each is scored."""
    found = []
    for chunk in list(stream)[chunks]:
        distribution = predictor.predict(chunk)
        if look:
            look(chunk, distribution)
        found.append(-distribution.log_prob(chunk.targets))
        predictor.observe(chunk)
    return torch.cat(found)


def near(a: torch.Tensor, b: torch.Tensor, most: float) -> bool:
    """Whether all differ by no more than `most`; infinite losses must agree."""
    return torch.allclose(a.double(), b.double(), rtol=0, atol=most)


def check(make: Callable[[], Predictor], cut: int) -> None:
    """All promises of one predictor, with the future replaced after position `cut`."""
    random, states = torch.Generator().manual_seed(cut), []
    subject = make()

    def look(chunk, distribution):
        states.append(subject.state())
        assert distribution.normalised
        at = torch.randint(len(chunk), (3,), generator=random).sort().values
        ids = torch.randint(V, (len(chunk),), generator=random)
        rows = distribution.rows(at)
        assert (rows.exp().sum(1) - 1).abs().max() <= 1e-5
        for asked in (ids, chunk.targets):
            told = distribution.log_prob(asked)[at]
            assert near(rows.gather(1, asked[at, None])[:, 0], told, 1e-5)

    losses = walk(subject, STREAM, look)
    assert torch.equal(walk(make(), STREAM), losses)  # looking changes nothing

    other = TEXT.clone()
    other[cut + 1 :] = torch.randint(V, (len(TEXT) - cut - 1,), generator=random)
    changed = walk(make(), Stream(other, CHUNK), chunks=slice(3))
    assert near(changed[:cut], losses[:cut], 1e-6) and not torch.equal(other, TEXT)

    resumed = make()
    for start in (2, 1, 3):  # forwards and backwards, into one that has learnt meanwhile
        resumed.load(states[start])
        again = walk(resumed, STREAM, chunks=slice(start, None))
        assert near(again, losses[start * CHUNK :], 1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "Recorded"])
def test_no_positions_have_no_rows(name):
    predictor = ALL[name]()
    for chunk in list(STREAM)[:2]:
        none = torch.zeros(0, dtype=torch.int64)
        assert predictor.predict(chunk).rows(none).shape == (0, predictor.vocab_size)
        predictor.observe(chunk)


def answers(distribution: Distribution, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """All that a distribution and its parts hand out."""
    found = {"log_prob": distribution.log_prob(ids)} | distribution.survey(FEATURES)
    found |= {n: x for n, x in vars(distribution).items() if isinstance(x, torch.Tensor)}
    if distribution.targets is None:  # a record has no rows
        found["rows"] = distribution.rows()
    if hasattr(distribution, "weights") and callable(distribution.weights):
        found["weights"] = distribution.weights()
    for k, part in enumerate(distribution.parts):
        found |= {f"{k}: {n}": x for n, x in answers(part, ids).items()}
    return found


def copies(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in found.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name].nan_to_num(), x.nan_to_num()) for name, x in b.items())


OTHER = TEXT.roll(7)  # what else may be asked about
MAKERS = ALL | {
    f"{how} of {a} and {b}": lambda how=how, a=a, b=b: PAIRS[how](ALL[a](), ALL[b]())
    for how, a, b in (("Mix", "Packets", "pr1185.Backoff, pairs"), ("Hinted", "TTT", "NGram"))
}


@pytest.mark.parametrize("name", MAKERS)
def test_numbers_that_somebody_keeps_do_not_change_when_the_predictor_goes_on(name):
    subject, kept = MAKERS[name](), []
    for chunk in list(STREAM)[:3]:
        tokens = chunk.tokens.clone()
        tokens[chunk.start + 1 :] = OTHER[chunk.start + 1 : chunk.stop + 1]
        other = chunk if name == "Recorded" else replace(chunk, tokens=tokens)
        first = subject.predict(chunk)
        for asked in (other, chunk):
            found = answers(first, asked.targets)
            kept.append((found, copies(found)))
        answers(subject.predict(other), other.targets)  # asked about another text meanwhile
        for asked, (_, copy) in zip((other, chunk), kept[-2:]):
            assert same(answers(first, asked.targets), copy)
        state = subject.state()
        then = digest(state)
        subject.observe(chunk)
        assert digest(state) == then
        assert all(same(found, copy) for found, copy in kept)


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_kept_for_speed_changes_no_score(name):
    losses, fresh, found = walk(MAKERS[name](), STREAM), MAKERS[name](), []
    for chunk in STREAM:
        state, fresh = fresh.state(), MAKERS[name]()  # all that it knows, and nothing besides
        fresh.load(state)
        found.append(-fresh.predict(chunk).log_prob(chunk.targets))
        fresh.observe(chunk)
    assert near(torch.cat(found), losses, 1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "Recorded"])
def test_alone(name):
    for cut in (1, CHUNK - 1, CHUNK, 100):
        check(ALL[name], cut)


@pytest.mark.parametrize("how", PAIRS)
@pytest.mark.parametrize("pair", COMPOSED, ids=" & ".join)
def test_in_pairs(pair, how):
    check(lambda: PAIRS[how](*(ALL[name]() for name in pair)), 90 + len(pair[0]))


def test_a_record_replays_its_source_and_nothing_else():
    record = record_pass(trigrams(), STREAM)
    losses = walk(record, STREAM)
    assert torch.equal(losses.float(), torch.from_numpy(evaluate(trigrams(), STREAM).nll))
    again = ALL["Recorded"]()
    start = again.state()
    walk(again, STREAM, chunks=slice(2))
    again.load(start)
    assert torch.equal(walk(again, STREAM), losses)
    other = TEXT.clone()
    other[200] = (other[200] + 1) % V
    with pytest.raises(GolfError, match="other tokens"):
        walk(Recorded(record.record), Stream(other, CHUNK))
    mixed = [
        Mix([one, Uniform(V)], online(EM(cells=FLAT))) for one in (ALL["Recorded"](), trigrams())
    ]
    assert near(walk(mixed[0], STREAM), walk(mixed[1], STREAM), 1e-6)


@pytest.mark.parametrize("name", sorted(NOT_DISTRIBUTIONS))
def test_what_is_no_distribution_is_refused(name):
    claims = lambda: pr953_mixer.FiveExperts(network(), warm_up=0)
    for refused in (
        claims(),
        Mix([claims(), trigrams()], online(EM())),
        Product([claims(), trigrams()]),
        Hinted(claims(), trigrams()),
        Temperatures(claims()),
    ):
        with pytest.raises(GolfError, match="normalised|no probabilities"):
            evaluate(refused, STREAM)
        assert refused.position == 0


def shared(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Losses of what holds a network, when `ranks` share its windows."""
    window = lambda: network(ranks)
    learner = lambda: TTT(window(), CHUNKS, lr=0.3, epochs=1)
    subjects = {
        "SlidingWindow": window(),
        "TTT": learner(),
        "LoRA": LoRA(window(), rank=2),
        "Temperatures": Temperatures(window(), rule=EM(cells=FLAT, start=(1.0,) * 5)),
        "Mix": Mix([learner(), trigrams()], online(EM(cells=FLAT))),  # one rule to compile
        "Product": PAIRS["Product"](learner(), trigrams()),
        "Hinted": Hinted(learner(), trigrams()),
    }
    return {name: walk(one, STREAM) for name, one in subjects.items()}


def of_this_rank() -> tuple[dict[str, torch.Tensor], str]:
    """What `shared` finds here, and its digest."""
    found = shared(join())
    return found, digest(found)


@pytest.mark.usefixtures("warm_ranks")
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_world_size_scores_alike(ranks):
    found, alone = run_ranks(of_this_rank, ranks=ranks), shared(Ranks())
    assert len({name for _, name in found}) == 1  # bit for bit the same on every rank
    for name, losses in alone.items():
        assert near(found[0][0][name], losses, 1e-5), name
    assert len({digest(losses) for losses in alone.values()}) == len(alone)


class Says(Predictor):
    """The same logits [V] everywhere."""

    def __init__(self, logits):
        self.logits, self.vocab_size = logits, len(logits)

    def distribution(self, chunk):
        return Dense(self.logits.expand(len(chunk), -1))


class Late(Gate):
    """Half and half up to position 70 of the stream, then more than all for one of the two."""

    experts, needs = 2, ("peak:0",)

    def weights(self, features):
        self.seen = getattr(self, "seen", 0)
        at = self.seen + torch.arange(len(features["peak:0"]))
        return torch.stack([0.5 + 1.0 * (at >= 70), 0.5 - 1.0 * (at >= 70)], dim=1)


def test_a_gate_that_gives_negative_weights_is_named_with_the_place():
    gate, chunks = Late(), list(STREAM)
    mixed = Mix([Uniform(V), trigrams()], gate)
    mixed.predict(chunks[0])
    mixed.observe(chunks[0])
    gate.seen = CHUNK
    found = mixed.predict(chunks[1])
    for _ in range(2):  # not only when it is asked first
        with pytest.raises(GolfError, match=r"Late.* gave the weights 1.5, -0.5 at position 70"):
            found.log_prob(chunks[1].targets)
    with pytest.raises(GolfError, match="gave the weights 0.5, 0.6 at position 0"):
        Mixture([Uniform(V).predict(chunks[0])] * 2, (0.5, 0.6))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fixed((1.2, -0.2)),
        lambda: Fixed((0.5, 0.6)),
        lambda: Entropy(low=0.5, span=0.8),
        lambda: Entropy(low=-0.1),
        lambda: Selective(scale=-1.0),
        lambda: Support(strength=0.0),
        lambda: Support(strength=float("nan")),
    ],
)
def test_a_gate_whose_weights_could_be_negative_is_refused_before_it_is_used(make):
    with pytest.raises(GolfError, match="(shares|low|span|scale|strength) must be"):
        make()


def test_a_product_of_what_is_impossible_says_where_and_whose():
    one, other = torch.zeros(V), torch.zeros(V)
    one[: V // 2], other[V // 2 :] = -torch.inf, -torch.inf
    with pytest.raises(
        GolfError, match="at position 0 of the chunk some part calls each id imposs"
    ):
        evaluate(Product([Says(one), Says(other)], (0.5, 0.5)), STREAM)
    with pytest.raises(GolfError, match="its part 1 calls id 32 impossible, with exponent -0.5"):
        evaluate(Product([Uniform(V), Says(other)], (1.0, -0.5)), STREAM)
