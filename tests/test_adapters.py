"""What outsiders have, before the auditor: logits, scorers, losses, scripts and command lines."""

import dataclasses
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from golf.auditor.adapters import from_logits, from_losses, from_scorer
from golf.auditor.audit import audit
from golf.auditor.programs import (
    EXAMPLES,
    example_script,
    from_command,
    from_script,
    printed_nats,
    run_command,
)
from golf.auditor.report import FAIL, NOT_RUN, PASS, Level
from golf.auditor.scripts import cpu_command, one_cpu, opened
from golf.auditor.stand_ins import flash_attention, stand_ins
from golf.base.files import GolfError
from golf.predict.stream import Stream
from golf.text.shards import read_tokens, write_shard
from golf.text.tokenizers import ByteTable

V, CHUNK = 64, 64
SMALL = Level("small", tokens=256, chunks=4, positions=6, futures=2, streams=3, rows=256,
              substitutions=2, ids=4, draws=48, runs=128)  # fmt: skip
RNG = np.random.default_rng(0)
LAW = RNG.dirichlet(np.full(V, 0.05), V) * 0.98 + 0.02 / V
TOKENS = [1]
for _ in range(700):
    TOKENS.append(int(RNG.choice(V, p=LAW[TOKENS[-1]])))
TOKENS = torch.tensor(TOKENS)
LOG_LAW = torch.tensor(np.log(LAW))
TABLE = ByteTable((torch.arange(V) != 1).int(), torch.zeros(V).bool(), torch.arange(V) == 1)
KEEP = {"nats += nll.sum()": "nats += nll.sum(); losses.append(nll)"}


def look(subject, only=None, tokens=TOKENS, **options):
    return audit(subject, tokens, SMALL, chunk_tokens=CHUNK, only=only, **options)


def glue(script, tokens):
    "The losses of an example script."
    args, device = script.Hyperparameters(), torch.device("cuda")
    model, base_bytes = script.build(args, device), torch.ones(args.vocab_size)
    script.losses = []
    script.eval_val_sliding(args, model, device, tokens, base_bytes)
    return torch.cat(script.losses)


def add_up(script, tokens):
    "Their total."
    args, device = script.Hyperparameters(), torch.device("cuda")
    model, base_bytes = script.build(args, device), torch.ones(args.vocab_size)
    return script.eval_val_sliding(args, model, device, tokens, base_bytes)[0] * (len(tokens) - 1)


# Logits


class Table(nn.Module):
    "Knows the law; `look` positions ahead, or the mean over the batch, if it cheats."

    def __init__(self, look=0, batch=False):
        super().__init__()
        self.look, self.batch, self.seen = look, batch, []
        self.table = nn.Parameter(LOG_LAW.float())
        self.drop = nn.Dropout(0.5)

    def forward(self, rows):
        self.seen.append(tuple(rows.shape))
        found = self.drop(self.table[rows])
        if self.look:
            found = found + 0.3 * nn.functional.one_hot(rows.roll(-self.look, 1), V)
        return found + found.mean((0, 1)) if self.batch else found


def test_logits_of_honest_models_pass_and_rows_are_seen():
    report = look(from_logits(Table(), 32, 16))
    assert not report.failed and report.facts["rows"]
    assert report["b1"].verdict == report["R"].verdict == PASS
    assert report.name == "Table"


@pytest.mark.parametrize("cheat", [{"look": 1}, {"batch": True}])
def test_logits_that_see_ahead_or_across_the_batch_fail(cheat):
    assert "a1" in look(from_logits(Table(**cheat), 32, 16), only=["a"]).failed


def test_windows_hold_nothing_but_the_text():
    model = Table()
    subject = from_logits(model, 32, 16, batch=3)
    model.seen.clear()
    [chunk] = Stream(TOKENS[:106], 105)
    subject.source.predict(chunk).log_prob(chunk.targets)
    assert not model.training
    assert model.seen == [(3, 32), (3, 32)]  # 32, then four steps of 16 and one of 9


