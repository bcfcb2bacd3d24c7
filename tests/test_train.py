"""A training run that is killed, and what is left where a good file is expected."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from golf.data import ByteTable, Corpus
from golf.files import digest
from golf.model import GPTConfig
from golf.train import Trainer, TrainConfig, fit

torch.set_num_threads(1)
folder, mode = Path(sys.argv[1]), sys.argv[2]
text = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 200, dtype=np.uint8)
rule = folder / "bytes.txt"
rule.write_text("an id is a byte")
none = torch.zeros(256, dtype=torch.bool)
table = ByteTable(torch.ones(256, dtype=torch.long), none, none)
corpus = Corpus("fox", text[:7200].astype("uint16"), text[7200:].astype("uint16"), rule, table, 256)
shape = GPTConfig(vocab_size=256, layers=2, width=32, heads=2, kv_heads=1, mlp_width=64, context=32,
                  bigram_rows=64, bigram_width=8, value_rows_width=8, value_layers=(1,), xsa_last=1,
                  rope_dims=8)
config = TrainConfig(steps=60, batch_tokens=256, warmdown=30, checkpoint_every=2,
                     validation_tokens=512)
print("ready", flush=True)
print(digest(fit(shape, config, corpus, folder / "made", progress=False).read_bytes()))
"""


def start(folder: Path) -> subprocess.Popen:
    "A process that trains into `folder`, waited for until it has begun."
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), "run"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def finish(folder: Path) -> str:
    "The digest of the artifact that an undisturbed process ends with."
    process = start(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return output.strip()


def checkpoint(folder: Path) -> Path | None:
    return (
        next((folder / "made").glob("*.checkpoint"), None) if (folder / "made").exists() else None
    )


def test_killed_training_ends_with_the_same_bytes(tmp_path):
    """kill -9 after the first checkpoint, twice; the third process ends as if nothing had happened."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    for _ in range(2):
        process = start(rough)
        seen = checkpoint(rough).stat().st_mtime_ns if checkpoint(rough) else 0
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            found = checkpoint(rough)
            if found and found.stat().st_mtime_ns != seen:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list((rough / "made").glob("*.golf")) or checkpoint(rough) is None
    assert finish(rough) == finish(calm)
    left = sorted(p.suffix for p in (rough / "made").iterdir() if not p.name.startswith("."))
    assert left == [".golf", ".json"]


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    """A damaged checkpoint is an error that names the file, not a silent fresh start."""
    from golf.artifact import Plan, encode, load_artifact, save_artifact
    from golf.files import GolfError

    path = tmp_path / "run.checkpoint"
    save_artifact(path, encode({}, Plan.lossless(), meta={"step": 1}))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(GolfError, match="run.checkpoint"):
        load_artifact(path)
