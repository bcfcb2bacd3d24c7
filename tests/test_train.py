"""A training run that is killed, one whose processor lacks a kernel, and what is left of files."""

import dataclasses
import json
import multiprocessing
import random
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

STEPS = 40


def work(folder: Path, begun) -> None:
    """Train a small model into `folder`; `begun` is set when the first step is near."""
    from golf.net.average import AverageConfig
    from golf.net.model import GPTConfig
    from golf.store.qat import Qat
    from golf.text.corpus import Corpus
    from golf.text.tokenizers import ByteTable
    from golf.train.fit import fit
    from golf.train.settings import Burst, TrainConfig

    torch.set_num_threads(1)
    text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 200, dtype=np.uint8)
    text = text.astype("uint16")
    rule = folder / "bytes.txt"
    rule.write_text("an id is a byte")
    none = torch.zeros(256, dtype=torch.bool)
    table = ByteTable(torch.ones(256, dtype=torch.long), none, none)
    corpus = Corpus("fox", text[:7200], text[7200:], rule, table, 256)
    shape = GPTConfig(
        vocab_size=256,
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
    config = TrainConfig(
        steps=STEPS,
        batch_tokens=256,
        warmdown=20,
        checkpoint_every=2,
        validation_tokens=512,
        average=AverageConfig("lawa", every=3, keep=4, below=1.0),
        qat=Qat(5, start=0.5),
        burst=Burst(epochs=1, keep=10),
    )
    begun.set()
    fit(shape, config, corpus, folder / "made", progress=False)


CONTEXT = multiprocessing.get_context("forkserver")


def start(folder: Path) -> multiprocessing.Process:
    """A process that trains into `folder`, waited for until it has begun."""
    begun = CONTEXT.Event()
    process = CONTEXT.Process(target=work, args=(folder, begun))
    process.start()
    assert begun.wait(120)
    return process


def finish(folder: Path) -> bytes:
    """The artifact that an undisturbed process ends with."""
    process = start(folder)
    process.join(300)
    assert process.exitcode == 0
    return next((folder / "made").glob("*.golf")).read_bytes()


def test_killed_training_ends_with_the_same_bytes(tmp_path):
    """kill -9 at ten random moments of ten runs; each goes on and ends as if nothing had happened.

    The run has everything that a checkpoint must keep: Muon's momentum, a ring of snapshots,
    rounding that begins late, a burst after the last step.
    """
    moments, interrupted = random.Random(0), 0
    for name in ("first", "calm"):  # the first also warms the server of processes up
        begun = time.monotonic()
        (tmp_path / name).mkdir()
        calm = finish(tmp_path / name)
    duration = time.monotonic() - begun
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start(folder)
        time.sleep(moments.uniform(0, 0.9 * duration))
        interrupted += process.is_alive()
        process.kill()
        process.join()
        assert finish(folder) == calm
        left = sorted(p.suffix for p in (folder / "made").iterdir() if p.name[0] != ".")
        assert left == [".golf", ".json"]
    assert interrupted >= 1  # how many ended before the kill hangs on what else the machine does


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    """A damaged checkpoint is an error that names the file, not a silent fresh start."""
    from golf.base.files import GolfError
    from golf.store.artifact import encode, load_artifact, save_artifact
    from golf.store.plans import Plan

    path = tmp_path / "run.checkpoint"
    save_artifact(path, encode({}, Plan.lossless(), meta={"step": 1}))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(GolfError, match="run.checkpoint"):
        load_artifact(path)


def test_bf16_training_goes_on_where_torch_has_no_bf16_attention(monkeypatch):
    """An AMX processor with AVX-512 masked: torch's error is a warning, and gradients are found."""
    from golf.base.small import SMALL
    from golf.net import parts as room
    from golf.net.model import GPT, GPTConfig

    def refuses(q, k, v, **options):
        if q.dtype == torch.bfloat16:
            raise RuntimeError("pack_vnni2 is only supported when avx512 is supported")
        return attention(q, k, v, **options)

    attention, shape = F.scaled_dot_product_attention, GPTConfig(**SMALL)
    model = GPT(shape, compute_dtype=torch.bfloat16)
    ids = torch.arange(2 * shape.context).view(2, -1) % shape.vocab_size
    usual = model.loss(ids, ids).item()
    room._attention_error.cache_clear()
    monkeypatch.setattr(F, "scaled_dot_product_attention", refuses)
    try:
        with pytest.warns(UserWarning, match="attention in float32.*pack_vnni2"):
            loss = model.loss(ids, ids)
        loss.backward()
    finally:
        room._attention_error.cache_clear()
    assert abs(loss.item() - usual) < 0.05  # bf16 keeps eight bits
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def small(folder: Path) -> tuple:
    """Shape, settings and corpus of a run of six steps."""
    from golf.base.small import SMALL
    from golf.net.model import GPTConfig
    from golf.text.corpus import Corpus
    from golf.text.tokenizers import ByteTable
    from golf.train.settings import laptop

    rule = folder / "rule.txt"
    rule.write_text("an id is a number")
    none = torch.zeros(32, dtype=torch.bool)
    table = ByteTable(torch.ones(32, dtype=torch.long), none, none)
    text = np.random.default_rng(0).integers(0, 32, 8000).astype("uint16")
    corpus = Corpus("numbers", text[:6000], text[6000:], rule, table, 32)
    config = laptop(6, batch_tokens=128, validation_tokens=256, checkpoint_every=2)
    return GPTConfig(**SMALL), config, corpus


def trained(folder: Path, **options) -> tuple[Path, list[str]]:
    """Where that run ended, and what was said before it."""
    from golf.train.fit import fit

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = fit(*small(folder), folder, progress=False, **options)
    return path, [str(w.message) for w in said if "reuse=True" in str(w.message)]


def stopped(folder: Path) -> Path:
    """The checkpoint that a kill after the fourth step leaves."""
    from golf.train.loop import Trainer

    trainer = Trainer(*small(folder))
    trainer.log = [trainer.train_step() for _ in range(4)]
    path = folder / f"{trainer.name()}.checkpoint"
    trainer.save(path)
    return path


def edit(patch: pytest.MonkeyPatch) -> None:
    """An optimiser that is edited: half the learning rate."""
    from golf.net.optim import Optimisers

    step = Optimisers.step
    patch.setattr(
        Optimisers, "step", lambda self, at, scale, **cut: step(self, at, scale / 2, **cut)
    )


def test_an_edited_optimiser_never_returns_the_old_model(tmp_path, monkeypatch):
    """And says which definition differs before it trains; the old model is taken only when asked for."""
    from golf.train.fit import stale_models

    first, said = trained(tmp_path)
    assert not said and trained(tmp_path) == (first, []) and stale_models(tmp_path).empty
    with monkeypatch.context() as patch:
        edit(patch)
        assert trained(tmp_path, reuse=True) == (first, [])
        [row] = stale_models(tmp_path).itertuples()
        assert row.file == first.name and "golf.net.optim: Optimisers.step" in row.changed
        second, said = trained(tmp_path)
        assert len(said) == 1 and "golf.net.optim: Optimisers.step" in said[0]
        assert second.read_bytes() != first.read_bytes()
        assert trained(tmp_path) == (second, [])
    assert trained(tmp_path) == (first, [])


@pytest.mark.parametrize("what", ["torch", "threads"])
def test_a_model_of_another_torch_or_of_other_threads_is_not_taken_without_a_word(
    tmp_path, monkeypatch, what
):
    usual = small

    def as_set(folder):
        shape, config, corpus = usual(folder)
        return shape, dataclasses.replace(config, threads=0), corpus

    monkeypatch.setattr(sys.modules[__name__], "small", as_set)
    first, _ = trained(tmp_path)
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    second, said = trained(tmp_path)
    assert first != second and len(said) == 1 and f"{what} was" in said[0]


def test_measured_threads_are_kept_by_a_resume_and_are_no_part_of_the_name(tmp_path, monkeypatch):
    """A run that goes on computes as its checkpoint says, though the machine would now choose otherwise."""
    from golf.train import loop, pace

    counts, used = iter((1, 2, 2)), []
    monkeypatch.setattr(
        loop, "choose", lambda config, shape, alone: pace.Pace(threads=next(counts))
    )
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: used.append(n) or set_threads(n))
    folders = calm, killed, busy = [tmp_path / name for name in ("calm", "killed", "busy")]
    for folder in folders:
        folder.mkdir()
    whole = trained(calm)[0]  # on one thread
    trainer = loop.Trainer(*small(killed))
    trainer.pace = pace.Pace(threads=1)
    trainer.log = [trainer.train_step() for _ in range(4)]
    trainer.save(killed / f"{trainer.name()}.checkpoint")
    used.clear()
    resumed = trained(killed)[0]  # nobody is asked
    assert resumed.read_bytes() == whole.read_bytes() and 2 not in used
    other = trained(busy)[0]  # on two threads
    assert 2 in used and other.name == resumed.name == whole.name
    held = [
        json.loads(p.with_suffix(".json").read_text())["pace"]["threads"] for p in (whole, other)
    ]
    assert held == [1, 2]
    second, said = trained(busy)
    assert second == other and not said  # the second call trains nothing


