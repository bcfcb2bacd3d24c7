"""Scoring and adapting on several processes: the same scores, the same weights, one distribution."""

import inspect
import pydoc
from dataclasses import dataclass, fields

import pytest
import torch

from golf.adapt.gradients import EmpiricalBayes
from golf.adapt.lora import LoRA
from golf.adapt.ttt import TTT, Gradients, constant, layer_scales, product, role_scales
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.count.ngram import NGram
from golf.mix.gates import Entropy
from golf.mix.mixtures import Mix
from golf.net.model import GPT, preset
from golf.net.ranks import Ranks, run_ranks
from golf.net.windows import SlidingWindow
from golf.predict.stream import Predictor, Stream, evaluate
from golf.published.pr953 import Calibrated
from golf.published.recipes import Adaptation

SHAPE = preset(
    "tiny",
    vocab_size=64,
    layers=2,
    width=32,
    heads=2,
    kv_heads=1,
    mlp_width=64,
    context=32,
    bigram_rows=64,
    bigram_width=8,
    value_rows_width=8,
    value_layers=(1,),
    xsa_layers=(1,),
    rope_dims=8,
)
CHUNK = 96  # three sequences to learn from, six windows to score: fewer than eight ranks
TEXT = torch.randint(2, 64, (48,), generator=torch.Generator().manual_seed(5)).repeat(14)[:610]
TEXT[[0, 150, 400]] = 1
EVERY = dict(polyak=0.5, anchor=0.01, reset_on=1, scale=product(role_scales(), layer_scales()))
CASES = "windows", "bfloat16", "sgd", "rows", "adamw", "muon", "shrunk", "lora", "mixed"


@dataclass(frozen=True)
class Sizes:
    """Each target stands for 0 to 4 bytes."""

    def count(self, previous, targets):
        return targets % 5


class Shrunk(Gradients):
    """Each row's own gradient, and one factor that depends on the norms of all of them."""

    def fill(self, learner, ids, targets):
        mine, squares = learner.share(ids, targets), torch.zeros(())
        total = [torch.zeros_like(p) for p in learner.model.parameters()]
        for i in range(len(mine[0])):  # none, where there are fewer rows than ranks
            learner.model.zero_grad()
            (learner.loss(*(t[i : i + 1] for t in mine)) / len(ids)).backward()
            for p, t in zip(learner.model.parameters(), total):
                t += p.grad
                squares += p.grad.square().sum()
        for p, t in zip(learner.model.parameters(), total):
            p.grad = t
        learner.sum_gradients()
        noise = learner.ranks.sum_(squares)
        for p in learner.model.parameters():
            p.grad /= 1 + noise


def predictor(case: str, ranks: Ranks) -> Predictor:
    """One learner, or none, on a fresh model."""
    dtype = torch.bfloat16 if case == "bfloat16" else torch.float32
    model = GPT(SHAPE, seed=3, compute_dtype=dtype)
    window = SlidingWindow(model, stride=16, batch=4, ranks=ranks)
    if case in ("windows", "bfloat16"):
        return window
    if case == "mixed":
        return Mix([window, NGram(64, 3)], Entropy(order=None))
    if case == "lora":
        return LoRA(window, epochs=2)
    weigh = dict(weight="bytes", byte_table=Sizes()) if case in ("adamw", "muon") else {}
    rest = {
        "sgd": dict(lr=0.3),
        "rows": dict(lr=0.3, batch=1, schedule=constant),  # every batch is one rank's alone
        "shrunk": dict(lr=0.3, gradients=Shrunk()),
        "adamw": dict(lr=0.002, optimiser="adamw", **EVERY),
        "muon": dict(lr=0.002, optimiser="muon", **EVERY),
    }[case]
    return TTT(window, Stream(TEXT, CHUNK).chunks, **weigh, **rest)


def run(case: str, ranks: Ranks) -> dict:
    """Scores, final weights or state, and the digests of both."""
    made = predictor(case, ranks)
    nll = torch.from_numpy(evaluate(made, Stream(TEXT, CHUNK)).nll)
    held = made.get_state().get("weights", made.get_state().get("factors", {}))
    return dict(nll=nll, held=held, name=digest([nll, held]))


def every_case() -> dict:
    """All cases on this rank, and what it says to ranks that bring a model each."""
    from golf.net.ranks import join

    ranks = join()
    found = {case: run(case, ranks) for case in CASES}
    try:
        SlidingWindow(GPT(SHAPE, seed=ranks.rank), ranks=ranks)
    except GolfError as error:
        found["error"] = str(error)
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    """All cases in this process."""
    return {case: run(case, Ranks()) for case in CASES}


