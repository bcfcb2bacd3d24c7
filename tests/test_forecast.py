"""The settings for GPUs, checked where there is none: shapes run without values, and must fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import golf
from golf.lab.forecast import GPUS, forecast, walk
from golf.net.config import PRESETS

PARAMS = Path(__file__).parent.parent / "nbs" / "params"
ON = {"8xh100": "H100", "h200": "H200"}


@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize("recipe", ["baseline", "pr484_ebls", "pr953"])  # plain, shared, largest
def test_a_recipe_fits_the_gpus_of_a_parameter_file(name, recipe):
    given = yaml.safe_load((PARAMS / f"{name}.yaml").read_text())
    entry = golf.recipe(recipe)
    found = forecast(
        entry.model, entry.train, ranks=given["ranks"], gpu=ON[name], build=entry.build
    )
    assert found.fits and found.memory > 20 * found.values
    assert found.steps == int(600_000 / found.milliseconds)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_scored_on_meta_as_an_experiment_scores_it(preset):
    with torch.device("meta"):
        model = golf.GPT(golf.preset(preset), compute_dtype=torch.bfloat16)
        ids = torch.zeros(8, model.config.context, dtype=torch.long)
        logits = model(ids)
    assert logits.shape == (8, model.config.context, model.config.vocab_size)


def test_a_step_by_hand():
    """One layer without extras: 6 operations a weight and token, and attention's 6 T width."""
    plain = dict(bigram_rows=0, value_layers=(), xsa_layers=(), smear=False, skips=False)
    shape = golf.GPTConfig(
        layers=1, width=64, heads=2, kv_heads=2, mlp_width=128, context=32, **plain
    )
    _, operations, kept = walk(shape)
    matrices = 4 * 64 * 64 + 2 * 64 * 128 + 1024 * 64  # q, k, v, o; up, down; the tied head
    assert operations == 6 * matrices + 6 * 32 * 64
    assert kept > 4 * 1024  # the logits of a token alone


def test_memory_grows_with_the_batch_of_a_rank_and_time_falls_with_ranks():
    entry = golf.recipe("pr549")
    two, eight = (forecast(entry.model, entry.train, ranks=n) for n in (2, 8))
    assert two.activations == eight.activations  # the batch is cut into as many parts as before
    assert two.milliseconds == pytest.approx(4 * eight.milliseconds)
    longer = replace(entry.train, batch_tokens=2 * entry.train.batch_tokens)
    assert forecast(entry.model, longer).activations == 2 * eight.activations


def test_attention_is_torchs_own_again_after_a_walk():
    before = torch.nn.functional.scaled_dot_product_attention
    with pytest.raises(golf.GolfError):
        walk(replace(golf.preset("tiny"), kv_heads=3))
    walk(golf.preset("tiny"))
    assert torch.nn.functional.scaled_dot_product_attention is before


def test_a_gpu_is_known_by_its_sheet():
    assert GPUS["H100"].peak == GPUS["H200"].peak and GPUS["H100"].memory < GPUS["H200"].memory
