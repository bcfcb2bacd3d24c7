"""The artifact under attack: damaged, foreign and hostile bytes, and several processes."""

import base64
import copy
import hashlib
import json
import lzma
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from golf.base.files import GolfError
from golf.store import coder
from golf.store.artifact import (
    decode,
    encode,
    extras,
    load_artifact,
    quantized_tensors,
    read_meta,
    save_artifact,
)
from golf.store.coder import DENSEST, GRID, decode_grid, encode_grid, entropy
from golf.store.container import (
    COMPRESSORS,
    LAYOUTS,
    MAGIC,
    PREAMBLE,
    VERSION,
    Section,
    decompress,
    pack,
    unpack,
)
from golf.store.plans import DTYPES, Plan, Treatment
from golf.store.quant import Quantized, dequantize_rows, largest_code
from golf.store.sizes import compare_compressors, size_report


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
TURNED = encode(
    STATE,
    Plan(
        {
            "bank": Treatment("int", order="columns", sections=("up", "down"), compressor="coder"),
            "table.weight": Treatment("int", bits=8, layout="bits", part="tables"),
            "gate": Treatment("fp16"),
        }
    ),
    meta={"width": 16},
    extra={"note": b"abc" * 30},
)
FILES = st.sampled_from([DATA, TURNED])


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
    return PREAMBLE.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest()) + text + body


def opened(data: bytes) -> tuple[dict, bytes]:
    "The header's JSON and the stored sections of a good file."
    length = PREAMBLE.unpack_from(data)[2]
    end = PREAMBLE.size + length
    return json.loads(data[PREAMBLE.size : end]), data[end:]


def test_a_version_that_lacks_what_the_file_has_is_an_altered_byte():
    "The one byte of a file that no digest covers would have been free to change."
    bank = {"qo_bank": torch.arange(-64, 64).float().view(1, 8, 16)}
    plan = Plan({"qo_bank": Treatment("int", bits=6)}, compressor="zstd")
    data = encode(bank, plan)
    assert any("layout" in r for r in opened(data)[0]["sections"]) and data[8] == 2
    with pytest.raises(GolfError, match="was altered: format version 1 has no section such as"):
        decode(data[:8] + b"\x01" + data[9:])


