"""Claims and answers: the list, the rules, which record decides, and what a reader is told before any work."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
from test_repo import ROOT

from golf.base.files import GolfError
from golf.lab import claims as room
from golf.lab.claims import answer, answering, answers, claims, command_of, negatives, show_answers
from golf.lab.publish import publish
from golf.lab.runs import Run
from golf.predict.stats import Interval
from golf.published.numbers import numbers, seeds, tables

EFFECT = dict(id="it", pr=473, says="Learning gains", page="demo", arm="ttt", against="none")
EFFECT |= dict(stream="original", expects="gains", effect=-0.01)


def a_claim(**changes) -> room.Claim:
    return room.Claim(**EFFECT | changes)


def frame(base: float, gain: float, noise: float = 0.001, chunks: int = 40) -> pd.DataFrame:
    """Chunks of two arms: a base in bits per byte and an arm that is better by `gain` of a bit."""
    random, rows = np.random.default_rng(0), []
    for arm, shift in (("none", 0.0), ("ttt", -gain)):
        for chunk in range(chunks):
            bits = base + shift + (noise * random.standard_normal() if shift else 0.0)
            row = dict(stream="original", arm=arm, chunk=chunk, start=1000 * chunk, tokens=1000)
            rows.append(row | dict(bytes=2400, nll=bits * math.log(2) * 2400))
    return pd.DataFrame(rows)


@pytest.fixture
def project(tmp_path):
    """A project without runs, and a function that publishes a run of two arms in it."""
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()

    def add(base: float, gain: float, **parameters):
        run = Run("demo", {"corpus": "shards", "artifact": "tiny"} | parameters, root=tmp_path)
        run.save(frame(base, gain))
        publish(run.folder, root=tmp_path, unclean=True)
        return run

    return tmp_path, add


# The list


def test_every_claim_leads_to_a_page_that_is_there():
    for claim in claims():
        page = claim.page or claim.chapter
        assert claim.planned or (ROOT / "nbs" / f"{page}.ipynb").is_file(), claim.id
        for pull in re.findall(r"#(\d+)", claim.says):
            assert pull.isdigit() and int(pull) < 2000


def test_at_least_thirty_claims_are_answered_and_few_of_them_by_a_shrug():
    found = answers()
    answered = [a for a in found if a.verdict != room.UNMEASURED]
    assert len(answered) >= 30
    assert sum(a.verdict.startswith(room.OPEN) for a in answered) <= len(answered) / 3
    assert {a.claim.pr for a in answered} == {473, 484, 953, 1043, 1185}
    assert all(a.measured for a in answered)


@pytest.mark.parametrize(
    "rows, said",
    [
        ('id = "a"\nsays = "x"', "'pr' is missing"),
        ('id = "a"\npr = 1\nsays = "x"\nchek = "y"', "no field 'chek'; did you mean 'check'?"),
        ('id = "a"\npr = 1\nsays = "x"', "either `check` or `page`"),
        ('id = "a"\npr = 1\nsays = "x"\ncheck = "sum_of_fiv"\nchapter = "y"', "'sum_of_five'"),
        ('id = "a"\npr = 1\nsays = "x"\ncheck = "sum_of_five"', "expected a `chapter`"),
        ('id = "a"\npr = 1\nsays = "x"\npage = "y"\narm = "z"', "`arm` and `against`"),
        (
            'id = "a"\npr = 1\nsays = "x"\npage = "y"\narm = "z"\nagainst = "w"\nexpects = "wins"',
            "expects 'wins'",
        ),
        (
            'id = "a"\npr = 1\nsays = "x"\npage = "y"\narm = "z"\nagainst = "w"\n'
            'expects = "nothing"',
            "a `margin` above 0",
        ),
    ],
)
def test_a_claim_that_nothing_can_answer_is_one_line(tmp_path, rows, said):
    path = tmp_path / "claims.toml"
    path.write_text(f"[[claim]]\n{rows}\n")
    with pytest.raises(GolfError) as error:
        claims(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_same_id_twice_is_refused(tmp_path):
    row = '[[claim]]\nid = "a"\npr = 1\nsays = "x"\ncheck = "sum_of_five"\nchapter = "y"\n'
    path = tmp_path / "claims.toml"
    path.write_text(2 * row)
    with pytest.raises(GolfError, match="claim a: the id is there twice"):
        claims(path)


# Which record answers


def test_a_missing_record_is_said_before_anything_is_computed(project, monkeypatch):
    root, _ = project
    monkeypatch.setitem(room.CHECKS, "sum_of_five", lambda: pytest.fail("computed too early"))
    slow = room.Claim(id="slow", pr=953, says="x", check="sum_of_five", chapter="y")
    with pytest.raises(GolfError, match="claim it: no published record of demo has 'ttt'"):
        answers([slow, a_claim()], root)
    assert answer(a_claim(planned=True), root).verdict == room.UNMEASURED


def test_an_arm_that_is_called_otherwise_is_named(project):
    root, add = project
    add(1.9, 0.01)
    with pytest.raises(GolfError, match="has 'tt' and 'none'; did you mean 'ttt'"):
        answering(a_claim(arm="tt"), root)


def test_the_strongest_model_decides_and_the_weaker_stand_beside_it(project):
    root, add = project
    add(1.9, 0.02, artifact="proxy")
    add(1.6, -0.01, artifact="large")
    found = answer(a_claim(), root)
    assert (found.verdict, round(found.base, 3)) == ("refuted", 1.6)
    assert len(found.others) == 1 and found.others[0].endswith("at 1.900")
    assert found.others[0].startswith("−0.02")
    assert "<br>" in room.show_answers([found])


def test_built_in_text_answers_only_where_there_is_no_real_text(project):
    root, add = project
    add(1.4, 0.05, corpus="stdlib")
    assert answer(a_claim(), root).verdict.startswith("confirmed")
    assert room.text_of(answer(a_claim(), root)) == "built-in text"
    add(1.9, -0.05)
    found = answer(a_claim(), root)
    assert (found.verdict, room.text_of(found)) == ("refuted", "FineWeb")


def test_a_record_from_a_tree_with_changes_is_marked_and_no_dead_end_of_ours(project):
    root, add = project
    add(1.9, -0.05)
    found = answer(a_claim(), root)
    assert not found.clean and "refuted †" in show_answers([found])
    assert negatives(root) == []
    assert all("unclean" not in row for row in negatives()) and negatives()


def test_a_command_says_what_differs_from_the_notebook_and_takes_the_file_for_eight_gpus(project):
    root, add = project
    add(1.9, 0.01, seed=3)
    record = answering(a_claim(), root)[0]
    source = 'corpus = "stdlib"\nartifact = ""\nseed = 0'
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": []}
    cells = [cell | {"execution_count": None, "source": source}]
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    (root / "nbs" / "demo.ipynb").write_text(text)
    plain = "papermill nbs/demo.ipynb"
    knobs = "-p artifact tiny -p corpus shards -p seed 3"
    assert sorted(command_of(record, root=root).split()) == sorted(f"{plain} {knobs}".split())
    assert "-p device cuda" in command_of(record, gpus=True, root=root)
    (root / "nbs" / "params").mkdir()
    file = root / "nbs" / "params" / "8xh100.yaml"
    file.write_text("# all GPUs\ncorpus: shards\nseed: 4\n")
    found = command_of(record, gpus=True, root=root)
    assert found == f"{plain} -f nbs/params/8xh100.yaml -p artifact tiny -p seed 3"
    file.write_text("corpus: shards\nranks: 8\n")  # a knob that the notebook has not
    assert "-p device cuda" in command_of(record, gpus=True, root=root)


# The rule


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 20, (high - low) / 4)


def test_a_verdict_is_never_given_where_zero_and_the_published_effect_are_both_possible():
    for effect in (0.0005, 0.002, 0.01):
        for low, high in ((-0.003, 0.001), (-0.001, 0.003), (-0.02, 0.02)):
            found = room.verdict_of(interval(low, high), "gains", effect=-effect)
            possible = -low >= effect
            assert found.startswith(room.OPEN) is possible
            turned = room.verdict_of(interval(-high, -low), "loses", effect=effect)
            assert turned == found


def test_a_tenth_of_the_published_effect_is_not_simply_confirmed():
    found = interval(0.0000003, 0.0001)  # as freezing two blocks costs, published at 0.0004
    assert room.verdict_of(found, "loses", effect=0.0004) == "confirmed, smaller"
    assert room.verdict_of(found, "loses") == "confirmed"  # no size was published
    assert room.verdict_of(interval(0.0003, 0.0005), "loses", effect=0.0004) == "confirmed"
    assert room.verdict_of(interval(-0.2, -0.1), "gains", effect=-0.01) == "confirmed, larger"
    lost = Interval(math.inf, math.nan, math.nan, 20)
    assert room.verdict_of(lost, "loses", effect=0.01) == "confirmed"


def test_an_infinite_loss_refutes_a_gain():
    lost = Interval(math.inf, math.nan, math.nan, 20)
    assert room.verdict_of(lost, "gains", effect=-0.01) == "refuted"
    bare = Interval(-0.01, math.nan, math.nan, 5)  # too few chunks for an interval
    assert room.verdict_of(bare, "gains", effect=-0.02) == room.OPEN


def test_more_text_is_asked_for_when_less_can_be_seen():
    asked = []
    for width in (0.002, 0.004, 0.008):
        found = room.verdict_of(interval(-width, width), "gains", effect=-0.001)
        asked.append(int(re.search(r"([\d,]+) ×", found)[1].replace(",", "")))
    assert asked == sorted(asked) and asked[0] >= 2


# The published numbers


def test_the_published_numbers_need_nothing_but_the_package(tmp_path):
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "data/*" in data["package-data"]["golf"]
    code = "from golf.published.numbers import numbers, tables; print(sum(map(len, map(numbers, tables()))))"
    env = {k: v for k, v in os.environ.items() if not k.endswith("_PATH")} | {
        "PYTHONPATH": str(ROOT)
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert int(done.stdout) > 4000, done.stderr


def test_what_the_texts_say_agrees_with_what_the_logs_print():
    mixed = numbers("mixer_seeds").set_index("pr")
    for pr in (953, 995):
        for seed, bpb in seeds(pr).bpb.items():
            assert abs(mixed.loc[pr, f"seed_{seed}"] - bpb) < 1e-5
    last = numbers("rates").set_index(["lr", "epochs", "gpus"]).bpb
    assert last.idxmin() == (0.0025, 4, 4)
    assert len(numbers("configurations")) == 11 and len(numbers("layer_scales")) == 12
    assert len(tables()) == len(set(tables()))
