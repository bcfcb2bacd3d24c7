"""Logs and claims of strangers: whatever they hold, the lints answer in time, or in one line."""

import json
import random
import time

import pandas as pd
import pytest

from golf.auditor.claims import read_claim
from golf.auditor.curves import check_stops
from golf.auditor.denominators import printed
from golf.auditor.lints import TABLES, lint_submission, lint_tables
from golf.auditor.logs import parse_log
from golf.auditor.programs import printed_nats
from golf.base.files import GolfError
from golf.lab.engine import overrides as given
from golf.lab.engine import parse_command
from golf.lab.knobs import notebook_parameters, parse_parameters

LINES = [
    "Mon Feb 31 25:61:61 2026", "step:1/9 train_loss:6.9 train_time:12ms step_avg:1.2ms",
    "final_int6 val_loss: 2.0 val_bpb: 1.19", "ttt_chunk [1/2] bpb=1.1 time=0.5s", "seed:1337",
    "Code size: 1234 bytes", "Serialized model int6+zlib: 1234 bytes", "total_eval_time: 3.5 s",
    "Total submission size int6+zlib: 2468 bytes", "world_size:8", "eval_time:12ms",
    "val_loader:shards pattern=x tokens:62021632", "stopping_early: wallclock_cap train_time:5ms",
    "mtp_loss_weight:0.2 mtp_params:5", "swa:start step:50", "| 0   N/A  N/A   123 python",
    "step:0/9 val_loss:6.9 val_bpb:4.1 train_time:0ms step_avg:0ms", "fineweb10B_sp1024",
]  # fmt: skip
IMPOSSIBLE = ["1.1.1", "9" * 5000, "0e9999999999", "1e400", "nan", ".", "", "0", "1" * 30, "٣"]


