"""Scoring and adapting on several processes: the same scores, the same weights, one distribution."""

import inspect
import pydoc
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest
import torch

from golf.adapt.gradients import EmpiricalBayes
from golf.adapt.lora import LoRA
from golf.adapt.masks import (
    freeze_embeddings,
    freeze_first,
    layer_scales,
    product,
    role_scales,
    train_last,
)
from golf.adapt.ttt import TTT, Gradients, TTTOptions, constant
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.count.ngram import NGram
from golf.mix.gates import Entropy
from golf.mix.mixtures import Mix
from golf.net.model import GPT, preset
from golf.net.optim import role
from golf.net.ranks import Ranks, run_ranks
from golf.net.windows import SlidingWindow
from golf.predict.evaluate import evaluate
from golf.predict.stream import Predictor, Stream
from golf.published.pr953_adapt import Calibrated, ramped_cosine
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


def test_chunks_all_too_short_to_learn_from_are_refused_before_any_is_scored():
    learner = TTT(SlidingWindow(GPT(SHAPE), stride=16), 100, epochs=1)
    with pytest.raises(GolfError, match="chunk_tokens must be at least the context, 32, not 16"):
        evaluate(learner, Stream(TEXT, 16))
    assert learner.position == 0


# Each option on a text with a habit: chapter adapt/00_score_first has its curves

HABIT = torch.randint(64, (48,), generator=torch.Generator().manual_seed(5)).repeat(17)[:769]


class FiveSizes:
    """Each target stands for 1 to 5 bytes."""

    def count(self, previous, targets):
        return 1 + targets % 5


def fresh(**settings) -> TTT:
    """A learner of twelve chunks on a fresh model."""
    return TTT(SlidingWindow(GPT(SHAPE, seed=3), stride=16), 12, **{"lr": 0.3, **settings})


def test_every_setting_changes_the_scores_and_no_two_alike():
    adamw, muon = dict(optimiser="adamw", lr=0.01), dict(optimiser="muon", lr=0.01)
    settings = [
        {}, dict(lr=0.1), dict(momentum=0.5), dict(epochs=1), dict(grad_clip=0.1), dict(grad_clip=0.0),
        dict(reset_every=4), dict(trainable=freeze_first(1)), dict(batch=1), dict(schedule=constant),
        dict(schedule=ramped_cosine), dict(clock="step"), dict(scale=role_scales()),
        dict(scale=layer_scales()), dict(scale=product(role_scales(), layer_scales())),
        dict(trainable=freeze_embeddings), dict(trainable=train_last(1)), dict(polyak=0.5), dict(anchor=0.1),
        dict(weight="bytes", byte_table=FiveSizes()),
        adamw, adamw | dict(betas=(0.9, 0.95)), adamw | dict(scale=role_scales()),
        muon, muon | dict(momentum=0.5), muon | dict(betas=(0.9, 0.95)), muon | dict(scale=role_scales()),
    ]  # fmt: skip
    untried = {f.name for f in fields(TTTOptions)} - {name for s in settings for name in s}
    assert untried == {"reset_on", "gradients"}  # tried in adapt/00b_ttt and adapt/00d_options
    losses = {evaluate(fresh(**s), Stream(HABIT, 64)).loss for s in settings}
    longer = TTT(SlidingWindow(GPT(SHAPE, seed=3), stride=16), 24, lr=0.3)
    losses.add(evaluate(longer, Stream(HABIT, 64)).loss)  # the number of chunks is a setting too
    assert len(losses) == len(settings) + 1


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "muon"])
def test_a_mask_within_a_matrix_holds_although_muon_mixes_its_gradients(optimiser):
    half = torch.ones(32)
    half[:16] = 0
    learner = fresh(lr=0.01, optimiser=optimiser, trainable=lambda model: {"mlp_up_bank": half})
    evaluate(learner, Stream(HABIT, 64))
    moved = (learner.model.mlp_up_bank != learner.start["mlp_up_bank"]).any(0).any(0)
    assert not moved[:16].any() and moved[16:].all()


