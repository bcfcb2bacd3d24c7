"""Gradients that are scaled by their measured noise do not depend on how many ranks measure it."""

from dataclasses import fields

import pytest
import torch

from golf.adapt.gradients import EmpiricalBayes, const, james_stein, predictive, shrink
from golf.adapt.ttt import TTT
from golf.net.model import GPT, preset
from golf.net.ranks import join, run_ranks
from golf.net.windows import SlidingWindow
from golf.predict.compare import arm_key
from golf.predict.evaluate import evaluate
from golf.predict.stream import Stream

SHAPE = preset(
    "tiny", vocab_size=64, layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, context=32,
    bigram_rows=64, bigram_width=8, value_rows_width=8, value_layers=(1,), xsa_layers=(1,),
    rope_dims=8,
)  # fmt: skip
WAYS = {
    "shrink": dict(rule=shrink),
    "pairs": dict(rule=shrink, micro=2, group="block", keep_length=True),
    "rows": dict(rule=james_stein, group="row", decay=0.0, pool=2),
    "predictive": dict(rule=predictive),
}


def adapted() -> dict[str, tuple]:
    """Losses by chunk, logged scales and a weight, for each way, on the ranks of this process."""
    ranks = join()
    tokens = torch.randint(64, (48,), generator=torch.Generator().manual_seed(5)).repeat(22)
    stream, found = Stream(tokens[:1025], 256), {}
    for name, way in WAYS.items():
        window = SlidingWindow(GPT(SHAPE, seed=3), stride=32, ranks=ranks)
        learner = TTT(window, stream.chunks, lr=0.3, epochs=2, gradients=EmpiricalBayes(**way))
        losses = evaluate(learner, stream).by_chunk().nll.tolist()
        log = learner.gradient_estimator.frame()
        found[name] = losses, log.scale.tolist(), learner.model.qo_bank.flatten()[::97].tolist()
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple]:
    """What one process finds."""
    return adapted()


@pytest.mark.usefixtures("warm_ranks")
def test_ranks_measure_the_same_noise(alone):
    """The same micro-batches on several ranks: the same scales, the same weights, on every rank."""
    for held in run_ranks(adapted, ranks=2):
        for name, parts in held.items():
            for ours, theirs in zip(parts, alone[name]):
                torch.testing.assert_close(
                    torch.tensor(ours), torch.tensor(theirs), atol=2e-3, rtol=1e-3
                )


def test_without_the_message_ranks_would_differ(alone):
    """The scales are no constants, so the test above can fail."""
    for _, scales, _ in alone.values():
        assert 0.01 < torch.tensor(scales).std() < 1


def test_every_option_changes_the_losses_and_the_name():
    tokens = torch.randint(64, (48,), generator=torch.Generator().manual_seed(5)).repeat(43)
    stream = Stream(tokens[:1025], 256)
    options = [
        dict(), dict(group="block"), dict(group="row"), dict(micro=2), dict(decay=0.0),
        dict(decay=0.0, pool=3), dict(keep_length=True), dict(lo=0.9), dict(hi=0.5),
        dict(order="after_clip"), dict(rule=james_stein, group="row"), dict(rule=predictive),
        dict(rule=const((0.5, 2.0))), dict(rule=const((0.5, 2.0), rest=0.5)), dict(rule=const(2.0)),
    ]  # fmt: skip
    assert {name for each in options for name in each} == {f.name for f in fields(EmpiricalBayes)}
    losses, names = set(), set()
    for gradients in (*(EmpiricalBayes(**each) for each in options), None):
        window = SlidingWindow(GPT(SHAPE, seed=3), stride=32)
        learner = TTT(window, stream.chunks, lr=0.3, epochs=1, gradients=gradients)
        names.add(arm_key(learner, stream))
        losses.add(evaluate(learner, stream).loss)
    assert len(losses) == len(names) == len(options) + 1
