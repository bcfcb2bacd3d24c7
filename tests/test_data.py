"""Data under attack: damaged shards, awkward text, killed and simultaneous preparation."""

import gzip
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golf.base.cache import cache_dir
from golf.base.digests import digest
from golf.base.files import GolfError, project_root
from golf.lab.cli import app
from golf.text import check
from golf.text import corpus as corpora
from golf.text import documents as readers
from golf.text import shards as files
from golf.text.batches import TokenStream
from golf.text.check import check_data
from golf.text.corpus import Corpus, load_corpus
from golf.text.documents import text_documents, text_files, tokenize_documents
from golf.text.shards import BOS, Shards, open_tokens, read_shard, read_tokens, write_shard
from golf.text.tokenizers import (
    ByteTable,
    decode_documents,
    encode,
    load_tokenizer,
    train_tokenizer,
)

TEXT = "def add(a, b):\n\treturn a + b  # été\n\nfor i in range(10):\n        print(add(i, i))\n"
SOON = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A lossless tokenizer of 290 ids."""
    path = tmp_path_factory.mktemp("tokenizer") / "tiny.model"
    return load_tokenizer(train_tokenizer([TEXT * 4], path, vocab_size=290), 290)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """A folder of twenty small texts, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.txt").write_text(f"# file {i}\n" + TEXT)
    return folder


def prepared(tmp_path):
    """The folders in the cache of corpora, hidden ones included."""
    return sorted(p.name for p in (tmp_path / "cache" / "golf" / "corpora").iterdir())


# --- shards -------------------------------------------------------------------------------------


@SOON
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50))
def test_shards_return_what_was_written(tmp_path, tokens):
    path = write_shard(tmp_path / "s.bin", tokens)
    assert read_shard(path).tolist() == tokens
    assert path.stat().st_size == 1024 + 2 * len(tokens)


@SOON
@given(st.binary(max_size=1100))
def test_any_bytes_are_a_shard_or_a_golf_error(tmp_path, content):
    path = tmp_path / "noise.bin"
    path.write_bytes(content)
    with pytest.raises(GolfError, match=r"noise\.bin"):
        read_shard(path)


@SOON
@given(st.integers(0, 1033), st.integers(0, 255), st.integers(0, 1034))
def test_a_changed_header_or_length_is_noticed(tmp_path, position, value, length):
    good = write_shard(tmp_path / "good.bin", [1, 2, 3, 4, 5]).read_bytes()
    assert len(good) == 1034
    changed = bytearray(good)
    changed[position] = value
    content = bytes(changed)[:length] if length % 2 else bytes(changed)
    path = tmp_path / "changed.bin"
    path.write_bytes(content)
    spared = 12 <= position  # zeros and ids are not part of magic, version and length
    if len(content) == 1034 and (spared or content == good):
        assert len(read_shard(path)) == 5
    else:
        with pytest.raises(GolfError, match=r"changed\.bin"):
            read_shard(path)


@pytest.mark.parametrize("tokens", [[], [-1], [65536], [[1, 2]], [0.5]])
def test_bad_tokens_are_not_written(tmp_path, tokens):
    with pytest.raises(GolfError, match=r"new\.bin"):
        write_shard(tmp_path / "new.bin", tokens)
    assert not list(tmp_path.iterdir())


def test_ids_outside_the_vocabulary(tmp_path, tokenizer):
    write_shard(tmp_path / "x_train_000000.bin", [1, 300])
    write_shard(tmp_path / "x_val_000000.bin", [1, 5])
    with pytest.raises(GolfError, match=r"x_train_000000\.bin: token id 300"):
        load_corpus("shards", data_path=tmp_path, tokenizer_path=tokenizer.path, vocab_size=290)


def test_shards_without_paths(tmp_path, tokenizer, monkeypatch):
    monkeypatch.delenv("DATA_PATH", raising=False)
    monkeypatch.delenv("TOKENIZER_PATH", raising=False)
    with pytest.raises(GolfError, match="data_path"):
        load_corpus("shards")
    with pytest.raises(GolfError, match="no such tokenizer"):
        load_corpus("shards", data_path=tmp_path, tokenizer_path=tmp_path / "absent.model")
    for split in ("train", "val"):
        write_shard(tmp_path / f"x_{split}_000000.bin", [1, 5, 6])
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    monkeypatch.setenv("TOKENIZER_PATH", str(tokenizer.path))
    assert load_corpus("shards", vocab_size=290).val.tolist() == [1, 5, 6]


def test_splits_are_told_apart_by_name(tmp_path):
    write_shard(tmp_path / "my_val_set_train_000000.bin", [1])
    write_shard(tmp_path / "my_val_set_val_000000.bin", [2])
    assert read_tokens(tmp_path, "val").tolist() == [2]
    assert read_tokens(tmp_path, "train").tolist() == [1]


# --- several shards as one ----------------------------------------------------------------------


def cut_to_shards(folder, tokens, cuts, split="train"):
    """Write `tokens` as shards that end at the `cuts`; their folder."""
    for old in folder.glob(f"*_{split}_*.bin"):
        old.unlink()
    pieces = np.split(np.asarray(tokens), sorted(cuts))
    for i, piece in enumerate(piece for piece in pieces if len(piece)):
        write_shard(folder / f"x_{split}_{i:06d}.bin", piece)
    return folder


