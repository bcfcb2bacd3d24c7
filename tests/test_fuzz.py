"""Hostile bytes for everything that is read: artifacts and the settings inside, shards, packets, texts,
tokenizers, logs, claims, jobs, records, reports; and what may not load; and records under faults at every
write.

`pytest tests/test_fuzz.py` draws a bounded sample. `python tests/test_fuzz.py --minutes 30` runs for so many
minutes of CPU time, prints a row for each reader with its seed, and fails for any error that is no
`GolfError`, any input of more than 5 s, and any reader that takes more than 1 GB; `--only NAME --seed S
--first N` repeats one input.
"""

import argparse
import ast
import collections
import copy
import gzip
import hashlib
import io
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf.auditor.lints import lint_submission
from golf.auditor.report import AuditReport, Result
from golf.base.digests import digest
from golf.base.files import GolfError
from golf.count.packets import Packets, distil, pack_prior, unpack_prior
from golf.lab.knobs import notebook_parameters
from golf.lab.publish import published_list
from golf.lab.records import read_record
from golf.lab.runs import Run
from golf.mix.recorded import Pass
from golf.net.model import GPT, preset
from golf.predict.stream import Stream
from golf.store.artifact import decode, encode, extras, quantized_tensors, read_meta
from golf.store.container import MAGIC, PREAMBLE, VERSION, unpack
from golf.store.plans import Plan, Treatment
from golf.store.saved import export_model, load_model
from golf.store.sizes import size_report
from golf.text.check import check_data
from golf.text.documents import text_documents, text_files
from golf.text.shards import HEADER_BYTES, Shards, read_shard, write_shard
from golf.text.tokenizers import ByteTable, is_lossless, load_tokenizer, train_tokenizer
from golf.text.tokenizers import encode as to_ids
from golf.train.job import Job, job_from, to_json
from golf.train.settings import TrainConfig

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


BYTES = {
    "artifact": Target(good_artifacts(), read_artifact, repaired_artifact),
    "shard": Target(good_shards(), read_a_shard, repaired_shard),
    "packet": Target(good_packets(), read_packet, repaired_packet),
}


# What is read from files


HOME = Path(tempfile.gettempdir()) / f"golf-fuzz-{os.getpid()}"


@contextmanager
def placed(name: str, data: bytes):
    "A file of this name with the bytes, in a folder of its own that is gone afterwards."
    path = HOME / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(data)
        yield path
    finally:
        shutil.rmtree(HOME)


def reads_texts(name: str) -> Callable[[bytes], None]:
    "A reader of a text file of this name: alone, as a folder, and with another field."

    def read(data: bytes) -> None:
        with placed(name, data) as path:
            str(text_files(path.parent))
            for _ in islice(text_documents(path), 1000):
                pass

    return read


def read_tokenizer(data: bytes) -> None:
    "A tokenizer that is accepted can be used and shown."
    with placed("a.model", data) as path:
        tokenizer = load_tokenizer(path)
        table = ByteTable.from_sentencepiece(tokenizer)
        [ids] = to_ids(tokenizer, ["a text \u2581 with é 😀\n"], threads=1)
        table.total([1, *ids])
        if is_lossless(tokenizer):
            assert tokenizer.decode(ids)
        repr(tokenizer), tokenizer._repr_markdown_(), table._repr_markdown_()


def read_log(data: bytes) -> None:
    with placed("train.log", data) as path:
        report = lint_submission({}, path)
        str(report), report._repr_markdown_()


def read_a_claim(data: bytes) -> None:
    with placed("submission.json", data) as path:
        report = lint_submission(path.parent)
        str(report), report._repr_markdown_()


def read_job(data: bytes) -> None:
    "A job that is accepted is written and read again."
    job = job_from(data.decode("utf-8", "replace"))
    assert job_from(to_json(job)) == job


def read_a_record(data: bytes) -> None:
    "A record's JSON, a length, and its table."
    (size,), rest = struct.unpack("<I", data[:4].ljust(4, b"\0")), data[4:]
    with placed("record.json", rest[:size]) as path:
        (HOME / "chunks.parquet").write_bytes(rest[size:])
        record = read_record(path)
        record._repr_markdown_(), record.chunks, record.reference


def read_report(data: bytes) -> None:
    with placed("audit.json", data) as path:
        report = AuditReport.load(path)
        str(report), report.markdown()


def read_settings(data: bytes) -> None:
    "An artifact whose settings are damaged: the model that they build has its tensors."
    load_model(data)


def read_a_pass(data: bytes) -> None:
    with placed("a.npz", data) as path:
        repr(Pass.load(path))


