"""A model is never scored on ids of another tokenizer without a word."""

import inspect
import json
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golf.auditor.adapters import from_logits
from golf.auditor.audit import audit, audit_arms
from golf.base.files import GolfError
from golf.base.small import SMALL, rhyme
from golf.count.ngram import NGram, Uniform
from golf.count.packets import Packets, distil
from golf.mix.gates import Fixed
from golf.mix.mixtures import Mix
from golf.mix.recorded import Pass, Recorded, record_pass
from golf.net.model import preset
from golf.net.windows import SlidingWindow
from golf.predict.compare import arm_key, compare
from golf.predict.evaluate import evaluate, tokenizers_of
from golf.predict.stream import Stream
from golf.store.artifact import load_artifact
from golf.store.saved import corpus_for, export_model, load_model, model_path
from golf.text.corpus import (
    REFERENCE,
    TEST_FOLDERS,
    Corpus,
    _library_files,
    load_corpus,
    stdlib_documents,
)
from golf.text.documents import VALIDATION_SHARE, _fraction
from golf.text.tokenizers import ByteTable, tokenizer_digest, train_tokenizer
from golf.train.loop import Trainer
from golf.train.settings import laptop

HALF = Fixed((0.5, 0.5))
OTHER = "trained with tokenizer|made with tokenizer"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    "A cache of its own, in which no tokenizer lies yet."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TOKENIZER_PATH", raising=False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "A user's own text."
    found = tmp_path_factory.mktemp("rhymes")
    (found / "train.txt").write_text("".join(rhyme()) * 3)
    (found / "val.jsonl").write_text("\n".join(json.dumps({"text": v}) for v in rhyme()))
    return found


def tokenizer(path: Path, words: str, vocab_size: int = 300) -> Path:
    "A tokenizer that has learnt a few pieces of `words`."
    return train_tokenizer([f"{words} {i}" for i in range(200)], path, vocab_size=vocab_size)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    return tokenizer(tmp_path_factory.mktemp("ours") / "a.model", "".join(rhyme()))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    return tokenizer(tmp_path_factory.mktemp("theirs") / "b.model", "def train(model): return loss")


@pytest.fixture(scope="module")
def texts(cache, folder, ours, theirs) -> tuple[Corpus, Corpus]:
    "The same text in the ids of two tokenizers of one size."
    options = {"vocab_size": 300, "progress": False}
    return tuple(load_corpus(folder, tokenizer_path=t, **options) for t in (ours, theirs))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, texts) -> Path:
    "A model trained on the first of the two, with its tokenizer's digest only."
    config = laptop(2, batch_tokens=512, validation_tokens=256)
    shape = preset("tiny", **SMALL | {"vocab_size": 300, "context": 64})
    trainer = Trainer(shape, config, texts[0]).run(progress=False)
    path = tmp_path_factory.mktemp("artifact") / "rhymes.golf"
    path.write_bytes(export_model(trainer.model, meta={"corpus": {"name": "rhymes"}}))
    return path


def reading(text: Corpus) -> Stream:
    return Stream(text.val, 64, byte_table=text.byte_table, limit=256)


def test_a_model_is_not_scored_on_ids_of_another_tokenizer(artifact, texts):
    right, wrong = map(reading, texts)
    window = SlidingWindow(load_model(load_artifact(artifact)))
    compare({"window": window}, right, baseline="window", cache=False)
    for arm in (window, Mix([NGram(300, 2), window], HALF)):
        with pytest.raises(GolfError, match=OTHER):
            evaluate(arm, wrong)
        with pytest.raises(GolfError, match=OTHER):
            compare({"arm": arm}, wrong, baseline="arm", cache=False)
    with pytest.raises(GolfError, match=OTHER):
        audit_arms({"arm": window}, wrong)
    for subject in (window, from_logits(window.model, window=64)):
        with pytest.raises(GolfError, match=OTHER):
            audit(subject, wrong)
        with pytest.raises(GolfError, match=OTHER):
            audit(subject, texts[1].val, tokenizer=texts[1].tokenizer)


def test_ids_without_a_name_are_scored_as_they_were(artifact, texts):
    model = load_model(load_artifact(artifact))
    streams = reading(texts[0]), Stream(texts[0].val, 64, limit=256)
    named, bare = (evaluate(SlidingWindow(model), stream) for stream in streams)
    assert named.loss == bare.loss
    keys = {arm_key(SlidingWindow(model), stream) for stream in streams}
    assert len(keys) == 2  # a cache holds them apart


def test_two_experts_of_two_tokenizers_are_not_mixed(artifact, texts):
    window = SlidingWindow(load_model(load_artifact(artifact)))
    name = texts[1].tokenizer_digest
    packets = Packets(distil(texts[1].train, 300, tokenizer=name))
    assert set(tokenizers_of(Mix([window, packets], HALF))) == {window.model.tokenizer, name}
    with pytest.raises(GolfError, match=OTHER):
        evaluate(Mix([window, packets], HALF), Stream(texts[0].val, 64, limit=256))


def test_packets_of_another_tokenizer_are_refused(texts):
    packets = Packets(distil(texts[0].train, 300, tokenizer=texts[0].tokenizer_digest))
    evaluate(packets, reading(texts[0]))
    with pytest.raises(GolfError, match=OTHER):
        evaluate(packets, reading(texts[1]))