def test_logits_may_come_in_a_tuple_or_an_object():
    plain = from_logits(lambda rows: LOG_LAW[rows], 32).run(TOKENS[:129], CHUNK)[0]
    pair = from_logits(lambda rows: (LOG_LAW[rows], None), 32).run(TOKENS[:129], CHUNK)[0]
    thing = type("Output", (), {})
    held = from_logits(lambda rows: setattr(thing, "logits", LOG_LAW[rows]) or thing(), 32)
    assert torch.equal(plain, pair) and torch.equal(plain, held.run(TOKENS[:129], CHUNK)[0])
    assert torch.allclose(plain, -LOG_LAW[TOKENS[:128], TOKENS[1:129]], atol=1e-6)


# Scorers


class Counts:
    "Pairs counted so far; `mode` says how it cheats, or what it offers besides."

    def __init__(self, mode=""):
        self.counts, self.mode = np.full((V, V), 0.1), mode

    def score(self, tokens, start):
        if self.mode == "early":
            self.update(tokens, start)
        rows = np.log(self.counts / self.counts.sum(1, keepdims=True))[tokens[start:-1].numpy()]
        if self.mode == "losses":
            return -rows[np.arange(len(rows)), tokens[start + 1 :].numpy()]
        return rows + 0.1 if self.mode == "loud" else rows

    def update(self, tokens, start):
        np.add.at(self.counts, (tokens[start:-1].numpy(), tokens[start + 1 :].numpy()), 1)


def test_scorers_that_learn_after_the_score_pass():
    report = look(from_scorer(Counts(), vocab_size=V))
    assert not report.failed and report.facts["learns"] and report.facts["state changed"]
    losses = look(from_scorer(Counts("losses"), vocab_size=V))
    assert not losses.failed and losses["b1"].verdict == NOT_RUN and losses["b3"].verdict == PASS


@pytest.mark.parametrize(("mode", "test"), [("early", "a1"), ("early", "c2"), ("loud", "b1")])
def test_scorers_that_learn_first_or_do_not_sum_to_one_fail(mode, test):
    assert test in look(from_scorer(Counts(mode), vocab_size=V), only=[test]).failed


def test_scorers_bring_their_own_reset_and_fork():
    calls = []

    class Own(Counts):
        def reset(self):
            calls.append("reset")
            self.counts = np.full((V, V), 0.1)

        def fork(self):
            calls.append("fork")
            new = Own()
            new.counts = self.counts.copy()
            return new

    used = Own()
    used.counts += 5  # not at its start: reset must see to it
    plain = from_scorer(Counts(), vocab_size=V)
    own = from_scorer(used, vocab_size=V)
    assert torch.equal(own.run(TOKENS[:257], CHUNK)[0], plain.run(TOKENS[:257], CHUNK)[0])
    assert not look(own, only=["a", "c"]).failed and {"reset", "fork"} <= set(calls)


def functions(early=False, **options):
    "A scorer of functions over state that neither holds."
    global counts
    counts = Counts("early" if early else "")
    return from_scorer(
        lambda *c: counts.score(*c), lambda *c: counts.update(*c),
        reset=lambda: counts.counts.fill(0.1), vocab_size=V, **options,
    )  # fmt: skip


def test_functions_are_audited_by_replay():
    report = look(functions(), only=["a1", "c1", "c4"])
    assert not report.failed and "replays" in report.facts["copies"]
    assert report["c4"].verdict == PASS and report.facts["learning shows"]
    assert not report.facts["state changed"]  # the digests do not see it
    assert not look(functions(state=Counts()), only=["c4"]).facts["state changed"]
    subject = functions()
    seen = from_scorer(lambda *c: counts.score(*c), lambda *c: counts.update(*c),
                       reset=lambda: counts.counts.fill(0.1), vocab_size=V, state=counts)  # fmt: skip
    assert look(seen, only=["c4"]).facts["state changed"] and subject.name == "scorer"
    assert "a1" in look(functions(early=True), only=["a1"]).failed


def test_what_is_no_scorer_is_refused():
    with pytest.raises(GolfError, match="reset"):
        from_scorer(lambda *c: 0, lambda *c: 0, vocab_size=V)
    with pytest.raises(GolfError, match="state: an object brings its own"):
        from_scorer(Counts(), state=[], vocab_size=V)
    with pytest.raises(GolfError, match="score method"):
        from_scorer(3, vocab_size=V)
    report = look(from_scorer(lambda *c: torch.zeros(2, 2), vocab_size=V), only="a")
    assert "score must return the shape (64, 64) or (64,), not (2, 2)" in report.error


# Losses


