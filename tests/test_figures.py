"""Figures for papers: their size, what they say of their scale, and where they come from."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from golf import GolfError
from golf.lab.charts import figures_of, plot_arms
from golf.lab.cli import app
from golf.lab.plots import plot_difference, plot_drift, save_figure
from golf.lab.records import read_record
from golf.lab.runs import Run


def made_up(arms: dict[str, float], count: int = 120, seed: int = 0) -> pd.DataFrame:
    """Chunks of arms that are off from the first by so many nats a byte, with a little noise."""
    draw, frames = np.random.default_rng(seed), []
    content = draw.normal(1.0, 0.2, count)
    for arm, off in arms.items():
        own = off * (1 + draw.normal(0, 0.1, count))
        columns = {"start": 64 * np.arange(count), "tokens": 64, "bytes": 160}
        frame = {"stream": "original", "arm": arm, "chunk": np.arange(count)} | columns
        frames.append(pd.DataFrame(frame | {"nll": 160 * (content + own)}))
    return pd.concat(frames, ignore_index=True)


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    run = Run("paper", {"reset_every": 40}, root=tmp_path_factory.mktemp("runs"))
    return read_record(run.save(chunks=made_up({"none": 0.0, "ttt": -0.02})))


def test_a_figure_for_a_paper_has_the_size_that_was_asked_for(record):
    figure = plot_drift(record, width=3.3, height=2.5, font_size=8)
    assert tuple(figure.get_size_inches()) == (3.3, 2.5)
    assert figure.axes[0].yaxis.label.get_size() == 8
    assert plot_drift(record, width=3.3).axes[0].yaxis.label.get_size() == 7
    assert plot_drift(record).axes[0].yaxis.label.get_size() == 9


@pytest.mark.parametrize("wrong", [{"width": 0}, {"height": 99}, {"font_size": "big"}])
def test_a_size_that_cannot_be_drawn_is_one_line(record, wrong):
    with pytest.raises(GolfError, match=f"{next(iter(wrong))}: from "):
        plot_drift(record, **wrong)


def test_marks_of_resets_come_from_the_record(record):
    def marks(figure):
        return [x.get_xdata()[0] for x in figure.axes[0].lines if x.get_label() == "_reset"]

    assert marks(plot_difference(record)) == [40, 80]
    assert marks(plot_difference(record, resets=0)) == []
    assert marks(plot_difference(record.chunks)) == []


def test_one_bad_arm_does_not_flatten_the_others_and_is_named():
    chunks = made_up({"none": 0.0, "a": -0.02, "b": -0.03, "astray": 2.0})
    figure = plot_difference(chunks)
    low, high = figure.axes[0].get_ylim()
    assert -0.2 < low < high < 0.2
    assert any("cut off: astray" in text for text in texts(figure))
    assert not any("cut off" in t for t in texts(plot_difference(chunks[chunks.arm != "astray"])))


def test_equal_lines_are_both_seen():
    chunks = made_up({"none": 0.0, "a": -0.02, "b": -0.02, "c": -0.02})
    lines = {line.get_label(): line for line in plot_difference(chunks).axes[0].lines}
    widths = [lines[arm].get_linewidth() for arm in "abc"]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


def test_a_reader_sees_which_way_is_better_and_what_the_scale_is(record):
    assert "↓ better" in texts(plot_drift(record))
    words = plot_arms(record)._supxlabel.get_text()
    assert words.startswith("← better") and "symlog, linear within ±0.01" in words


def test_a_figure_names_its_record_and_is_the_same_file_again(record, tmp_path):
    once = [save_figure(f, n, tmp_path, ["svg", "pdf"]) for n, f in figures_of(record).items()]
    first = [path.read_bytes() for paths in once for path in paths]
    again = [save_figure(f, n, tmp_path, ["svg", "pdf"]) for n, f in figures_of(record).items()]
    assert first == [path.read_bytes() for paths in again for path in paths]
    assert f"paper/{record['key']}".encode() in first[0]
    with pytest.raises(GolfError, match="svg, png, pdf, not as 'gif'"):
        save_figure(plot_drift(record), "drift", tmp_path, ["gif"])


def test_a_record_with_nothing_to_draw_says_so(tmp_path):
    with pytest.raises(GolfError, match="nothing to draw"):
        figures_of(read_record(Run("bare", {}, root=tmp_path).save()))


@pytest.mark.parametrize("option", ["--width", "--height", "--font-size"])
def test_a_figure_of_no_size_is_refused_and_not_drawn_as_usual(record, option, tmp_path):
    done = CliRunner().invoke(
        app, ["figures", str(record.folder), option, "0", "--out", str(tmp_path)]
    )
    assert done.exit_code == 2 and not [*tmp_path.iterdir()]
    assert f"{option[2:].replace('-', '_')}: from " in done.stderr


def test_of_few_points_none_is_cut_off():
    chunks = made_up({"none": 0.0, "ttt": -0.02}, count=12)
    lost = (chunks.arm == "ttt") & (chunks.chunk == 5)
    chunks.loc[lost, "nll"] += 8.0
    figure = plot_drift(chunks)
    assert not [text for text in texts(figure) if "lie outside" in text]