@pytest.mark.parametrize("unit", [
    " ", "\n", "\t\n", " \n", "a ", "size", "size ", "model(", "+ ", "9", "1.", "val_loss: ",
    "x val_loss:1 ", "val_loader:shards ", "pid:", "|\n", "| 0 N/A ", "step:1/", "eval_time:1",
    "Mon Feb ", "ttt_chunk [1/", "total_eval_time: 1 ", "Serialized model ", ": 1 bytes",
])  # fmt: skip
def test_a_log_of_one_thing_over_and_over_takes_no_longer_than_its_length(unit):
    text = unit * (400_000 // len(unit))
    begun = time.process_time()
    parse_log(text)
    parse_log("Code size" + text)
    assert time.process_time() - begun < 5  # quadratic: minutes


@pytest.mark.parametrize("number", IMPOSSIBLE)
def test_dates_times_and_numbers_that_cannot_be(number, tmp_path):
    for line in LINES:
        digits = [i for i, c in enumerate(line) if c.isdigit()]
        for i in digits[:6]:
            text = "\n".join([*LINES, line[:i] + number + line[i + 1 :], ""])
            answered(lambda text=text: lint_submission({}, [text, text]))
    for field in ("val_loss", "val_bpb", "val_tokens", "bytes_total", "eval_time_ms", "seeds"):
        claim = {"val_loss": "1.9", "val_bpb": "1.1", "seed_results": {"1": {}}} | {field: number}
        answered(lambda claim=claim: lint_submission(claim))
        path = tmp_path / "submission.json"
        path.write_text(json.dumps(claim).replace(f'"{number}"', number or "0"))
        answered(lambda path=path: lint_submission(path))


def answered(work) -> None:
    """A call ends well or in one line."""
    try:
        work()
    except GolfError as error:
        assert "\n" not in str(error) and len(str(error)) < 500


def test_logs_cut_and_mixed_at_random():
    rng = random.Random(5)
    for _ in range(300):
        lines = rng.choices(LINES, k=12)
        k = rng.randrange(12)
        line = list(lines[k])
        for _ in range(rng.randrange(1, 5)):
            line[rng.randrange(len(line))] = rng.choice("0123456789. :-/[]|\n\0e")
        lines[k] = "".join(line)
        answered(lambda lines=lines: lint_submission({}, "\n".join([*lines, ""])))


def test_a_launch_that_never_was_is_no_launch():
    assert "start" not in parse_log(LINES[0]).facts
    assert parse_log("Mon Feb 28 05:01:01 2026").facts["start"].day == 28


def test_steps_that_took_no_time():
    text = "\n".join([LINES[16], LINES[12]])
    assert check_stops([parse_log(text)] * 2).verdict == "NOT RUN"


@pytest.mark.parametrize("number", IMPOSSIBLE)
def test_tables_with_numbers_that_cannot_be(number, tmp_path):
    columns = ["pr", "seed", "stage", "val_loss", "val_bpb"]
    results = pd.DataFrame([["1", "1", "final", "1.9", "1.1"]], columns=columns)
    steps = pd.DataFrame([["1", "1", "3", "1.9", "", "", "5", "1.0"]], columns=[
        "pr", "seed", "step", "train_loss", "val_loss", "val_bpb", "train_ms", "step_avg_ms"])  # fmt: skip
    curve = pd.DataFrame([["1", "1", "1", "2", "1.1", "0.5"]],
                         columns=["pr", "seed", "chunk", "chunks", "running_bpb_rank0", "seconds"])  # fmt: skip
    more = [frame.assign(seed="2") for frame in (results, steps, curve)]
    frames = dict(zip(TABLES, map(pd.concat, zip((results, steps, curve), more))))
    for frame in frames.values():
        for column in list(frame)[1:]:
            was = frame[column].iloc[0]
            frame[column] = number
            for name, one in frames.items():
                one.to_csv(tmp_path / name, index=False)
            answered(lambda: lint_tables(tmp_path))
            frame[column] = was


def test_a_log_that_is_no_log(tmp_path):
    sparse = tmp_path / "train.log"
    with open(sparse, "wb") as file:
        file.truncate(1 << 33)
    for place in (sparse, tmp_path, "/dev/zero", tmp_path / "none.log"):
        with pytest.raises(GolfError):
            lint_submission({}, place)
    with pytest.raises(GolfError):
        read_claim(sparse)


@pytest.mark.parametrize("number", ["0e9999999999", "1e9999", "0e" + "9" * 5000, [10**5000]])
def test_a_number_is_refused_in_one_line(number):
    with pytest.raises(GolfError, match="finite number"):
        printed(number[0] if isinstance(number, list) else number)


def test_a_command_that_prints_an_impossible_number():
    with pytest.raises(GolfError, match="bits per byte"):
        printed_nats("val_bpb: 0e9999999999", 100)


@pytest.mark.parametrize("text", ["a = " + "(" * 5000, "a = " + "9" * 5000, "a = '''", "a = \0"])
def test_parameters_that_are_no_python(text, tmp_path):
    with pytest.raises(GolfError):
        parse_parameters(text)
    path = tmp_path / "a.ipynb"
    for cells in ("[" * 100_000, '{"cells": [1]}', '{"cells": {"a": 1}}'):
        path.write_text(cells)
        with pytest.raises(GolfError):
            notebook_parameters(path)


@pytest.mark.parametrize("text", ["a: " + "9" * 5000, "[" * 5000, "{a: 1}: 2", "a: 1__0:9"])
def test_yaml_that_cannot_be_read(text):
    command = parse_command(["x.ipynb", "y.ipynb", "-y", text])
    answered(lambda: given(command))


VALUES = [None, True, -1, 0, 3, 1337, "1.05", "1e300", "nan", "x", [], {}, [1, 2], ["a"], 1.05, 1e308,
          1e-308, 10**30, "9" * 400, {"mean": "1.05"}, {"mean": 1.1, "std": "x"}, [{"seed": 1, "val_bpb": 1.1}],
          {"1": 1.1, "2": {"val_bpb": "1.2"}}, {"seed_1": None}, "8xH100", 16_400_000, 0.001]  # fmt: skip
NAMES = ["val_bpb", "val_loss", "seeds", "seed_results", "per_seed", "val_bpb_std", "bytes_total", "bytes_code",
         "bytes_model", "artifact_mb", "val_tokens", "track", "hardware", "train_time_s", "eval_time_ms", "steps",
         "p_value", "baseline", "metrics", "results", "seed_42", "seed_7_val_bpb", "val_bpb_seeds", "std", "n"]  # fmt: skip


def test_claims_of_any_shape_have_a_report():
    rng = random.Random(2)
    log = "seed:42\n" + "\n".join([*LINES, ""])
    for _ in range(400):
        claim = {rng.choice(NAMES): rng.choice(VALUES) for _ in range(rng.randrange(1, 9))}
        claim["metrics"] = {rng.choice(NAMES): rng.choice(VALUES) for _ in range(3)}
        report = lint_submission(claim, log if rng.random() < 0.5 else None)
        assert len(report._repr_markdown_()) < 100_000 and json.dumps(report.as_dict())


@pytest.mark.parametrize(
    ("score", "rate", "verdicts"),
    [("1.1184", "1e-3", ["PASS", "PASS"]), ("1.1194", "0.002", ["UNSURE", "UNSURE"])],
)
def test_a_readme_of_another_run_is_named(tmp_path, score, rate, verdicts):
    "Who copies its command would train something else."
    (tmp_path / "submission.json").write_text('{"val_bpb": 1.1184, "seeds": [1]}')
    log = "ttt_lr: 0.001\nseed:1\nfinal val_loss:1.8898 val_bpb:1.1184\n"
    (tmp_path / "train_seed1.log").write_text(log)
    page = f"# Mine\n\nval_bpb {score}\n\n    SEED=1 TTT_LR={rate} torchrun train_gpt.py\n"
    bare = {f.check for f in lint_submission(tmp_path).findings}
    (tmp_path / "README.md").write_text(page)
    rows = {f.check: f for f in lint_submission(tmp_path).findings}
    assert rows.keys() - bare == {"score of the README", "settings of the README"}
    assert [rows[f"{what} of the README"].verdict for what in ("score", "settings")] == verdicts
