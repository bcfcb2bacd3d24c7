"""Kinds of honest submissions that were accused, and of false ones that passed: numbers only, one test a kind."""

import csv
import json
import time

import pytest
from typer.testing import CliRunner

from golf.auditor.drawn import lint_honest
from golf.auditor.folders import open_folder
from golf.auditor.lints import HEAD, compare_with, lint_folders, lint_submission
from golf.base.files import GolfError, project_root
from golf.lab.cli import app

SHARED = project_root().parent / "shared" / "cases" / "lints"

# kind: the check, the right verdict, a claim, logs
KINDS = {
    "two evaluations of one run cut the tail of the text differently": (
        "exact scores", "PASS", None,
        ["val_tokens: 40540160\npre val_loss:2.80034211 val_bpb:1.08418723\nttt val_loss:2.76010001 val_bpb:1.06847000\n"]),
    "one tokenizer has several counts of its text": (
        "exact scores", "PASS", None,
        ["val_tokens: 45508608\ndata_path: ./data/datasets/fineweb10B_sp4096\nfinal val_loss:2.53001000 val_bpb:1.09940000\n"]),
    "the packed model stands under a name with a hyphen and the raw one above it": (
        "cap", "PASS", None,
        ["Serialized model: 91000000 bytes\nCode size: 50000 bytes\nTotal submission size: 91050000 bytes\n"
         "Serialized model int5+lzma-9: 15100000 bytes (payload:22000000)\nTotal submission size int5+lzma-9: 15150000 bytes\n"]),
    "a run was restarted into the same file": (
        "order of the steps", "UNSURE", None,
        ["step:500/9000 train_loss:2.4 train_time:60000ms step_avg:120.00ms\nstep:1500/9000 train_loss:2.3 train_time:180000ms step_avg:120.00ms\n"
         "step:500/9000 train_loss:2.4 train_time:40000ms step_avg:80.00ms\nstep:2500/9000 train_loss:2.2 train_time:200000ms step_avg:80.00ms\n"]),
    "weights were averaged at another interval": (
        "start of the average", "UNSURE", None, ["swa:start step:4545\nstep:5000/9000 train_loss:2.0 train_time:400000ms step_avg:80.00ms\n"]),
    "the clock started before the first step": (
        "clock", "PASS", None,
        ["".join(f"step:{n}/9000 train_loss:2.0 train_time:{17_500 + 85 * n}ms step_avg:85.00ms\n" for n in (100, 200, 4000, 6000))]),
    "the average is of the last steps": (
        "clock", "UNSURE", None,
        ["".join(f"step:{n}/9000 train_loss:2.0 train_time:{80 * n + n * n // 2000}ms step_avg:{80 + n / 1000:.2f}ms\n" for n in range(500, 9000, 500))]),
    "the last step of one seed had a hiccup": (
        "time limit of the seeds", "UNSURE", None,
        [f"step:7000/9000 train_loss:2.0 train_time:{t}ms step_avg:85.70ms\nstopping_early: wallclock_cap train_time:{t}ms step:7000/9000\n" for t in (599_950, 600_420)]),
    "the total is of one seed and the largest artifact of another": (
        "sum of the sizes", "PASS",
        {"val_bpb": 1.1, "total_bytes": 15_600_000, "code_bytes": 100_000, "model_bytes": 15_500_000,
         "seed_results": {"1": {"val_bpb": 1.1, "artifact_bytes": 15_700_000}, "2": {"val_bpb": 1.1, "artifact_bytes": 15_650_000}}}, None),
    "chunks of another length": (
        "hard passages", "NOT RUN", None,
        ["data_path: data/fineweb10B_sp1024\n" + "".join(f"ttt_chunk [{c}/947] bpb={1.15 - c / 1e5:.6f} time={c / 9:.1f}s\n" for c in (1, *range(101, 947, 100), 947))]),
    "a model of bytes": ("loss over bpb", "UNSURE", {"val_loss": "0.8318", "val_bpb": "1.2000"}, None),
    "a part of the text that looks like a named fault of another tokenizer": (
        "loss over bpb", "UNSURE", {"val_loss": "3.41015", "val_bpb": "1.33500"},
        ["val_tokens: 262145\nfinal val_loss:3.41124500 val_bpb:1.33542867\n"]),
    "a part of the text that the log declares": (
        "exact scores", "UNSURE", {"val_loss": 4.1, "val_bpb": 2.38},
        ["data/fineweb10B_sp1024\nval_loader:shards pattern=x tokens:65536\nfinal val_loss:4.10000000 val_bpb:2.38000000\n"]),
    "minutes instead of milliseconds": (
        "training time", "PASS", None,
        ["val_tokens: 40540160\n1/20000 train_loss: 9.0 train_time: 0.0m tok/s: 1\n4000/20000 train_loss: 2.2 train_time: 10.0m tok/s: 1\n"]),
    "no result yet": ("loss over bpb", "UNSURE", {"val_loss": 0.0, "val_bpb": 0.0}, None),
    "a claim below every line of its log": (
        "claim against log", "FAIL", {"val_bpb": "1.0901"},
        ["fineweb10B_sp1024\nstep:9000/9000 val_loss:2.0273 val_bpb:1.2007 train_time:1ms step_avg:1.00ms\nfinal val_loss:1.91000000 val_bpb:1.13121200\n"]),
    "the total is called submission_size_bytes": ("cap", "FAIL", {"val_bpb": 1.1, "submission_size_bytes": 16_000_001}, None),
    "the best of a list of seeds": (
        "mean of the seeds", "FAIL", {"val_bpb": 1.0812, "per_seed": [{"seed": 1, "val_bpb": 1.0812}, {"seed": 2, "val_bpb": 1.0841}, {"seed": 3, "val_bpb": 1.0855}]}, None),
    "a deviation rounded elsewhere": (
        "mean of the seeds", "UNSURE",
        {"val_bpb": 1.10005222, "val_bpb_std": 0.00040642, "seed_results": {"1": 1.10051234, "2": 1.09974321, "3": 1.09990111}}, None),
    "a network that starts worse than one that knows nothing": (
        "first loss", "UNSURE", None, ["data/fineweb10B_sp1024\nstep:0/9000 val_loss:7.9000 val_bpb:4.6788 train_time:0ms step_avg:0.01ms\n"]),
    "bare numbers, the best of which is the headline": (
        "mean of the seeds", "FAIL", {"val_bpb": 1.20119, "seed_results": {"1": 1.2011, "2": 1.2074, "3": 1.2043}}, None),
    "the script's default path is another tokenizer's": (
        "exact scores", "PASS", None,
        ['import os\nDATA = os.environ.get("DATA_PATH", "./data/fineweb10B_sp1024")\n' + "=" * 100 + "\nval_tokens: 40540160\nfinal val_loss:2.76010001 val_bpb:1.06850000\n"]),
    "another track takes hours": (
        "training time", "PASS", {"val_bpb": 1.1, "track": "non-record, unlimited compute", "hardware": "8xH100", "train_time_s": 14_400}, None),
    "one log lies there twice": (
        "launch times", "NOT RUN", None, ["Sat Mar 28 03:52:14 2026\npid: 900\nfinal val_loss:1.9 val_bpb:1.1253\n"] * 2),
}  # fmt: skip