def read_provenance(data: bytes) -> None:
    with placed("provenance.json", data):
        for split in ("train", "val"):
            write_shard(HOME / f"x_{split}_000000.bin", [1, 5, 6])
        str(check_data(HOME, progress=False))


def read_notebook(data: bytes) -> None:
    with placed("a.ipynb", data) as path:
        notebook_parameters(path)


def read_list(data: bytes) -> None:
    with placed("runs/published.toml", data):
        published_list(HOME)


# Good files to begin with

LINES = b"\n".join(json.dumps({"text": f"text {i} \u00e9"}).encode() for i in range(40))
MODEL = preset("tiny", layers=2, value_layers=(1,), xsa_layers=(0,), width=16, heads=2, kv_heads=1,
               mlp_width=16, vocab_size=24, context=16, bigram_rows=8, bigram_width=4,
               value_rows_width=4, rope_dims=4)  # fmt: skip
LOG = b"""world_size:8 seed:1337
model_params:26993766
fineweb10B_sp1024
Mon Feb  2 10:11:12 2026
step:0/100 val_loss:6.9 val_bpb:4.1 train_time:0ms step_avg:0.01ms
step:50/100 train_loss:3.4 train_time:5000ms step_avg:100.0ms
ttt_chunk [10/1893] bpb=1.140 time=12.3s
Code size: 61234 bytes
Serialized model int6+zstd: 15512345 bytes
Total submission size int6+zstd: 15573579 bytes
final_int6_roundtrip val_loss:1.9 val_bpb:1.1253 eval_time:120000ms
final_exact val_loss:1.90000000 val_bpb:1.12530000
total_eval_time: 120.5 s
"""
CLAIM = {"val_loss": 1.9, "val_bpb": 1.1253, "bytes_total": 15573579, "bytes_code": 61234, "name": "x",
         "seeds": [1, 2, 3], "seed_results": {"1": {"val_loss": 1.9, "val_bpb": 1.1253}}}  # fmt: skip


def good_parquets() -> list[bytes]:
    "Tables of text, plain and repeated."
    found = []
    for options in ({}, {"compression": "zstd", "row_group_size": 10}, {"use_dictionary": False}):
        file = io.BytesIO()
        frame = pd.DataFrame({"text": [f"text {i % 7} " * 9 for i in range(50)], "id": range(50)})
        frame.to_parquet(file, **options)
        found.append(file.getvalue())
    return found


def good_tokenizers() -> list[bytes]:
    with placed("a.model", b"") as path:
        return [train_tokenizer(["a text of a few words, ½ é and more of them 12345 " * 20], path, vocab_size=n).read_bytes()
                for n in (286, 300)]  # fmt: skip


def good_records() -> list[bytes]:
    "The JSON and the table of one run."
    HOME.mkdir(exist_ok=True)
    try:
        folder = save_run(HOME, 1.0, ("chunks",)).parent
        record, table = ((folder / name).read_bytes() for name in ("record.json", "chunks.parquet"))
        return [struct.pack("<I", len(record)) + record + table]
    finally:
        shutil.rmtree(HOME)


def good_report() -> list[bytes]:
    with placed("audit.json", b"") as path:
        found = [Result("a", "future", "PASS", 0.0, 1e-6, 1e-9, 3, 1, "again", "nothing")]
        return [AuditReport("arm", {"name": "quick"}, 1, found).save(path).read_bytes()]


def good_passes() -> list[bytes]:
    with placed("a.npz", b"") as path:
        row = np.zeros(6, np.float32)
        found = Pass(row - 1, row, row, np.zeros(6, np.int64), np.zeros(2, np.int64), 4, 24)
        return [found.save(path).read_bytes()]


def repaired_json(draw: random.Random, data: bytes) -> bytes:
    "JSON with one or two other values."
    content = json.loads(data)
    for _ in range(draw.randint(1, 2)):
        damage_json(draw, content)
    return json.dumps(content).encode()


def repaired_lines(draw: random.Random, data: bytes) -> bytes:
    "Lines, some of them damaged, doubled, or other JSON."
    lines = data.split(b"\n")
    for _ in range(draw.randint(1, 3)):
        other = [
            b"[" * draw.choice([3, 5000]),
            b'{"text": 5}',
            b'{"text": "' + b"a" * 10**5 + b'"}',
        ]
        other += [
            b" " * 20_000,
            b"1.1.1 " * 3000,
            b"9" * 5000,
            mutate(draw, [draw.choice(lines) or b" "]),
        ]
        other += [b"size " * 4000, b"Mon Feb 31 25:61:61 2026", b"0e9999999999 " * 9]
        lines[draw.randrange(len(lines))] = draw.choice(other)
    return b"\n".join(lines)


