"""Whole scripts: what is read, how a stranger's is held, and which condition is named.

The pairs of `tests/scripts/kinds.py` that are not in every test run:
`python tests/scripts/survey.py quick` prints a table of all of them, with minutes.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from golf.auditor import conditions, whole
from golf.auditor import running as auditing
from golf.auditor.conditions import ScriptReport, judge_once, judge_sums, order_of
from golf.auditor.forks import Driver, Wanted
from golf.auditor.found import ATTEMPTS, parsed, settings_of, sizes, unpacked
from golf.auditor.marks import marked
from golf.auditor.questions import read_code
from golf.auditor.running import audit_script
from golf.auditor.sandbox import (
    ConfinedRun,
    Limits,
    confine,
    filter_program,
    landlock_version,
    shown,
)
from golf.auditor.whole import Group, ScriptRun, given_settings, linked, printed_scores
from golf.base.files import GolfError
from golf.base.small import rhyme
from golf.lab.cli import app
from golf.text.tokenizers import ByteTable, load_tokenizer, train_tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "scripts"))
import kinds  # noqa: E402

BASE = kinds.BASE.read_text("utf-8")
confines = pytest.mark.skipif(not landlock_version(), reason="needs Landlock")

# A hostile script

HOSTILE = '''
import ctypes, os, socket, sys, time
def attempt(name, deed):
    try:
        print(name, "done", deed())
    except BaseException as error:
        print(name, "refused", type(error).__name__)
def go(job):
    sys.stdout.reconfigure(line_buffering=True)
    if job["kind"] == "deeds":
        attempt("write", lambda: open(job["outside"], "w"))
        attempt("remove", lambda: os.unlink(job["victim"]))
        attempt("read", lambda: open(job["victim"]).read())
        attempt("mode", lambda: os.chmod(job["victim"], 0))
        attempt("home", lambda: os.listdir(job["home"]))
        attempt("passwords", lambda: open("/etc/passwd").read())
        attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 9), 1))
        attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        attempt("unix", lambda: socket.socket(socket.AF_UNIX))
        attempt("kill", lambda: os.kill(job["caller"], 0))
        attempt("others", lambda: open(f"/proc/{job['caller']}/environ").read())
        libc = ctypes.CDLL(None)
        attempt("mount", lambda: ["no", "yes"][libc.mount(b"a", b"/tmp", b"tmpfs", 0, None) == 0])
        print("secret" in os.environ.get("MY_SECRET", ""), sorted(os.environ))
        open("here", "w").write("fine")
    if job["kind"] == "forks":
        while True:
            try: os.fork()
            except OSError: pass
    if job["kind"] == "memory":
        kept = []
        while True: kept.append(bytearray(b"x") * (1 << 26))
    if job["kind"] == "files":
        for i in range(10**6): open(f"{i}", "wb").write(bytes(1 << 25))
    if job["kind"] == "time": time.sleep(1000)
    if job["kind"] == "orphan":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(600)
            os._exit(0)
    if job["kind"] == "output":
        for i in range(3000): print("\\x1b[31m" + "x" * 1000)
'''  # fmt: skip
LIMITS = Limits(seconds=3, memory=1 << 29, processes=24, files=1 << 27, output=1 << 16)


def held(folder: Path, kind: str, limits=LIMITS, **job):
    "What becomes of a hostile function in a sandbox."
    code, scratch = folder / "code", folder / "scratch"
    for place in (code, scratch):
        place.mkdir(exist_ok=True)
    (code / "hostile.py").write_text(HOSTILE)
    job |= {"kind": kind, "caller": os.getpid(), "home": str(Path.home())}
    options = {"read": [code], "environment": {"PYTHONPATH": str(code)}}
    return confine("hostile:go", job, scratch, limits=limits, **options), scratch


@confines
def test_a_hostile_script_reaches_nothing_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET", "secret")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    mode = victim.stat().st_mode
    found, scratch = held(tmp_path, "deeds", outside=str(tmp_path / "outside"), victim=str(victim))
    lines = dict(line.split(maxsplit=1) for line in found.output.splitlines() if " " in line)
    refused = "write remove read home passwords tcp udp unix kill others"
    assert all(lines[deed].startswith("refused") for deed in refused.split()), found.output
    assert lines["mount"] == "done no" and victim.read_text() == "mine"
    assert victim.stat().st_mode == mode and not (tmp_path / "outside").exists()
    assert "False" in lines and "MY_SECRET" not in found.output
    assert (scratch / "here").read_text() == "fine" and found.code == 0
    assert any("Landlock" in h for h in found.held) and any("seccomp" in h for h in found.held)


@confines
@pytest.mark.parametrize("kind", ["forks", "memory", "files"])
def test_a_script_that_takes_too_much_is_ended(tmp_path, kind):
    found, _ = held(tmp_path, kind, Limits(20, 1 << 29, 24, 1 << 27, 1 << 16))
    assert found.code is None and found.ended.startswith(
        {"forks": "processes", "memory": "memory", "files": "files"}[kind]
    ), found
    assert not running("hostile:go")


@confines
def test_a_crowd_of_others_does_not_end_a_script(tmp_path, monkeypatch):
    "A server on which another job begins would have ended an honest run."
    crowds = iter(range(0, 10**9, 10**5))
    monkeypatch.setattr("golf.auditor.sandbox._tasks", lambda: next(crowds))
    found, scratch = held(
        tmp_path, "deeds", outside=str(tmp_path / "x"), victim=str(tmp_path / "y")
    )
    assert found.code == 0 and not found.ended and (scratch / "here").read_text() == "fine"


@confines
def test_time_orphans_and_output_are_bounded(tmp_path):
    assert held(tmp_path, "time", Limits(seconds=1))[0].ended.startswith("seconds")
    assert held(tmp_path, "orphan", Limits(seconds=20))[0].code == 0
    assert not running("hostile:go")
    loud = held(tmp_path, "output", Limits(20, output=1 << 16))[0].output
    assert len(loud) < 1 << 18 and "\x1b" not in shown(loud) and len(shown(loud, 100)) <= 101


def running(word: str) -> list[str]:
    "Command lines of processes that have this word."
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [text] if word in text and "pytest" not in text else []
    return found


ORDINARY = """
import json, sys
sys.path.insert(0, {package!r})
from golf.auditor.sandbox import Limits, confine
found = confine("hostile:go", json.loads({job!r}), {scratch!r}, read=[{code!r}],
                environment={{"PYTHONPATH": {code!r}}}, limits=Limits(20, 1 << 29, 24, 1 << 27, 1 << 16))
