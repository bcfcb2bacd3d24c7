"""The three clean chains on twelve tokens, every number of the published hand calculation."""

import importlib
import sys
import time

import pytest
import torch
from numba.core.dispatcher import Dispatcher

from golf.count import kernels
from golf.count.ngram import SMOOTHINGS, NGram
from golf.count.views import _View
from golf.predict.dist import Counts
from golf.predict.stream import Stream

SEEN = [5, 6, 7, 5, 6, 8, 5, 6, 7, 9, 5, 6]
AFTER = {  # probabilities of 7, 8 and 0 by chains of orders 1, 2 and 3
    "witten_bell": [
        [0.147058824, 0.088235294, 0.029411765],
        [0.458823529, 0.235294118, 0.011764706],
        [0.583529412, 0.294117647, 0.004705882],
    ],
    "absolute_discount": [
        [0.135416667, 0.052083333, 0.03125],
        [0.484375, 0.109375, 0.015625],
        [0.658854167, 0.138020833, 0.0078125],
    ],
    "dirichlet": [
        [0.157142857, 0.085714286, 0.014285714],
        [0.462857143, 0.234285714, 0.005714286],
        [0.585142857, 0.293714286, 0.002285714],
    ],
}


@pytest.mark.parametrize("smoothing", AFTER)
@pytest.mark.parametrize("order", [1, 2, 3, 4])  # the context of order 4 was never followed
def test_chains_on_twelve_tokens(smoothing, order):
    (chunk,) = Stream(torch.tensor([*SEEN, 0]), 12)
    row = NGram(10, order, smoothing=smoothing).predict(chunk).rows([11])[0].exp()
    expected = torch.tensor(AFTER[smoothing][min(order, 3) - 1], dtype=torch.float64)
    assert torch.allclose(row[[7, 8, 0]], expected, atol=1e-9)
    assert abs(row.sum().item() - 1) < 1e-12


@pytest.mark.parametrize("smoothing", ["witten_bell", "kneser_ney"])
def test_rows_do_not_depend_on_the_order_in_which_they_are_asked_for(smoothing):
    random = torch.Generator().manual_seed(0)
    (chunk,) = Stream(torch.randint(0, 6, (400,), generator=random) ** 2 % 7, 399)
    found = NGram(7, 4, smoothing=smoothing).predict(chunk)
    rows, ids = found.rows(), torch.randint(0, 7, (399,), generator=random)
    for at in (torch.randperm(399, generator=random), torch.tensor([5, 5, 300, 5, 0])):
        assert torch.equal(found.rows(at), rows[at])
        told = found.log_prob(ids)
        assert torch.allclose(told, rows.gather(1, ids[:, None])[:, 0], rtol=0, atol=1e-12)


def test_a_text_that_repeats_one_token_costs_what_others_cost():
    size, seconds = 1 << 15, {}
    random = torch.randint(0, 64, (size,), generator=torch.Generator().manual_seed(0))
    for name, text in {"compiled": random[:99], "random": random, "one token": random * 0}.items():
        (chunk,) = Stream(text, size)
        found, begin = NGram(64, 9).predict(chunk), time.process_time()
        found.rows()
        seconds[name] = time.process_time() - begin
    assert seconds["one token"] < 4 * seconds["random"]  # 40 when every position walked back


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("semantics", ["prefix", "chunk"])
def test_the_tokens_that_came_get_the_bits_that_every_count_chain_gives(smoothing, semantics):
    """The loop over the chunk's own tokens against the tensors of `Counts`: equal, with a base, too."""
    text = torch.randint(0, 9, (600,), generator=torch.Generator().manual_seed(1)) ** 2 % 11
    chains = [NGram(11, 5, smoothing=smoothing, semantics=semantics, lowest=n) for n in (1, 3)]
    for chunk in Stream(text, 150):
        low, high = (chain.predict(chunk) for chain in chains)
        for found in (low, high, low.over(high), high.over(low, lowest=2)):
            expected = Counts._log_prob(found, chunk.targets)
            assert torch.equal(found._log_prob(chunk.targets), expected)
        for chain in chains:
            chain.observe(chunk)


@pytest.mark.parametrize("documents", ["joined", "split", "inside"])
def test_a_chunk_looked_up_in_pieces_is_the_chunk(documents):
    """Each piece grows its contexts anew, and then finds what one walk through the chunk finds."""
    text = torch.randint(0, 7, (900,), generator=torch.Generator().manual_seed(2)) ** 2 % 9
    chain = NGram(9, 6, documents=documents)
    for chunk in Stream(text, 300):
        chain.predict(chunk)
        view = _View(chain._tables, chunk, "chunk")
        whole = view.found.copy()
        for pieces in (2, 3, 60):
            view.found[:] = -7
            view.look(pieces)
            assert (view.found == whole).all()
        chain.observe(chunk)


def test_an_edited_kernel_is_compiled_again_where_another_file_calls_it(tmp_path, monkeypatch):
    "After an update the old code of one file would have counted with the new tables of another."
    home = tmp_path / "loops"
    home.mkdir()
    (home / "__init__.py").write_text("")
    jit = "from golf.count.kernels import _jit\n"
    (home / "inner.py").write_text(jit + "@_jit\ndef one(x):\n    return x + 1\n")
    outer = "from .inner import one\n@_jit\ndef two(x):\n    return 2 * one(x)\n"
    (home / "outer.py").write_text(jit + outer)
    monkeypatch.syspath_prepend(tmp_path)

    def found() -> int:
        for name in [name for name in sys.modules if name.partition(".")[0] == "loops"]:
            del sys.modules[name]
        kernels._place.cache_clear()  # as in another process
        return importlib.import_module("loops.outer").two(3)

    assert found() == 8
    assert len([*tmp_path.rglob("outer.two*.nbi")]) == 1  # kept on disk
    (home / "inner.py").write_text(jit + "@_jit\ndef one(x):\n    return x + 5\n")
    assert found() == 16


@pytest.mark.parametrize("module", ["count.kernels", "count.tables", "count.views", "store.coder"])
def test_what_a_loop_calls_counts_no_holders(module):
    """Counting who holds an array costs more than a look into it: a text took twice as long, on two threads too."""
    names = vars(importlib.import_module(f"golf.{module}"))
    loops = {name: loop for name, loop in names.items() if isinstance(loop, Dispatcher)}
    called = {name for loop in loops.values() for name in loop.py_func.__code__.co_names}
    inner = [loop for name, loop in loops.items() if name in called]
    assert inner
    assert [loop.py_func.__name__ for loop in inner if loop.targetoptions.get("_nrt", True)] == []
