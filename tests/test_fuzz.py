"""Hostile bytes for everything that decodes: artifacts, shards, packets; and what may not load; and records
under faults at every write.

`pytest tests/test_fuzz.py` draws a bounded sample; `python tests/test_fuzz.py 120000` (or
`pytest --flags slow tests/test_fuzz.py`) a long one, and prints totals and times.
"""

import ast
import copy
import hashlib
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf.base.files import GolfError
from golf.count.packets import Packets, distil
from golf.count.packets import pack as pack_prior
from golf.count.packets import unpack as unpack_prior
from golf.lab.runs import Run, read_record
from golf.predict.stream import Stream
from golf.store.artifact import (
    Plan,
    Treatment,
    decode,
    encode,
    extras,
    quantized_tensors,
    read_meta,
    size_report,
)
from golf.store.container import MAGIC, PREAMBLE, VERSION, unpack
from golf.text.shards import HEADER_BYTES, Shards, read_shard, write_shard

ROOT = Path(__file__).parent.parent
SECONDS, MEMORY = 5.0, 128 << 20  # the most that one input may take
FORBIDDEN = ("pickle.", "subprocess.", "os.system", "os.exec", "socket.", "exec", "ctypes.dlopen")


# What decodes, from bytes


def read_artifact(data: bytes) -> None:
    "Every way to read an artifact."
    state = decode(data)
    assert all(torch.is_tensor(tensor) for tensor in state.values())
    assert isinstance(read_meta(data), dict) and isinstance(extras(data), dict)
    assert size_report(data).total == len(data)
    quantized_tensors(data)
    unpack(data)


def read_packet(data: bytes) -> None:
    "A packet that is accepted can be used and packed again."
    prior = unpack_prior(data)
    if prior.vocab_size <= 64 and prior.order <= 6:
        stream = Stream(np.arange(9) % prior.vocab_size, 8)
        rows = Packets(prior).predict(next(iter(stream))).rows()
        assert not rows.isnan().any()
        assert (rows.logsumexp(1).abs() < 1e-6).all()
    if len(prior.tokenizer.encode()) <= 16 and prior.order <= 255:
        unpack_prior(pack_prior(prior))


SHARD = Path(tempfile.gettempdir()) / f"golf-fuzz-{os.getpid()}.bin"


def read_a_shard(data: bytes) -> None:
    "The tokens of a shard file, alone and as one of several."
    SHARD.write_bytes(data)
    try:
        tokens = read_shard(SHARD)
        assert tokens.tobytes() == data[HEADER_BYTES:]
        assert len(Shards([SHARD, SHARD])) == 2 * len(tokens)
        read_shard(SHARD, vocab_size=1024)
    finally:
        SHARD.unlink()


# Good bytes to begin with, and how their checksums are made right again


def good_artifacts() -> list[bytes]:
    "Artifacts of every kind of section, small."
    draw = torch.Generator().manual_seed(0)
    state = {
        "bank": torch.randn(2, 8, 16, generator=draw),
        "table.weight": torch.randn(12, 16, generator=draw).bfloat16(),
        "gate": torch.randn(5, generator=draw),
        "flags": torch.tensor([True, False, True]),
        "nothing": torch.zeros(0, 3),
    }
    cut = Treatment("int", order="columns", sections=("up", "down"), compressor="coder")
    table = Treatment("int", bits=8, layout="bits", part="tables", compressor="brotli")
    plans = [Plan({"bank": Treatment("int"), "gate": Treatment("fp16")}, compressor="zstd")]
    plans += [Plan({"bank": cut, "table.weight": table}, compressor="xz"), Plan.lossless()]
    return [encode(state, plan, meta={"width": 16}, extra={"note": b"abc" * 9}) for plan in plans]


def good_packets() -> list[bytes]:
    "Packets of one, two and three orders."
    tokens = np.random.default_rng(0).integers(0, 24, 3000) ** 2 % 24
    return [pack_prior(distil(tokens, 24, order=k, tokenizer="abc")) for k in (1, 2, 3)]


def good_shards() -> list[bytes]:
    "One shard of three tokens and one of three hundred."
    found = []
    for count in (3, 300):
        found.append(write_shard(SHARD, np.arange(count)).read_bytes())
        SHARD.unlink()
    return found