def test_a_recorded_pass_is_not_replayed_on_the_same_numbers_of_another_tokenizer(texts, tmp_path):
    stream = reading(texts[0])
    record_pass(Uniform(300), stream, tmp_path / "pass.npz")
    replay = Recorded(Pass.load(tmp_path / "pass.npz"))
    assert replay.record.tokenizer == texts[0].tokenizer_digest
    evaluate(replay, stream)
    table = replace(texts[0].byte_table, tokenizer=texts[1].tokenizer_digest)
    with pytest.raises(GolfError, match=OTHER):
        evaluate(replay, Stream(texts[0].val, 64, byte_table=table, limit=256))


def test_bytes_are_not_counted_by_the_table_of_another_tokenizer(texts):
    with pytest.raises(GolfError, match="the byte table is that of tokenizer"):
        evaluate(Uniform(300), reading(texts[0]), texts[1].byte_table)


def test_a_model_is_not_trained_further_on_ids_of_another_tokenizer(artifact, texts):
    model = load_model(load_artifact(artifact))
    config = laptop(1, batch_tokens=512, validation_tokens=256)

    def build(shape, **options):
        return model

    Trainer(model.config, config, texts[0], build=build)
    with pytest.raises(GolfError, match=OTHER):
        Trainer(model.config, config, texts[1], build=build)


def test_an_artifact_written_again_still_knows_its_tokenizer(artifact, texts):
    model = load_model(load_artifact(artifact))
    assert model.tokenizer == texts[0].tokenizer_digest
    assert load_model(export_model(model)).tokenizer == model.tokenizer


def test_an_own_text_is_read_with_the_artifacts_tokenizer(artifact, cache, folder, texts):
    carried = corpus_for("tiny", folder, progress=False)
    assert carried.tokenizer_digest == load_model(load_artifact(model_path("tiny"))).tokenizer
    found = corpus_for(artifact, folder, progress=False)  # its digest only, its file in the cache
    assert np.array_equal(found.val, texts[0].val) and found.vocab_size == 300


def test_a_given_tokenizer_must_be_the_artifacts(artifact, folder, theirs, texts):
    with pytest.raises(GolfError, match=OTHER):
        corpus_for(artifact, folder, tokenizer_path=theirs, progress=False)
    options = {"data_path": texts[1].folder, "tokenizer_path": theirs}
    with pytest.raises(GolfError, match=OTHER):
        corpus_for(artifact, "shards", **options)
    with pytest.raises(GolfError, match=OTHER):
        corpus_for(artifact, "shards", data_path=texts[1].folder)
    assert corpus_for(artifact, "shards", data_path=texts[0].folder).val.tolist()


def test_an_artifact_whose_tokenizer_is_nowhere_is_refused_in_one_line(
    artifact, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(GolfError, match="give tokenizer_path, that SentencePiece model"):
        corpus_for(artifact, folder, progress=False)
    with pytest.raises(GolfError, match="which it does not carry: give tokenizer_path") as error:
        corpus_for("proxy", "stdlib", progress=False)
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("stdlib-*"))


def test_shards_of_this_package_are_not_opened_with_another_tokenizer(texts, ours, theirs):
    options = {"data_path": texts[0].folder, "vocab_size": 300}
    with pytest.raises(GolfError, match="not the tokenizer that made these shards"):
        load_corpus("shards", tokenizer_path=theirs, **options)
    found = load_corpus("shards", **options)
    assert found.tokenizer_digest == tokenizer_digest(ours)
    assert found.byte_table.tokenizer == ByteTable.from_sentencepiece(ours).tokenizer


# The library of another Python


def library_of(version: str) -> list[list[str]]:
    """Place, text and side of each built-in document as that Python has them; skips where it is not."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [versions / version / "bin" / "python", shutil.which(f"python{version[:4]}")]
    for python in (str(p) for p in found if p and Path(p).is_file()):
        said = subprocess.run([python, "-V"], capture_output=True, text=True)
        if said.stdout.split()[-1] == version:
            break
    else:
        pytest.skip(f"there is no Python {version} here")
    parts = [f"VALIDATION_SHARE = {VALIDATION_SHARE}", f"TEST_FOLDERS = {TEST_FOLDERS}"]
    parts += [f"REFERENCE = {REFERENCE!r}", "from collections import namedtuple"]
    parts += ["Document = namedtuple('Document', 'place text split')"]
    parts += map(inspect.getsource, (_fraction, _library_files, stdlib_documents))
    start = "from __future__ import annotations\nimport hashlib, json, sys, sysconfig\n"
    end = "print(json.dumps([list(d) for d in stdlib_documents()]))"
    code = "\n".join([start, "from pathlib import Path", *parts, end])
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("version", "same", "lines"), [("3.12.1", 54, 88), ("3.13.0", 26, 81)])
def test_the_page_says_how_much_of_the_text_another_python_shares(version, same, lines):
    if platform.python_version() != "3.11.7":  # which made the shipped artifact
        pytest.skip("this Python's library is not the one that `tiny` was trained on")
    page = (Path(__file__).parent.parent / "nbs/store/05_saved.ipynb").read_text(encoding="utf-8")
    assert f"{version[:4]}: {same} %, and {lines} %" in page
    ours = {d.place: d for d in stdlib_documents()}
    held = [(place, text) for place, text, split in library_of(version) if split == "val"]
    trained = {d.text for d in ours.values() if d.split == "train"}
    assert not any(text in trained for _, text in held)
    size = sum(len(text.encode()) for _, text in held)
    equal = [text for place, text in held if place in ours and ours[place].text == text]
    assert round(100 * sum(len(text.encode()) for text in equal) / size) == same
    shared = 0
    for place, text in held:
        known = set(ours[place].text.splitlines()) if place in ours else set()
        each = text.splitlines(keepends=True)
        shared += sum(len(line.encode()) for line in each if line.rstrip("\n") in known)
    assert round(100 * shared / size) == lines