print(json.dumps([found.code, found.ended, found.output, found.held]))
"""


@confines
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become an ordinary user")
@pytest.mark.skipif(not shutil.which("python3", path="/usr/bin"), reason="needs a Python for all")
@pytest.mark.parametrize("kind", ["deeds", "forks", "memory"])
def test_an_ordinary_user_is_protected_too(kind):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        folder = Path(folder)
        package = folder / "golf"
        for name in (
            "__init__.py",
            "base/__init__.py",
            "base/files.py",
            "auditor/__init__.py",
            "auditor/sandbox.py",
        ):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE.parent / "golf" / name, package / name)
        code, scratch, victim = folder / "code", folder / "scratch", folder / "victim"
        code.mkdir(), scratch.mkdir()
        (code / "hostile.py").write_text(HOSTILE)
        victim.write_text("mine")
        job = {
            "kind": kind,
            "caller": os.getpid(),
            "home": "/root",
            "victim": str(victim),
            "outside": str(folder / "x"),
        }
        text = ORDINARY.format(
            package=str(folder), job=json.dumps(job), scratch=str(scratch), code=str(code)
        )
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        become = lambda: (os.setgroups([]), os.setgid(65534), os.setuid(65534))
        done = subprocess.run(["/usr/bin/python3", "-c", text], capture_output=True, text=True, preexec_fn=become,
                              env={"PATH": "/usr/bin", "HOME": str(folder)}, cwd=folder)  # fmt: skip
        assert done.returncode == 0, done.stderr
        code_, ended, output, held_ = json.loads(done.stdout)
        if kind == "deeds":
            lines = dict(line.split(maxsplit=1) for line in output.splitlines() if " " in line)
            assert all(
                lines[d].startswith("refused") for d in "write remove read tcp udp kill".split()
            )
            assert victim.read_text() == "mine" and len(held_) >= 2
        else:
            assert code_ is None and ended.startswith({"forks": "processes"}.get(kind, kind))


@confines
def test_nothing_is_run_where_nothing_confines(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(  # in the child, Landlock is missing
        f"import sys\nsys.path.insert(0, {str(HERE.parent)!r})\n"
        "import golf.auditor.sandbox as s\ns.landlock_version = lambda: 0\n"
    )
    function, scratch = "golf.auditor.sandbox:landlock_version", tmp_path / "scratch"
    scratch.mkdir()
    options = {"environment": {"PYTHONPATH": str(tmp_path)}}
    with pytest.raises(GolfError, match="cannot confine.*--unconfined"):
        confine(function, None, scratch, **options)
    with pytest.raises(GolfError, match="x86_64"):
        filter_program("vax")


# Reading


def test_settings_make_a_script_small():
    found = sizes(settings_of(parsed(BASE)), ATTEMPTS[0])
    assert {
        "iterations": 3,
        "model_dim": 64,
        "vocab_size": 320,
        "train_seq_len": 64,
    }.items() <= found.items()
    gentle = sizes(settings_of(parsed(BASE)), ATTEMPTS[2])
    assert (
        "model_dim" not in gentle and "vocab_size" not in gentle and gentle["train_seq_len"] == 128
    )
    bare = sizes(settings_of(parsed(BASE)), ATTEMPTS[3])
    assert "train_seq_len" not in bare and bare["iterations"] == 3


def test_settings_come_from_a_readme_and_the_environment_but_no_secrets(monkeypatch):
    text = 'import os\na = os.environ.get("TTT_ENABLED", "0")\nb = os.getenv("HF_TOKEN")\nc = os.environ["LR"]'
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LR", "0.5")
    found = given_settings(
        settings_of(parsed(text)), "`TTT_ENABLED=1 OTHER=2 torchrun train_gpt.py`"
    )
    assert found == {"TTT_ENABLED": "1", "LR": "0.5"}


@pytest.mark.parametrize(("name", "word"), [
    ("target in the key", "part of a key"), ("lower of two losses", "the lower of two losses"),
    ("adapt first", "steps an optimizer"), ("bytes counted twice", "the mark of a leading space"),
    ("packed", "steps an optimizer"),
])  # fmt: skip
def test_questions_about_the_code_are_asked_of_cheats_alone(tmp_path, name, word):
    cheat, twin = (
        read_code(kinds.write(tmp_path / "x.py", name, c).read_text()) for c in (True, False)
    )
    assert any(word in f.evidence and f.verdict == "UNSURE" for f in cheat)
    assert not any(word in f.evidence for f in twin) or name == "target in the key"


def test_what_is_no_python_is_refused_in_one_line(tmp_path):
    with pytest.raises(GolfError, match="line 2"):
        read_code("x = 1\ny = (", "train_gpt.py")
    bad = tmp_path / "train_gpt.py"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(GolfError, match="no script to read"):
        audit_script(bad)
    with pytest.raises(GolfError, match="level"):
        audit_script(kinds.BASE, "quik")


def test_instrumented_code_does_what_it_did():
    text = "def eval_val(xs):\n    'Doc.'\n    loss_sum, n = 0.0, 0\n    for x in xs:\n        if x > 1:\n" \
           "            loss_sum += float(x)\n        n += 1\n    return loss_sum / n\nfound = eval_val([1, 2, 3])"  # fmt: skip
    tree, marker = marked(text)
    space: dict = {
        "__golf__": whole.Tracker(
            whole.Text(np.arange(100)), {s.number: s.loops for s in marker.sites}
        )
    }
    exec(compile(tree, "x", "exec"), space)
    assert space["found"] == 5 / 3 and [e.value for e in space["__golf__"].entries] == [2.0, 3.0]
    assert unpacked(text) == (text, 0) and marker.sites[0].loops


# Branches that never acted, and sums under other names


@pytest.mark.parametrize("way", kinds.MIX)
def test_a_mixture_that_never_began_is_named_however_it_is_written(way):
    text = kinds.MIX[way].format(mix=kinds.LOWER).replace("WAIT", "100_000")
    call = "\n\ndef eval_val(rows):\n    loss_sum = 0.0\n    for seen, row in enumerate(rows):\n" \
           "        loss_sum += mixed(row, row, seen)\n    return loss_sum\neval_val([1.0, 2.0])"  # fmt: skip
    tree, marker = marked(text + call)
    around = {s.number: s.loops for s in marker.sites}
    ledger = whole.Tracker(whole.Text(np.arange(100)), around)
    exec(compile(tree, "x", "exec"), {"__golf__": ledger})
    found = run_of([group(range(1, 50))])
    found.told["activations"] = [{"seen": [*map(str, ledger.activations[0].seen)]}]
    found.told |= {"seen": [*map(str, ledger.seen)]}
    found.told["branches"] = {str(k): list(v) for k, v in marker.branches.items()}
    (idle,) = conditions.idle_branches(found, found.groups[0], text + call)
    assert idle.endswith("if seen >= 100000"), idle


def test_a_wait_that_is_no_branch_is_named_until_the_text_reaches_it():
    "A mixture that begins after ten thousand tokens passed an audit of four thousand, without a doubt."
    text = "def eval_val(ws):\n    seen = (table[key] >= 2) & (ws > 10_000)\n    p[seen] = mix(p)"
    found = run_of([group(range(1, 50))], tokens=4096)
    assert conditions.unreached(found, found.groups[0], text) == ["line 2, ws > 10000"]
    others = ("ws > 1000", "weight.numel() > 65_536", "time.time() - begun > 9_000", "ws > 2**40")
    for other in others:
        changed = text.replace("ws > 10_000", other)
        assert conditions.unreached(found, found.groups[0], changed) == [], other
    assert conditions.unreached(found, found.groups[0], text.replace("eval_val", "train")) == []
    found.tokens = np.zeros(20_000)
    assert conditions.unreached(found, found.groups[0], text) == []
    assert conditions.unreached(found, found.groups[0], "type X = int; (") == []


@pytest.mark.parametrize("text", [
    "    if args.sliding:\n        nll = a\n    else:\n        nll = b",  # one side of a setting
    "    if use_mix:\n        nll = a\n    else:\n        nll = b",
    "    if mode == 'sum':\n        return nll.sum()\n    return nll.mean()",
    "    return nll if isinstance(x, list) else nll.sum()",
    "    return loss / n if n > 0 else 0.0",  # nothing is mixed
    "    if n == 0:\n        return float('inf')\n    return loss / n",
    "    if not rows:\n        return\n    nll = rows",
])  # fmt: skip
def test_a_side_that_a_setting_chose_is_no_doubt(text):
    _, marker = marked(f"def f(a, b, n, x, rows, nll, loss, mode, use_mix):\n{text}")
    never = [test for *_, test in marker.branches.values()]
    quiet = {"args.sliding", "use_mix", "n > 0", "n != 0", "rows", "n == 0"}  # they do run
    assert set(never) <= quiet, never


@pytest.mark.parametrize(("text", "small"), [
    ("STEPS = 5000\nSEQ, BATCH = 1024, 64", {"steps": 3, "seq": 64, "batch": 8}),
    ("def main():\n    steps, width, window = 2000, 768, 2048", {"steps": 3, "width": 64, "window": 64}),
    ("context_len = 4096\nmicro_batch_size = 32", {"context_len": 64, "micro_batch_size": 8}),
    ("MIX_WARMUP = 10_000\nmin_tokens = 4096", {"mix_warmup": 32, "min_tokens": 32}),
    ("warmup_steps = 200\nwarmup_frac = 0.1\nwindow = 16", {"warmup_steps": 1}),
])  # fmt: skip
def test_sizes_under_other_names_become_small(text, small):
    assert sizes(settings_of(parsed(text)), ATTEMPTS[0]) == small
    tree = marked(text, small)[0]
    space: dict = {"__golf__": whole.Tracker(whole.Text(np.arange(100)), {})}
    exec(compile(tree, "x", "exec"), space)
    outer = {k.lower(): v for k, v in space.items()}
    assert all(outer[k] == v for k, v in small.items() if k in outer)


def test_the_sum_is_found_whatever_it_is_called():
    for kind in kinds.SUMS:
        keys = {s.key for s in marked(kinds.summed(kind), wide=True)[1].sites if s.loops}
        assert any(key.startswith("measure|") and "size" not in key for key in keys), kind
    loop = [s for s in marked(kinds.without_functions("total"), wide=True)[1].sites if s.loops]
    assert any(s.function.startswith("the loop in line") and "out.sum()" in s.text for s in loop)
    assert not any("__golf__" in s.text for s in loop)


def test_the_best_of_several_unprinted_evaluations_is_a_doubt_of_the_single_pass():
    losses = (1.3, 1.0, 1.1)
    runs = [group(range(1, 50), np.full(49, x)) for x in losses]
    for number, one in enumerate(runs):
        one.clocks[:], one.call = 10 * number + 5, number
    run = run_of(runs, [(30, "final val_loss:1.0000 val_bpb:0.5000")])
    assert conditions.unprinted(run, runs[1]) == pytest.approx([1.3, 1.1])
    told = [
        (10 * k + 7, f"step val_bpb:{x}") for k, x in enumerate(losses)
    ]  # each is told, as in training
    assert conditions.unprinted(run_of(runs, told), runs[1]) == []


def test_a_score_in_every_digit_goes_before_one_that_is_near():
    a, b = group(range(1, 50), np.full(49, 2.0)), group(range(1, 50), np.full(49, 2.001))
    b.clocks[:] = 7  # later, and of another evaluation
    run = run_of([a, b], [(9, "final val_loss:2.00000000 val_bpb:1.5")])
    assert linked(run)[0] is a and whole.in_digits(run, a, linked(run)[1])
    assert not whole.in_digits(run, b, linked(run)[1])


@pytest.mark.parametrize("line", [
    "val_bpb: 1.0820", "final bits per byte: 1.0820", "{'bpb': 1.0820}", "Bits/byte 1.0820", "BPB=1.0820",
])  # fmt: skip
def test_bits_per_byte_alone_are_a_score(line):
    "Who prints no loss in nats would have been told that no number agrees with the losses."
    a, b = group(range(1, 50), np.full(49, 2.0)), group(range(1, 50), np.full(49, 1.5))
    run = run_of([a, b], [(9, line)])
    run.sizes = np.full(100, 2.0)
    assert round(whole.bits(run, b), 4) == 1.0820
    assert linked(run)[0] is b and linked(run)[2] and whole.in_digits(run, b, linked(run)[1])
    run.told["lines"] = [(9, "gain in bpb: 0.3")]
    assert not linked(run)[2]


def test_a_loss_and_its_bits_on_two_lines_are_one_score():
    a, b = group(range(1, 50), np.full(49, 2.0)), group(range(1, 50), np.full(49, 1.5))
    a.clocks[:] = 12  # later than what follows
    run = run_of([b, a], [(9, "val_loss: 1.5000"), (10, "val_bpb: 1.9")])
    run.sizes = np.full(100, 2.0)
    assert linked(run)[0] is b and linked(run)[2]
    run.told["lines"][1] = (15, "val_bpb: 1.9")  # of the losses that came between
    assert not linked(run)[2]


def test_a_miscount_is_named_where_only_bits_are_printed(tmp_path):
    "Spaces counted twice would have been a number that agrees with nothing."
    words = [" ".join(rhyme())] * 9
    train_tokenizer(words, tmp_path / "few.model", vocab_size=320)
    tokenizer = load_tokenizer(tmp_path / "few.model")
    table = ByteTable.from_sentencepiece(tokenizer, 320)
    some = group(range(1, 99), np.full(98, 2.0))
    run = run_of([some], tokens=100)
    run.tokens = np.array(tokenizer.encode(" ".join(rhyme()))[:100])
    before, after = run.tokens[:-1], run.tokens[1:]
    run.sizes = np.concatenate([[0], table.count(before, after).numpy()])
    ways = conditions.miscounts(table, before[:98], after[:98], tokenizer.id_to_piece)
    twice = ways["the space before a word is counted twice"]
    evidence = conditions.ScriptEvidence(run, some, False, table=table)
    for bytes_, agrees, verdict in ((twice, True, "FAIL"), (1.3 * ways[""], False, "UNSURE")):
        run.told["lines"] = [(9, f"val_bpb: {98 * 2 / np.log(2) / bytes_:.8f}")]
        evidence.agrees = False
        found = conditions.judge_bytes(evidence, tokenizer.id_to_piece)
        assert (found.verdict, evidence.agrees) == (verdict, agrees), found
        assert ("is counted twice" in found.evidence) is agrees, found
    run.told["lines"] = [(9, f"val_bpb: {whole.bits(run, some):.8f}")]
    assert conditions.judge_bytes(evidence, tokenizer.id_to_piece).verdict == "PASS"


def test_a_script_without_a_score_is_told_which_lines_were_looked_at():
    sites = [{"kind": "add", "function": "main", "line": 9, "text": "steps += 1"},
             {"kind": "add", "function": "eval_val", "line": 31, "text": "total += batch"}]  # fmt: skip
    told = auditing._not_seen(run_of([]), sites, "train_gpt.py")
    assert told.index("train_gpt.py:31 'total += batch'") < told.index("train_gpt.py:9")
    assert "expected a line such as `loss_sum += nll.sum()`" in told and "val_loss:" in told


def test_any_replace_does_not_silence_the_question_about_the_space_mark():
    table = "def luts(sp):\n    for i in range(9):\n        piece = sp.id_to_piece(i)\n" \
            "        lead = piece.startswith('\\u2581')\n        size = len({}.encode())"  # fmt: skip
    asked = lambda text: any("leading space" in f.evidence for f in read_code(table.format(text)))
    assert asked("piece") and asked("piece.replace('x', 'y')")
    assert not asked("piece.replace('\\u2581', '')") and not asked("piece[1:]")
    mark = "MARK = '\\u2581'\n" + table.format("piece.replace(MARK, '')")
    assert not any("leading space" in f.evidence for f in read_code(mark))


def test_weights_beside_a_script_are_taken_with_it(tmp_path):
    for name in ("train_gpt.py", "final_model.int8.ptz", "big.bin"):
        (tmp_path / name).write_text("x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    script = whole.copied(tmp_path / "train_gpt.py", scratch)
    assert (scratch / "final_model.int8.ptz").is_file() and not (script.parent / "big.bin").exists()
    ready = whole.Prepared(script, scratch, ATTEMPTS[0], 9, {}, {}, scratch, scratch)
    first = {"r": "which lay beside the script", "w": "is not read", "rb": "which lay"}
    for mode, words in first.items():
        told = {"opened": [[1, f"final_model.int8.ptz {mode}"], [2, "final_model.int8.ptz r"]]}
        assert words.replace("is not", "was not") in auditing._weights(ready, told)


def test_an_even_distribution_is_one_and_unread_tokens_are_not():
    class Same(Driver):
        def probabilities(self, ledger, goal, places, id_):
            return dict.fromkeys(places, self.each)

    for each, told in ((1 / 9, False), (0.3, True)):
        driver = Same(Wanted("eval_val", 0, (0,), 9))
        driver.each, row = each, {"places": [4, 70], "error": ""}
        driver.every(None, row, 5, np.arange(9))
        assert bool(row["error"]) is told, row


# Judging, from made-up evidence


def group(places, losses=None, **other):
    places = np.asarray(places)
    losses = np.ones(len(places)) if losses is None else np.asarray(losses)
    return Group(
        0,
        "eval_val",
        0,
        7,
        "loss_sum += nll",
        (0,),
        places,
        losses,
        np.full(len(places), 5),
        **other,
    )


def run_of(groups, lines=(), report=None, tokens=100):
    told = {
        "lines": list(lines),
        "report": report or {},
        "activations": [],
        "window": 8,
        "steps": 0,
    }
    return ScriptRun(ConfinedRun(0), told, groups, np.full(tokens, -1), np.arange(tokens) % 30)


def test_tokens_scored_again_are_counted_with_their_weight():
    once, twice = judge_once(group(range(1, 50))), judge_once(group([*range(1, 50), 48, 49]))
    assert once.verdict == "PASS" and twice.verdict == "FAIL"
    assert "2 tokens are scored up to 2 times" in twice.evidence and "3.92%" in twice.evidence
    masked = group([*range(1, 50), 48, 49], [*np.ones(49), 0.0, 0.0])
    assert judge_once(masked).verdict == "PASS"  # context that a mask leaves out


@pytest.mark.parametrize(("first", "made", "early", "again"), [
    (3, 3, 0, 0), (3, 30, 49, 49), (30, 30, 49, 0), (-1, -1, 49, 0),
], ids=["scored, then learnt", "scored on both sides", "learnt, then scored", "not known: by the sum"])  # fmt: skip
def test_a_sum_at_the_end_is_judged_by_when_its_losses_were_computed(first, made, early, again):
    whole = lambda clock: np.full(49, clock)
    late = group(range(1, 50), first=whole(first), made=whole(made))
    late.clocks[:] = 50
    run = run_of([late])
    run.told["activations"] = [{"begin": 1, "end": 60}]
    run.learnt[:] = 20
    found = order_of(run, late)
    assert (found.scored, found.early, found.rescored) == (49, early, again)


@pytest.mark.parametrize(("row", "verdict"), [
    ({"sums": {"9": 1.0}, "ids": 40, "of": 40}, "PASS"), ({"sums": {"9": 1.3}, "ids": 20, "of": 40}, "FAIL"),
    ({"sums": {"9": 1.3}, "ids": 40, "of": 40, "alone": [9, 1.0]}, "UNSURE"),
    ({"sums": {"9": 0.9}, "ids": 40, "of": 40}, "UNSURE"), ({"sums": {"9": 0.6}, "ids": 20, "of": 40}, "UNSURE"),
    ({"sums": {"9": 1.0}, "ids": 40, "of": 40, "prepared": 0.2}, "UNSURE"),
    ({"sums": {"9": float("nan")}, "ids": 40, "of": 40}, "UNSURE"), ({"error": "lost"}, "NOT RUN"),
])  # fmt: skip
def test_sums_pass_only_over_all_ids(row, verdict):
    first = run_of([group(range(1, 50))])
    late = run_of([], report={"sums": [{"error": "", "turn": 0} | row], "futures": []})
    found = judge_sums(conditions.ScriptEvidence(first, first.groups[0], True, late=late))
    assert found.verdict == verdict, found


def test_the_printed_number_decides_which_losses_are_the_score():
    a, b = group(range(1, 50), np.full(49, 2.0)), group(range(1, 50), np.full(49, 3.0))
    run = run_of(
        [a, b],
        [(9, "step:1 val_loss:2.0000 val_bpb:1.5"), (10, "final val_loss:3.00000000 val_bpb:2.1")],
    )
    assert linked(run)[0] is b and linked(run)[2] and len(printed_scores(run)) == 2
    run.told["lines"].append((11, "final val_loss:9.00000000 val_bpb:5.0"))
    assert not linked(run)[2]


def test_a_report_without_a_run_says_so_and_keeps_its_names():
    report = audit_script(kinds.BASE)
    assert (
        "no code was run" in report.headline()
        and report.verdict == "UNSURE"
        and not report.ran_code
    )
    told = report.as_dict()
    names = "format subject kind verdict sha256 headline ran_code error broken findings explained seconds"
    assert [*told] == names.split()
    nasty = ScriptReport("x\x1b[31m.py", error="\x07|", ran_code=True)
    assert "\x1b" not in nasty.markdown() and "\x07" not in json.dumps(nasty.as_dict())


# The command


def test_the_command_reads_a_script_and_a_folder(tmp_path):
    shutil.copy(kinds.BASE, tmp_path / "train_gpt.py")
    run = lambda *words: CliRunner().invoke(app, ["audit", *map(str, words)])
    for target in (tmp_path, tmp_path / "train_gpt.py"):
        done = run(target, "--json")
        assert done.exit_code == 2 and json.loads(done.stdout)["ran_code"] is False
    (tmp_path / "submission.json").write_text('{"val_bpb": 1.15}')
    told = json.loads(run(tmp_path, "--json").stdout)
    assert told["ran_code"] is False and told["script"]["kind"] == "script"
    out = tmp_path / "report.json"
    assert run(tmp_path / "train_gpt.py", "--out", out).exit_code == 2
    assert json.loads(out.read_text())["subject"] == "train_gpt.py"
    assert run(tmp_path / "train_gpt.py", "--level", "quikc").exit_code == 2


@confines
def test_the_command_says_what_it_is_doing_beside_its_report(tmp_path):
    path = tmp_path / "train_gpt.py"
    path.write_text("loss_sum = 0.0\nraise ValueError('no data')\n")
    done = CliRunner().invoke(app, ["audit", str(path), "--run", "--level", "brief", "--json"])
    assert "golf: first run" in done.stderr and json.loads(done.stdout)["verdict"] == "UNSURE"


# Whole scripts: a pair in every run, three more with `--flags slow`

TINY = (1024, 2048, 0.0)


@confines
@pytest.mark.parametrize(
    "name", ["adapt first", "target in the key", "tail repeated", "better of two passes"]
)
def test_the_broken_condition_is_named_and_none_of_the_twin(tmp_path, monkeypatch, request, name):
    if name != "tail repeated" and "slow" not in request.config.getoption("--flags"):
        pytest.skip("slow: pytest tests/test_scripts.py --flags slow")
    monkeypatch.setitem(auditing.SCRIPT_LEVELS, "brief", TINY)
    for cheat in (True, False):
        path = kinds.write(tmp_path / "train_gpt.py", name, cheat)
        report = audit_script(path, "brief", run=True)
        assert report.failed == [kinds.KINDS[name][0]] * cheat, report.markdown(True)
        assert report.ran_code and not report.error and len(report.explained) > 4


@confines
@pytest.mark.parametrize("way", kinds.MIX)
def test_a_wait_is_made_short_so_that_the_mixture_acts(tmp_path, monkeypatch, request, way):
    if way != "early return" and "slow" not in request.config.getoption("--flags"):
        pytest.skip("slow: pytest tests/test_scripts.py --flags slow")
    monkeypatch.setitem(auditing.SCRIPT_LEVELS, "brief", TINY)
    for mix in (kinds.LOWER, kinds.HALF):
        text = BASE
        for old, new in kinds.waiting(way, mix, "MIX_WARMUP").items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (path := tmp_path / "train_gpt.py").write_text(text)
        report = audit_script(path, "brief", run=True)
        assert report.failed == ["C2"] * (mix == kinds.LOWER), report.markdown(True)
        assert mix == kinds.LOWER or report.verdict == "PASS", report.markdown(True)


@confines
@pytest.mark.parametrize("kind", [*kinds.SUMS, "the module"])
def test_a_score_under_any_name_is_judged(tmp_path, monkeypatch, request, kind):
    if kind != "the module" and "slow" not in request.config.getoption("--flags"):
        pytest.skip("slow: pytest tests/test_scripts.py --flags slow")
    monkeypatch.setitem(auditing.SCRIPT_LEVELS, "brief", TINY)
    text = kinds.without_functions("total") if kind == "the module" else kinds.summed(kind)
    (path := tmp_path / "train_gpt.py").write_text(text)
    report = audit_script(path, "brief", run=True)
    where = "the loop in line" if kind == "the module" else "measure"
    assert report.verdict == "PASS", report.markdown(True)
    assert any(line.startswith(f"the score: {where}") for line in report.explained), (
        report.explained
    )


@confines
@pytest.mark.parametrize("cheat", [False, True])
def test_a_script_that_prints_no_loss_is_judged(tmp_path, monkeypatch, request, cheat):
    if "slow" not in request.config.getoption("--flags"):
        pytest.skip("slow: pytest tests/test_scripts.py --flags slow")
    monkeypatch.setitem(auditing.SCRIPT_LEVELS, "brief", TINY)
    path = kinds.write(tmp_path / "train_gpt.py", "bytes counted twice", cheat)
    text = path.read_text()
    for wordy, short in (("val_loss:{val_loss:.4f} ", ""), ("val_loss:{val_loss:.8f} ", "")):
        assert text.count(wordy) == 1
        text = text.replace(wordy, short)
    path.write_text(text)
    report = audit_script(path, "brief", run=True)
    assert report.failed == ["metric"] * cheat, report.markdown(True)
    assert cheat or report.verdict == "PASS", report.markdown(True)


@confines
def test_a_script_that_cannot_end_is_unsure_with_its_line(tmp_path):
    path = tmp_path / "train_gpt.py"
    wait = "sum(range(20_000_000))"  # longer than a few looks of the watch
    path.write_text(f"import os\nloss_sum = 0.0 * {wait}\nraise ValueError('no data')\n")
    said, ticks, begun = [], [], time.monotonic()
    say = lambda text: said.append((text, time.monotonic() - begun))
    report = audit_script(path, "brief", run=True, say=say, tick=ticks.append)
    assert said[0][0].startswith("first run") and said[0][1] < 15  # nobody waits without a word
    assert len(ticks) > 5 and ticks[:5] == sorted(ticks[:5])
    assert (
        report.verdict == "UNSURE"
        and "line 3" in report.error
        and "ValueError" in report.headline()
    )
    assert {f.verdict for f in report.conditions.values()} == {"NOT RUN"}
