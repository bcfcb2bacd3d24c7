"""Names and notes of strangers are shown as text: in notebooks, on the site, in pull requests."""

import importlib.util
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import mistune
import numpy as np
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from sentencepiece import SentencePieceTrainer

from golf.auditor.findings import Finding, LintReport
from golf.auditor.report import FAIL, NOT_RUN, AuditReport, Result
from golf.base.tables import code, code_block, escape, markdown_table, one_line
from golf.lab.plots import style
from golf.lab.records import read_record
from golf.lab.runs import Run
from golf.predict.compare import Comparison
from golf.published.recipes import Differences, Table
from golf.store.sizes import SizeReport
from golf.text.check import DataReport, SplitReport
from golf.text.corpus import Corpus
from golf.text.tokenizers import ByteTable, load_tokenizer

EVIL = (
    "<img src=x onerror=alert(1)>",
    "`</td><script>alert(1)</script>",
    "a|b\n\n# c\r\n```\n<b>d</b>",
    "[e](javascript:alert(1)) **f** __g__ ~~h~~ $i$ \\(j\\) &lt;k&gt;",
)
SAFE = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "style", "b"}
ROOT = Path(__file__).resolve().parent.parent


class Read(HTMLParser):
    """The tags and the text of a page, as a browser has them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def page_of(markdown: str) -> str:
    """Markdown as pages render it: HTML goes through."""
    exported = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url"])
    assert Read(exported(markdown)).tags <= SAFE, exported(markdown)  # as nbconvert does
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def shows(thing, evil: str, times: int = 1) -> None:
    """All rich displays of a thing show a text as text."""
    pages = [thing._repr_html_()] if hasattr(thing, "_repr_html_") else []
    if hasattr(thing, "_repr_markdown_"):
        pages.append(page_of(thing._repr_markdown_()))
    assert pages
    for page in pages:
        read = Read(page)
        assert read.tags <= SAFE, page
        text = " ".join(read.text.replace("\\n", " ").replace("\\r", " ").split())  # by pandas
        assert text.count(one_line(evil)) >= times, page


each = pytest.mark.parametrize("evil", EVIL)


@each
def test_an_audit_of_a_hostile_scorer(evil, tmp_path):
    found = Result("a1", "order", FAIL, 1.0, 0.1, 0.1, 3, 4, how=evil, note=evil)
    report = AuditReport(evil, {"name": evil}, 0, [found], facts={"where": evil})
    report.results.append(Result("b1", evil, NOT_RUN, note=evil))
    shows(report, evil, 3)
    shows(AuditReport.load(report.save(tmp_path / "audit.json")), evil, 3)
    broken = page_of(AuditReport("x", {"name": "quick"}, 0, error=f"no\n{evil}").markdown())
    assert Read(broken).tags <= SAFE


@each
def test_a_submissions_numbers(evil):
    shows(LintReport(evil, [Finding(evil, "FAIL", evil, evil)]), evil, 4)


@each
def test_a_record_from_elsewhere(evil, tmp_path):
    run = Run("demo", {"seed": 0}, root=tmp_path)
    run.stage("last", bpb=1.0)
    path = run.save()
    record = json.loads(path.read_text())
    record["parameters"] = {"name": evil, evil: 1, "list": [1, 2], "none": None}
    record["stages"] = {evil: {"bpb": 1.0}}
    path.write_text(json.dumps(record))
    shows(read_record(path), evil, 3)


@each
def test_arms_of_a_comparison(evil):
    class Compared(Comparison):
        def table(self):
            return pd.DataFrame({"bpb": [1.0]}, index=pd.Index([evil], name="arm"))

    shows(Compared({}, evil), evil)


def test_a_figure_shows_dollar_signs_as_they_are():
    with style():
        figure = Figure()
        figure.text(0, 0, "costs $5, not $\\frac{6")
        figure.savefig(io.BytesIO(), format="svg")


@each
def test_a_tokenizers_pieces(evil, tmp_path):
    model, piece = io.BytesIO(), one_line(evil).replace(" ", "_").replace(",", "_")
    SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"] * 9), model_writer=model, vocab_size=300,
        byte_fallback=True, hard_vocab_limit=False, user_defined_symbols=["x" * 40, piece],
        minloglevel=2,
    )  # fmt: skip
    path = tmp_path / "a.model"
    path.write_bytes(model.getvalue())
    tokenizer = load_tokenizer(path)
    tokenizer.id_to_piece = lambda i: piece
    shows(tokenizer, repr(piece))


@each
def test_folders_and_damaged_files(evil):
    ones = torch.ones(4, dtype=torch.int)
    bytes_ = ByteTable(ones, ones.bool() & False, ones.bool() & False)
    tokens = np.array([1, 2, 3], np.uint16)
    corpus = Corpus(evil, tokens, tokens, ROOT / "settings.ini", bytes_, 4)
    shows(corpus, evil)
    split = SplitReport(1, 2, 3, 4, 5, 6, 7, 8, 9)
    shows(DataReport(split, split, (evil,)), evil)


@each
def test_sizes_and_settings(evil):
    row = {"part": evil, "tensors": 1, "values": 2, "bytes": 3, "bits a value": 4.0}
    shows(SizeReport(pd.DataFrame([row | {"share of cap": 0.5}]), 3, 4), evil)
    shows(Table((evil,), ((evil,),)), evil, 2)
    shows(Differences((evil,), {evil: [evil]}), evil, 2)


@each
def test_readme_and_its_list_of_chapters(evil, monkeypatch):
    spec = importlib.util.spec_from_file_location("readme_of_test", ROOT / "docs" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    spec.loader.exec_module(readme)
    output = {"data": {"text/plain": evil}}
    assert Read(page_of(readme.output(output))).tags <= SAFE


@each
def test_text_stays_one_cell_of_one_line(evil):
    table = markdown_table(["a", evil], [[evil, 1], [code(evil), 2]])
    read = page_of(table)
    assert table.count("\n") == 3 and read.count("<td") == 4 and Read(read).tags <= SAFE
    assert Read(read).text.count(one_line(evil)) == 3
    assert Read(page_of(escape(evil))).text.strip() == one_line(evil)
    assert Read(page_of(code_block(evil))).tags <= {"pre", "code"}
