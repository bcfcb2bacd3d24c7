"""The artifact under attack: damaged, foreign and hostile bytes, and several processes."""

import copy
import hashlib
import json
import lzma
import resource
import subprocess
import sys

import brotli
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.artifact import (
    COMPRESSORS,
    DTYPES,
    MAGIC,
    PREAMBLE,
    Plan,
    Section,
    Treatment,
    decode,
    decompress,
    encode,
    extras,
    load_artifact,
    pack,
    read_meta,
    save_artifact,
    size_report,
    unpack,
)
from golf.files import GolfError


def make_state() -> dict[str, torch.Tensor]:
    "A few tensors of every kind, small enough for hundreds of decodings."
    random = torch.Generator().manual_seed(0)
    return {
        "bank": torch.randn(2, 8, 16, generator=random),
        "table.weight": torch.randn(12, 16, generator=random).bfloat16(),
        "gate": torch.randn(5, generator=random),
        "flags": torch.tensor([True, False, True]),
        "steps": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
    }


STATE = make_state()
PLAN = Plan(
    {
        "bank": Treatment("int"),
        "table.weight": Treatment("int", bits=8, part="tables"),
        "gate": Treatment("fp16"),
    }
)
DATA = encode(STATE, PLAN, meta={"width": 16}, extra={"note": b"abc" * 30})
DECODED = decode(DATA)


def same(left: dict, right: dict) -> bool:
    "Whether two states agree in names, order, dtypes, shapes and every value."
    return list(left) == list(right) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in zip(left.values(), right.values())
    )


def right_or_refused(data: bytes) -> bool:
    "Read `data` in every way; anything but a GolfError or well-formed results is a failure."
    try:
        state = decode(data)
        assert all(torch.is_tensor(tensor) for tensor in state.values())
        assert isinstance(read_meta(data), dict) and isinstance(extras(data), dict)
        assert size_report(data).total == len(data)
        unpack(data)
    except GolfError as error:
        assert str(error)
        return False
    return True


def rebuild(content: object, body: bytes) -> bytes:
    "A file with this header and valid digests of the header."
    text = json.dumps(content).encode()
    return PREAMBLE.pack(MAGIC, 1, len(text), hashlib.sha256(text).digest()) + text + body


def opened(data: bytes) -> tuple[dict, bytes]:
    "The header's JSON and the stored sections of a good file."
    length = PREAMBLE.unpack_from(data)[2]
    end = PREAMBLE.size + length
    return json.loads(data[PREAMBLE.size : end]), data[end:]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_are_refused(data):
    damaged = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(DATA) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    assert right_or_refused(bytes(damaged)) == (bytes(damaged) == DATA)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.binary(max_size=20))
def test_cut_or_spliced_files_are_refused(length, tail):
    damaged = DATA[:length] + tail
    assert right_or_refused(damaged) == (damaged == DATA)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(junk):
    assert not right_or_refused(junk)
    assert not right_or_refused(MAGIC + junk)
    digest = hashlib.sha256(junk).digest()
    assert not right_or_refused(PREAMBLE.pack(MAGIC, 1, len(junk), digest) + junk)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["raw", "fp16", "int6", "int8", "xz", "zstd", "float32", "bool", "bank"]),
    st.lists(st.integers(-2, 2**64), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(node: object, path: tuple = ()) -> list[tuple]:
    "The paths of all values inside a JSON value, the outermost left out."
    inner = node.items() if isinstance(node, dict) else ()
    inner = enumerate(node) if isinstance(node, list) else inner
    return [p for key, value in inner for p in ((*path, key), *places(value, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_forged_headers_with_valid_digests(data):
    content, body = opened(DATA)
    content = copy.deepcopy(content)
    path = data.draw(st.sampled_from(places(content)))
    node = content
    for key in path[:-1]:
        node = node[key]
    action = data.draw(st.sampled_from(["replace", "delete", "double"]))
    if action == "replace":
        node[path[-1]] = data.draw(SCALARS)
    elif action == "delete":
        del node[path[-1]]
    elif isinstance(node, list):
        node.append(copy.deepcopy(node[path[-1]]))
    else:
        node["another"] = node[path[-1]]
    right_or_refused(rebuild(content, body))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_streams_with_valid_digests(data):
    name = data.draw(st.sampled_from(list(COMPRESSORS)))
    content = data.draw(st.binary(max_size=300))
    stream = bytearray(COMPRESSORS[name](content))
    for _ in range(data.draw(st.integers(0, 3))):
        if stream:
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(content), len(content) + 1, 10**5, 0]))
    stream = bytes(stream) + data.draw(st.binary(max_size=3))
    try:
        assert len(decompress(stream, name, size)) == size
    except GolfError:
        pass


def test_header_nested_beyond_reason():
    text = b'{"header":' + b"[" * 200_000 + b"]" * 200_000 + b',"sections":[]}'
    preamble = PREAMBLE.pack(MAGIC, 1, len(text), hashlib.sha256(text).digest())
    assert not right_or_refused(preamble + text)


def bomb(name: str, megabytes: int) -> bytes:
    "A stream that unfolds into many zeros, made without ever holding them."
    writers = {
        "xz": lambda: lzma.LZMACompressor(preset=0, check=lzma.CHECK_NONE),
        "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(size=megabytes * 10**6),
        "brotli": lambda: brotli.Compressor(quality=2),
    }
    writer = writers[name]()
    feed = writer.process if name == "brotli" else writer.compress
    parts = [feed(bytes(10**6)) for _ in range(megabytes)]
    return b"".join([*parts, writer.finish() if name == "brotli" else writer.flush()])


@pytest.mark.parametrize("name", ["xz", "zstd", "brotli"])
def test_small_file_cannot_claim_much_memory(name):
    "60 MB in a few kB, honest or lying about its size, is refused without unfolding."
    stream = bomb(name, 60)
    assert len(stream) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in (1000, 10**9, 10**15):
        with pytest.raises(GolfError):
            decompress(stream, name, size)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} kB"