def test_attention_in_float32_is_another_computation(monkeypatch):
    """It is float32's own in bfloat16, changes nothing in float32, and keeps the loss near float32's.

    Whether a bit of the loss moves hangs on the processor: some attend in float32 anyway.
    """
    from golf.base.small import SMALL
    from golf.net.model import GPT, GPTConfig

    attend, seen = torch.nn.functional.scaled_dot_product_attention, set()

    def watched(q, k, v, **options):
        seen.update(x.dtype for x in (q, k, v))
        return attend(q, k, v, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)

    shape = GPTConfig(**SMALL)
    model = GPT(shape)
    for p in model.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    ids = torch.arange(4 * shape.context).view(4, -1) ** 2 % shape.vocab_size
    loss = {}
    for dtype in (torch.float32, torch.bfloat16):
        for wide in (False, True):
            model.compute_dtype, model.wide_attention = dtype, wide
            seen.clear()
            loss[dtype, wide] = model.loss(ids, ids).item()
            assert seen == {torch.float32 if wide else dtype}
    assert loss[torch.float32, False] == loss[torch.float32, True]
    assert abs(loss[torch.bfloat16, True] - loss[torch.float32, True]) < 0.05


def test_a_model_with_its_tokenizer_inside_is_not_the_one_without(tmp_path):
    from golf.store.artifact import extras

    paths = [trained(tmp_path, embed_tokenizer=inside)[0] for inside in (False, True)]
    assert [list(extras(path.read_bytes())) for path in paths] == [[], ["tokenizer"]]


