"""Every predictor of this project before the auditor, and the auditor before predictors that cheat."""

import json
import math

import numpy as np
import pytest
import torch

from golf import audit as auditing
from golf.audit import (
    FAIL,
    LEVELS,
    NOT_RUN,
    PASS,
    TESTS,
    UNSURE,
    AuditReport,
    Level,
    Loop,
    Losses,
    Scored,
    Session,
    Subject,
    Total,
    audit,
)
from golf.dist import Dense, Mixture, Unnormalised
from golf.files import GolfError
from golf.mix import (
    EM,
    Entropy,
    Evidence,
    Fixed,
    Gradient,
    GridBayes,
    Hedge,
    Hinted,
    Logistic,
    Mix,
    Product,
    Selective,
    online,
)
from golf.model import GPT, SlidingWindow, preset
from golf.ngram import SMOOTHINGS, NGram, Uniform
from golf.packets import Packets, distil
from golf.scoring import Predictor
from golf.ttt import TTT

V, CHUNK = 64, 64
SMALL = Level("quick", tokens=288, chunks=4, positions=6, futures=2, streams=3, rows=288,
              substitutions=2, ids=4, draws=32, runs=256)  # fmt: skip
RNG = np.random.default_rng(0)
LAW = RNG.dirichlet(np.full(V, 0.1), V)
TOKENS = [1]
for _ in range(700):
    TOKENS.append(int(RNG.choice(V, p=LAW[TOKENS[-1]])))
TOKENS = np.array(TOKENS)
TOKENS[[100, 200, 300]] = 1
LOGITS = torch.tensor(np.log(LAW + 1e-6)).float()


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
    return TTT(window(), 12, **{"epochs": 1, "lr": 0.01, "batch": 2} | changes)


def both() -> list[Predictor]:
    return [NGram(V, 2), Uniform(V)]


def packets(**changes) -> Packets:
    return Packets(distil(TOKENS[::-1].copy(), V, order=2, top=8), **changes)


def mixes() -> dict:
    "Every gate and rule."
    gates = {
        "Fixed": Fixed((0.7, 0.3)), "Entropy": Entropy(), "Selective": Selective(),
        "Evidence": Evidence(),
    } | {r.__name__: online(r()) for r in (EM, Gradient, GridBayes, Hedge, Logistic)}  # fmt: skip
    return {f"Mix {n}": lambda g=g: Mix([NGram(V, 2), NGram(V, 3)], g) for n, g in gates.items()}


def published() -> dict:
    "What other people's scripts did, as far as it is legal."
    from golf.published import pr953, pr1043, pr1185

    prior = distil(TOKENS[::-1].copy(), V, order=2, top=8)
    return {
        "pr1043.Pairs": lambda: pr1043.Pairs(prior),
        "pr1043.PacketPower": lambda: pr1043.PacketPower(NGram(V, 2), pr1043.Pairs(prior)),
        "pr1185.Backoff": lambda: pr1185.Backoff(V, 4),
        "pr953.Grams": lambda: pr953.Grams(V, 2),
        "pr953.Honest": lambda: pr953.Honest(five()),
        "pr953.Temperatures": lambda: pr953.Temperatures(NGram(V, 2)),
    }


def five():
    from golf.published.pr953 import FiveExperts

    return FiveExperts(NGram(V, 2), warm_up=0)


def lora():
    from golf.lora import LoRA

    return LoRA(window(), rank=2)


def temperatures():
    from golf.mix import Temperatures

    return Temperatures(NGram(V, 2))


MAKE = {
    "Uniform": lambda: Uniform(V),
    "SlidingWindow": window,
    "TTT": adapted,
    "TTT reset": lambda: adapted(reset_every=2),
    "TTT reset on BOS": lambda: adapted(reset_on=1),
    "TTT adamw": lambda: adapted(optimiser="adamw", lr=0.001),
    "TTT muon": lambda: adapted(optimiser="muon"),
    "TTT polyak, anchor": lambda: adapted(polyak=0.9, anchor=0.1),
    "LoRA": lora,
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
FIXED = {"Uniform", "SlidingWindow"}  # learn nothing and claim nothing


def found(report: AuditReport) -> dict:
    "What a failing assertion should show."
    return {r.test: (r.verdict, r.worst, r.note) for r in report.results if r.verdict == "FAIL"}


@pytest.mark.parametrize("name", MAKE)
def test_every_predictor_is_audited(name):
    report = audit(MAKE[name](), TOKENS, SMALL, chunk_tokens=CHUNK)
    assert report.error is None and not report.failed, found(report)
    unsure = {t for t, v in report.verdicts.items() if v == UNSURE}
    assert not unsure, {t: report[t] for t in unsure}
    assert report.facts["state changed"] == (name not in FIXED | {"Packets offline"})