def test_forged_sizes_allocate_nothing():
    content, body = opened(DATA)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in (2**31, 2**40, 2**62, 2**80):
        forged = copy.deepcopy(content)
        forged["header"]["tensors"][0]["shape"] = [size, 8, 16]
        assert not right_or_refused(rebuild(forged, body))
        forged = copy.deepcopy(content)
        forged["sections"][0]["size"] = size
        assert not right_or_refused(rebuild(forged, body))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_forged_content_is_refused():
    "Valid digests around codes beyond their grid, steps that are not numbers, impossible flags."

    def forge(name: str, data: bytes) -> bytes:
        header, sections = unpack(DATA)
        kept = [
            Section(s.name, data if s.name == name else s.data, "raw", s.part) for s in sections
        ]
        return pack(header, kept)

    parts = {section.name: section.data for section in unpack(DATA)[1]}
    assert same(decode(forge("none", b"")), DECODED)
    for name, data, message in (
        ("codes/bank", b"\x7f" * 256, "codes beyond 31"),
        ("codes/table.weight", b"\x80" * 192, "codes beyond 127"),
        ("scales", b"\xff" * len(parts["scales"]), "steps"),
        ("small", b"\x02" * len(parts["small"]), "flags"),
        ("small", parts["small"][:-1], "too short"),
        ("scales", parts["scales"] + b"\0", "too many"),
    ):
        with pytest.raises(GolfError, match=message):
            decode(forge(name, data))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(DTYPES)),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(["raw", "zstd", "xz", "brotli", "best"]),
    st.integers(0, 2**32 - 1),
)
def test_lossless_keeps_every_bit(dtype, shape, compressor, seed):
    kind = DTYPES[dtype]
    random = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * kind.itemsize
    data = torch.randint(0, 256, (count,), generator=random).to(torch.uint8)
    if kind == torch.bool:
        data %= 2
    tensor = data.view(kind).reshape(shape)
    strided = torch.stack([tensor, tensor], dim=-1)[..., 0]
    back = decode(encode({"t": tensor, "strided": strided}, Plan.lossless(compressor)))
    for found in back.values():
        assert found.dtype == kind and found.shape == tensor.shape
        assert torch.equal(found.reshape(-1).view(torch.uint8), data) or not count


def test_decoded_tensors_are_independent_and_writable():
    first, second = decode(DATA), decode(DATA)
    for tensor in first.values():
        tensor.zero_()
    assert same(second, DECODED)


def test_same_bytes_in_another_process():
    script = (
        "import sys, hashlib, torch; sys.path.insert(0, sys.argv[1]); "
        "torch.set_num_threads(int(sys.argv[2])); import test_artifact as t; "
        "print(hashlib.sha256(t.encode(t.make_state(), t.PLAN, meta={'width': 16}, "
        "extra={'note': b'abc' * 30})).hexdigest())"
    )
    folder = str(__file__).rsplit("test_artifact", 1)[0]
    found = subprocess.run(
        [sys.executable, "-c", script, folder, "2"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"},
    ).stdout.strip()
    assert found == hashlib.sha256(DATA).hexdigest()


def test_save_leaves_no_half_file(tmp_path):
    path = save_artifact(tmp_path / "model.golf", DATA)
    with pytest.raises(GolfError, match="model.golf"):
        save_artifact(path, DATA[:-1])
    assert load_artifact(path) == DATA and [p.name for p in tmp_path.iterdir()] == ["model.golf"]
    with pytest.raises(GolfError, match=tmp_path.name):
        load_artifact(tmp_path)