@SOON
@given(
    st.lists(st.integers(0, 65535), min_size=12, max_size=40),
    st.lists(st.integers(1, 15), max_size=8, unique=True),
    st.data(),
)
def test_shards_read_like_the_joined_array(tmp_path, tokens, cuts, draw):
    folder = cut_to_shards(tmp_path, tokens, cuts)
    shards, joined = Shards(files.shard_paths(folder, "train")), np.array(tokens, np.uint16)
    assert len(shards) == len(joined) == sum(map(len, shards.parts))
    edge = st.none() | st.integers(-45, 45)
    key = draw.draw(st.slices(len(joined)) | st.builds(slice, edge, edge))
    assert shards[key].dtype == joined.dtype and shards[key].tolist() == joined[key].tolist()
    inside = st.integers(-len(joined), len(joined) - 1)
    index = np.array(draw.draw(st.lists(inside, max_size=12)), dtype=int)
    assert shards[index].tolist() == joined[index].tolist()
    if len(index) % 2 == 0:
        square = index.reshape(2, -1)
        assert (shards[square] == joined[square]).all() and shards[square].shape == square.shape
    assert int(shards[-1]) == tokens[-1] and np.asarray(shards).tolist() == tokens
    assert np.asarray(shards, np.int64).dtype == np.int64
    assert pickle.loads(pickle.dumps(shards))[:].tolist() == tokens


@SOON
@given(
    st.integers(9, 400), st.lists(st.integers(1, 399), max_size=5), st.integers(1, 8),
    st.integers(1, 3), st.sampled_from([1, 2, 8]), st.integers(0, 3),
)  # fmt: skip
def test_streams_over_shards_give_the_same_batches(
    tmp_path, length, cuts, context, rows, world_size, consumed
):
    tokens = np.random.default_rng(length).integers(0, 1000, length)
    folder = cut_to_shards(tmp_path, tokens, cuts)
    options = {"batch_tokens": 8 * context * rows, "context": context, "world_size": world_size}
    for rank in range(world_size):
        lazy = TokenStream(open_tokens(folder, "train"), rank=rank, **options)
        whole = TokenStream(read_tokens(folder, "train"), rank=rank, **options)
        lazy.consumed = whole.consumed = consumed * length // 2  # begin near a boundary or the end
        for _ in range(3):
            for ours, theirs in zip(lazy.next(), whole.next(), strict=True):
                assert torch.equal(ours, theirs) and ours.dtype == torch.int64
        assert lazy.state() == whole.state()


def fingerprint(train, val, tokenizer):
    table = ByteTable.from_sentencepiece(tokenizer)
    return Corpus("x", train, val, tokenizer.path, table, 290).fingerprint()


def test_a_fingerprint_does_not_know_about_files(tmp_path, tokenizer):
    tokens = np.random.default_rng(0).integers(0, 290, 5000).astype(np.uint16)
    lazy = open_tokens(cut_to_shards(tmp_path, tokens, [1, 777, 4000]), "train", vocab_size=290)
    assert isinstance(lazy, Shards)
    assert fingerprint(lazy, tokens, tokenizer) == fingerprint(tokens, tokens, tokenizer)
    assert fingerprint(lazy, tokens, tokenizer)["train"] == digest((5000, tokens))
    for sampled in ({"whole": 64, "block": 8}, {"whole": 4096, "block": 512}):
        assert files._digest_tokens(lazy, **sampled) == files._digest_tokens(tokens, **sampled)
    changed = tokens.copy()
    changed[4000] ^= 1
    other = open_tokens(cut_to_shards(tmp_path, changed, [9]), "train")
    assert fingerprint(other, tokens, tokenizer) != fingerprint(lazy, tokens, tokenizer)


def test_committed_records_still_name_their_data():
    files = project_root().parent / "shared" / "data"
    folder = Path(os.environ.get("DATA_PATH") or files / "datasets" / "fineweb10B_sp1024")
    model = os.environ.get("TOKENIZER_PATH") or files / "tokenizers" / "fineweb_1024_bpe.model"
    if not folder.is_dir() or not Path(model).is_file():
        pytest.skip("the challenge's shards are not at hand")
    found = load_corpus("shards", data_path=folder, tokenizer_path=model).fingerprint()
    if found["train_tokens"] != 19_214_067 or found["val_tokens"] != 3_062_144:
        pytest.skip("these are not the excerpts that the records were made on")
    assert found["train"] == "e10f1aa80a01ac5a" and found["val"] == "785c002f82e93d61"
    published = project_root() / "runs/published"
    records = (json.loads(p.read_text()) for p in published.glob("*/*/record.json"))
    named = [r["data"] for r in records if (r.get("data") or {}).get("name") == "shards"]
    assert found in named


