"""Downloading the challenge's files from a small server of the Hub's protocol that can fail on request."""

import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from golf.base.files import GolfError
from golf.lab.cli import app
from golf.text import fineweb
from golf.text.check import check_data
from golf.text.corpus import load_corpus
from golf.text.fineweb import fetch_fineweb
from golf.text.shards import read_shard, write_shard
from golf.text.tokenizers import train_tokenizer

REPO, COMMIT = "someone/golf-data", "0123456789abcdef0123456789abcdef01234567"
SHARDS, TOKENIZER = (
    "datasets/datasets/fineweb10B_sp290",
    "datasets/tokenizers/fineweb_290_bpe.model",
)
TEXT = "def add(a, b):\n\treturn a + b\n\nfor i in range(10):\n        print(add(i, i))\n"


class Answer(BaseHTTPRequestHandler):
    """The Hub's listing, its file metadata with a redirect for large files, and its storage."""

    protocol_version = "HTTP/1.1"
    log_message = lambda self, *arguments: None  # noqa: E731

    def send(self, status: int, body: bytes = b"", **headers) -> None:
        self.send_response(status)
        headers = {"Content_Length": len(body)} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refuse(self, code: str) -> None:
        self.send(404, X_Error_Code=code, X_Error_Message=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        leads_on = not path.startswith("/cdn/") and hub.large(path)
        command = "redirect" if leads_on else self.command
        hub.log.append((command, path.split("/")[-1], self.headers.get("Range")))
        if path.startswith("/cdn/"):
            return self.content(path.removeprefix("/cdn/"))
        if not path.removeprefix("/api").startswith(f"/datasets/{REPO}/"):
            return self.refuse("RepoNotFound")
        if path.startswith("/api/"):
            if not path.endswith(("/revision/main", f"/revision/{COMMIT}")):
                return self.refuse("RevisionNotFound")
            return self.send(200, json.dumps(hub.listing()).encode())
        name = path.split(f"/resolve/{COMMIT}/")[-1]
        if name not in hub.files or "404" in hub.faults.get(name, ()):
            return self.refuse("EntryNotFound")
        self.metadata(name)

    def metadata(self, name: str) -> None:
        hub, size = self.server.hub, len(self.server.hub.files[name])
        if not hub.large(name):
            tag = f'"{hub.git_sha1(name)}"'
            return self.send(200, hub.files[name], ETag=tag, X_Repo_Commit=COMMIT)
        headers = {"X_Linked_Size": size, "X_Linked_ETag": f'"{hub.sha256(name)}"'}
        place = f"http://localhost:{self.server.server_port}/cdn/{name}"
        self.send(302, Location=place, X_Repo_Commit=COMMIT, **headers)

    def content(self, name: str) -> None:
        hub = self.server.hub
        body, fault = hub.files[name], (hub.faults.get(name) or [None]).pop(0)
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        headers = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        body = body[start:]
        if isinstance(fault, bytes):  # something else under this name
            return self.send(200, fault)
        if fault is None:
            return self.send(206 if start else 200, body, **headers)
        half = body[: len(body) // 2] if fault != "nothing" else b""
        self.send(206 if start else 200, half, **headers | {"Content_Length": len(body)})
        self.wfile.flush()
        if fault == "hang":
            hub.waiting.set()
            hub.over.wait(60)
        if fault == "reset":  # not the end of a stream but an error
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        self.close_connection = True


class Hub:
    """One dataset repository on a local server. `faults[name]`: what the next downloads of it meet."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.faults, self.log = files, {}, []
        self.waiting, self.over = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.server.hub, self.server.daemon_threads = self, True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def large(name: str) -> bool:
        return name.endswith(".bin")

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def git_sha1(self, name: str) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.files[name]) + self.files[name]).hexdigest()

    def listing(self) -> dict:
        siblings = []
        for name, body in self.files.items():
            entry = {"rfilename": name, "size": len(body), "blobId": self.git_sha1(name)}
            if self.large(name):
                lfs = {"sha256": self.sha256(name), "size": len(body), "pointerSize": 130}
                entry |= {"lfs": lfs, "blobId": "0" * 40}
            siblings.append(entry)
        return {"id": REPO, "sha": COMMIT, "siblings": siblings}

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for since the last call."""
        names = [name for command, name, _ in self.log if command == "GET" and "." in name]
        self.log.clear()
        return names


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The files of a repository: a tokenizer, two validation and three training shards, and others."""
    folder = tmp_path_factory.mktemp("content")
    model = train_tokenizer([TEXT * 4], folder / "tiny.model", vocab_size=290).read_bytes()
    random, files = np.random.default_rng(0), {}
    for name in ("val_000000", "val_000001", "train_000000", "train_000001", "train_000002"):
        tokens = random.integers(4, 290, 40_000)
        tokens[::500] = 1
        path = write_shard(folder / f"{name}.bin", tokens)
        files[f"{SHARDS}/fineweb_{name}.bin"] = path.read_bytes()
    files[TOKENIZER] = model
    files[f"{SHARDS.replace('290', '300')}/fineweb_val_000000.bin"] = b"of another variant"
    files["datasets/docs_selected.jsonl"] = b"not asked for"
    return files


@pytest.fixture
def hub(content, monkeypatch):
    """A server with that content, and no waiting between attempts."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    found = Hub(dict(content))
    sleep = time.sleep
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: sleep(0.01))
    yield found
    found.close()


@pytest.fixture
def fetch(hub, tmp_path):
    """`fetch_fineweb` from that server into `tmp_path`/"data"."""

    def call(train_shards=2, variant="sp290", **options):
        fixed = {"repo": REPO, "endpoint": hub.endpoint, "progress": False, "date": "2025-03-18"}
        return fetch_fineweb(variant, train_shards, tmp_path / "data", **fixed | options)

    return call


def below(folder: Path) -> list[str]:
    """Paths of all files below a folder, hidden ones included."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def name(split: str, number: int) -> str:
    return f"fineweb_{split}_{number:06d}.bin"


WHOLE = [f"datasets/fineweb10B_sp290/{name('train', i)}" for i in range(2)]
WHOLE += [f"datasets/fineweb10B_sp290/{name('val', i)}" for i in range(2)]
WHOLE += ["datasets/fineweb10B_sp290/provenance.json", "tokenizers/fineweb_290_bpe.model"]


def test_a_variant_arrives_whole(fetch, hub, tmp_path, content):
    found = fetch()
    assert below(tmp_path / "data") == WHOLE
    for path in found.downloaded:
        root = "datasets/" + path.relative_to(tmp_path / "data").as_posix()
        assert path.read_bytes() == content[root]
    assert (found.revision, found.kept, found.replaced) == (COMMIT, [], [])
    corpus = load_corpus(
        "shards", data_path=found.data_path, tokenizer_path=found.tokenizer_path, vocab_size=290
    )
    assert (len(corpus.train), len(corpus.val)) == (80_000, 80_000)
    assert not check_data(found.data_path, found.tokenizer_path, progress=False).damaged
    asked = hub.downloads()
    assert sorted(asked) == sorted(Path(p).name for p in WHOLE if "provenance" not in p)


def test_the_record_of_origin(fetch, tmp_path, content):
    found = fetch(1)
    record = json.loads((found.data_path / "provenance.json").read_text())
    assert record["variant"] == "sp290"
    assert set(record["tools"]) == {"golf", "python", "huggingface_hub"}
    origin = {"repo": REPO, "revision": COMMIT, "date": "2025-03-18"}
    expected = {}
    for path in found.downloaded:
        body = path.read_bytes()
        entry = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} | origin
        expected[os.path.relpath(path, found.data_path)] = entry
    assert record["files"] == expected
    assert "../../tokenizers/fineweb_290_bpe.model" in expected


def test_the_second_call_downloads_nothing(fetch, hub, tmp_path):
    first = fetch()
    before = {p: (tmp_path / "data" / p).stat().st_mtime_ns for p in WHOLE}
    hub.downloads()
    again = fetch(date="2026-01-01")
    assert hub.downloads() == [] and again.downloaded == []
    assert again.kept == first.downloaded
    assert {p: (tmp_path / "data" / p).stat().st_mtime_ns for p in WHOLE} == before


def test_more_shards_later(fetch, hub):
    fetch(1)
    hub.downloads()
    found = fetch(3, date="2026-01-01")
    assert hub.downloads() == [name("train", 1), name("train", 2)]
    fetch(1)
    files = json.loads((found.data_path / "provenance.json").read_text())["files"]
    assert {n: files[n]["date"][:4] for n in files if "train" in n} == {
        name("train", 0): "2025", name("train", 1): "2026", name("train", 2): "2026"
    }  # fmt: skip


def test_a_broken_connection_is_continued(fetch, hub, content, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    shard = f"{SHARDS}/{name('train', 0)}"
    hub.faults[shard] = ["drop", "drop"]
    found = fetch()
    assert (found.data_path / name("train", 0)).read_bytes() == content[shard]
    ranges = [r for command, n, r in hub.log if command == "GET" and n == name("train", 0)]
    assert ranges[-3:] == [None, f"bytes={9 * 4096}-", f"bytes={14 * 4096}-"]  # whole blocks count


@pytest.mark.parametrize("fault", [["reset"], ["nothing"] * 9], ids=["reset", "silent"])
def test_what_cannot_be_continued_starts_again(fetch, hub, tmp_path, fault):
    hub.faults[f"{SHARDS}/{name('train', 0)}"] = list(fault)
    with pytest.raises(GolfError, match=r"fineweb_train_000000\.bin: file 4 of 5 .*'sp290'"):
        fetch()
    early = [f"datasets/fineweb10B_sp290/{name('val', i)}" for i in range(2)]
    there = [path for path in below(tmp_path / "data") if ".fetch-" not in path]
    assert there == [*early, WHOLE[-1]]
    hub.faults.clear()
    hub.downloads()
    assert len(fetch().kept) == 3
    assert hub.downloads() == [name("train", 0), name("train", 1)]
    assert below(tmp_path / "data") == WHOLE


PROGRAM = """
import signal
import sys
import huggingface_hub.constants
from golf.text.fineweb import fetch_fineweb
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
fetch_fineweb("sp290", 2, sys.argv[1], repo=sys.argv[2], endpoint=sys.argv[3], progress=False)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_leaves_no_shard_and_goes_on(fetch, hub, tmp_path, content, sign):
    hub.faults[f"{SHARDS}/{name('val', 1)}"] = ["hang"]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "data"), REPO, hub.endpoint]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert hub.waiting.wait(60)
    folder = tmp_path / "data" / "datasets" / "fineweb10B_sp290"
    for _ in range(200):  # until something of the half that was sent is on the disk
        time.sleep(0.1)
        if any(path.stat().st_size for path in folder.glob(".fetch-*")):
            break
    process.send_signal(sign)
    assert process.wait(60) != 0
    assert [p.name for p in folder.glob("fineweb_*.bin")] == [name("val", 0)]
    assert len(list(folder.glob(".fetch-*"))) == 1
    old = folder / ".fetch-of-last-week.bin"
    old.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    size = len(content[f"{SHARDS}/{name('val', 1)}"])
    hub.downloads()
    assert len(fetch().kept) == 2
    ranges = {n: r for command, n, r in hub.log if command == "GET"}
    assert name("val", 0) not in ranges
    start = int(ranges[name("val", 1)].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= size // 2  # it went on where it was killed
    assert below(tmp_path / "data") == WHOLE


def test_two_downloads_at_once(fetch, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: fetch(), range(2)):
            assert not check_data(found.data_path, found.tokenizer_path, progress=False).damaged
    assert below(tmp_path / "data") == WHOLE


def with_count(body: bytes, count: int) -> bytes:
    return body[:8] + count.to_bytes(4, "little") + body[12:]


def flipped(body: bytes) -> bytes:
    """The same with the lowest bit of the last token but one changed."""
    return body[:-4] + bytes([body[-4] ^ 1]) + body[-3:]


PAGE = b"<!DOCTYPE html><html><body>Too many requests</body></html>"
WRONG = {
    "magic": (lambda body: b"\0" + body[1:], "magic number 20240384"),
    "version": (lambda body: body[:4] + b"\2" + body[5:], "shard version 2"),
    "more promised": (lambda body: with_count(body, 40_001), "promises 40001 tokens"),
    "fewer promised": (lambda body: with_count(body, 39_999), "promises 39999 tokens"),
    "cut": (lambda body: body[:-2], "promises 40000 tokens"),
    "tiny": (lambda body: body[:100], "shorter than a shard's header"),
    "page": (lambda body: PAGE * 30, "a web page"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_shard_that_is_none_is_refused(fetch, hub, tmp_path, case):
    """The repository itself lists and serves a bad file, so that size and digest agree."""
    change, complaint = WRONG[case]
    shard = f"{SHARDS}/{name('train', 1)}"
    hub.files[shard] = change(hub.files[shard])
    with pytest.raises(GolfError, match=complaint) as error:
        fetch()
    assert str(tmp_path / "data" / WHOLE[1]) in str(error.value) and ".fetch-" not in str(error)
    assert below(tmp_path / "data") == sorted(set(WHOLE) - {WHOLE[1], WHOLE[4]})


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda body: PAGE, "size|bytes"),
        (lambda body: PAGE.ljust(len(body)), "a web page"),
        (lambda body: body[:-2], "size|bytes"),
        (flipped, "SHA-256"),
    ],
    ids=["page", "page of the same size", "cut", "altered"],
)
def test_a_transfer_that_is_not_what_is_listed(fetch, hub, tmp_path, change, complaint):
    shard = f"{SHARDS}/{name('train', 1)}"
    hub.faults[shard] = [change(hub.files[shard])] * 9
    with pytest.raises(GolfError, match=rf"fineweb_train_000001\.bin.*({complaint})"):
        fetch()
    assert below(tmp_path / "data") == sorted(set(WHOLE) - {WHOLE[1], WHOLE[4]})
    hub.faults.clear()
    assert [p.name for p in fetch().downloaded] == [name("train", 1)]