KINDS |= {
    "the headline is the mean of a column with a name of its own": (
        "mean of the seeds", "PASS",
        {"val_bpb": 1.1005, "seed_results": {"1": {"val_bpb": 1.11, "after_ttt": 1.1}, "2": {"val_bpb": 1.112, "after_ttt": 1.101}}}, None),
    "a deviation that does not say of what": (
        "mean of the seeds", "UNSURE", {"val_bpb": 1.10112, "std": 0.00001, "seed_results": {"1": 1.10012, "2": 1.10212}}, None),
    "a log of a longer experiment lies beside the submission's": (
        "training time", "UNSURE", {"val_bpb": 1.131212, "track": "10min_16mb", "hardware": "8xH100"},
        [f"step:9/9 train_loss:2.0 train_time:{t}ms step_avg:85.00ms\nfinal val_loss:1.91000000 val_bpb:1.13121200\n" for t in (599_000, 2_400_000)]),
    "seeds were evaluated into logs of their own": (
        "seeds against logs", "PASS", {"val_bpb": 1.101, "seed_results": {"42": 1.101}},
        ["seed:42\nroundtrip val_loss:1.91000000 val_bpb:1.13121200\n", "ttt val_loss:1.85901000 val_bpb:1.10100000\n"]),
    "the second run in a file was cut after its model": (
        "sum of the sizes", "PASS", None,
        ["Code size: 100 bytes\nSerialized model int6+zlib: 9000 bytes\nTotal submission size int6+zlib: 9100 bytes\nSerialized model int6+zlib: 9900 bytes\nTotal subm"]),
    "only the number of seeds is given, and one log": (
        "claim against log", "UNSURE", {"val_bpb": 1.05, "seeds": 3}, ["final val_loss:1.91000000 val_bpb:1.13121200\n"]),
    "the evaluation was fast, all evaluations together were not": (
        "evaluation time", "UNSURE", {"val_bpb": 1.131212, "track": "10min_16mb", "hardware": "8xH100"},
        ["final val_loss:1.91000000 val_bpb:1.13121200 eval_time:500000ms\ntotal_eval_time:700.0s\n"]),
}  # fmt: skip