def repaired_log(draw: random.Random, data: bytes) -> bytes:
    "A log with other numbers, or other lines."
    if draw.random() < 0.5:
        return repaired_lines(draw, data)
    words = [
        b"1.1.1",
        b"9" * 5000,
        b"0",
        b"-1",
        b"nan",
        b".",
        b"1e999",
        b"31",
        b"99:99:99",
        b"\xff",
    ]
    text = data
    for _ in range(draw.randint(1, 3)):
        found = list(re.finditer(rb"[\d.:]+", text))
        place = draw.choice(found)
        text = text[: place.start()] + draw.choice(words) + text[place.end() :]
    return text


def packed_again(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]):
    "Damage to what a packed file holds."
    return lambda draw, data: pack(repaired_lines(draw, unpack(data)))


def repaired_settings(draw: random.Random, data: bytes) -> bytes:
    "An artifact with other settings of its model, all digests right."
    length = PREAMBLE.unpack_from(data)[2]
    content = json.loads(data[PREAMBLE.size : PREAMBLE.size + length])
    for _ in range(draw.randint(1, 3)):
        damage_json(draw, content["header"]["meta"])
    text = json.dumps(content).encode()
    head = PREAMBLE.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest())
    return head + text + data[PREAMBLE.size + length :]


def repaired_record(draw: random.Random, data: bytes) -> bytes:
    "A record with other values, or another table whose digest it holds."
    size = struct.unpack_from("<I", data)[0]
    content, table = json.loads(data[4 : 4 + size]), data[4 + size :]
    if draw.random() < 0.4:
        table = mutate(draw, [table])
        content["tables"]["chunks"]["digest"] = digest(table)
    else:
        damage_json(draw, content)
    text = json.dumps(content).encode()
    return struct.pack("<I", len(text)) + text + table


def repaired_pass(draw: random.Random, data: bytes) -> bytes:
    "An archive whose members are damaged, and sound as an archive."
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name, made = draw.choice(list(members)), io.BytesIO()
    shape = draw.choice([b"(6,)", b"()  ", b"(0,)", b"(-6,", b"(9**9,)", b"(999999999999,)"])
    content = members[name]
    members[name] = (
        re.sub(rb"\(\d*,?\)", shape, content) if draw.random() < 0.5 else mutate(draw, [content])
    )
    with zipfile.ZipFile(made, "w") as file:
        for key, value in members.items():
            file.writestr(key, value)
    return made.getvalue()


def nested(draw: random.Random, data: bytes) -> bytes:
    "Damage inside, or nested beyond reason."
    deep = draw.choice([b"[", b'{"a":', b"((", b"x = ["]) * draw.choice([10, 100_000])
    return mutate(draw, [data]) if draw.random() < 0.7 else data[: draw.randrange(len(data))] + deep


NOTEBOOK = {"cells": [{"cell_type": "code", "id": "a", "source": ["x = 1  # one\n", "y = 'a'"],
                       "metadata": {"tags": ["parameters"]}}]}  # fmt: skip
LIST = b'[[published]]\npage = "a"\nnotebook = "demo"\nkey = "0123456789"\nfigures = ["x.png"]\n'
PROVENANCE = {
    "variant": "sp24",
    "tools": {},
    "files": {"x_train_000000.bin": {"bytes": 9, "sha256": "0"}},
}
ZST = zstandard.ZstdCompressor(level=1)