LAZY = """
import resource, sys
from golf.text.batches import TokenStream
from golf.text.shards import open_tokens
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
open_tokens(sys.argv[1], "train")
before = resident()
tokens = open_tokens(sys.argv[1], "train")
stream = TokenStream(tokens, batch_tokens=8 * 4096, context=1024)
for place in (0, 50_000_000, 99_990_000, 4_000_000_000, len(tokens) - 10_000):
    stream.consumed = place
    x, y = stream.next()
print(len(tokens), int(x.sum()), resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs sparse files and /proc")
def test_sixteen_gigabytes_are_not_loaded(tmp_path):
    for i in range(80):
        path = write_shard(tmp_path / f"x_train_{i:06d}.bin", [1])
        with open(path, "r+b") as file:  # 100 million tokens: all zeros after the first
            file.seek(8)
            file.write((100_000_000).to_bytes(4, "little"))
            file.truncate(1024 + 200_000_000)
    out = subprocess.run(
        [sys.executable, "-c", LAZY, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    tokens, total, grown = map(int, out.split())
    assert tokens == 8_000_000_000 and total == 1  # the first token again, after the last
    assert grown < 50_000_000


def test_the_largest_id_of_a_large_shard_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_shard(tmp_path / "x.bin", [5, 300, 7])
    reads = []
    blocks = files._blocks
    monkeypatch.setattr(files, "_blocks", lambda path: reads.append(path) or blocks(path))
    assert [files._largest_id(path, small=0) for _ in range(3)] == [300] * 3
    assert len(reads) == 1
    assert [files._largest_id(path) for _ in range(2)] == [300] * 2  # small: read each time
    assert len(reads) == 3
    write_shard(path, [5, 299, 7, 8])
    assert files._largest_id(path, small=0) == 299
    os.utime(path, (1, 1))
    assert files._largest_id(path, small=0) == 299 and len(reads) == 5


# --- what a folder holds ------------------------------------------------------------------------


@SOON
@given(
    st.lists(st.lists(st.integers(4, 6), max_size=3), min_size=1, max_size=8),
    st.lists(st.lists(st.integers(4, 6), max_size=3), min_size=1, max_size=8),
    st.lists(st.integers(1, 31), max_size=3), st.integers(1, 9),
)  # fmt: skip
def test_documents_are_counted_wherever_shards_and_blocks_end(
    tmp_path, tokenizer, train, val, cuts, size
):
    streams = {"train": train, "val": val}
    for split, documents in streams.items():
        cut_to_shards(tmp_path, [t for d in documents for t in (BOS, *d)], cuts, split)
    with pytest.MonkeyPatch.context() as patch:
        blocks = files._blocks
        patch.setattr(check, "_blocks", lambda path: blocks(path, size))
        report = check_data(tmp_path, tokenizer.path, progress=False)
    table = ByteTable.from_sentencepiece(tokenizer)
    for split, other in (("train", "val"), ("val", "train")):
        documents, found = streams[split], getattr(report, split)
        lengths = [len(d) + 1 for d in documents]
        again = [d in documents[:i] for i, d in enumerate(documents)]
        there = [d in streams[other] for d in documents]
        assert (found.documents, found.tokens) == (len(documents), sum(lengths))
        assert found.repeated == sum(again)
        assert found.repeated_tokens == sum(n for n, x in zip(lengths, again) if x)
        assert found.shared == sum(there)
        assert found.shared_tokens == sum(n for n, x in zip(lengths, there) if x)
        assert found.bytes == table.total(read_tokens(tmp_path, split))
        assert found.largest == max([BOS, *(t for d in documents for t in d)])
    assert not report.damaged


def test_damage_is_named_and_left_out(tmp_path, tokenizer):
    cut_to_shards(tmp_path, [1, 5, 1, 6, 7, 1, 8, 9], [3, 4])
    cut_to_shards(tmp_path, [1, 6, 7, 1, 7], [], "val")
    good = check_data(tmp_path, tokenizer.path, progress=False)
    assert (good.train.shards, good.train.documents, good.train.shared) == (3, 3, 1)
    assert (good.train.bytes, good.damaged) == (5, ())
    middle = tmp_path / "x_train_000001.bin"
    body = middle.read_bytes()
    for damaged, complaint in [
        (body[:-1], "promises 1 tokens"),
        (b"<html>" + body, "a web page"),
        (b"", "0 bytes"),
        (body[:-2] + b"\x22\x01", "token id 290"),
    ]:
        middle.write_bytes(damaged)
        report = check_data(tmp_path, tokenizer.path, progress=False)
        assert len(report.damaged) == 1 and complaint in report.damaged[0]
        assert str(middle) in report.damaged[0] and report.damaged[0] in str(report)
        assert (report.train.shards, report.train.documents, report.train.tokens) == (2, 4, 7)
        assert report.train.bytes == 3  # of 5, 8 and 9: nothing comes before 7 now
        assert (report.train.shared, report.val.shared) == (0, 0)  # 1, 7 across the gap is none
    unchecked = check_data(tmp_path, progress=False)
    assert not unchecked.damaged and unchecked.train.largest == 290  # no vocabulary to compare with
    middle.unlink()
    report = check_data(tmp_path, tokenizer.path, progress=False)
    assert len(report.damaged) == 1 and f"{middle}: missing" in report.damaged[0]


def test_a_folder_that_cannot_be_checked(tmp_path):
    with pytest.raises(GolfError, match="no such folder"):
        check_data(tmp_path / "absent")
    write_shard(tmp_path / "x_train_000000.bin", [1])
    with pytest.raises(GolfError, match="_val_"):
        check_data(tmp_path, progress=False)
    with pytest.raises(GolfError, match="no such tokenizer"):
        check_data(tmp_path, tmp_path / "absent.model")


def test_one_document_in_many_is_found(tmp_path):
    random = np.random.default_rng(1)
    documents = [np.r_[1, random.integers(4, 1000, n)] for n in random.integers(1, 200, 2000)]
    cut_to_shards(tmp_path, np.concatenate(documents), [10_000, 10_001, 150_000])
    held = [np.r_[1, random.integers(4, 1000, 200)] for _ in range(50)]
    held[17] = documents[1234]
    cut_to_shards(tmp_path, np.concatenate(held), [99], "val")
    report = check_data(tmp_path, progress=False)
    assert (report.train.documents, report.val.documents) == (2000, 50)
    assert report.val.shared == 1 and report.val.shared_tokens == len(documents[1234])
    names = {hashlib.sha256(d.tobytes()).digest() for d in documents}
    assert report.train.repeated == 2000 - len(names)


# --- text ---------------------------------------------------------------------------------------

awkward = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \t\n\r\x00\u2581\u2585\u2047\ufeff\ufffd\u00ad\u0301ﬁ½😀<>"),
    ),
    max_size=40,
)


@SOON
@given(st.lists(awkward.filter(bool), min_size=1, max_size=4))
def test_no_byte_is_lost(tokenizer, documents):
    ids = [token for one in encode(tokenizer, documents) for token in [BOS, *one]]
    assert decode_documents(ids, tokenizer) == documents
    table = ByteTable.from_sentencepiece(tokenizer)
    assert table.total(ids) == sum(len(text.encode()) for text in documents)
    assert table.total(torch.tensor(ids), block=7) == table.total(np.array(ids, np.uint16))


def test_names_of_tokens_in_a_text_are_text(tokenizer):
    text = "<s></s><unk><pad><0x0A> \u2581\u2581 \u2585 \u2047"
    [ids] = encode(tokenizer, [text])
    assert min(ids) >= 4 and tokenizer.decode(ids) == text


def test_threads_do_not_matter(tokenizer):
    texts = [TEXT[i:] for i in range(40)]
    assert encode(tokenizer, texts, threads=1) == encode(tokenizer, texts, threads=4)


def test_ids_beyond_the_tokenizer_count_nothing(tokenizer):
    table = ByteTable.from_sentencepiece(tokenizer, vocab_size=300)
    assert len(table) == 300
    assert table.count([40, 299], [299, 40]).tolist() == [0, 1]
    assert table.boundary[290:].all() and not table.lead.any()
    for ids in ([-1], [300]):
        with pytest.raises(GolfError, match="previous"):
            table.count(ids, [5])


def test_a_space_after_bos_counts_where_it_is_kept(tmp_path):
    options = {"model_type": "bpe", "vocab_size": 290, "byte_fallback": True, "minloglevel": 3}
    options |= {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "hard_vocab_limit": False}
    from sentencepiece import SentencePieceTrainer

    with open(tmp_path / "lossy.model", "wb") as file:
        sentences = iter(["one two three one two three"] * 20)
        SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=file, **options)
    lossy = load_tokenizer(tmp_path / "lossy.model")
    ids = [BOS, *lossy.encode("one two"), BOS, *lossy.encode("three  one")]
    table = ByteTable.from_sentencepiece(lossy)
    decoded = decode_documents(ids, lossy)
    assert decoded == ["one two", "three one"]  # two spaces became one
    assert table.lead.any() and table.total(ids) == len("one two" + "three one")
    many = np.random.default_rng(0).integers(0, len(lossy), 3000)
    counted = int(table.count(many[:-1], many[1:]).sum())
    assert {table.total(many, block=block) for block in (1, 7, 2998, 2999, 3000, 9000)} == {counted}
    assert table.total(torch.tensor(many)) == table.total(many.tolist()) == counted
    assert table.total([]) == table.total([5]) == 0
    for outside in (-1, len(lossy)):
        with pytest.raises(GolfError, match="tokens: an id outside"):
            table.total([5, outside])


def test_documents_may_straddle_shards(tmp_path, tokenizer):
    documents = [TEXT[: i + 1] for i in range(60)]
    options = {"shard_tokens": 97, "progress": False}
    counts = tokenize_documents(iter(documents), tokenizer, tmp_path, "train", **options)
    tokens = read_tokens(tmp_path, "train")
    sizes = [len(read_shard(p)) for p in files.shard_paths(tmp_path, "train")]
    assert set(sizes[:-1]) == {97} and 0 < sizes[-1] <= 97
    assert counts == {
        "documents": 60, "bytes": sum(len(d.encode()) for d in documents), "tokens": len(tokens)
    }  # fmt: skip
    assert decode_documents(tokens, tokenizer) == documents


PROGRAM_KILLED = """
import os, signal
from golf.base.cache import cached
def make(path):
    path.write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