@settings(max_examples=150, deadline=None)
@given(FILES, st.data())
def test_flipped_bytes_are_refused(file, data):
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(file) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    assert right_or_refused(bytes(damaged)) == (bytes(damaged) == file)


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
    assert not right_or_refused(PREAMBLE.pack(MAGIC, VERSION, len(junk), digest) + junk)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["raw", "fp16", "int6", "int8", "xz", "zstd", "float32", "bool", "bank"]),
    st.sampled_from(
        ["coder", "planes2", "bits", "plain", "columns", "rows", "up", ["up"], [], [3]]
    ),
    st.lists(st.integers(-2, 2**64), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(node: object, path: tuple = ()) -> list[tuple]:
    "The paths of all values inside a JSON value, the outermost left out."
    inner = node.items() if isinstance(node, dict) else ()
    inner = enumerate(node) if isinstance(node, list) else inner
    return [p for key, value in inner for p in ((*path, key), *places(value, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(FILES, st.data())
def test_forged_headers_with_valid_digests(file, data):
    content, body = opened(file)
    content = copy.deepcopy(content)
    path = data.draw(st.sampled_from(places(content)))
    node = content
    for key in path[:-1]:
        node = node[key]
    action = data.draw(st.sampled_from(["replace", "delete", "double", "add"]))
    if action == "replace":
        node[path[-1]] = data.draw(SCALARS)
    elif action == "delete":
        del node[path[-1]]
    elif action == "add" and isinstance(node, dict):
        node[data.draw(st.sampled_from(["order", "sections", "layout"]))] = data.draw(SCALARS)
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
    preamble = PREAMBLE.pack(MAGIC, VERSION, len(text), hashlib.sha256(text).digest())
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


# A file of version 1, before there were layouts and the coder: zstd, brotli, xz and raw sections.
VERSION_ONE = """
c-
noG%WEA~9LML@wxKCeus$n|I#3$r(wz6>y6U!MRl2Y#LC*8uODA_OGY1lH3~6>s3thG=7lIGyra|2aMO=vgKtWJ2anX$nv2{
_U=$Z7AncI@gX6F26zTfjX-}9UENjJ~@%=F1tk|f_8PLi{q$@AZBy|Hs{;hm}J_TLX)-@3l}%dwBXSb+ad-Trf7W-
aYGWnGbW*3xAcRCQnJ+t5opkgd1V;09%0lxgSkT57|GLzi|^pXDlGl(y3={eg{z{vfb88mQ&!wN`^Gaa8tH_4Q@gCT+H~-
mdj}*8s8!15q0Ur89SS#r3<r&@jSnGGX%!h9ANPMpp&bP}50-
JkM%jp;l_0&s4W;PCFs2mP+<fmcb31%7bYqq=P*4`h#vm4BBzx=#ZAqgnmAFvIQnz9u}^QTM|X1GT7R}<kpq*<M4;72(k7g!
!Z-
0ES5N?NJtDBW!__;uoTuiz^FuAN@5_AT1pKRaMBv38E2k&L6GHCbBZgk{wPj}NPG%;;o@R2u9i9hw>oMBV^rqK8f$O7N5vF3
%1bDS<k)gejb;u?12l(3K^CiCQG^H~+z8Gjf?P<0BqJ1BUsJ&b6(i43=^_tV|LM@4YPd1wZgqlE5X>#6*b;yvAu`M(D}W}38
X~*}93ig_0G>$TJ(qxDKn1WsSOtKpDN#*X{bmPcx2&?P5#4yW$D};;PIGG<fnGo@36$KcNZ_HNSZk^&kWyKMIfD>*3YdakBF
P;znAH0TYbK5kWOA#aQ1h{8T@AKdYl0yos{S%oBP9_P4zbv0LU3nzWF;{+A5#=C_82yjBPO_nF;K~v1=#O_NieacOY3vr&Od
(ZweOQ;XZz8^S5MsEo_^u@@7ss&&%AQ<kCSg6dGzoxAHBaA55WIk{Q2CW<n8J#O!%3b_gcx!-
MPQsJ%0MaT$ug(l$otwv}T`w@a4vdqs6DA-
4ByXi#Lv3{bzIQ$9o$+u(+{v?YaH^UiyK4&{=)&+8xANNoy);T&>eDpV|EC^QP~9KEEZGl4DB=xb^Yv>-
49qWBsYcU)9BnP5uAAT*1f
"""


def test_version_one_is_read_as_it_was_written():
    data = zlib.decompress(base64.b85decode("".join(VERSION_ONE.split())))
    found = decode(data)
    expected = STATE | {
        "bank": STATE["bank"][:1, :4, :6],
        "table.weight": STATE["table.weight"][:3, :4],
    }
    plan = Plan(PLAN.treatments | {"bank": Treatment("int")})
    assert data[8] == 1 and same(found, decode(encode(expected, plan)))
    assert read_meta(data) == {"width": 16} and extras(data) == {"note": b"abc" * 30}
    assert same(found, decode(encode(found, Plan.lossless())))
    assert size_report(data).total == len(data) == 1501


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(list(LAYOUTS)))
def test_layouts_lose_nothing(data, name):
    arranged = LAYOUTS[name](data)
    assert len(arranged) == len(data) and LAYOUTS[name](arranged, back=True) == data
    section = Section("any", data, layout=name)
    assert unpack(pack({}, [section]))[1][0].data == data


CODES = {
    "any": lambda random, limit, shape: random.integers(-limit, limit + 1, shape),
    "extremes": lambda random, limit, shape: random.choice([-limit, limit], shape),
    "zeros": lambda random, limit, shape: np.zeros(shape),
    "small": lambda random, limit, shape: random.normal(0, 1, shape).round().clip(-1, 1),
    "rows alike": lambda random, limit, shape: np.broadcast_to(
        random.integers(-limit, limit + 1, shape[-1:]), shape
    ),
}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 8),
    st.one_of(
        st.sampled_from([(0, 3), (3, 0), (1, 40), (40, 1), (1, 1), (2, 0, 5), (0, 2, 2)]),
        st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
    ),
    st.sampled_from(list(CODES)),
    st.sampled_from([*COMPRESSORS, "best"]),
    st.sampled_from([None, *LAYOUTS]),
    st.sampled_from(["rows", "columns"]),
    st.sampled_from([(), ("one",), ("one", "two")]),
    st.integers(0, 2**32 - 1),
)
def test_codes_come_back_whatever_the_way(
    bits, shape, kind, compressor, layout, order, sections, seed
):
    random = np.random.default_rng(seed)
    codes = torch.tensor(CODES[kind](random, largest_code(bits), shape).astype(np.int8))
    steps = torch.tensor(random.uniform(0.01, 1, shape[:-1])).half()
    stored = Quantized(codes, steps, bits)
    way = {"compressor": compressor, "layout": layout, "order": order, "sections": sections}
    treatment = Treatment("int", quantizer=lambda _: stored, **way)
    state, plan = {"w": codes.float()}, Plan(rest=treatment)
    if sections and shape[0] % len(sections):
        with pytest.raises(GolfError, match="'w'"):
            encode(state, plan)
        return
    data = encode(state, plan)
    found = quantized_tensors(data)["w"]
    assert torch.equal(found.q, codes) and torch.equal(found.scale, steps) and found.bits == bits
    assert torch.equal(decode(data)["w"], dequantize_rows(stored))
    assert size_report(data).total == len(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 40), st.integers(1, 400))