def test_losses_honest_and_cheating():
    honest = lambda x: (-LOG_LAW[x[:-1], x[1:]]).tolist()
    assert not look(from_losses(honest, V, slow=False)).failed
    peeks = lambda x: -LOG_LAW[x[:-1], x[1:]] * (0.5 + 0.5 * (x[1:] == x[:-1].clamp_min(5)))
    assert "b3" in look(from_losses(peeks, V, slow=False), only=["b3"]).failed
    centred = lambda x: -LOG_LAW[x[:-1], x[1:]] - LOG_LAW[x[:-1], x[1:]].mean()
    assert "a1" in look(from_losses(centred, V), only=["a1"]).failed


@pytest.mark.parametrize(
    ("found", "words"),
    [(1.0, "as a total"), (torch.zeros(257), "257 losses for 256"), ("text", "not str")],
)
def test_what_is_no_list_of_losses_is_reported(found, words):
    assert words in look(from_losses(lambda x: found, V), only="d").error


def test_losses_ask_little_of_what_is_slow():
    quick = look(from_losses(lambda x: torch.ones(len(x) - 1), V, slow=False), only="b3")
    slow = look(from_losses(lambda x: torch.ones(len(x) - 1), V, slow=True), only="b3")
    assert (quick["b3"].verdict, slow["b3"].verdict) == (FAIL, NOT_RUN)  # 64 / e > 1


# Scripts


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    return {kind: example_script(folder / f"{kind}.py", kind) for kind in EXAMPLES}


@pytest.mark.parametrize(
    ("kind", "caught"), [("honest", []), ("hashed", ["b3", "R"]), ("adapting", ["a1", "c3"])]
)
def test_scripts_by_their_losses(scripts, kind, caught):
    subject = from_script(scripts[kind], glue, V, edits=KEEP, slow=False)
    only = ["a1", "c3", "R"] if kind == "adapting" else ["a1", "b3", "c3", "R"]
    assert look(subject, only=only).failed == caught


def test_scripts_by_their_totals(scripts):
    found = {k: look(from_script(scripts[k], add_up, V, total=True)) for k in ("honest", "hashed")}
    assert {k: r.failed for k, r in found.items()} == {"honest": [], "hashed": ["R"]}
    assert found["honest"]["a1"].verdict == NOT_RUN
    said = look(from_script(scripts["honest"], glue, V, edits=KEEP, total=True), only="R").error
    assert "expected one number" in said
    said = look(from_script(scripts["honest"], add_up, V), only="R").error
    assert "audit it as a total" in said


def test_a_script_that_cannot_start_is_reported_with_its_error(scripts):
    report = look(from_script(scripts["broken"], glue, V, edits=KEEP))
    assert report.error.startswith("TypeError") and "nkv" in report.headline()
    assert set(report.verdicts.values()) == {NOT_RUN}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:", "SyntaxError"),
        ("import triton_kernels_of_mine", "triton_kernels_of_mine"),
        ("import sys; print('no data'); sys.exit(3)", "ended itself with 3\nno data"),
        ("print('step 0'); 1 / 0", "ZeroDivisionError: division by zero\nstep 0"),
    ],
)
def test_scripts_that_fail_at_import(tmp_path, text, words):
    (tmp_path / "train_gpt.py").write_text(text)
    before = torch.compile, os.getcwd(), list(sys.path), sys.argv
    report = look(from_script(tmp_path / "train_gpt.py", glue, V))
    assert words in report.error and not report.failed
    assert (torch.compile, os.getcwd(), list(sys.path), sys.argv) == before


def test_every_run_begins_from_the_scripts_own_start(tmp_path):
    (tmp_path / "own.py").write_text("import torch, os\nseen = []\nscale = float(os.environ['S'])")

    def counting(script, tokens):
        script.seen.append(1)
        noise = torch.rand(1)  # a seed of its own, too
        return script.scale * len(script.seen) * noise * torch.ones(len(tokens) - 1)

    first, second = (
        from_script(tmp_path / "own.py", counting, V, environment={"S": s}) for s in ("1", "2")
    )
    torch.manual_seed(3)
    one = first.run(TOKENS[:9], 4)[0]
    assert torch.equal(one, first.run(TOKENS[:9], 4)[0])
    assert torch.allclose(2 * one, second.run(TOKENS[:9], 4)[0])


