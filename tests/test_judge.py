"""Whoever keeps an edit on the word of `golf judge`: what it must never do, and what it says instead."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from golf.base.files import GolfError
from golf.lab.cli import app
from golf.lab.judge import (
    as_dict,
    false_keeps,
    judge,
    judge_chunks,
    judge_seeds,
    losses_of,
    null_edits,
)

SIZE = np.full(200, 2400.0)


def golf(*arguments) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def edit(gain: float, noise: float = 0.002, seed: int = 0) -> np.ndarray:
    """Differences in bits of 200 chunks whose arm gains `gain` bits a byte."""
    random = np.random.default_rng(seed)
    return (noise * random.standard_normal(200) - gain) * SIZE


def test_a_larger_gain_is_never_judged_worse():
    order = ["discard", "retest", "keep"]
    words = [judge_chunks(edit(g), SIZE, 200_000).word for g in np.linspace(-0.002, 0.002, 17)]
    places = [order.index(word) for word in words]
    assert places == sorted(places) and set(words) == set(order)


def test_the_finer_the_gain_that_is_wanted_the_more_text_is_asked_for():
    noisy = edit(0.0, noise=0.01)
    asked = [judge_chunks(noisy, SIZE, 200_000, least=x) for x in (0.001, 0.0005, 0.0001)]
    assert [j.word for j in asked] == ["retest"] * 3
    more = [j.more for j in asked]
    assert more == sorted(more) and more[0] >= 200_000 and more[2] > 5 * more[0]


def test_with_the_text_that_was_asked_for_a_gain_is_kept_four_times_in_five():
    least, kept = 0.001, 0
    asked = judge_chunks(edit(0.0, noise=0.01), SIZE, 200_000, least=least)
    copies = math.ceil((200_000 + asked.more) / 200_000)
    for seed in range(60):
        parts = [edit(least, noise=0.01, seed=1000 * seed + i) for i in range(copies)]
        bits = np.concatenate(parts)
        kept += judge_chunks(bits, np.full(len(bits), 2400.0), 1).word == "keep"
    assert kept >= 36  # 48 expected; fewer than 36 once in some ten thousand times


def test_edits_that_do_nothing_are_kept_no_more_often_than_promised():
    random, rows = np.random.default_rng(1), []
    heavy = random.standard_t(3, size=240) * 0.002
    for arm, shift in (("none", 0.0 * heavy), ("edit", heavy)):
        for chunk in range(240):
            row = dict(stream="original", arm=arm, chunk=chunk, start=1000 * chunk, tokens=1000)
            rows.append(row | dict(bytes=2400, nll=(1.9 + shift[chunk]) * math.log(2) * 2400))
    edits = null_edits(pd.DataFrame(rows), "edit", "none", "original", count=300)
    assert abs(edits["mean"].mean()) < edits["mean"].std()
    assert false_keeps(edits).low < 0.025 and false_keeps(edits).mean < 0.05
    signs = (edits["mean"] > 0).mean()
    assert 0.4 < signs < 0.6  # as often better as worse


def test_what_cannot_be_judged_is_one_line():
    rows = [(1.0, "least must be"), (math.nan, "least must be"), (-1.0, "least must be")]
    for least, said in rows[1:]:
        with pytest.raises(GolfError, match=said):
            judge_chunks(edit(0.0), SIZE, 1, least=least)
    with pytest.raises(GolfError, match="20 blocks"):
        judge_chunks(edit(0.0)[:19], SIZE[:19], 1)
    lost = edit(0.0)
    lost[3] = math.inf
    with pytest.raises(GolfError, match="finite"):
        judge_chunks(lost, SIZE, 1)


def test_an_arm_is_not_judged_against_itself():
    from golf.lab.publish import published

    record = published("ttt_reset", corpus="shards")
    with pytest.raises(GolfError, match="its own baseline"):
        judge(record, "none")
    with pytest.raises(GolfError, match="no stream 'orignal'; did you mean 'original'"):
        judge(record, "ttt", stream="orignal")


def test_seeds_that_differ_by_the_margin_alone_are_no_record():
    base = np.array([1.890, 1.891, 1.892])
    assert judge_seeds(base - 0.02, base).word == "keep"
    assert judge_seeds(base - 0.005, base).word == "retest"
    assert judge_seeds(base - 0.001, base).word == "discard"
    asked = judge_seeds(base - 0.007, base)
    assert asked.word == "retest" and asked.more >= 1
    more = np.concatenate([base] * (1 + math.ceil(asked.more / 3)))
    assert judge_seeds(more - 0.007, more).word == "keep"


def test_a_table_of_seeds_comes_from_a_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("seed,loss\n1,1.87\n2,1.871\n3,1.872\n")
    code, out, _ = golf("judge", path, "--against", "pr549", "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "keep")
    for text, said in [
        ("seed,los\n1,2\n", "no column 'loss'"),
        ("loss\nabc\n", "no number"),
        ("", "no table"),
    ]:
        path.write_text(text)
        with pytest.raises(GolfError, match=said):
            losses_of(str(path))


def test_the_exit_codes_are_the_answer_and_json_has_no_infinity():
    arguments = ("judge", "ttt_reset", "--arm", "ttt", "--against", "none", "--json")
    code, out, err = golf(*arguments)
    assert (code, err) == (0, "") and json.loads(out)["exit_code"] == 0
    code, out, _ = golf("judge", "pr549", "--against", "pr473", "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["unit"]) == (3, "retest", "seeds a side")
    assert found["more"] > 0
    for wrong in (
        ("judge", "pr549"),
        ("judge", "pr549", "--against", "pr473", "--arm", "ttt"),
        ("judge", "ttt_reset"),
        ("judge", "ttt_rest", "--arm", "ttt"),
        ("judge", "pr12", "--against", "pr549"),
    ):
        code, out, err = golf(*wrong)
        assert (code, out, len(err.splitlines())) == (2, "", 1), wrong
    assert None not in as_dict(judge_chunks(edit(0.01), SIZE, 1)).values()


def trainings(by_seed: list[float]) -> pd.DataFrame:
    """A record of trainings in which an arm differs from its base by so much, seed by seed."""
    rows = []
    for seed, off in enumerate(by_seed):
        for arm, by in (("base", 0.0), ("arm", off)):
            row = {"stream": f"seed {seed}", "arm": arm, "chunk": 0, "start": 0, "tokens": 100}
            rows.append(row | {"bytes": 250, "nll": (2.0 + by) * 250 * math.log(2)})
    return pd.DataFrame(rows)


def test_nobody_is_asked_for_more_seeds_than_would_decide():
    draw = np.random.default_rng(0)
    asked = judge(trainings([-0.012, -0.004]), "arm", "base")
    assert asked.word == "retest" and 1 <= asked.more <= 20 and asked.unit == "seeds"
    kept, tries = 0, 200
    for _ in range(tries):  # a difference as seen, with a spread as seen
        seeds = draw.normal(-0.008, 0.004 * math.sqrt(2), 2 + asked.more)
        kept += judge(trainings(list(seeds)), "arm", "base").word == "keep"
    assert 0.7 <= kept / tries <= 0.95  # four in five were promised