def test_any_bytes_can_be_coded(data, rows, columns):
    if columns > max(len(data), 1):
        with pytest.raises(GolfError, match="columns"):
            encode_grid(data, rows=rows, columns=columns)
        return
    stored = encode_grid(data, rows=rows, columns=columns)
    assert decode_grid(stored, len(data)) == data
    assert len(data) <= DENSEST * len(stored)
    for longer in (b"\0", b"\1", b"\0\7"):  # no stream's, or (one in 250) that of other codes
        try:
            other = decode_grid(stored + longer, len(data))
        except GolfError:
            continue
        assert other != data


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.one_of(st.binary(max_size=120), st.sampled_from([b"\xff" * 99, b"\x7f" * 99, b"\xaa" * 99])),
    st.integers(0, 8000),
)
def test_hostile_streams_of_the_coder(rows, columns, tape, size):
    "Streams no writer made: right length or refused, whatever magnitudes they spell."
    try:
        assert len(decode_grid(GRID.pack(rows, columns) + tape, size)) == size
    except GolfError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_damaged_streams_of_the_coder(content, data):
    stream = bytearray(encode_grid(content, rows=3, columns=min(7, len(content))))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(stream[: data.draw(st.integers(0, len(stream)))])
    for damaged in (bytes(stream), cut):
        for size in (len(content), len(content) + 1, 0):
            try:
                assert len(decode_grid(damaged, size)) == size
            except GolfError as error:
                assert str(error)


def test_the_coder_is_bounded():
    "Neither a small stream nor a large claim makes the reader allocate or work beyond its bytes."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in (DENSEST * 108 + 1, 10**9, 10**15, -1):
        for columns in (1, 2**31, 2**32 - 1):
            with pytest.raises(GolfError):
                decode_grid(GRID.pack(1, columns) + bytes(range(100)), size)
    with pytest.raises(GolfError, match="columns"):
        decode_grid(GRID.pack(1, 2**32 - 1) + bytes(range(100)), 500)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 60), st.integers(0, 2**32 - 1))
def test_the_coder_is_close_to_the_information(rows, columns, spread, seed):
    "No grid costs more than its bytes as they are and one percent, or than noise needs to learn."
    random = np.random.default_rng(seed)
    codes = random.normal(0, spread, (rows, columns)).round().clip(-127, 127).astype(np.int8)
    stored = len(encode_grid(codes.tobytes(), rows=rows, columns=columns)) - GRID.size
    assert 8 * stored < entropy(codes) * codes.size * 1.05 + 2500