def repaired_artifact(draw: random.Random, data: bytes) -> bytes:
    "Damage to the header's values or to stored bytes, with all digests right."
    length = PREAMBLE.unpack_from(data)[2]
    content = copy.deepcopy(json.loads(data[PREAMBLE.size : PREAMBLE.size + length]))
    body, parts = data[PREAMBLE.size + length :], []
    for record in content["sections"]:
        parts.append(body[: record["stored"]])
        body = body[record["stored"] :]
    for k, record in enumerate(content["sections"]):
        if draw.random() < 0.3:
            parts[k] = mutate(draw, [parts[k]])
            record |= {"stored": len(parts[k]), "sha256": sha(parts[k])}
    for _ in range(draw.randint(0, 2)):
        damage_json(draw, content)
    text = json.dumps(content).encode()
    head = PREAMBLE.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest())
    return head + text + b"".join(parts)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def damage_json(draw: random.Random, content: dict) -> None:
    "Change one value somewhere in a JSON tree."
    node, path = content, []
    while isinstance(node, (dict, list)) and node and (not path or draw.random() < 0.8):
        key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
        path.append((node, key))
        node = node[key]
    if len(path) < 2:
        return
    place, key = path[-1]
    values = [0, -1, 1, 2**31, 2**40 - 1, 2**63, 10**30, 1.5, None, True, "", "raw", [], {}, [0]]
    values += ["int8", "fp16", "xz", "coder", "float64", "bool", "planes4", [2**39, 2], [0, 2**39]]
    action = draw.random()
    if action < 0.7:
        place[key] = draw.choice(values)
    elif action < 0.85 and isinstance(place, dict):
        del place[key]
    elif isinstance(place, list):
        other = draw.randrange(len(place))
        place[key], place[other] = place[other], copy.deepcopy(place[key])
        place.extend(copy.deepcopy(place[:1]) if draw.random() < 0.3 else [])


def repaired_packet(draw: random.Random, data: bytes) -> bytes:
    "A damaged packet with the right checksum."
    body = bytearray(data[:-4])
    if draw.random() < 0.5:  # a byte or two, so that some are still packets
        flip(draw, body)
    else:
        body = bytearray(mutate(draw, [bytes(body)]))
    keep = draw.choice([0, 4, 41])  # nothing, the magic word, the head
    body = data[:keep] + bytes(body[keep:])
    return body + struct.pack("<I", zlib.crc32(body))


def repaired_shard(draw: random.Random, data: bytes) -> bytes:
    "A damaged shard whose header is right about its length, or just not."
    data = data[:HEADER_BYTES] + mutate(draw, [data[HEADER_BYTES:]])
    count = (len(data) - HEADER_BYTES) // 2 + draw.choice([0, 0, 1, -1])
    return data[:8] + struct.pack("<i", count) + data[12:]


@dataclass
class Target:
    "Bytes that decode, what reads them, and damage that keeps checksums."

    good: list[bytes]
    read: Callable[[bytes], None]
    repaired: Callable[[random.Random, bytes], bytes]


TARGETS = {
    "artifact": Target(good_artifacts(), read_artifact, repaired_artifact),
    "shard": Target(good_shards(), read_a_shard, repaired_shard),
    "packet": Target(good_packets(), read_packet, repaired_packet),
}


# Damage

HUGE = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8]
HUGE += [struct.pack("<Q", 1 << 40), struct.pack("<I", 1 << 28), struct.pack(">I", 1 << 28)]


def flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def grow(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(len(data) + 1)
    data[place:place] = draw.randbytes(draw.randint(1, 64))


def huge(draw: random.Random, data: bytearray) -> None:
    "A field of length, anywhere, set to a large number."
    value, place = draw.choice(HUGE), draw.randrange(len(data))
    data[place : place + len(value)] = value


def early(draw: random.Random, data: bytearray) -> None:
    "As `huge`, near the front, where lengths are."
    value, place = draw.choice(HUGE), draw.randrange(min(64, len(data)))
    data[place : place + len(value)] = value


def swap(draw: random.Random, data: bytearray) -> None:
    "Two stretches change places."
    a, b, c = sorted(draw.randrange(len(data) + 1) for _ in range(3))
    data[a:c] = data[b:c] + data[a:b]


def double(draw: random.Random, data: bytearray) -> None:
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    data[b:b] = data[a:b]


def body(draw: random.Random, data: bytearray) -> None:
    "A good beginning, then noise."
    keep = draw.randrange(len(data) + 1)
    data[keep:] = draw.randbytes(draw.randint(0, max(8, len(data) - keep)))


def noise(draw: random.Random, data: bytearray) -> None:
    data[:] = draw.randbytes(draw.randint(0, 400))


DAMAGES = [flip, flip, cut, grow, huge, early, swap, double, body, noise]


def mutate(draw: random.Random, good: list[bytes]) -> bytes:
    "One of the good byte strings with one to three damages."
    data = bytearray(draw.choice(good))
    for _ in range(draw.randint(1, 3)):
        if data:
            draw.choice(DAMAGES)(draw, data)
    return bytes(data)


def hostile(draw: random.Random, target: Target) -> bytes:
    "Damaged bytes; half of them get past every checksum."
    if draw.random() < 0.5:
        return target.repaired(draw, draw.choice(target.good))
    return mutate(draw, target.good)


# The watch

watched = {"on": False, "events": []}


def hook(event: str, arguments: tuple) -> None:
    if watched["on"] and event.startswith(FORBIDDEN):
        watched["events"].append(event)


sys.addaudithook(hook)


@contextmanager
def watch():
    "Fail for forbidden events, and for what takes too long."

    def late(*_):
        raise TimeoutError(f"an input took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    watched.update(on=True, events=[])
    try:
        yield
    finally:
        watched["on"] = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not watched["events"], watched["events"]


def accepted(target: Target, data: bytes) -> bool:
    "Whether `data` was read; anything but that or a GolfError is a failure."
    with watch():
        try:
            target.read(data)
        except GolfError as error:
            assert str(error)
            return False
    return True


# Tests


@pytest.fixture(autouse=True, scope="module")
def warm():
    "Compile and import what reading needs, before anything is watched."
    for target in TARGETS.values():
        for data in target.good:
            target.read(data)


@pytest.mark.parametrize("name", TARGETS)
def test_good_bytes_are_accepted(name):
    assert all(accepted(TARGETS[name], data) for data in TARGETS[name].good)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_hostile_bytes_are_read_or_refused(name, draw):
    data = hostile(draw, TARGETS[name])
    tracemalloc.start()
    try:
        accepted(TARGETS[name], data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def test_the_watch_sees(monkeypatch):
    monkeypatch.setitem(globals(), "SECONDS", 0.2)

    def bad(data: bytes) -> None:
        eval(compile(data, "bytes", "eval"))

    with pytest.raises(AssertionError, match="exec"):
        accepted(Target([], bad, None), b"1 + 1")
    with pytest.raises(TimeoutError):
        accepted(Target([], lambda data: time.sleep(5), None), b"")
    with pytest.raises(ZeroDivisionError):
        accepted(Target([], lambda data: 1 / len(data), None), b"")


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_varied(name):
    draw, target = random.Random(0), TARGETS[name]
    read = Counter(accepted(target, hostile(draw, target)) for _ in range(300))
    assert read[False] > 100 and sum(read.values()) == 300
    if name != "artifact":  # some damage is of values that may have any value
        assert read[True]


# The long run


def limit_memory(more: int = 512 << 20) -> None:
    "From here on this process cannot grow by more than `more` bytes."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def long_run(total: int, seed: int = 0) -> dict[str, dict]:
    "Totals by target of `total` hostile inputs, with the first inputs that failed."
    found, each = {}, -(-total // len(TARGETS))
    for target in TARGETS.values():
        for data in target.good:
            target.read(data)
    limit_memory()
    for name, target in TARGETS.items():
        draw, counts, slowest, failures = random.Random(f"{seed}{name}"), Counter(), 0.0, []
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.perf_counter()
        for _ in range(each):
            data, start = hostile(draw, target), time.perf_counter()
            try:
                counts["read" if accepted(target, data) else "refused"] += 1
            except Exception as error:
                counts["failed"] += 1
                failures.append((type(error).__name__, str(error)[:200], data.hex()[:4000]))
            slowest = max(slowest, time.perf_counter() - start)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        found[name] = {"inputs": each, **counts, "seconds": time.perf_counter() - begin}
        found[name] |= {"slowest_s": slowest, "grown_mb": grown / 1024, "failures": failures[:5]}
    return found


def test_a_hundred_thousand_inputs(request):
    if "slow" not in request.config.getoption("--flags").split():
        pytest.skip("slow")
    process = os.fork()  # the limit on memory stays in the child
    if process == 0:
        status = 1
        try:
            status = int(any(row["failures"] for row in long_run(100_000).values()))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


# Nothing loads through pickle

LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe_loads(source: str) -> list[str]:
    "What in a module's source would load through pickle."
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            found += [f"from {node.module} import {alias.name}" for alias in node.names]
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, name = text.rpartition(".")
        if module in LOADERS and name not in ("dumps", "dump"):
            found.append(text)
        if text in ("torch.load", "torch.jit.load") and options.get("weights_only") != "True":
            found.append(text)
        if name in ("load", "memmap") and module in ("np", "numpy"):
            if options.get("allow_pickle", "False") != "False":
                found.append(text)
        if name in ("read_pickle", "read_hdf", "Unpickler"):
            found.append(text)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "golf").rglob("*.py")), ids=lambda p: p.stem)
def test_no_module_loads_through_pickle(path):
    assert not unsafe_loads(path.read_text("utf-8"))


def test_the_scan_sees():
    bad = ["import pickle\npickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)"]
    bad += ["from pickle import loads", "np.load(f, allow_pickle=True)", "pd.read_pickle(f)"]
    good = ["pickle.dumps(f)", "torch.load(f, weights_only=True)", "np.load(f)", "json.load(f)"]
    assert all(unsafe_loads(source) for source in bad)
    assert not any(unsafe_loads(source) for source in good)


# A record under faults


def save_run(root: Path, level: float, kinds: tuple[str, ...]) -> Path:
    "One run with some tables, all of which hold `level`."
    run = Run("demo", {"seed": 1}, root=root)
    run.stage("adapted", level=level)
    table = pd.DataFrame({"stream": "original", "arm": "none", "chunk": range(3), "start": 0})
    table = table.assign(document=range(3), tokens=8, bytes=20, nll=level)
    return run.save(**{kind: table for kind in kinds})


def run_state(folder: Path) -> tuple[float, tuple[str, ...]] | None:
    "The level and the kinds of tables that a folder holds, which must agree; None if no record."
    try:
        record = read_record(folder)
    except GolfError as error:
        assert "no complete record" in str(error)
        return None
    kinds = tuple(record.tables)
    levels = {record.stages["adapted"]["level"], *(getattr(record, k).nll[0] for k in kinds)}
    assert len(levels) == 1, levels
    return levels.pop(), kinds


class Fault(Exception):
    "What a full disk or a pulled plug looks like from inside."


def break_at(patch: pytest.MonkeyPatch, step: int) -> None:
    "Let the file operation number `step` of any kind fail, and all after it."
    done = iter(range(10**6))

    def broken(real):
        def operation(*arguments, **options):
            if next(done) >= step:
                raise Fault
            return real(*arguments, **options)

        return operation

    for name in ("replace", "unlink", "fsync", "chmod"):
        patch.setattr(os, name, broken(getattr(os, name)))
    patch.setattr(tempfile, "mkstemp", broken(tempfile.mkstemp))
    for name in ("write_bytes", "unlink"):
        patch.setattr(Path, name, broken(getattr(Path, name)))


BOTH, ONE = ("chunks", "documents"), ("chunks",)


CHANGES = [(None, BOTH), (BOTH, BOTH), (BOTH, ONE), (ONE, BOTH), (BOTH, ())]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_record_is_the_old_or_the_new_one(tmp_path, monkeypatch, before, after):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    constant = {"git_state": {"commit": None, "clean": None}, "code_digest": "", "versions": {}}
    for name, value in constant.items():  # slow, and not what is tested here
        monkeypatch.setattr(f"golf.lab.runs.{name}", lambda *_, value=value: value)
    old, new, seen = (1.0, before) if before is not None else None, (2.0, after), []
    for step in range(200):
        root = tmp_path / str(step)
        folder = Run("demo", {"seed": 1}, root=root).folder
        if before is not None:
            save_run(root, 1.0, before)
        if not broken_save(root, after, step):
            break
        seen.append(run_state(folder))
        save_run(root, 3.0, BOTH)  # the next writer finds nothing in its way and tidies up
        assert run_state(folder) == (3.0, BOTH)
        assert len(list(folder.iterdir())) == 3
    assert run_state(folder) == new
    assert len(list(folder.iterdir())) == 1 + len(after)
    assert len(seen) > 5 and seen[0] == old and seen[-1] == new
    assert set(seen) == {old, new}
    assert seen == sorted(seen, key=lambda state: state == new)  # never back again


def broken_save(root: Path, kinds: tuple[str, ...], step: int) -> bool:
    "Whether a save was broken at its file operation number `step`."
    with pytest.MonkeyPatch.context() as patch:
        break_at(patch, step)
        try:
            save_run(root, 2.0, kinds)
        except Fault:
            return True
    return False


if __name__ == "__main__":
    for target, row in long_run(int(sys.argv[1]) if sys.argv[1:] else 120_000).items():
        print(target, {k: v for k, v in row.items() if k != "failures"}, flush=True)
        for failure in row["failures"]:
            print("   ", *failure[:2], "\n     ", failure[2])
