"""A model's products by either library: the same scores, the same training, and no need of the other one."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import golf
from golf.net import products

PROGRAM = """
import torch
torch.ops.mkldnn = object()  # as torch is built without oneDNN
import golf
from golf.net.products import linear, product_library
x = torch.ones(512, 512)
print(product_library(), float(linear(x, x)[0, 0]))
"""


@pytest.fixture
def whose(monkeypatch):
    "A function that settles whose products the models of a test take."

    def settle(library):
        monkeypatch.setattr(products, "_onednn_pays", lambda: library == "oneDNN")
        if products.product_library() != library:
            pytest.skip(f"no {library} here")

    return settle


@pytest.fixture(scope="module")
def model():
    return golf.load_model(golf.load_artifact(golf.model_path("tiny")))


def stream(tokens=1025):
    "Made-up text for the shipped model."
    ids = np.random.default_rng(0).zipf(1.3, tokens) % 256
    return golf.Stream(ids, 256)


def test_a_score_does_not_hang_on_whose_products_they_are(model, whose):
    found = {}
    for library in ("torch", "oneDNN"):
        whose(library)
        found[library] = golf.evaluate(golf.SlidingWindow(model), stream()).nll
    apart = np.abs(found["torch"] - found["oneDNN"])
    assert apart.max() < 1e-3  # of ten nats


def test_learning_while_scoring_does_not_hang_on_it_either(model, whose):
    gains = []
    for library in ("torch", "oneDNN"):
        whose(library)
        text = stream()
        learner = golf.TTT(golf.SlidingWindow(copy.deepcopy(model)), text.chunks, epochs=3)
        gains.append(golf.evaluate(learner, text).loss)
    assert gains[0] == pytest.approx(gains[1], abs=1e-4)


def test_a_training_step_is_the_same_to_rounding(whose):
    curves = {}
    for library in ("torch", "oneDNN"):
        whose(library)
        net = golf.GPT(golf.preset("tiny"), seed=0)
        ids = torch.arange(2 * 256).view(2, -1) % net.config.vocab_size
        descent = torch.optim.SGD(net.parameters(), lr=0.1)
        curves[library] = []
        for _ in range(4):
            descent.zero_grad()
            loss = net.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            descent.step()
            curves[library].append(float(loss.detach()))
    assert curves["torch"] == pytest.approx(curves["oneDNN"], rel=1e-4)
    assert curves["torch"][-1] < curves["torch"][0]


def test_operations_are_counted_with_either(model, whose):
    "Who asks torch how many operations a model takes is not told fewer."
    ids, counts = torch.zeros(1, 256, dtype=torch.int64), []
    for library in ("torch", "oneDNN"):
        whose(library)
        with FlopCounterMode(display=False) as counter:
            copy.deepcopy(model).loss(ids, ids).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_the_choice_is_not_counted_among_the_operations_of_a_model():
    products._onednn_pays.cache_clear()
    threads, x = torch.get_num_threads(), torch.ones(512, 512)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        with torch.device("meta"):
            assert products.product_library() in ("torch", "oneDNN")
        products.linear(x, x)
    assert counter.get_total_flops() == 2 * 512**3
    assert torch.get_num_threads() == threads


def test_gradients_of_single_rows_by_torch_func_still_come(whose):
    whose("oneDNN")
    x, weight = torch.randn(3, 128, 256), torch.randn(256, 256)
    loss = lambda w, row: products.linear(row, w).square().sum()
    rows = torch.func.vmap(torch.func.grad(loss), (None, 0))(weight, x)
    weight.requires_grad_()
    whole = torch.autograd.grad(loss(weight, x), weight)[0]
    assert torch.allclose(rows.sum(0), whole, rtol=1e-3, atol=1e-1)


def test_derivatives_forwards_still_come(whose):
    whose("oneDNN")
    x, weight, along = torch.randn(128, 256), torch.randn(256, 256), torch.randn(128, 256)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(products.linear(forward_ad.make_dual(x, along), weight))
    assert torch.allclose(found.tangent, along @ weight.T, rtol=1e-3, atol=1e-2)


def test_a_row_is_the_same_alone_and_in_a_batch(whose):
    whose("oneDNN")
    x, weight = torch.randn(8, 64, 128), torch.randn(512, 128)
    together = products.linear(x, weight)
    assert torch.allclose(together[3], products.linear(x[3], weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("answer", [511.0, RuntimeError("could not create a primitive")])
def test_a_library_that_fails_or_is_wrong_is_not_chosen(monkeypatch, answer):
    def product(x, weight):
        if isinstance(answer, Exception):
            raise answer
        return torch.full((512, 512), answer)  # in no time

    monkeypatch.setattr(products, "_by_onednn", product)
    products._onednn_pays.cache_clear()
    try:
        assert products.product_library() == "torch"
    finally:
        products._onednn_pays.cache_clear()


def test_a_torch_without_the_other_library_scores_as_well():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert said.stdout.split() == ["torch", "512.0"], said.stderr