cached("kinds", "key", make, suffix=".golf")
"""


def test_what_killed_writers_left_in_the_cache_is_gone_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", PROGRAM_KILLED])
    folder = tmp_path / "cache" / "golf" / "kinds"
    old, young = sorted(folder.iterdir())
    os.utime(old, (time.time() - 100_000,) * 2)
    staging = folder / ".text-abcd1234"  # as of a corpus: a folder is as old as its youngest file
    (staging / "in").mkdir(parents=True)
    (staging / "in" / "shard.bin").touch()
    os.utime(staging, (0, 0))
    (folder / "precious").touch()
    os.utime(folder / "precious", (0, 0))
    cache_dir("kinds")
    assert set(folder.iterdir()) == {young, staging, folder / "precious"}


# --- other people's folders ---------------------------------------------------------------------


def fill(folder, **files):
    """Write texts, or objects as lines of JSON, under names in which `__` is a dot."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        lines = content if isinstance(content, str) else "\n".join(map(json.dumps, content))
        (folder / name.replace("__", ".")).write_text(lines)
    return folder


def sides(path, **options):
    """The texts of each split."""
    found = {"train": [], "val": []}
    for document in text_documents(path, **options):
        found[document.split].append(document.text)
    return found


def test_an_editors_drafts_and_links_to_elsewhere_are_not_read(tmp_path):
    folder = fill(tmp_path / "mine", a__txt="one", b__txt="two")
    fill(folder / ".ipynb_checkpoints", a__txt="one, an old draft")
    fill(folder / "__pycache__", c__txt="three")
    (folder / "passwords.txt").symlink_to("/etc/passwd")
    (folder / "more").symlink_to(fill(tmp_path / "others", d__txt="four"))
    (folder / "again").symlink_to(folder)
    (folder / "notes.md").write_text("# notes")
    assert sorted(d.text for d in text_documents(folder)) == ["one", "two"]
    line = str(text_files(folder))
    assert line == (
        "mine: read 2 .txt; left out 1 hidden (.ipynb_checkpoints); left out 1 in caches "
        "(__pycache__); left out 3 linked (again, more, passwords.txt); left out 1 of other kinds (.md)"
    )