def test_a_checkpoint_is_continued_and_one_of_other_code_only_when_told_to(tmp_path, monkeypatch):
    """Killed and started again: the same bytes. Killed, edited, started again: from step 0, with a word."""
    folders = calm, killed, edited, mixed = [
        tmp_path / n for n in ("calm", "killed", "edited", "mixed")
    ]
    for folder in folders:
        folder.mkdir()
    stopped(killed)
    whole, resumed = trained(calm), trained(killed)
    assert whole[0].name == resumed[0].name and not resumed[1]
    assert whole[0].read_bytes() == resumed[0].read_bytes() and not list(
        killed.glob("*.checkpoint")
    )
    left, _ = stopped(edited), stopped(mixed)
    with monkeypatch.context() as patch:
        edit(patch)
        anew, said = trained(edited)
        assert len(said) == 1 and left.name in said[0] and "Optimisers.step" in said[0]
        assert left.exists()
        both, said = trained(mixed, reuse=True)
        assert not said and not list(mixed.glob("*.checkpoint"))
    contents = {path.read_bytes() for path in (whole[0], anew, both)}
    assert len(contents) == 3  # and the mixture has a name of its own
    assert len({path.name for path in (whole[0], anew, both)}) == 3


def test_every_setting_is_written_and_read_back():
    """A job's file, with each setting at another value than its default, is the same job again."""
    from golf.net.average import AverageConfig
    from golf.net.model import preset
    from golf.net.optim import OptimConfig
    from golf.store.qat import Qat
    from golf.store.quant import percentile, row_maximum
    from golf.train.job import Job, job_from, to_json
    from golf.train.settings import Burst, Crown, TrainConfig

    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.25}
    whole = TrainConfig(qat=Qat(), crown=Crown(), burst=Burst())
    jobs = [Job(preset("tiny"), whole, reuse=True, doors={"squeeze": "golf.train.fit:unsqueezed"})]
    parts = {"": whole, "optim": OptimConfig(), "average": AverageConfig(), "qat": Qat()}
    parts |= {"crown": Crown(), "burst": Burst()}
    for name, part in parts.items():
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if type(value) in other and field.name != "bits":
                changed = dataclasses.replace(part, **{field.name: other[type(value)](value)})
                train = dataclasses.replace(whole, **{name: changed}) if name else changed
                jobs.append(Job(preset("tiny"), train))
    for clip in ("search", 0.99, row_maximum):
        jobs.append(Job(preset("tiny"), TrainConfig(qat=Qat(clip=clip))))
    assert len(jobs) > 40
    for job in jobs:
        assert job_from(to_json(job)) == job
    train = TrainConfig(qat=Qat(clip=percentile(0.9)))
    rule = job_from(to_json(Job(preset("tiny"), train))).train.qat.clip
    rows = torch.randn(3, 40)
    assert torch.equal(rule(rows), percentile(0.9)(rows))


def test_a_run_that_clips_by_a_function_is_written(tmp_path):
    """It trained to the end, and then its log could not be written."""
    from golf.store.qat import Qat
    from golf.store.quant import percentile
    from golf.train.fit import fit

    shape, config, corpus = small(tmp_path)
    for clip in (percentile(0.999), lambda rows: rows.abs().amax(1)):
        settings = dataclasses.replace(config, qat=Qat(clip=clip, start=2.0))
        path = fit(shape, settings, corpus, tmp_path, progress=False)
        said = json.loads(path.with_suffix(".json").read_text())["training"]["qat"]["clip"]
        name = said["function"].partition(":")[2]
        assert name == "_one_percentile" and said["options"] == {"share": 0.999} or "lambda" in name