@pytest.mark.parametrize("body", [PAGE, b""], ids=["page", "empty"])
def test_a_tokenizer_that_is_none_is_refused(fetch, hub, tmp_path, body):
    hub.files[TOKENIZER] = body
    complaint = "not a SentencePiece model"
    with pytest.raises(GolfError, match=rf"fineweb_290_bpe\.model: {complaint}"):
        fetch()
    assert below(tmp_path / "data") == []


def test_a_tokenizer_of_another_size_is_refused(fetch, hub, tmp_path):
    path = train_tokenizer([TEXT * 4], tmp_path / "other.model", vocab_size=285)
    hub.files[TOKENIZER] = path.read_bytes()
    with pytest.raises(GolfError, match="has 285 ids, expected 290"):
        fetch()


@pytest.mark.parametrize("damage", [flipped, lambda body: body[:-1], lambda body: b""])
def test_what_was_damaged_since_is_replaced(fetch, hub, content, damage):
    found = fetch()
    hub.downloads()
    for path in (found.tokenizer_path, found.data_path / name("val", 1)):
        path.write_bytes(damage(path.read_bytes()))
    again = fetch()
    assert again.replaced == [found.tokenizer_path, found.data_path / name("val", 1)]
    assert hub.downloads() == ["fineweb_290_bpe.model", name("val", 1)]
    assert again.tokenizer_path.read_bytes() == content[TOKENIZER]
    assert not check_data(found.data_path, found.tokenizer_path, progress=False).damaged


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"repo": "someone/else"}, r"someone/else at main: no such dataset repository"),
        ({"repo": "no name"}, r"no name at main: HFValidationError"),
        ({"revision": "v2"}, r"someone/golf-data at v2: no such revision"),
        ({"variant": "sp512"}, r"no validation shards of variant 'sp512' .* it has sp290, sp300"),
        ({"variant": "sp300"}, r"no tokenizers/fineweb_300_bpe\.model .* it has sp290, sp300"),
        ({"variant": "byte260"}, r"variant='byte260': expected sp"),
        ({"variant": "sp290", "repo": None}, r"variant='sp290': name the repository"),
        ({"train_shards": 4}, r"train_shards=4: .* has 3 training shards of variant 'sp290'"),
        ({"train_shards": 0}, r"train_shards=0"),
        ({"root": "elsewhere"}, r"below 'elsewhere'; it has no variant"),
    ],
)
def test_what_is_not_there(fetch, tmp_path, options, complaint):
    with pytest.raises(GolfError, match=complaint):
        fetch(**options)
    assert not (tmp_path / "data").exists()