def test_packed_lines_lists_and_capitals_are_read(tmp_path):
    folder = fill(tmp_path / "mine", C__TXT="d", list__json='[{"text": "e"}, "f"]')
    fill(folder, a__jsonl=[{"text": "a"}], lines__json=[{"text": "g"}, {"text": "h"}])
    fill(folder, object__json='{\n"text": "i"}', package__json='{"name": "none of ours"}')
    for name, text in (("b.jsonl.gz", "b"), ("B.json.GZ", "c")):
        (folder / name).write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    assert "".join(sorted(d.text for d in text_documents(folder))) == "abcdefghi"
    assert "left out 1 without a field 'text' (package.json)" in str(text_files(folder))


@pytest.mark.parametrize("names", [
    ("train__jsonl", "valid__jsonl", "test__jsonl"),
    ("wiki__train__jsonl", "wiki__valid__jsonl", "wiki__test__jsonl"),
    ("train-00000-of-00001__jsonl", "validation-00000-of-00001__jsonl", "test-00000-of-00001__jsonl"),
    ("wiki_train__json", "wiki_dev__json", "wiki_test__json"),
])  # fmt: skip
def test_a_test_split_does_not_train(tmp_path, names):
    files = {name: [{"text": f"{name} {i}"} for i in range(3)] for name in names}
    found = sides(fill(tmp_path / "mine", **files))
    assert found == {"train": [f"{names[0]} {i}" for i in range(3)],
                     "val": [f"{names[1]} {i}" for i in range(3)]}  # fmt: skip
    assert "of a test split" in str(text_files(tmp_path / "mine"))
    alone = tmp_path / "mine" / names[2].replace("__", ".")
    assert len(sides(alone)["train"]) == 2  # named itself, it is read


def test_a_folder_of_nothing_but_a_test_split_says_so(tmp_path):
    with pytest.raises(GolfError, match=r"left out 1 of a test split \(test\.jsonl\)"):
        sides(fill(tmp_path / "mine", test__jsonl=[{"text": "a"}]))


@pytest.mark.parametrize(
    "line", ["To be, or not to be.\n", "no end of line ", "nosignatall", "é😀"]
)
def test_one_long_file_has_an_end_to_validate_on(tmp_path, line):
    text = line * 1000
    found = sides(fill(tmp_path / "mine", input__txt=text))
    [train], [val] = found.values()
    assert train + val == text and 0.06 < len(val) / len(text) < 0.09