@pytest.mark.usefixtures("warm_ranks")
@pytest.mark.parametrize("size", [2, 4, 8])
def test_every_world_size_gives_the_same_scores(alone, size):
    """Within 1e-5 nats a token of one process, and bit for bit the same on every rank."""
    found = run_ranks(every_case, ranks=size)
    what = "the model of a SlidingWindow differs between the ranks"
    assert all(what in rank["error"] for rank in found)
    for case in CASES:
        first = found[0][case]
        assert {rank[case]["name"] for rank in found} == {first["name"]}, case
        tolerance = 0.02 if case == "bfloat16" else 1e-5
        assert (first["nll"] - alone[case]["nll"]).abs().max() <= tolerance, case
        for name, weight in alone[case]["held"].items():
            assert torch.allclose(first["held"][name], weight, atol=1e-4), (case, name)


def test_the_cases_are_different(alone):
    """Each learner learns, and no two score alike; otherwise agreement would say little."""
    assert len({case["name"] for case in alone.values()}) == len(CASES)
    for case in ("sgd", "rows", "adamw", "muon", "shrunk", "lora"):
        assert (alone[case]["nll"][CHUNK:] - alone["windows"]["nll"][CHUNK:]).abs().max() > 1e-3


def test_the_number_of_ranks_is_part_of_the_name():
    """Scores in the cache agree to rounding only, so each number of ranks has its own."""
    model = GPT(SHAPE)
    two = SlidingWindow(model)
    two.ranks = Ranks(0, 2)
    assert digest(two.digestible()) != digest(SlidingWindow(model).digestible())
    plain = [TTT(w, 3, gradients=g) for w in (two, SlidingWindow(model)) for g in (None, Shrunk())]
    assert len({digest(learner.digestible()) for learner in plain}) == 4


@pytest.mark.parametrize("learner", [TTT, EmpiricalBayes, LoRA])
def test_help_shows_every_option_with_its_default_and_a_misspelled_one_is_named(learner):
    shown = pydoc.plain(pydoc.render_doc(learner))
    for name, option in inspect.signature(learner).parameters.items():
        assert f"{name}: " in shown
        assert option.kind is option.KEYWORD_ONLY or name in ("predictor", "total_chunks", "rule")
    given = dict.fromkeys(("predictor", "total_chunks"), None) if learner is TTT else {}
    with pytest.raises(TypeError, match=rf"{learner.__name__}.__init__.*argument 'epoch'"):
        learner(**given, epoch=1)


def test_a_recipe_holds_every_option_of_ttt_and_hands_it_on():
    """A recipe that could not say what a published run did would rebuild another run."""
    options = inspect.signature(TTT).parameters.keys() - {"predictor", "total_chunks", "byte_table"}
    assert {f.name for f in fields(Adaptation)} == options | {"chunk_tokens", "stride"}
    learner = Adaptation(lr=0.5, reset_every=2, chunk_tokens=32, stride=16).start(GPT(SHAPE), 610)
    assert (learner.lr, learner.reset_every, learner.epochs) == (0.5, 2, 3)


def test_two_learners_with_the_same_options_are_two():
    """A mixture of both would refuse them, and a set lose one, if equal options made them equal."""
    one, other = (TTT(SlidingWindow(GPT(SHAPE)), 3) for _ in range(2))
    assert one != other and len({one, other}) == 2


def test_every_option_is_part_of_the_name():
    window = SlidingWindow(GPT(SHAPE))
    options = [
        dict(lr=0.1), dict(momentum=0.5), dict(epochs=1), dict(grad_clip=0.5), dict(batch=8),
        dict(reset_every=2), dict(trainable=role_scales()), dict(schedule=constant),
        dict(clock="step"), dict(optimiser="adamw"), dict(optimiser="muon"),
        dict(optimiser="muon", betas=(0.9, 0.95)), dict(scale=role_scales()), dict(polyak=0.5),
        dict(anchor=0.1), dict(reset_on=1), dict(weight="bytes", byte_table=Sizes()),
        dict(gradients=Shrunk()), {},
    ]  # fmt: skip
    taken = inspect.signature(TTT).parameters.keys() - {"predictor", "total_chunks"}
    assert {name for each in options for name in each} == taken
    names = {
        digest(TTT(window, chunks, **each).digestible()) for each in options for chunks in (3, 4)
    }
    assert len(names) == 2 * len(options)


@pytest.mark.parametrize("total", [5, 100])
def test_a_text_that_ends_in_the_middle_of_a_sequence_is_scored_to_its_end(total):
    stream = Stream(TEXT[: CHUNK * 4 + 20], CHUNK)  # the last 19 targets are no sequence of 32
    learner = TTT(SlidingWindow(GPT(SHAPE)), total, epochs=1)
    for one in (learner, Calibrated(learner)):
        start = one.state()
        assert evaluate(one, stream).nll.shape == (stream.positions,)
        one.load(start)


def test_chunks_all_too_short_to_learn_from_are_refused_before_the_second_is_scored():
    learner = TTT(SlidingWindow(GPT(SHAPE), stride=16), 100, epochs=1)
    with pytest.raises(GolfError, match="chunk_tokens must be at least the context, 32, not 16"):
        evaluate(learner, Stream(TEXT, 16))
    assert learner.position == 16