def test_a_gap_in_the_numbers_is_refused(fetch, hub):
    del hub.files[f"{SHARDS}/{name('train', 1)}"]
    with pytest.raises(GolfError, match=r"fineweb_train_000001\.bin is missing from variant"):
        fetch()
    assert len(fetch(1).downloaded) == 4  # what comes before the gap is whole


def test_a_file_listed_but_not_served(fetch, hub, tmp_path):
    hub.faults[f"{SHARDS}/{name('train', 1)}"] = ["404"]
    expected = (
        r"train_000001\.bin: file 5 of 5 to fetch for variant 'sp290' of .*not served \(404\)"
    )
    with pytest.raises(GolfError, match=expected):
        fetch()
    assert WHOLE[1] not in below(tmp_path / "data") and len(below(tmp_path / "data")) == 4


def test_another_root_and_revision(fetch, hub, tmp_path):
    hub.files = {n.removeprefix("datasets/"): body for n, body in hub.files.items()}
    assert len(fetch(root="", revision=COMMIT).downloaded) == 5
    assert below(tmp_path / "data") == WHOLE


def test_a_full_disk_is_noticed_first(fetch, hub, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(fineweb.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(GolfError, match=r"0\.00 GB free"):
        fetch()
    assert hub.downloads() == []
    monkeypatch.undo()
    fetch(1)
    monkeypatch.setattr(fineweb.shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    assert len(fetch(2).downloaded) == 1  # 81 KB: only what is missing has to fit


def test_no_server_and_no_folder(fetch, hub, tmp_path):
    with pytest.raises(GolfError, match=r"someone/golf-data at main: ConnectError"):
        fetch(endpoint="http://127.0.0.1:9")
    (tmp_path / "data").write_text("a file")
    with pytest.raises(GolfError, match=r"fineweb_290_bpe\.model: .*(NotADirectory|FileExists)"):
        fetch()


def test_a_record_that_cannot_be_read(fetch):
    found = fetch(1)
    for text in ("{", "[]", '{"files": 1}'):
        (found.data_path / "provenance.json").write_text(text)
        with pytest.raises(GolfError, match=r"provenance\.json: not a provenance record"):
            fetch(1)


def test_a_changed_shard_differs_from_its_record(fetch):
    found = fetch(1)
    path = found.data_path / name("val", 0)
    path.write_bytes(flipped(path.read_bytes()))
    report = check_data(found.data_path, found.tokenizer_path, progress=False)
    assert len(report.damaged) == 1 and "provenance.json records" in report.damaged[0]
    assert (report.val.shards, report.val.tokens) == (1, 40_000)


# --- the command --------------------------------------------------------------------------------


def golf(*arguments, **environment) -> tuple[int, str, str]:
    """Exit code, output and errors of a `golf` command in this process."""
    environment = {"DATA_PATH": None, "TOKENIZER_PATH": None} | environment
    done = CliRunner().invoke(app, [str(a) for a in arguments], env=environment)
    return done.exit_code, done.stdout, done.stderr


def test_the_command_ends_with_what_to_type_next(hub, tmp_path, monkeypatch):
    fetch = ["data", "fineweb", "--variant", "sp290", "--train-shards", "2", "--repo", REPO]
    fetch += ["--folder", str(tmp_path / "my data")]
    program = "import sys; from golf.lab.cli import app; sys.argv[0] = 'golf'; app()"
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint}  # read once, at import
    done = subprocess.run(
        [sys.executable, "-c", program, *fetch], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    what, export, use = done.stdout.splitlines()
    assert what.startswith("sp290: 5 files downloaded (0.")
    assert use == "papermill nbs/ttt_reset.ipynb -p corpus shards"  # which opens it so:
    opens = "from golf import load_corpus; print(load_corpus('shards'))"
    script = f'{export}\n{sys.executable} -c "{opens}"\necho $DATA_PATH\necho $TOKENIZER_PATH'
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    opened, *paths = shell.stdout.splitlines()
    assert opened == "Corpus(shards: 80,000 + 80,000 tokens)", shell.stderr
    environment = dict(zip(("DATA_PATH", "TOKENIZER_PATH"), paths, strict=True))
    code, out, _ = golf("data", "check", **environment)
    assert code == 0 and "80,000" in out
    monkeypatch.setattr(fineweb, "fetch_fineweb", partial(fetch_fineweb, endpoint=hub.endpoint))
    summary = f"sp290: 0 files downloaded (0.0 MB), 5 kept, from {REPO} at {COMMIT[:7]}"
    assert golf(*fetch)[:2] == (0, f"{summary}\n{export}\n{use}\n")
    told = json.loads(golf(*fetch, "--json")[1])
    assert (told["data_path"], len(told["kept"]), told["bytes"]) == (environment["DATA_PATH"], 5, 0)
    (Path(environment["DATA_PATH"]) / name("val", 0)).write_bytes(PAGE)
    assert f"replaced {environment['DATA_PATH']}/{name('val', 0)}" in golf(*fetch)[1]


def test_the_command_takes_its_options(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fineweb, "fetch_fineweb", partial(fetch_fineweb, endpoint=hub.endpoint))
    fetch = ["data", "fineweb", "--repo", REPO, "--folder", tmp_path, "--variant"]
    for options, complaint in [
        (["sp300"], "fineweb_300_bpe.model"),
        (["sp290", "--train-shards", "4"], "train_shards=4"),
        (["sp290", "--revision", "v2"], "v2: no such revision"),
        (["sp290", "--root", "elsewhere"], "below 'elsewhere'"),
    ]:
        code, out, err = golf(*fetch, *options)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and complaint in err


def test_the_command_fails_in_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fineweb, "fetch_fineweb", partial(fetch_fineweb, endpoint=hub.endpoint))
    hub.faults[f"{SHARDS}/{name('train', 0)}"] = ["reset"]
    options = ["--variant", "sp290", "--repo", REPO, "--folder", tmp_path]
    code, out, err = golf("data", "fineweb", *options)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("golf: ") and name("train", 0) in err.splitlines()[-1]
    read_shard(tmp_path / "datasets" / "fineweb10B_sp290" / name("val", 0))


def test_the_command_for_a_damaged_folder(tmp_path):
    for split in ("train", "val"):
        write_shard(tmp_path / name(split, 0), [1, 5, 6])
    assert golf("data", "check", "--data-path", tmp_path)[0] == 0
    (tmp_path / name("val", 0)).write_bytes(PAGE * 30)
    code, out, _ = golf("data", "check", "--data-path", tmp_path)
    assert code == 1 and f"damaged: {tmp_path / name('val', 0)}" in out
    code, _, err = golf("data", "check", "--data-path", tmp_path / "nowhere")
    assert (code, len(err.splitlines())) == (2, 1)