@SOON
@given(st.lists(st.integers(1, 40_000), min_size=2, max_size=40), st.integers(0, 99))
def test_few_documents_validate_on_about_the_share_that_is_said(tmp_path, sizes, seed):
    documents = [{"text": f"{seed} {i} " + "word " * (size // 5)} for i, size in enumerate(sizes)]
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(map(json.dumps, documents)))
    found = sides(path)
    size = {split: sum(map(len, texts)) for split, texts in found.items()}
    total = sum(len(document["text"]) for document in documents)
    assert sum(size.values()) == total
    if total > 800:  # less is not cut
        assert 0.02 * total < size["val"] < 0.12 * total
    path.write_text("\n".join(map(json.dumps, documents[::-1])))
    assert set(sides(path)["val"]) == set(found["val"])
    path.write_text("\n".join(map(json.dumps, documents + documents)))
    assert not {*sides(path)["val"]} & {*sides(path)["train"]}  # copies are on one side


def test_names_of_corpora_that_begin_alike_or_are_not_latin(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = {}
    for name in ("wiki.en", "wiki.de", "книги", "本", "my_val_0", "---"):
        path = fill(tmp_path / name, a__txt=TEXT * 60)
        names[name] = load_corpus(path, vocab_size=290, progress=False).name
    assert list(names.values()) == ["wiki-en", "wiki-de", "книги", "本", "my-val-0", "text"]


def test_what_was_prepared_with_options_opens_without_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = fill(tmp_path / "mine", a__jsonl=[{"body": TEXT * 60}])
    with pytest.raises(GolfError, match="field 'text'"):
        load_corpus(path, progress=False)
    options = ["data", "text", str(path), "--field", "body", "--vocab-size", "300"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.stderr
    assert "mine: read 1 .jsonl" in done.stderr.splitlines()
    start, folder = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert start == "papermill nbs/ttt_reset.ipynb -p corpus"
    found = load_corpus(folder)
    assert found.vocab_size == 300 and len(found.val) > 50
    shards = load_corpus("shards", data_path=folder, tokenizer_path=found.tokenizer)
    assert shards.vocab_size == 300
    with pytest.raises(GolfError, match="300 ids"):
        load_corpus(folder, vocab_size=1024)


def test_a_bar_of_blocks_under_a_tokenizer_that_puts_a_space_first(tmp_path):
    from sentencepiece import SentencePieceTrainer

    options = {"model_type": "bpe", "vocab_size": 300, "byte_fallback": True, "minloglevel": 3}
    options |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    options |= {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "hard_vocab_limit": False}
    with open(tmp_path / "llama.model", "wb") as file:
        sentences = iter([f"line {i} of {i * i}" for i in range(2000)])
        SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=file, **options)
    like_llama = load_tokenizer(tmp_path / "llama.model")
    table = ByteTable.from_sentencepiece(like_llama)
    texts = [
        "done \u2581\u2582\u2583 ok",
        "x\u2581y",
        "\u2581",
        " \u2581 \u2581\u2581line 1",
        "é\u2581 é",
    ]
    for text, ids in zip(texts, encode(like_llama, texts)):
        assert like_llama.decode(ids) == text
        assert table.total([BOS, *ids]) == len(text.encode())


@pytest.mark.parametrize("kind", ["deep", "page", "cut", "bomb", "gz", "list", "number"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, kind):
    path = tmp_path / {"page": "a.parquet", "cut": "a.jsonl.gz", "bomb": "a.jsonl.zst",
                       "gz": "a.jsonl.gz"}.get(kind, "a.jsonl")  # fmt: skip
    if kind == "page":
        pd.DataFrame({"text": [f"text {i} " * 50 for i in range(50)]}).to_parquet(path)
        page = bytearray(path.read_bytes())
        page[200:260] = bytes(byte ^ 255 for byte in page[200:260])
        path.write_bytes(page)
    content = {
        "deep": b"[" * 100_000,
        "list": b"[1, 2]",
        "number": b'{"text": 5}',
        "gz": b"no gzip",
    }
    content["cut"] = gzip.compress(b'{"text": "a"}\n' * 1000)[:-20]
    if kind == "bomb":  # 66 kB that hold one line of 2 GB
        packer = zstandard.ZstdCompressor(level=1).compressobj()
        content["bomb"] = (
            b"".join(packer.compress(bytes(10**7)) for _ in range(200)) + packer.flush()
        )
        assert len(content["bomb"]) < 100_000
    if kind in content:
        path.write_bytes(content[kind])
    tracemalloc.start()
    try:
        with pytest.raises(GolfError) as caught:
            list(text_documents(path))
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_pieces_that_are_not_utf8_are_named(tmp_path, tokenizer):
    path, data = tmp_path / "odd.model", tokenizer.path.read_bytes()
    piece = max((tokenizer.id_to_piece(i) for i in range(260, 290)), key=len).encode()
    assert piece in data
    path.write_bytes(data.replace(piece, b"\xff" * len(piece)))
    with pytest.raises(GolfError, match=r"odd\.model: not a SentencePiece model"):
        load_tokenizer(path)


# --- preparing ----------------------------------------------------------------------------------


def test_a_corpus_is_prepared_once(texts, tmp_path, monkeypatch):
    first = load_corpus(texts, vocab_size=300, progress=False)
    monkeypatch.setattr(
        corpora, "_build_corpus", lambda folder, **options: pytest.fail("built again")
    )
    again = load_corpus(texts, vocab_size=300, progress=False)
    assert first.fingerprint() == again.fingerprint()
    assert len(prepared(tmp_path)) == 1
    everything = sum(p.stat().st_size for p in texts.iterdir())
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert manifest["train"]["bytes"] + manifest["val"]["bytes"] == everything


def test_another_tokenizer_or_text_is_another_corpus(texts, tmp_path, tokenizer):
    options = {"vocab_size": 300, "progress": False}
    own = load_corpus(texts, **options)
    given_one = load_corpus(
        texts, **options | {"tokenizer_path": tokenizer.path, "vocab_size": 290}
    )
    assert own.folder != given_one.folder
    assert given_one.tokenizer.read_bytes() == tokenizer.path.read_bytes()
    (texts / "more.txt").write_text("more\n")
    assert load_corpus(texts, **options).folder not in (own.folder, given_one.folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, GolfError])
def test_an_error_in_the_middle_leaves_nothing(texts, tmp_path, monkeypatch, error):
    write, written = readers.write_shard, []

    def fail_at_second(path, tokens):
        if written:
            raise error("in the middle")
        written.append(write(path, tokens))

    monkeypatch.setattr(readers, "write_shard", fail_at_second)
    with pytest.raises(error):
        load_corpus(texts, vocab_size=300, progress=False)
    assert written and prepared(tmp_path) == []
    monkeypatch.setattr(readers, "write_shard", write)
    assert len(load_corpus(texts, vocab_size=300, progress=False).train) > 100


SLOW = """
import sys, time
from golf.text import documents as readers
from golf.text.corpus import load_corpus
write = readers.write_shard
def slow(path, tokens):
    write(path, tokens)
    print("written", flush=True)
    time.sleep(60)
if sys.argv[2] == "slow":
    readers.write_shard = slow
print(len(load_corpus(sys.argv[1], vocab_size=300, progress=False).train))
"""


def start(texts, pace):
    command = [sys.executable, "-c", SLOW, str(texts), pace]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_kill_minus_nine_leaves_nothing_that_looks_finished(texts, tmp_path):
    process = start(texts, "slow")
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    [left] = prepared(tmp_path)
    assert left.startswith(".")
    corpus = load_corpus(texts, vocab_size=300, progress=False)
    assert corpus.byte_table.total(corpus.train) > 1000
    yesterday, left = time.time() - 100_000, tmp_path / "cache" / "golf" / "corpora" / left
    for path in (*left.rglob("*"), left):
        os.utime(path, (yesterday, yesterday))
    (corpus.folder / "manifest.json").unlink()
    with pytest.raises(GolfError, match="stands in the way"):
        load_corpus(texts, vocab_size=300, progress=False)
    assert prepared(tmp_path) == [corpus.folder.name]  # what the killed process left is gone


def test_two_processes_at_once(texts, tmp_path):
    processes = [start(texts, "quick") for _ in range(2)]
    counts = {process.communicate(timeout=500)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(counts) == 1 and len(prepared(tmp_path)) == 1


def test_empty_and_unfit_corpora(texts, tmp_path, tokenizer):
    def refused(*arguments, match, **options):
        with pytest.raises(GolfError, match=match):
            load_corpus(*arguments, progress=False, **options)

    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, match="holds no")
    (empty / "blank.txt").write_text("")
    refused(empty, match=r"empty: no document to train on and none to validate on")
    (empty / "blank.txt").write_text(TEXT)  # too little to be cut
    refused(empty, vocab_size=300, match=r"empty: no document to validate on; expected one of each")
    refused(texts, match="vocab_size=1024")  # too little text for so many ids
    refused(texts, tokenizer_path=tokenizer.path, vocab_size=300, match=r"tiny\.model: .* 290 ids")
    refused(texts, vocab_size=300, field="body", limit=1, match="limit")
    refused(tmp_path / "absent", match="absent")
    write_shard(tmp_path / "binary" / "x_train_000000.bin", [1])
    refused(tmp_path / "binary", match="corpus='shards'")
    assert not [name for name in prepared(tmp_path) if name.startswith(".")]


# --- streams ------------------------------------------------------------------------------------


@SOON
@given(
    st.integers(9, 400), st.integers(1, 8), st.integers(1, 3), st.sampled_from([2, 4, 8]),
    st.integers(0, 4),
)  # fmt: skip
def test_streams_agree_for_every_world_size(length, context, rows, world_size, steps):
    tokens = np.arange(length, dtype=np.uint16)
    options = {"batch_tokens": 8 * context * rows, "context": context}
    alone = TokenStream(tokens, **options)
    ranks = [
        TokenStream(tokens, rank=r, world_size=world_size, **options) for r in range(world_size)
    ]
    for stream in [alone, *ranks]:
        for _ in range(steps):
            stream.next()
    state = ranks[-1].state()
    assert state == alone.state() == json.loads(json.dumps(state))
    expected = (steps * 8 * (context * rows + 1) + np.arange(8 * (context * rows + 1))) % length
    expected = expected.reshape(8, -1)
    x, y = alone.next()
    assert x.dtype == torch.int64 and x.shape == y.shape == (8 * rows, context)
    assert (x.numpy() == expected[:, :-1].reshape(-1, context)).all()
    assert (y.numpy() == expected[:, 1:].reshape(-1, context)).all()
    parts = [stream.next()[0].reshape(8 // world_size, -1) for stream in ranks]
    joined = torch.stack(parts, 1).reshape(-1, context)  # slice s = round * world size + rank
    assert (joined == x).all()
    resumed = TokenStream(tokens, **options)
    resumed.load(state)
    assert (resumed.next()[0] == x).all()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"batch_tokens": 60}, "multiple"),
        ({"batch_tokens": 0}, "positive"),
        ({"world_size": 3}, "world_size=3"),
        ({"world_size": 2, "rank": 2}, "rank=2"),
        ({"context": 128, "batch_tokens": 1024}, "tokens: 100"),
    ],
)
def test_streams_that_do_not_fit(options, match):
    with pytest.raises(GolfError, match=match):
        TokenStream(np.arange(100), **({"batch_tokens": 64, "context": 4} | options))


def test_a_state_of_another_stream_is_refused():
    stream = TokenStream(np.arange(100), batch_tokens=64, context=4)
    for state in ({}, stream.state() | {"context": 8}, stream.state() | {"extra": 1}):
        with pytest.raises(GolfError, match="stream state"):
            stream.load(state)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("broken.jsonl", b'{"text": "fine"}\n{"text', "broken.jsonl:2: not a JSON"),
        ("other.jsonl", b'{"text": "fine"}\n{"body": "x"}', "other.jsonl:2: field 'text'"),
        ("surrogate.jsonl", b'{"text": "\\ud800"}', "surrogate.jsonl:1"),
        ("latin.txt", "é".encode("latin-1"), "latin.txt: not UTF-8"),
        ("not.parquet", b"PAR1", "not.parquet: not a Parquet"),
        ("cut.jsonl.zst", zstandard.compress(b"{}" * 100)[:-9], "cut short"),
        ("deep.json", b"[" * 100_000, "deep.json:1: not a JSON object (nested too deep)"),
        ("page.html", b"<p>", "holds no .txt"),
        ("alone.txt", b"one document", "no document to validate on"),
        ("empty.txt", b"", "no document to train on and none to validate on"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GolfError) as caught:
        list(text_documents(tmp_path / name))
    assert complaint in str(caught.value)


def test_text_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(GolfError, match="does not exist"):
        list(text_documents(tmp_path / "nowhere"))


# --- whose ids are these? -----------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path):
    """A tokenizer of as many ids, trained on another text."""
    words = ["Ein anderer Text, in einer anderen Sprache, über ganz andere Dinge. " * 40]
    return train_tokenizer(words, tmp_path / "foreign.model", vocab_size=300)


def test_a_tokenizer_that_did_not_make_the_shards_is_refused_where_that_is_known(texts, foreign):
    corpus = load_corpus(texts, vocab_size=300, progress=False)
    for open_it in (
        lambda: check_data(corpus.folder, foreign, progress=False),
        lambda: load_corpus(corpus.folder, tokenizer_path=foreign),
        lambda: load_corpus("shards", data_path=corpus.folder, tokenizer_path=foreign),
    ):
        with pytest.raises(
            GolfError, match="foreign.model: not the tokenizer that made these shards"
        ):
            open_it()
    assert load_corpus(corpus.folder, tokenizer_path=corpus.tokenizer).val.tolist()
    code = CliRunner().invoke(
        app, ["data", "check", "--data-path", str(corpus.folder), "--tokenizer", str(foreign)]
    )
    assert code.exit_code == 2 and len(code.stderr.splitlines()) == 1 and not code.stdout


def test_bytes_counted_by_a_tokenizer_that_looks_foreign_are_told_to_be_doubtful(tmp_path):
    code, size = Path(readers.__file__).read_text("utf-8"), {"vocab_size": 512}
    ours = load_tokenizer(train_tokenizer([code], tmp_path / "ours.model", **size))
    foreign = train_tokenizer([code[::-1]], tmp_path / "foreign.model", **size)
    for split in ("train", "val"):  # as a stranger has them: without their tokenizer
        tokenize_documents([code, code[9000:]], ours, tmp_path, split, progress=False)
    doubt = "foreign.model: these ids do not look like its own"
    report = check_data(tmp_path, foreign, progress=False)
    assert doubt in report.doubt and doubt in str(report) and not report.damaged
    with pytest.warns(UserWarning, match=doubt):
        load_corpus("shards", data_path=tmp_path, tokenizer_path=foreign)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_corpus("shards", data_path=tmp_path, tokenizer_path=ours.path)
    assert not check_data(tmp_path, ours.path, progress=False).doubt


@pytest.mark.parametrize("size", [0, -1, 260, 70_000])
def test_a_vocabulary_that_cannot_be_is_refused_and_not_taken_for_the_default(texts, size):
    done = CliRunner().invoke(app, ["data", "text", str(texts), "--vocab-size", str(size)])
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    assert f"vocab_size must lie in 261..65536, got {size}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "name, data, kind",
    [
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}', "Hugging Face's"),
        ("o200k.tiktoken", b"IQ== 0\nIg== 1\n", "a vocabulary of tiktoken"),
    ],
)
def test_another_kind_of_tokenizer_is_named_and_what_to_do_instead(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(GolfError) as caught:
        load_tokenizer(tmp_path / name)
    assert kind in str(caught.value) and "leave it out, and one is trained" in str(caught.value)
    assert "src/" not in str(caught.value) and "\n" not in str(caught.value)
