"""Settings that cannot be are refused when they are made; those that can are written and read back."""

import json
import math
import random
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch

from golf.auditor.report import Level
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.base.small import SMALL
from golf.lab.runs import Run
from golf.net.average import KINDS, AverageConfig
from golf.net.model import GPTConfig, preset
from golf.net.optim import OptimConfig
from golf.store.qat import Qat
from golf.store.quant import percentile, row_maximum, search, sigmas
from golf.text.corpus import Corpus
from golf.text.tokenizers import ByteTable
from golf.train.fit import fit
from golf.train.job import Job, job_from, to_json
from golf.train.settings import Burst, Crown, TrainConfig

KINDS_OF = (TrainConfig, OptimConfig, AverageConfig, Qat, Crown, Burst, Level)
WRONG = ["x", [], {}, math.nan, -1, 10**30, object(), b"", (1, "a"), lambda: 0, 1j, -math.inf]
CLIPS = {
    "max": "max", "search": "search", "share": 0.99, "percentile": percentile(0.999),
    "sigmas": sigmas(3.0), "function": row_maximum, "searched": search(6, floor=0.01),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF, ids=lambda kind: kind.__name__)
def test_no_setting_of_another_type_gets_through(kind):
    for field in fields(kind):
        for value in WRONG:
            try:
                made = kind(**{field.name: value})
            except GolfError as error:
                text = str(error)
                assert (
                    "\n" not in text
                    and len(text) < 300
                    and field.name in text.replace("bits", field.name)
                )
                continue
            assert type(getattr(made, field.name)) in (int, float, str, dict, tuple) or callable(
                value
            )


@pytest.mark.parametrize("settings", [
    partial(OptimConfig, matrix_lr=-1), partial(OptimConfig, lr_by_name={"a": -0.1}),
    partial(OptimConfig, betas=(0.9, 1.0)), partial(OptimConfig, muon_dtype="float16"),
    partial(OptimConfig, momentum=1), partial(TrainConfig, steps=0), partial(TrainConfig, device="gpu"),
    partial(TrainConfig, steps=True), partial(TrainConfig, grad_clip=-0.1), partial(TrainConfig, qat={}),
    partial(TrainConfig, compile=1), partial(Crown, weight=-1), partial(Burst, scale=-0.1),
    partial(AverageConfig, "emma"), partial(Qat, start=-1), partial(Level, tokens=0),
    partial(Job, preset("tiny"), OptimConfig()), partial(Job, "tiny", TrainConfig()),
    partial(Run, "demo", {}, device="gpu"),
])  # fmt: skip
def test_ranges_devices_and_words(settings):
    with pytest.raises(GolfError) as caught:
        settings()
    assert "\n" not in str(caught.value)


def test_what_was_accepted_still_is():
    assert TrainConfig(steps=np.int64(3)).steps == 3
    assert AverageConfig("lawa", below=math.inf).below == math.inf
    assert OptimConfig(betas=[0.5, 0.9]).betas == (0.5, 0.9)
    assert digest(TrainConfig(max_seconds=1)) != digest(TrainConfig(max_seconds=1.5))


def other(kind: type, name: str, value):
    """Another value that the field accepts."""
    special = {
        "kind": "swa", "device": "cuda:1", "compute_dtype": "bfloat16", "table_dtype": "bfloat16",
        "muon_dtype": "float32", "reduce_dtype": "bfloat16", "lr_by_name": {"bank": 0.5},
        "betas": (0.5, 0.75), "optim": OptimConfig(matrix_lr=0.5), "qat": Qat(5), "crown": Crown(0.5),
        "burst": Burst(3), "average": AverageConfig("lawa"), "clip": percentile(0.5), "bits": 5,
        "least_code": -16,
    }  # fmt: skip
    if name in special:
        return special[name]
    return (
        not value
        if isinstance(value, bool)
        else (value or 1) / 2
        if isinstance(value, float)
        else value + 1
    )


@pytest.mark.parametrize("kind", KINDS_OF[:-1], ids=lambda kind: kind.__name__)
def test_every_field_is_written_and_read_back(kind):
    place = {
        OptimConfig: "optim",
        AverageConfig: "average",
        Qat: "qat",
        Crown: "crown",
        Burst: "burst",
    }
    for field in fields(kind):
        made = kind(**{field.name: other(kind, field.name, getattr(kind(), field.name))})
        assert digest(made) != digest(kind()), f"{field.name}: no other value"
        train = made if kind is TrainConfig else TrainConfig(**{place[kind]: made})
        job = Job(preset("tiny"), train, "stdlib", {"limit": 9}, "here", {"squeeze": "a:b"})
        assert digest(job_from(to_json(job))) == digest(job), field.name


@pytest.mark.parametrize("clip", CLIPS.values(), ids=CLIPS)
def test_a_run_that_rounds_by_a_function_is_not_lost_at_its_end(clip, tmp_path):
    text = np.frombuffer(b"the quick brown fox. " * 300, dtype=np.uint8).astype("uint16")
    (tmp_path / "bytes.txt").write_text("an id is a byte")
    none = torch.zeros(256, dtype=torch.bool)
    table = ByteTable(torch.ones(256, dtype=torch.long), none, none)
    corpus = Corpus("fox", text[:4200], text[4200:], tmp_path / "bytes.txt", table, 256)
    config = TrainConfig(
        steps=2, batch_tokens=64, warmdown=2, validation_tokens=256, qat=Qat(clip=clip, start=2)
    )
    shape = GPTConfig(**SMALL | {"vocab_size": 256})
    path = fit(shape, config, corpus, tmp_path, progress=False)
    log = json.loads(path.with_suffix(".json").read_text())
    again = job_from(json.dumps({"train": {"qat": log["training"]["qat"]}})).train.qat
    assert digest(again) == digest(config.qat)
    assert digest(job_from(to_json(Job(shape, config))).train) == digest(config)


def test_a_function_that_no_other_process_finds_is_refused_before_it_is_sent():
    job = Job(preset("tiny"), TrainConfig(qat=Qat(clip=lambda rows: rows.amax(-1))))
    with pytest.raises(GolfError, match="qat.clip: expected 'module:name' of a function"):
        to_json(job)


def test_jobs_with_wrong_types_end_in_one_line():
    rng, base = (
        random.Random(3),
        json.loads(
            to_json(Job(preset("tiny"), TrainConfig(qat=Qat(), crown=Crown(), burst=Burst())))
        ),
    )
    for _ in range(1500):
        job = json.loads(json.dumps(base))
        spot = job
        while True:
            key = rng.choice([*spot])
            if not isinstance(spot[key], dict) or not spot[key] or rng.random() < 0.2:
                break
            spot = spot[key]
        spot[key] = rng.choice(
            [
                None,
                "x",
                [],
                {},
                -1,
                1e400,
                True,
                [1, "a"],
                {"function": 3},
                {"function": "os:nothing"},
            ]
        )
        try:
            job_from(json.dumps(job))
        except GolfError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
    assert set(KINDS) >= {"ema"} and replace(TrainConfig(), steps=2).steps == 2