def test_the_coder_reaches_the_entropy_of_noise():
    random = np.random.default_rng(0)
    codes = random.normal(0, 0.155 * 31, (1024, 1024)).round().clip(-31, 31).astype(np.int8)
    bits = 8 * len(encode_grid(codes.tobytes(), rows=1024, columns=1024)) / codes.size
    assert entropy(codes) < bits < 1.001 * entropy(codes)


def test_comparison_agrees_with_the_files():
    codes = Quantized(
        torch.randint(-31, 32, (3, 20, 30)).to(torch.int8), torch.ones(3, 20).half(), 6
    )
    frame = compare_compressors({"a": codes, "b": codes}).set_index(["grid", "method"])
    for name in COMPRESSORS:
        treatment = Treatment("int", quantizer=lambda _: codes, compressor=name)
        data = encode({"w": codes.q.float()}, Plan(rest=treatment))
        weights = size_report(data).frame.set_index("part").loc["weights", "bytes"]
        assert frame.loc[("a", name), "bytes"] == weights
        assert frame.loc[("all", name), "bytes"] == 2 * weights
    assert (frame["values"] == [1800] * 14 + [3600] * 7).all()


def test_coder_without_a_place_for_its_cache():
    "A module that lives in no file cannot keep what it compiled, and compiles all the same."
    source = Path(coder.__file__).read_text()
    space = {"__name__": "golf.store.coder", "__package__": "golf.store"}
    exec(compile(source, "<nowhere>", "exec"), space)
    data = bytes(range(256)) * 3
    assert space["encode_grid"](data, rows=3, columns=256) == encode_grid(data, rows=3, columns=256)


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


@pytest.mark.parametrize("interpreted", [False, True])
def test_same_bytes_in_another_process(interpreted):
    "Other hash seeds, other threads, and the coder compiled or read by the interpreter."
    script = (
        "import sys, hashlib, torch; sys.path.insert(0, sys.argv[1]); "
        "torch.set_num_threads(int(sys.argv[2])); import test_artifact as t; "
        "print(hashlib.sha256(t.DATA + t.TURNED).hexdigest())"
    )
    folder = str(__file__).rsplit("test_artifact", 1)[0]
    found = subprocess.run(
        [sys.executable, "-c", script, folder, "2"],
        capture_output=True,
        text=True,
        check=True,
        env={
            "PYTHONHASHSEED": "7",
            "PATH": "/usr/bin:/bin",
            "NUMBA_DISABLE_JIT": str(int(interpreted)),
        },
    ).stdout.strip()
    assert found == hashlib.sha256(DATA + TURNED).hexdigest()


def test_save_leaves_no_half_file(tmp_path):
    path = save_artifact(tmp_path / "model.golf", DATA)
    with pytest.raises(GolfError, match="model.golf"):
        save_artifact(path, DATA[:-1])
    assert load_artifact(path) == DATA and [p.name for p in tmp_path.iterdir()] == ["model.golf"]
    with pytest.raises(GolfError, match=tmp_path.name):
        load_artifact(tmp_path)


def test_orders_layouts_and_sections_that_cannot_be_are_refused():
    bank = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0))
    two = {"qo_bank": bank, "kv_bank": bank[:2] * 3}
    for wrong in ({"order": "rows first"}, {"layout": "plane"}, {"sections": ("a", "b", "c")}):
        with pytest.raises(GolfError):
            encode(two, Plan(rest=Treatment("int", **wrong)))
    shared = {
        "qo_bank": Treatment("int", sections=("x",)),
        "kv_bank": Treatment("fp16", sections=("x",)),
    }
    with pytest.raises(GolfError, match="'kv_bank'"):
        encode(two, Plan(shared))
    shared["kv_bank"] = Treatment("int", sections=("x",), part="tables")
    with pytest.raises(GolfError, match="'codes/x' is shared"):
        encode(two, Plan(shared))
    with pytest.raises(GolfError, match="no columns"):
        encode({"gate": torch.ones(5)}, Plan(rest=Treatment("raw", order="columns")))