def unzst(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def good_model() -> list[bytes]:
    return [export_model(GPT(MODEL))]


FILES = (
    "settings txt jsonl json gz zst parquet tokenizer log claim job record report pass provenance"
)
FILES = (*FILES.split(), "notebook", "published")


@cache
def targets() -> dict[str, Target]:
    "All that is read."
    job = to_json(Job(MODEL, TrainConfig())).encode()
    of = lambda value: [json.dumps(value).encode()]
    return BYTES | {
        "settings": Target(good_model(), read_settings, repaired_settings),
        "txt": Target([b"a text\n" * 300], reads_texts("a.txt"), repaired_lines),
        "jsonl": Target([LINES], reads_texts("a.jsonl"), repaired_lines),
        "json": Target(of([{"text": "a"}, {"text": "b" * 99}]), reads_texts("a.json"), repaired_json),
        "gz": Target([gzip.compress(LINES)], reads_texts("a.jsonl.gz"),
                     packed_again(gzip.compress, gzip.decompress)),
        "zst": Target([ZST.compress(LINES)], reads_texts("a.jsonl.zst"), packed_again(ZST.compress, unzst)),
        "parquet": Target(good_parquets(), reads_texts("a.parquet"), lambda draw, data: mutate(draw, [data])),
        "tokenizer": Target(good_tokenizers(), read_tokenizer, lambda draw, data: mutate(draw, [data])),
        "log": Target([LOG], read_log, repaired_log),
        "claim": Target(of(CLAIM), read_a_claim, repaired_json),
        "job": Target([job], read_job, repaired_json),
        "record": Target(good_records(), read_a_record, repaired_record),
        "report": Target(good_report(), read_report, repaired_json),
        "pass": Target(good_passes(), read_a_pass, repaired_pass),
        "provenance": Target(of(PROVENANCE), read_provenance, repaired_json),
        "notebook": Target(of(NOTEBOOK), read_notebook, nested),
        "published": Target([LIST], read_list, nested),
    }  # fmt: skip


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


LIBRARY = (collections.__file__, "<frozen importlib")  # pandas makes named tuples, Python imports


def hook(event: str, arguments: tuple) -> None:
    if watched["on"] and event.startswith(FORBIDDEN):
        if event == "exec" and sys._getframe(1).f_code.co_filename.startswith(LIBRARY):
            return
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
    for target in BYTES.values():
        warm_up(target)


@pytest.mark.parametrize("name", BYTES)
def test_good_bytes_are_accepted(name):
    assert all(accepted(BYTES[name], data) for data in BYTES[name].good)


@pytest.mark.parametrize("name", BYTES)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_hostile_bytes_are_read_or_refused(name, draw):
    data = hostile(draw, BYTES[name])
    tracemalloc.start()
    try:
        accepted(BYTES[name], data)
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


@pytest.mark.parametrize("name", BYTES)
def test_damage_is_varied(name):
    draw, target = random.Random(0), BYTES[name]
    read = Counter(accepted(target, hostile(draw, target)) for _ in range(300))
    assert read[False] > 100 and sum(read.values()) == 300
    if name != "artifact":  # some damage is of values that may have any value
        assert read[True]


# The long run, in processes of its own

GIGABYTE = 1 << 30


def resident() -> int:
    "Bytes that this process holds in memory."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def limit_memory(total: int = GIGABYTE) -> None:
    "From here on this process cannot grow beyond `total` bytes of memory of its own."
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    size = virtual + max(total - resident(), 1 << 28)
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def warm_up(target: Target) -> None:
    "Compile and import what reading needs, before anything is watched."
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32"):
        "".encode(name)  # what JSON may be in
    for data in [*target.good, b"", *(data[:-9] for data in target.good)]:
        with suppress(GolfError):
            target.read(data)


NOTE = struct.Struct("<qdqqqd")  # input at work, since when; read, refused, failed; the slowest


def work(
    name: str, target: Target, seed: int, first: int, count: int, seconds: float, note, out
) -> None:
    "Read hostile inputs, from number `first` on, and note where we are; failures go to `out`."
    torch.set_num_threads(1)  # a copy has none of its parent's threads, and would wait for them
    warm_up(target)
    limit_memory()
    totals, slowest, begin = Counter(), 0.0, time.process_time()
    for number in range(first, first + count):
        draw = random.Random(f"{seed}/{name}/{number}")
        data = hostile(draw, target)
        start = time.process_time()  # not the clock: other work shares the processor
        told = [totals[key] for key in ("read", "refused", "failed")]
        NOTE.pack_into(note, 0, number, time.monotonic(), *told, slowest)
        try:
            totals["read" if accepted(target, data) else "refused"] += 1
        except BaseException as error:  # such as Rust's panics
            totals["failed"] += 1
            row = (
                number,
                type(error).__name__,
                " ".join(str(error).split())[:200],
                data.hex()[:2000],
            )
            out.write(json.dumps(row) + "\n")
            out.flush()
        slowest = max(slowest, time.process_time() - start)
        if time.process_time() - begin > seconds:
            break
    NOTE.pack_into(note, 0, -1 - number, time.monotonic(), *(totals[k] for k in ("read", "refused", "failed")),
                   slowest)  # fmt: skip


def in_child(name: str, seed: int, first: int, count: int, seconds: float) -> dict:
    """Totals of hostile inputs of one reader, read in a child that is killed when one takes too long.

    A child that dies is a failure, and another goes on with the next input.
    """
    target, out = targets()[name], tempfile.TemporaryFile("w+")
    note, totals, left = mmap.mmap(-1, NOTE.size), Counter(), seconds
    peak = slowest = 0
    while count > 0 and left > 0:
        NOTE.pack_into(
            note, 0, first, time.monotonic() + 60, 0, 0, 0, 0.0
        )  # a minute to begin with
        before = resident()  # a copy begins with what this process holds
        process = os.fork()
        if process == 0:
            try:
                work(name, target, seed, first, count, left, note, out)
            finally:
                os._exit(0)
        late = 0
        while (ended := os.wait4(process, os.WNOHANG))[0] == 0:
            waited = time.monotonic() - NOTE.unpack_from(note)[1]  # may be read half written
            late = late + 1 if waited > 24 * SECONDS else 0  # of the clock, which others share
            if late > 9:
                os.kill(process, signal.SIGKILL)  # it hangs where no signal of its own is heard
            time.sleep(0.02)
        at, _, *told, slow = NOTE.unpack_from(note)
        totals.update(dict(zip(("read", "refused", "failed"), told)))
        peak = max(peak, (ended[2].ru_maxrss << 10) - before)
        slowest = max(slowest, slow)
        used = ended[2].ru_utime + ended[2].ru_stime
        shutil.rmtree(f"{HOME}", ignore_errors=True)
        if at < 0:
            break
        totals["failed"] += 1
        out.write(json.dumps((at, "the process ended", f"status {ended[1]}", "")) + "\n")
        count, first, left = count - (at + 1 - first), at + 1, left - used
    out.seek(0)
    failures = [json.loads(line) for line in out]
    return dict(totals) | {"slowest_s": slowest, "grown_mb": peak >> 20, "failures": failures}


def bad(row: dict) -> bool:
    "Whether a reader failed, took too long or took too much."
    return bool(row["failures"]) or row["slowest_s"] > SECONDS or row["grown_mb"] << 20 > GIGABYTE


@pytest.mark.parametrize("name", FILES)
def test_files_of_strangers_are_read_or_refused(name):
    row = in_child(name, seed=0, first=0, count=150, seconds=3.0)
    assert not bad(row), row
    assert row["read"] + row["refused"] > 20


def test_a_reader_does_not_wait_for_threads_that_its_parent_has():
    "torch's pool of threads is not copied by a fork: the next matrix waited for it until it was killed."
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.nn.init.orthogonal_(torch.empty(512, 512))
        row = in_child("settings", seed=0, first=0, count=20, seconds=3.0)
    finally:
        torch.set_num_threads(before)
    assert not bad(row), row


def test_a_process_that_dies_or_hangs_is_a_failure(monkeypatch):
    monkeypatch.setitem(globals(), "SECONDS", 0.2)

    def dies(data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(globals(), "targets", lambda: {"dies": Target([b"x"], dies, mutate_one)})
    row = in_child("dies", seed=0, first=0, count=3, seconds=5.0)
    assert row["failed"] == 3 and {failure[1] for failure in row["failures"]} == {
        "the process ended"
    }


def mutate_one(draw: random.Random, data: bytes) -> bytes:
    return mutate(draw, [data])


def long_run(minutes: float, seed: int = 0, only: str = "", first: int = 0) -> bool:
    "Whether all readers, or one, held for so many minutes of CPU time in all; prints a row for each."
    names = [only] if only else list(targets())
    sound = True
    for name in names:
        row = in_child(name, seed, first, 10**9, 60 * minutes / len(names))
        sound = sound and not bad(row)
        print(
            f"{name:11} seed {seed}", {k: v for k, v in row.items() if k != "failures"}, flush=True
        )
        kinds = {tuple(failure[1:3]): failure for failure in reversed(row["failures"])}
        for number, kind, text, data in kinds.values():
            print(
                f"   --only {name} --seed {seed} --first {number}: {kind}: {text}\n      {data[:300]}"
            )
    return sound


def test_every_reader_for_minutes(request):
    if "slow" not in request.config.getoption("--flags").split():
        pytest.skip("slow")
    assert long_run(3)


# Nothing loads through pickle

LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe_loads(source: str) -> list[str]:
    "What in a module's source would load through pickle."
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            names = {alias.name for alias in node.names}
            if node.module == "joblib":  # which runs our own functions, too
                names -= {"Parallel", "delayed"}
            found += [f"from {node.module} import {name}" for name in sorted(names)]
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
    bad += [
        "from pickle import loads",
        "from joblib import load",
        "joblib.load(f)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
    ]
    good = [
        "pickle.dumps(f)",
        "from joblib import Parallel, delayed",
        "torch.load(f, weights_only=True)",
        "np.load(f)",
        "json.load(f)",
    ]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--first", type=int, default=0)
    sys.exit(0 if long_run(**vars(parser.parse_args())) else 1)