def test_frozen_tables_do_not_move_and_all_matrices_do():
    learner = fresh(trainable=freeze_embeddings)
    evaluate(learner, Stream(HABIT, 64))
    for name, p in learner.model.named_parameters():
        if role(name) in ("table", "matrix"):
            assert torch.equal(p, learner.start[name]) == (role(name) == "table"), name


REFUSED = {
    "optimiser": dict(optimiser="adam"), "momentum": dict(optimiser="adamw", momentum=0.5),
    "betas": dict(betas=(0.9, 0.95)), "clock": dict(clock="token"), "polyak": dict(polyak=1.0),
    "anchor": dict(anchor=1.5), "reset_on": dict(reset_on=64), "weight": dict(weight="byte"),
    "byte_table": dict(weight="bytes"),
    "byte_table must be given for weight='bytes' only": dict(byte_table=FiveSizes()),
    "scale names no parameter: 'mlp_up'": dict(scale=lambda m: {"mlp_up": torch.ones(())}),
    "scale must give mlp_up_bank factors": dict(scale=lambda m: {"mlp_up_bank": torch.ones(3, 1, 1)}),
    "reset_every must be in .0, total_chunks. = .0, 12., not 12": dict(reset_every=12),
    "reset_every must be in .0, total_chunks. = .0, 12., not 17": dict(reset_every=17),
    "reset_every must be in .0, total_chunks. = .0, 12., not -1": dict(reset_every=-1),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_work_is_refused_by_name(words):
    with pytest.raises(GolfError, match=f"TTT: {words}"):
        fresh(**REFUSED[words])


def test_a_misspelled_optimiser_a_half_precision_table_and_a_changed_option_are_refused():
    with pytest.raises(GolfError, match="did you mean 'adamw'"):
        fresh(optimiser="adam")
    model = GPT(SHAPE)
    model.embedding.bfloat16()
    with pytest.raises(GolfError, match="embedding.weight must be float32 while it adapts"):
        TTT(SlidingWindow(model), 12)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'lr'"):
        fresh().lr = 0.2


def test_streams_that_do_not_fit_are_refused():
    with pytest.raises(GolfError, match="total_chunks is 3, but the stream has more"):
        evaluate(TTT(SlidingWindow(GPT(SHAPE)), 3), Stream(HABIT, 64))


def told(learner: TTT, chunks: list) -> list[float]:
    """Log-probabilities of some chunks, each learned from."""
    found = []
    for chunk in chunks:
        found += learner.predict(chunk).log_prob(chunk.targets).tolist()
        learner.observe(chunk)
    return found


@pytest.mark.parametrize("optimiser", ["sgd", "adamw", "muon"])
def test_a_copy_taken_while_a_chunk_is_scored_by_the_average_goes_on_alike(optimiser):
    chunks = list(Stream(HABIT, 64))
    original, fork = (fresh(lr=0.01, optimiser=optimiser, polyak=0.5) for _ in range(2))
    told(original, chunks[:6])
    original.predict(chunks[6])  # the model holds the average now
    saved = original.state()
    rest = told(original, chunks[6:])
    fork.load(saved)
    assert told(fork, chunks[6:]) == rest
    original.reset()
    own = original.state()["own"]
    assert own["momentum"] == {} and not own.get("memory")


def test_a_state_of_another_kind_is_refused():
    saved = fresh(lr=0.01, optimiser="muon", polyak=0.5).state()
    with pytest.raises(GolfError, match="optimiser is 'sgd', but the state is of 'muon'"):
        fresh().load(saved)
    with pytest.raises(GolfError, match="polyak is 0.0, but the state has an average"):
        fresh(optimiser="muon").load(saved)


def test_factors_and_the_number_of_the_mark_are_part_of_the_name():
    names = [
        digest(fresh(optimiser=o, **each).digestible())
        for o in ("sgd", "adamw", "muon")
        for each in ({}, dict(scale=role_scales()), dict(scale=role_scales(output=2.0)),
            dict(scale=product(role_scales(), layer_scales())), dict(trainable=freeze_embeddings),
            dict(reset_on=0))
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    own = fresh().digestible()[-1]
    assert {*own, "predictor"} == {*inspect.signature(TTT).parameters}
