"""Several processes that train one model: the same curve, the same bytes, and one failure for all."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from golf.base.files import GolfError
from golf.net.average import AverageConfig
from golf.net.model import preset
from golf.net.optim import OptimConfig
from golf.net.ranks import run_ranks
from golf.train.job import Job, launch
from golf.train.settings import TrainConfig

pytestmark = pytest.mark.usefixtures("warm_ranks")
SHAPE = preset("tiny", layers=3, value_layers=(2,), xsa_layers=(2,), context=64, width=64)
SETTINGS = TrainConfig(
    steps=30,
    batch_tokens=1024,
    accumulate=8,
    warmdown=15,
    validation_tokens=8192,
    log_every=1,
    checkpoint_every=15,
    average=AverageConfig(decay=0.9),
    optim=OptimConfig(muon_dtype="float32"),
)


def trained(folder: Path, ranks: int, settings: TrainConfig = SETTINGS) -> tuple[dict, bytes]:
    """The log and the artifact of a run on so many ranks."""
    path = launch(Job(SHAPE, settings, folder=str(folder)), ranks=ranks)
    return json.loads(path.with_suffix(".json").read_text()), path.read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, warm_ranks) -> dict[int, tuple[dict, bytes]]:
    """The same run alone and on 2, 4 and 8 ranks."""
    return {n: trained(tmp_path_factory.mktemp(f"ranks{n}"), n) for n in (1, 2, 4, 8)}


def test_every_world_size_follows_one_curve(runs):
    """The first 20 losses and the final BPB agree within 1e-4, and so does the whole curve here."""
    alone = torch.tensor([row["loss"] for row in runs[1][0]["log"]])
    assert len(alone) == 30 and alone[-1] < alone[0] - 0.5
    for n in (2, 4, 8):
        log = runs[n][0]
        losses = torch.tensor([row["loss"] for row in log["log"]])
        assert log["ranks"] == n
        assert (losses - alone)[:20].abs().max() < 1e-4
        for stage, bpb in runs[1][0]["stages"].items():
            assert abs(log["stages"][stage] - bpb) < 1e-4, (n, stage)


def test_the_same_world_size_gives_the_same_bytes(runs, tmp_path):
    assert trained(tmp_path, 2)[1] == runs[2][1]


def half_way(folder: str) -> str:
    """Half of the run of `SETTINGS` on however many ranks there are, and its checkpoint."""
    from golf.net.ranks import join
    from golf.text.corpus import load_corpus
    from golf.train.loop import Trainer

    trainer = Trainer(SHAPE, SETTINGS, load_corpus("stdlib"), ranks=join())
    trainer.log = [trainer.train_step() for _ in range(15)]
    path = Path(folder) / f"{trainer.name()}.checkpoint"
    trainer.save(path)
    return str(path)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(runs, tmp_path, before, after):
    """Stopped half-way on some ranks and continued on others: the curve of all."""
    assert Path(run_ranks(half_way, str(tmp_path), ranks=before)[0]).exists()
    log, _ = trained(tmp_path, after)
    alone = torch.tensor([row["loss"] for row in runs[1][0]["log"]])
    losses = torch.tensor([row["loss"] for row in log["log"]])
    assert (losses - alone).abs().max() < 1e-4


def test_the_precision_between_ranks_matters(runs, tmp_path):
    """Gradients that travel in bfloat16, as published, change the weights on two ranks."""
    coarse = replace(SETTINGS, optim=replace(SETTINGS.optim, reduce_dtype="bfloat16"))
    assert trained(tmp_path, 2, coarse)[1] != runs[2][1]


def explode(rank: int, clock: str) -> None:
    """A rank that fails in the middle of a run, while the others wait for it."""
    from golf.net.ranks import join

    ranks = join()
    ranks.barrier()
    if ranks.rank == rank:
        Path(clock).write_text(str(time.time()))
        raise RuntimeError(f"rank {rank} met a bad shard")
    ranks.barrier()


def vanish(rank: int, clock: str) -> None:
    """A rank that is killed by the system, as for want of memory."""
    from golf.net.ranks import join

    ranks = join()
    ranks.barrier()
    if ranks.rank == rank:
        Path(clock).write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


@pytest.mark.parametrize(
    ("fate", "words"),
    [(explode, "rank 2 failed .exit code 1.: .*met a bad shard"), (vanish, "exit code -9")],
)
def test_a_failure_reaches_the_caller_within_a_minute(fate, words, tmp_path):
    """An exception comes with its traceback; a killed rank ends the others too."""
    clock = tmp_path / "clock"
    with pytest.raises(GolfError, match=words) as caught:
        run_ranks(fate, 2, str(clock), ranks=4)
    assert time.time() - float(clock.read_text()) < 60
    assert fate is vanish or "in explode" in str(caught.value)


def test_impossible_jobs_start_nothing(tmp_path):
    with pytest.raises(GolfError, match="which 3 ranks cannot share"):
        launch(Job(SHAPE, SETTINGS, folder=str(tmp_path)), ranks=3)
    assert not list(tmp_path.iterdir())


def test_torchrun_runs_a_job_file(tmp_path):
    """The command of the README, on two ranks and alone, with the path on stdout."""
    import subprocess
    import sys

    from golf.train.job import to_json

    short = replace(SETTINGS, steps=3)
    file = tmp_path / "job.json"
    file.write_text(to_json(Job(SHAPE, short, folder=str(tmp_path))))
    tool = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*tool, "-m", "golf.train", str(file)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = list(tmp_path.glob("*.golf"))
    assert len(made) == 1 and done.stdout.split() == [str(made[0])]
    file.write_text('{"train": {"step": 3}}')
    bad = subprocess.run(
        [sys.executable, "-m", "golf.train", str(file)], capture_output=True, text=True, timeout=300
    )
    assert bad.returncode == 2 and "train has no field 'step'" in bad.stderr