def row_of(report, check):
    """The finding of a check, whichever of claim and log it is of."""
    rows = {f.check.removeprefix("log: ").removeprefix("claim: "): f for f in report.findings}
    return rows[check]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_accused_of_this_nor_passed_with_it(kind):
    check, right, claim, logs = KINDS[kind]
    report = lint_submission(claim or {}, logs)
    assert row_of(report, check).verdict == right, row_of(report, check)
    assert [f.check for f in report.failed] == ([check] if right == "FAIL" else [])


@pytest.mark.parametrize("path", sorted(SHARED.glob("*.json")), ids=lambda p: p.stem)
def test_cases_of_real_folders(path):
    case = json.loads(path.read_text())
    report = lint_submission(case["claim"] or {}, case["logs"])
    assert row_of(report, case["check"]).verdict == case["should"]
    assert [f.check for f in report.failed] == [case["check"]] * (case["should"] == "FAIL")


def test_one_wrong_number_is_one_finding():
    claim = {
        "val_bpb": 1.0,
        "bytes_total": 16_100_000,
        "seed_results": {"1": 1.0, "2": 1.001, "3": 1.002},
    }
    log = (
        "seed:{}\nfinal val_loss:1.9{} val_bpb:1.12{}\nSerialized model int6+zlib: 16090000 bytes\n"
    )
    logs = [log.format(s, f"{s:06d}", f"{s:06d}") for s in (1, 2, 3)]
    failed = [f.check for f in lint_submission(claim, logs).failed]
    assert failed == ["claim against log", "claim: cap"]


def test_honest_submissions_of_another_seed_do_not_fail():
    failing = lint_honest(150, seed=7)
    assert failing.empty, failing.to_string()


# Folders as they are


def folder_of(path, claim="{}", **files):
    path.mkdir(parents=True, exist_ok=True)
    if claim is not None:
        (path / "submission.json").write_text(claim, "utf-8")
    for name, text in files.items():
        target = path / name.replace("__", "/").replace("_log", ".log").replace("_txt", ".txt")
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    return path


LINE = "final val_loss:1.91000000 val_bpb:1.13121200\n"


def test_a_broken_claim_beside_a_good_log_is_a_row_and_names_its_line(tmp_path):
    report = lint_submission(
        folder_of(tmp_path / "a", '{"val_bpb": 1.1,\n"name": }', train_log=LINE)
    )
    assert "line 2" in row_of(report, "reading submission.json").evidence
    assert row_of(report, "exact scores").verdict == "PASS"
    with pytest.raises(GolfError, match="line 2"):
        lint_submission(folder_of(tmp_path / "b", '{"val_bpb": 1.1,\n"name": }'))


def test_what_was_not_found_is_named(tmp_path):
    report = lint_submission(folder_of(tmp_path / "a", '{"val_bpb": 1.1}'))
    assert report.missing == ["README.md", "train_gpt.py", "logs (*.log, *.txt, *.out)"]
    assert "no code was run" in report.summary() and "of " in report.summary()


def test_a_log_of_gigabytes_is_a_row(tmp_path):
    folder = folder_of(tmp_path / "a", '{"val_bpb": 1.1}', small_log=LINE)
    with open(folder / "huge.log", "wb") as file:
        file.truncate(1 << 32)
    report = lint_submission(folder)
    assert "reading huge.log" in [f.check for f in report.findings]
    assert [log.name for log in open_folder(folder).logs] == ["small.log"]


def test_logs_in_subfolders_with_marks_of_other_systems(tmp_path):
    folder = folder_of(tmp_path / "a", "\ufeff" + '{"val_bpb": 1.131212}', logs__one_txt="x")
    (folder / "logs" / "one.txt").write_bytes(LINE.replace("\n", "\r\n").encode("utf-16"))
    assert row_of(lint_submission(folder), "claim against log").verdict == "PASS"


def test_a_stranger_writes_into_the_page(tmp_path):
    claim = json.dumps({"val_bpb": "<script>", "val_loss": "|x|", "track": "<b>"})
    folder = folder_of(tmp_path / "<img src=x>", claim, **{"a_log": LINE})
    assert "<" not in lint_submission(folder)._repr_markdown_()
    lint_folders(tmp_path, tmp_path / "out" / "audit.csv")
    assert "<" not in (tmp_path / "out" / "audit.md").read_text()


