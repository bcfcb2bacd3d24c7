"""What `make bench` says of a run: refused, slower, or neither."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bench():
    """The tool, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("bench", ROOT / "tools" / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(speed, low, high):
    return {"speed": speed, "low": low, "high": high}


def record(stages, products=None, **parameters) -> Any:
    device = {"products": products} if products else {}  # older records do not say
    return SimpleNamespace(stages=stages, parameters=parameters, device=device)


OLD = {"step: eager": row(1.0, 1.0, 1.0), "muon: banks": row(1.2, 1.1, 1.3), "gone": row(1, 1, 1)}


@pytest.mark.parametrize(
    "now, code, words",
    [
        (row(1.15, 1.05, 1.25), 0, "slower than the published record: nothing"),
        (row(0.9, 0.85, 1.0), 2, "slower than the published record: muon: banks"),
        (row(0.9, 0.85, 1.15), 0, "nothing"),  # the rounds still reach the old ones
        (row(0.9, 0.5, 1.0), 1, "refused, rounds too far apart: muon: banks (x 2.0)"),
    ],
)
def test_a_run_is_refused_or_slower_or_neither(bench, monkeypatch, capsys, now, code, words):
    stages = {"step: eager": row(1.0, 1.0, 1.0), "muon: banks": now, "count: text": {"tokens": 5}}
    monkeypatch.setattr(bench, "newest_record", lambda notebook: record(stages))
    monkeypatch.setattr(bench, "published", lambda page: record(OLD))
    assert bench.main() == code
    assert words in capsys.readouterr().out


def test_a_noisy_row_of_the_published_record_accuses_nobody(bench, monkeypatch, capsys):
    stages = {"muon: banks": row(0.5, 0.5, 0.5)}
    old = {"muon: banks": row(1.2, 0.8, 4.0)}
    monkeypatch.setattr(bench, "newest_record", lambda notebook: record(stages))
    monkeypatch.setattr(bench, "published", lambda page: record(old))
    assert bench.main() == 0 and "nothing" in capsys.readouterr().out


def test_a_run_on_fewer_threads_is_not_called_slower_without_a_word(bench, monkeypatch, capsys):
    stages = {"muon: banks": row(0.5, 0.5, 0.5)}
    monkeypatch.setattr(bench, "newest_record", lambda notebook: record(stages, threads=1, seed=0))
    for threads, words in [(2, "threads 1 (there 2)"), (1, "")]:
        there = record(OLD, threads=threads, seed=0)
        monkeypatch.setattr(bench, "published", lambda page, there=there: there)
        assert bench.main() == 2
        shown = capsys.readouterr().out
        assert (words or "slower") in shown and ("other parameters" in shown) is bool(words)


def test_a_run_with_the_slower_library_is_not_called_slower_without_a_word(
    bench, monkeypatch, capsys
):
    stages = {"muon: banks": row(0.5, 0.5, 0.5)}
    monkeypatch.setattr(bench, "newest_record", lambda notebook: record(stages, "torch"))
    for library, words in [("oneDNN", "products torch (there oneDNN)"), (None, "")]:
        there = record(OLD, library)
        monkeypatch.setattr(bench, "published", lambda page, there=there: there)
        assert bench.main() == 2
        shown = capsys.readouterr().out
        assert words in shown and ("other parameters" in shown) is bool(words)
