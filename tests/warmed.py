"""What processes of the tests have read when they are forked (see `conftest.py`): compiled loops, too."""

import numpy as np

from golf.count.ngram import NGram
from golf.mix.mixtures import Mix
from golf.mix.rules import EM, online
from golf.predict.evaluate import evaluate
from golf.predict.stream import Stream
from golf.store.coder import encode_grid

text = Stream(np.random.default_rng(0).integers(2, 8, 65), 32)
evaluate(Mix([NGram(8, 1), NGram(8, 2)], online(EM())), text)
encode_grid(bytes(64), rows=8, columns=8)