# Many at once


def test_an_interrupted_table_goes_on_and_a_changed_folder_is_read_again(tmp_path):
    tree = tmp_path / "tree"
    for k in range(4):
        folder_of(tree / f"{k}", '{"val_bpb": 1.131212}', train_log=LINE)
    table, seen = tmp_path / "audit.csv", []

    def stop_after_two(folders):
        for folder in folders:
            if len(seen) == 2:
                raise KeyboardInterrupt
            seen.append(folder)
            yield folder

    with pytest.raises(KeyboardInterrupt):
        lint_folders(tree, table, progress=stop_after_two)
    assert [row["folder"] for row in csv.DictReader(table.open())] == ["0", "1"]
    kept = table.read_text().splitlines()[1]
    (tree / "1" / "train.log").write_text(LINE.replace("1.13", "1.17"))
    found = lint_folders(tree, table)
    assert list(found.folder) == ["0", "1", "2", "3"] and tuple(found) == HEAD
    assert kept in table.read_text() and found.verdict[1] != found.verdict[0]


def test_a_foreign_table_is_not_overwritten(tmp_path):
    (tmp_path / "audit.csv").write_text("mine\n1\n")
    with pytest.raises(GolfError, match="--out"):
        lint_folders(folder_of(tmp_path / "tree"), tmp_path / "audit.csv")


def test_a_folder_takes_less_than_a_fifth_of_a_second(tmp_path):
    steps = "".join(
        f"step:{n}/20000 train_loss:2.1 train_time:{83 * n}ms step_avg:83.00ms\n"
        for n in range(1, 2000)
    )
    source = "import os\n" + "x = 1  # source code of a script\n" * 6000 + "=" * 100 + "\n"
    for seed in (1, 2, 3):
        folder_of(
            tmp_path / "a", '{"val_bpb": 1.131212}', **{f"seed{seed}_log": source + steps + LINE}
        )
    begun = time.process_time()
    lint_submission(tmp_path / "a")
    assert time.process_time() - begun < 1  # a fifth on an idle machine


# The command


def test_json_has_names_that_stay_and_exit_codes_say_what_happened(tmp_path):
    run = CliRunner().invoke
    good = folder_of(tmp_path / "good", '{"val_bpb": 1.131212}', train_log=LINE)
    bad = folder_of(tmp_path / "bad", '{"val_bpb": 1.05}', train_log=LINE)
    (tmp_path / "none").mkdir()
    answers = [run(app, ["audit", str(f), "--json"]) for f in (good, bad, tmp_path / "none")]
    assert [a.exit_code for a in answers] == [0, 1, 2]
    report = json.loads(answers[1].stdout)
    assert list(report) == [
        "format",
        "subject",
        "verdict",
        "ran_code",
        "checks_made",
        "checks",
        "read",
        "missing",
        "findings",
    ]
    assert list(report["findings"][0]) == ["check", "verdict", "evidence", "fault"]


@pytest.mark.parametrize("name", ["submission_ternary.json", "train.txt", "logs/a.log"])
def test_the_command_takes_what_the_library_takes(name, tmp_path):
    target = tmp_path / "a" / name
    target.parent.mkdir(parents=True)
    target.write_text('{"val_bpb": 1.13}' if name.endswith("json") else LINE)
    for given in (tmp_path / "a", target):
        assert CliRunner().invoke(app, ["audit", str(given)]).exit_code == 0


def test_better_than_a_row_with_the_shift_and_without(tmp_path):
    claim = {"seed_results": {"1": 1.1099, "2": 1.1101, "3": 1.1100}}
    found = compare_with("#1019", claim)
    assert found.verdict == "PASS" and "for any gain" in found.evidence and "nats" in found.evidence
    assert compare_with(claim, claim).verdict == "UNSURE"
    assert compare_with("#1019", {}).verdict == "NOT RUN"
    alike = {
        "seed_results": {"1": 1.11, "2": 1.11},
        "p_value": 0.01,
        "baseline": {"a": 1.12, "b": 1.12},
    }
    assert compare_with(alike, alike).verdict == "NOT RUN"  # no spread on either side
    assert row_of(lint_submission(alike), "p-value").verdict == "NOT RUN"
    with pytest.raises(GolfError):
        compare_with(str(tmp_path / "nothing"), claim)
