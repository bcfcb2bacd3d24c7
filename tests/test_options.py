"""Options that reach the library directly are refused in one line, where they are given.

The table names every public option and what kind of value it takes; a value of another kind that got
through would be heard of after minutes, from inside torch or numba, or never.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from golf.adapt import masks
from golf.adapt.gradients import EmpiricalBayes, const
from golf.adapt.groups import groups
from golf.adapt.lora import LoRA
from golf.adapt.memory import memorisation
from golf.adapt.ttt import TTT
from golf.auditor.audit import audit, audit_arms
from golf.base.files import GolfError
from golf.base.small import SMALL, OneByte
from golf.count.kernels import ngram_counts
from golf.count.ngram import NGram, Smoothing, Uniform
from golf.count.packets import Packets, distil
from golf.lab.cli import app
from golf.mix.gates import Entropy, Fixed, Selective, Support
from golf.mix.mixtures import Mix
from golf.mix.products import Hinted, Product, Temperatures
from golf.mix.rules import EM, Bins, Gradient, GridBayes, Hedge, Logistic, online
from golf.net.average import EMA, LAWA, SWA
from golf.net.model import GPT, GPTConfig
from golf.net.windows import Banded, SlidingWindow
from golf.predict.compare import compare
from golf.predict.evaluate import evaluate
from golf.predict.stats import paired_bootstrap
from golf.predict.stream import Stream
from golf.published.recipes import Adaptation
from golf.store.artifact import encode
from golf.store.calibration import calibration_tokens, fit_to_bytes, mixed_plan, self_generated
from golf.store.gptq import gptq, gptq_search
from golf.store.plans import Plan, Treatment
from golf.store.qat import Qat, crown_q, fake_quantize, soft_round  # fmt: skip
from golf.store.quant import percentile, prune_smallest, quantize_rows, search, sigmas

NAN, INF = math.nan, math.inf
WRONG: dict[str, list] = {  # by the kind of an option: what it cannot be
    "whole": [NAN, INF, 1.5, "7", True, -1, 1 << 70, [2]],
    "size": [NAN, INF, 1.5, "7", True, -1, 0, 1 << 70, [2]],  # a count that cannot be zero
    "code": [NAN, INF, 1.5, "7", True, 1, -129, 1 << 70, [2]],  # of a grid, 0 or less
    "bound": [NAN, "7", True, -1, 0, [2]],  # may be infinite
    "number": [NAN, INF, -INF, "0.1", True, [0.1], 10**400],
    "positive": [NAN, INF, "0.1", True, -1, 0, [0.1]],
    "at least 0": [NAN, INF, "0.1", True, -1, [0.1]],
    "share": [NAN, INF, "0.1", True, -0.1, 1.5, [0.1]],
    "flag": [NAN, "yes", 2, [True], 0],
    "word": [NAN, "nonsense", 3, True, ["x"]],
    "text": [NAN, 3, True, ["x"]],
    "shares": [NAN, 0.5, "ab", True, (NAN, 0.5), (-1.0, 0.5), ("a", "b"), (True, 0.5)],
    "numbers": [NAN, 0.5, "ab", True, (NAN, 0.5), ("a", "b"), (True, 0.5)],
    "function": [NAN, 3, "x", True, [abs]],
    "names": [NAN, 3, "ab", True, [3]],
    "rate or rates": [NAN, INF, "0.1", True, -1, [-0.1], [NAN]],
    "device": [NAN, 3, "gpu", True, "cuda:999", ["cpu"]],
    "object": [NAN, 3, "x", True, [1]],
}


def small() -> GPT:
    return GPT(GPTConfig(**SMALL))


IDS = torch.arange(400) % 32
MODEL, STREAM = small(), Stream(IDS, 32, byte_table=OneByte())
WINDOW = SlidingWindow(MODEL)
PAIR = lambda: [NGram(32, 1), NGram(32, 2)]
PRIOR, ROWS = distil(IDS, 32), torch.randn(4, 8)
STATE, HESSIAN = {"a_bank": torch.randn(2, 64, 64)}, torch.eye(8)
ttt = lambda **options: TTT(**dict(predictor=WINDOW, total_chunks=12) | options)


def masked(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: make(**options)(MODEL)


learning = {
    "lr": "at least 0", "momentum": "share", "epochs": "whole", "grad_clip": "at least 0",
    "batch": "size", "reset_every": "whole", "trainable": "function", "schedule": "function",
    "clock": "word", "optimiser": "word", "betas": "shares", "scale": "function", "polyak": "share",
    "anchor": "share", "reset_on": "whole", "weight": "word", "gradients": "object",
}  # fmt: skip
TABLE: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "TTT": (ttt, learning | {"total_chunks": "size", "predictor": "object", "byte_table": "object"}),
    "Adaptation": (Adaptation, learning | {"chunk_tokens": "size", "stride": "size"}),
    "EmpiricalBayes": (EmpiricalBayes, {
        "rule": "function", "group": "word", "micro": "whole", "decay": "share", "pool": "whole",
        "keep_length": "flag", "lo": "at least 0", "order": "word"}),
    "const": (lambda **o: const(**dict(value=1.0) | o), {"value": "rate or rates", "rest": "at least 0"}),
    "LoRA": (partial(LoRA, WINDOW), {
        "rank": "size", "roles": "names", "head": "flag", "lr": "at least 0", "betas": "shares",
        "epochs": "whole", "boundary": "whole", "seed": "whole"}),
    "LoRA of": (LoRA, {"predictor": "object"}),
    "groups": (partial(groups, MODEL), {"kind": "word"}),
    "freeze_first": (masked(masks.freeze_first), {"first": "whole"}),
    "train_last": (masked(partial(masks.train_last, last=1)), {"last": "whole", "scales": "flag"}),
    "role_scales": (masked(masks.role_scales), {"output": "at least 0", "input": "at least 0"}),
    "layer_scales": (masked(masks.layer_scales), {"first": "at least 0", "last": "at least 0"}),
    "memorisation": (partial(memorisation, lambda n: ttt(total_chunks=n), STREAM, block=64), {
        "block": "size", "passes": "size"}),
    "Fixed": (Fixed, {"shares": "shares"}),
    "Entropy": (Entropy, {
        "low": "share", "span": "number", "slope": "number", "centre": "number", "order": "whole"}),
    "Selective": (Selective, {"scale": "share", "margin": "number", "least": "at least 0"}),
    "Support": (Support, {"strength": "positive"}),
    "Hedge": (lambda **o: online(Hedge(**o)), {
        "eta": "positive", "share": "share", "prior": "shares", "cells": "numbers"}),
    "EM": (lambda **o: online(EM(**o)), {"start": "shares", "cells": "numbers"}),
    "Gradient": (lambda **o: online(Gradient(**o)), {
        "rate": "share", "soft": "flag", "cells": "numbers"}),
    "GridBayes": (lambda **o: online(GridBayes(**o)), {
        "steps": "size", "trust": "share", "share": "share", "cells": "numbers"}),
    "Logistic": (lambda **o: online(Logistic(**o)), {
        "features": "names", "rate": "at least 0", "start": "numbers", "cells": "numbers"}),
    "Bins": (lambda **o: Bins(**dict(feature="entropy:0", edges=(1.0, 2.0)) | o), {"feature": "text", "edges": "numbers"}),
    "Mix": (lambda **o: Mix(**dict(experts=PAIR(), gate=Fixed((0.5, 0.5))) | o), {
        "experts": "object", "gate": "object", "names": "names", "allow_unnormalised": "flag"}),
    "Product": (lambda **o: Product(**dict(experts=PAIR()) | o), {
        "experts": "object", "start": "numbers", "rate": "at least 0", "names": "names"}),
    "Temperatures": (lambda **o: Temperatures(**dict(predictor=NGram(32)) | o), {
        "predictor": "object", "grid": "shares", "rule": "object"}),
    "Hinted": (lambda **o: Hinted(**dict(expert=NGram(32), source=NGram(32)) | o), {
        "expert": "object", "source": "object", "cells": "numbers", "start": "shares"}),
    "Uniform": (Uniform, {"vocab_size": "size"}),
    "Smoothing": (lambda **o: Smoothing(**dict(constant=1.0) | o), {
        "constant": "at least 0", "per_kind": "at least 0", "per_id": "at least 0",
        "discount": "share", "continuation": "flag", "longest": "flag"}),
    "NGram": (lambda **o: NGram(**dict(vocab_size=32) | o), {
        "vocab_size": "size", "order": "size", "smoothing": "word", "semantics": "word",
        "documents": "word", "lowest": "size"}),
    "ngram_counts": (lambda **o: ngram_counts(IDS, **dict(vocab_size=32, max_order=2) | o), {
        "vocab_size": "size", "max_order": "size", "semantics": "word", "chunk_tokens": "size", "documents": "word",
        "continuation": "flag", "device": "device"}),
    "distil": (lambda **o: distil(IDS, **dict(vocab_size=32) | o), {
        "vocab_size": "size", "order": "size", "top": "size", "contexts": "size", "discount": "share",
        "tokenizer": "text", "divisor": "positive", "cap": "positive"}),
    "Packets": (lambda **o: Packets(**dict(prior=PRIOR) | o), {
        "prior": "object", "order": "size", "smoothing": "word", "semantics": "word",
        "online": "flag"}),
    "Qat": (Qat, {
        "bits": "size", "floor": "at least 0", "clip": "word", "start": "at least 0",
        "soft_below": "at least 0", "tau": "positive", "blend": "share", "least_code": "code"}),
    "quantize_rows": (partial(quantize_rows, ROWS), {
        "bits": "size", "clip": "word", "floor": "at least 0"}),
    "fake_quantize": (partial(fake_quantize, ROWS), {
        "bits": "size", "clip": "word", "floor": "at least 0", "mode": "word", "tau": "positive",
        "blend": "share", "normalize": "flag", "least_code": "code"}),
    "crown_q": (partial(crown_q, ROWS), {
        "bits": "size", "clip": "word", "floor": "at least 0", "through_scale": "flag",
        "reduce": "word"}),
    "search": (search, {"bits": "size", "floor": "at least 0", "shares": "shares"}),
    "percentile": (percentile, {"share": "share"}),
    "sigmas": (sigmas, {"k": "positive"}),
    "soft_round": (partial(soft_round, ROWS), {"tau": "positive", "normalize": "flag"}),
    "prune_smallest": (partial(prune_smallest, ROWS), {"share": "share"}),
    "gptq": (partial(gptq, ROWS, HESSIAN), {
        "bits": "size", "clip": "word", "floor": "at least 0", "damping": "at least 0",
        "block": "size", "order": "flag"}),
    "gptq_search": (partial(gptq_search, ROWS, HESSIAN), {
        "shares": "shares", "bits": "size", "floor": "at least 0", "damping": "at least 0",
        "block": "size", "order": "flag", "weighted": "flag", "per_row": "flag"}),
    "calibration_tokens": (lambda **o: calibration_tokens(IDS, **dict(context=8, sequences=2) | o), {
        "context": "size", "sequences": "size", "seed": "whole"}),
    "self_generated": (lambda **o: self_generated(MODEL, **dict(sequences=1, length=3) | o), {
        "sequences": "size", "length": "size", "temperature": "positive", "seed": "whole",
        "batch": "size", "start": "whole"}),
    "mixed_plan": (lambda **o: mixed_plan(STATE, **dict(small=100) | o), {
        "bits": "size", "clip": "word", "floor": "at least 0", "small": "whole",
        "compressor": "word"}),
    "fit_to_bytes": (partial(fit_to_bytes, STATE, mixed_plan(STATE, compressor="raw")), {
        "cap": "size", "code_bytes": "whole"}),
    "Treatment": (lambda **o: encode(STATE, Plan({"a_bank": Treatment(**dict(kind="int") | o)})), {
        "kind": "word", "bits": "size", "clip": "word", "floor": "at least 0",
        "quantizer": "function", "part": "text", "compressor": "word", "order": "word",
        "layout": "word", "sections": "names"}),
    "Plan": (lambda **o: encode(STATE, Plan(**o)), {
        "treatments": "object", "rest": "object", "compressor": "word"}),
    "EMA": (partial(EMA, MODEL), {"decay": "share"}),
    "SWA": (partial(SWA, MODEL), {"every": "size", "below": "bound"}),
    "LAWA": (partial(LAWA, MODEL), {"every": "size", "keep": "size", "below": "bound"}),
    "SlidingWindow": (lambda **o: SlidingWindow(**dict(model=MODEL) | o), {
        "model": "object", "window": "size", "stride": "size", "batch": "size", "ranks": "object"}),
    "Banded": (lambda **o: Banded(**dict(model=MODEL) | o), {
        "model": "object", "window": "size", "stride": "size"}),
    "Stream": (lambda **o: Stream(**dict(tokens=IDS, chunk_tokens=8) | o), {
        "tokens": "object", "chunk_tokens": "size", "limit": "size", "name": "text",
        "tokenizer": "text", "byte_table": "object"}),
    "evaluate": (lambda **o: evaluate(**dict(predictor=NGram(32), stream=STREAM) | o), {
        "predictor": "object", "stream": "object", "byte_table": "object", "progress": "flag",
        "allow_unnormalised": "flag"}),
    "compare": (lambda **o: compare(**dict(arms={"a": NGram(32)}, stream=STREAM, baseline="a") | o), {
        "arms": "object", "stream": "object", "byte_table": "object", "baseline": "word",
        "cache": "flag", "progress": "flag", "allow_unnormalised": "flag", "parts": "flag"}),
    "an arm": (lambda arm: compare({"a": arm}, STREAM, baseline="a"), {"arm": "object"}),
    "paired_bootstrap": (partial(paired_bootstrap, np.arange(40.0), np.ones(40)), {
        "block": "size", "samples": "size", "level": "share", "seed": "whole", "trend": "flag"}),
    "audit": (lambda **o: audit(**dict(subject=NGram(32), tokens=IDS, level="brief", only="c") | o), {
        "subject": "object", "tokens": "object", "level": "word", "seed": "whole", "name": "text",
        "chunk_tokens": "size", "only": "word", "reference": "object", "byte_table": "object"}),
    "audit_arms": (lambda **o: audit_arms(**dict(arms={"a": NGram(32)}, stream=STREAM) | o), {
        "arms": "object", "stream": "object", "level": "word", "seed": "whole",
        "chunk_tokens": "size"}),
}  # fmt: skip


@pytest.mark.parametrize("owner", TABLE)
def test_an_option_that_cannot_be_is_refused_before_any_work_is_lost(owner):
    make, options = TABLE[owner]
    for option, kind in options.items():
        for value in WRONG[kind]:
            with pytest.raises(GolfError) as caught:
                make(**{option: value})
            text = str(caught.value)
            assert "\n" not in text and len(text) < 300 and option in text, (option, value, text)


def test_what_people_write_is_still_taken():
    learner = ttt(lr=np.float32(0.5), batch=np.int64(4), betas=[0.9, 0.99], optimiser="adamw")
    assert (learner.batch, learner.betas) == (4, (0.9, 0.99)) and learner.lr == 0.5
    assert ttt(lr=1).lr == 1.0 and ttt(reset_every=11).reset_every == 11
    assert Fixed([0.25, 0.75]).shares == (0.25, 0.75)
    assert online(Hedge(prior=[0.5, 0.5], cells=[Bins("total:1", [1, 2])])).experts == 2
    assert Product(PAIR(), start=[1, 0.5], rate=0).start == (1.0, 0.5)
    assert Temperatures(NGram(32), torch.tensor([0.5, 1.0])).names == ["0.5", "1"]
    assert (
        EmpiricalBayes(const([0.5, 1.0]), hi=INF).hi == INF and SWA(MODEL, below=INF).below == INF
    )
    assert Selective(margin=-0.1).margin == -0.1 and Entropy(low=0.9, span=0.1).span == 0.1
    assert SlidingWindow(MODEL).window == 16 and Stream(np.arange(9), np.int64(4)).chunks == 2
    assert Treatment("int", clip=sigmas(3.0)).bits == 6 and Qat(clip=0.99).clip == 0.99
    assert audit(lambda tokens: NGram(32), IDS, "brief", only=["c1"]).name


@pytest.mark.parametrize("build", ["no.such.module:make", "golf.net.model:NoSuch", "math", ""])
def test_a_build_that_names_no_function_is_one_line(build):
    done = CliRunner().invoke(app, ["audit", "tiny", "--build", build or ":"])
    assert done.exit_code == 2 and "--build: expected 'module:name' of a function" in done.output
    assert len(done.output.strip().splitlines()) == 1 and "Traceback" not in done.output
