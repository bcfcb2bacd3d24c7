"""The three clean chains on twelve tokens, every number of the published hand calculation."""

import pytest
import torch

from golf.count.ngram import NGram
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