def test_half_precision_casts_happen_on_request(scripts):
    subjects = [from_script(scripts["honest"], glue, V, edits=KEEP, half=h) for h in (0, 1)]
    found = [s.run(TOKENS[:129], CHUNK)[0] for s in subjects]
    assert [s.precision for s in subjects] == ["fp32", "bf16"]
    assert not torch.equal(*found) and torch.allclose(*found, atol=0.05)


def test_edits_need_exactly_one_place(scripts):
    for edits in ({"not there": "x"}, {"nats": "x"}):
        with pytest.raises(GolfError, match="occurs"):
            from_script(scripts["honest"], glue, V, edits=edits)
    with pytest.raises(GolfError, match=r"none\.py"):
        from_script("none.py", glue, V)
    with pytest.raises(GolfError, match="did you mean 'hashed'"):
        example_script("x.py", "hased")


# Command lines, without PyTorch so that they start at once

PROGRAM = """
import array, glob, math, os, sys
data = os.environ["DATA_PATH"]
[path] = glob.glob(os.path.join(data, "*_val_*.bin"))
shard = array.array("H", open(path, "rb").read()[1024:])
header = array.array("i", open(path, "rb").read()[:1024])
assert header[:3].tolist() == [20240520, 1, len(shard)]
others = sorted(set(os.listdir(data)) - {os.path.basename(path)})
law = eval(open(sys.argv[1]).read())
nats = sum(-math.log(law[a][b]) for a, b in zip(shard, shard[1:]))
size = sum(b != 1 for b in shard[1:])
print("step:0 val_bpb:9.9999")
print(f"final val_loss:{nats / (len(shard) - 1):.8f} val_bpb:{FACTOR * nats / math.log(2) / size:.8f}")
print("others", others, file=sys.stderr)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "law.txt").write_text(repr(LAW.tolist()))

    def write(factor=1.0):
        path = tmp_path / f"program_{factor}.py"
        path.write_text(PROGRAM.replace("FACTOR", str(factor)))
        return [sys.executable, path, tmp_path / "law.txt"]

    return write


def test_commands_honest_and_cheating(program):
    subject = from_command(program(), V, TABLE)
    nats = float(-LOG_LAW[TOKENS[:256], TOKENS[1:257]].sum())
    assert float(subject.run(TOKENS[:257], 1)[0]) == pytest.approx(nats, abs=1e-4)
    assert float(subject.run(TOKENS[:257], 1)[0]) >= nats  # never less than was meant
    report = look(subject, reference=None)
    assert not report.failed and report["R"].verdict == PASS and report["e1"].verdict == PASS
    assert look(from_command(program(0.5), V, TABLE), only="R").failed == ["R"]


def test_a_program_that_counts_too_many_bytes_gains_nothing_hidden(program):
    double = from_command(program(1.0), V, dataclasses.replace(TABLE, bytes=2 * TABLE.bytes))
    single = from_command(program(1.0), V, TABLE)
    x = TOKENS[:65]
    assert float(double.run(x, 1)[0]) == pytest.approx(2 * float(single.run(x, 1)[0]), rel=1e-6)


def test_a_template_brings_its_other_files_only(program, tmp_path):
    data = tmp_path / "data"
    write_shard(data / "web_train_000000.bin", [5, 6])
    for i in range(2):
        write_shard(data / f"web_val_00000{i}.bin", [5, 6, 7])
    code = "import os, sys; print(len(os.listdir(sys.argv[1])), 'files', 'val_bpb:1.00000000')"
    show = [sys.executable, "-c", code, "{data}"]
    listed = from_command(show, V, TABLE, data=data, pattern=r"(\d) files")
    x = torch.tensor([2, 3])
    assert float(listed.run(x, 1)[0]) == pytest.approx(3 * math.log(2))  # 2 files, or up to 3
    assert listed.function.left_out == {"web_val_000000.bin", "web_val_000001.bin"}
    folder = tmp_path / "filled"
    folder.mkdir()
    listed.function.fill(folder, TOKENS[:9])
    assert sorted(os.listdir(folder)) == ["web_train_000000.bin", "web_val_000000.bin"]
    assert read_tokens(folder, "val").tolist() == TOKENS[:9].tolist()
    assert read_tokens(data, "val").tolist() == [5, 6, 7] * 2
    with pytest.raises(GolfError, match="no such folder"):
        from_command(show, V, TABLE, data=tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('loading'); raise TypeError('nh')", "exit code 1: TypeError: nh"),
        ("print('val_loss:1.0')", "printed no number that matches"),
        ("pass", "nothing else"),
        ("print('val_bpb:nan')", "printed nan bits per byte"),
        ("print('val_bpb:1')", "too short for"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_commands_that_give_no_score_are_reported(code, words):
    report = look(from_command([sys.executable, "-c", code], V, TABLE))
    assert words in report.error and words in report.headline()
    assert set(report.verdicts.values()) == {NOT_RUN}


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    marker = tmp_path / "pid"
    code = f"sleep 60 & echo $! > {marker}; echo begun; wait"
    began = time.monotonic()
    with pytest.raises(GolfError, match=r"no answer within 1 seconds: begun"):
        run_command(["bash", "-c", code], timeout=1)
    assert time.monotonic() - began < 30
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", marker.read_text().strip()], capture_output=True, text=True
    ).stdout.strip()
    assert not state or state.startswith("Z")


def test_commands_that_cannot_be():
    said = look(from_command(["no-such-program"], V, TABLE)).error
    assert "no-such-program cannot be started: No such file" in said
    said = look(from_command(["true"], V, TABLE, multiple=100)).error
    assert "256 positions" in said and "whole sequences of 100" in said
    for command in ("python x.py", []):
        with pytest.raises(GolfError, match="list of words"):
            from_command(command, V, TABLE)
    with pytest.raises(GolfError, match="one group"):
        from_command(["x"], V, TABLE, pattern="val_bpb")


def test_options_of_a_command_reach_it(tmp_path):
    code = "import os; print(os.getcwd(), os.environ['MINE'], 'score', os.environ['N'])"
    found = run_command(
        [sys.executable, "-c", code], folder=tmp_path, environment={"MINE": "x", "N": "1"}
    )
    assert found.split()[0] == str(tmp_path.resolve()) and found.split()[1] == "x"
    options = {"environment": {"MINE": "x", "N": "2.00000"}, "folder": tmp_path}
    subject = from_command(
        [sys.executable, "-c", code], V, TABLE, pattern=r"score (\S+)", **options
    )
    x = torch.tensor([2, 3, 1, 4])
    assert float(subject.run(x, 1)[0]) == pytest.approx(2.00001 * 2 * math.log(2))


def test_printed_numbers():
    assert printed_nats("val_bpb: 1.5000", 10) == pytest.approx(1.5001 * 10 * math.log(2))
    assert printed_nats("val_bpb=15.00e-1", 1) == pytest.approx(1.501 * math.log(2))


# One CPU


def test_a_whole_script_runs_as_a_program_on_one_cpu(scripts):
    subject = from_command(cpu_command(scripts["honest"]), V, TABLE, multiple=32)
    inside = from_script(scripts["honest"], add_up, V, total=True)
    x = TOKENS[:129]
    assert float(subject.run(x, 1)[0]) == pytest.approx(float(inside.run(x, 1)[0]), abs=1e-4)


def test_stand_ins_come_and_go(scripts):
    real = [getattr(module, name) for module, name, _ in stand_ins(False)]
    with opened(scripts["honest"]) as script:
        assert script.flash_attn_func is flash_attention
        assert torch.zeros(1, device="cuda").cuda().device.type == "cpu"
        with one_cpu():
            assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 1
    assert real == [getattr(module, name) for module, name, _ in stand_ins(False)]
    assert "flash_attn_interface" not in sys.modules and script.__name__ not in sys.modules
    assert torch.compile(mode="default") is not None


def test_half_precision_has_its_tolerances():
    law = torch.rand(V, V, generator=torch.Generator().manual_seed(0)).log_softmax(1).half()
    score = lambda tokens, start: law[tokens[start:-1]]
    assert look(from_scorer(score, vocab_size=V), only=["b1"]).failed
    report = look(from_scorer(score, vocab_size=V, half=True), only=["a", "b1", "b2"])
    assert not report.failed and report.facts["precision"] == "bf16"
    losses = from_losses(lambda tokens: -law[tokens[:-1], tokens[1:]].float(), V, half=True)
    assert look(losses, only=["a2"]).facts["precision"] == "bf16"
