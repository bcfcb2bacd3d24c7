"""Data under attack: damaged shards, awkward text, killed and simultaneous preparation."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from golf import data
from golf.data import (
    BOS,
    ByteTable,
    TokenStream,
    decode_documents,
    encode,
    load_corpus,
    load_tokenizer,
    read_shard,
    read_tokens,
    tokenize_documents,
    train_tokenizer,
    write_shard,
)
from golf.files import GolfError

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


def test_documents_may_straddle_shards(tmp_path, tokenizer):
    documents = [TEXT[: i + 1] for i in range(60)]
    options = {"shard_tokens": 97, "progress": False}
    counts = tokenize_documents(iter(documents), tokenizer, tmp_path, "train", **options)
    tokens = read_tokens(tmp_path, "train")
    sizes = [len(read_shard(p)) for p in data.shard_paths(tmp_path, "train")]
    assert set(sizes[:-1]) == {97} and 0 < sizes[-1] <= 97
    assert counts == {
        "documents": 60, "bytes": sum(len(d.encode()) for d in documents), "tokens": len(tokens)
    }  # fmt: skip
    assert decode_documents(tokens, tokenizer) == documents


# --- preparing ----------------------------------------------------------------------------------


def test_a_corpus_is_prepared_once(texts, tmp_path, monkeypatch):
    first = load_corpus(texts, vocab_size=300, progress=False)
    monkeypatch.setattr(data, "_build_corpus", lambda folder, **options: pytest.fail("built again"))
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
    write, written = data.write_shard, []

    def fail_at_second(path, tokens):
        if written:
            raise error("in the middle")
        written.append(write(path, tokens))

    monkeypatch.setattr(data, "write_shard", fail_at_second)
    with pytest.raises(error):
        load_corpus(texts, vocab_size=300, progress=False)
    assert written and prepared(tmp_path) == []
    monkeypatch.setattr(data, "write_shard", write)
    assert len(load_corpus(texts, vocab_size=300, progress=False).train) > 100


SLOW = """
import sys, time
from golf import data
write = data.write_shard
def slow(path, tokens):
    write(path, tokens)
    print("written", flush=True)
    time.sleep(60)
if sys.argv[2] == "slow":
    data.write_shard = slow
print(len(data.load_corpus(sys.argv[1], vocab_size=300, progress=False).train))
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
    yesterday = time.time() - 100_000
    os.utime(tmp_path / "cache" / "golf" / "corpora" / left, (yesterday, yesterday))
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
    refused(empty, match=r"empty: no document for train and val")
    (empty / "blank.txt").write_text(TEXT * 9)
    refused(
        empty, vocab_size=300, match=r"empty: no document for train"
    )  # the only document validates
    refused(texts, match="vocab_size=1024")  # too little text for so many ids
    refused(texts, tokenizer_path=tokenizer.path, match=r"tiny\.model: the tokenizer has 290")
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
