"""Every switch of the model: where it vanishes, what it moves, and the published totals."""

import math
from dataclasses import replace

import pandas as pd
import torch
import torch.nn.functional as F
from fastcore.test import expect_fail
from fastcore.test import test_eq as same

from golf.base.digests import digest
from golf.base.files import GolfError
from golf.base.small import SMALL, SWITCHES, moved_weights
from golf.base.small import test_near as base_near
from golf.net.config import GPTConfig, last_layers
from golf.net.model import GPT, Memory, once
from golf.net.switches import ACTIVATIONS

torch.set_num_threads(1)
small = GPTConfig(**SMALL)


def near(a, b, eps=1e-5):
    base_near(a, b, eps)


def waves(shape, id, amplitude):
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (amplitude * torch.sin(1.3 * k + 0.37 * id)).float().reshape(shape)


rows = [[(7 * i * i + 3 * i + 1) % 32 for i in range(17)], [(5 * i + 2) % 32 for i in range(17)]]
tokens = torch.tensor(rows)
x, y = tokens[:, :16], tokens[:, 1:]


FILL = {
    "embedding.weight": (1, 0.5), "bigram.table.weight": (2, 0.3), "bigram.proj.weight": (3, 0.3),
    "smear.gate": (4, 1.0), "qo_bank": (6, 0.3), "kv_bank": (7, 0.3), "mlp_up_bank": (8, 0.3),
    "mlp_down_bank": (9, 0.3), "value_embedding.table.weight": (10, 0.5),
    "value_embedding.proj.weight": (11, 0.3),
}  # fmt: skip
CONTROL = {"skip_weights": 0.8, "attn_scale": 0.9, "mlp_scale": 0.7}


@torch.no_grad()
def filled(config):
    model = GPT(config)
    for name, p in model.named_parameters():
        if name in FILL:
            p.copy_(waves(p.shape, *FILL[name]))
        elif name.endswith("residual_mix"):
            p.copy_(torch.tensor([[0.95], [0.1]]).expand_as(p))
        elif name.split(".")[-1] in CONTROL:
            p.fill_(CONTROL[name.split(".")[-1]])
        elif name == "value_scales":
            p.copy_(torch.tensor([1.0, 0.5]))
    return model


@torch.no_grad()
def scaled_by_hand(model, name, by=1.5):
    "Logits of a copy of the model in which one tensor is larger."
    copy = GPT(model.config)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state[name] *= by
    copy.load_state_dict(state)
    return copy(x)


def enlarge(name, by=1.5):
    return lambda n, w: w * by if n == name else w


def asked_by(run):
    "Names in the order in which one forward asks about them."
    names = []
    run(lambda name, w: (names.append(name), w)[1])
    return names


CHANGES = {
    "relu2": dict(),
    "leaky_relu2": dict(activation="leaky_relu2"),
    "no exclusive attention": dict(xsa_layers=()),
    "exclusive everywhere": dict(xsa_layers=(0, 1, 2)),
    "all dimensions rotated": dict(rope_dims=8),
    "no layer scale": dict(layer_norm_scale=False),
    "no value embedding": dict(value_layers=()),
    "no bigram table": dict(bigram_rows=0),
}


def alive(edit=None, **changes):
    "A small model with all weights moved, then `edit`: a dictionary of name endings and values."
    return moved_weights(GPT(replace(small, **changes)), edit)


@torch.no_grad()
def moved(model):
    return (model(x) - alive()(x)).abs().max().item()


def test_every_other_setting_moves_the_loss():
    found = {k: filled(replace(small, **c)).loss(x, y).item() for k, c in CHANGES.items()}
    others = {
        "no smear": filled(replace(small, smear=False)).loss(x, y).item(),
        "no skips": filled(replace(small, skips=False)).loss(x, y).item(),
        "cap 10": filled(replace(small, softcap=10.0)).loss(x, y).item(),
        "base 100": filled(replace(small, rope_base=100.0)).loss(x, y).item(),
        "gain 1": filled(replace(small, qk_gain=1.0)).loss(x, y).item(),
    }
    assert len({round(v, 5) for v in (*found.values(), *others.values())}) == 13


def test_half_precision_changes_the_arithmetic_and_not_the_weights():
    half = filled(small)
    half.compute_dtype = torch.bfloat16
    same(half.qo_bank.dtype, torch.float32)
    gap = abs(half.loss(x, y).item() - 4.7695675)
    assert 0 < gap < 0.05


def test_a_compiled_forward_keeps_the_seam():
    toy = filled(replace(small, layers=1, value_layers=(), xsa_layers=(0,)))
    silence = lambda name, w: w * 0 if name == "mlp_down_bank" else w  # noqa: E731
    fast = torch.compile(toy, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        near(fast(x), toy(x), 1e-5)
        near(fast(x, transform=silence), toy(x, transform=silence), 1e-5)
        effect = (fast(x, transform=silence) - fast(x)).abs().max().item()
    assert effect > 0.1


def test_star_relu_starts_as_the_squared_relu():
    start = {"activation_scale": 1.0, "activation_bias": 0.0}
    same(moved(alive(start, activation="star_relu")), 0)
    for name in ACTIVATIONS:
        assert (moved(alive(activation=name)) > 1e-3) == (name != "relu2"), name


def test_value_residuals_vanish_where_nothing_is_carried():
    off = {"even": (0.0, 1.0), "faint": (0.0, 1.0), "added": -100.0}
    for form, value in off.items():
        near(moved(alive({"value_mix": value}, value_residual=form)), 0)


def test_even_and_faint_are_one_function_at_equal_weights():
    def residual_logits(form, layers):
        "Logits at equal weights, when `layers` have a value embedding."
        edit = {"value_mix": (0.3, 0.7)}
        return alive(edit, value_residual=form, value_layers=layers)(x).detach()

    for layers in ((1, 2), (0, 2)):
        same(residual_logits("even", layers), residual_logits("faint", layers))
    edit = {"value_mix": -100.0}  # nothing of the first layer's values
    silent = alive(edit, value_residual="added", value_layers=(0, 2))(x)
    (residual_logits("added", (0, 2)) - silent).abs().max().item()


def test_gates_start_open_and_close_a_head():
    fresh = GPT(replace(small, gated_attention=True)).blocks[0].attn_gate
    near(fresh.bias.sigmoid(), 0.982013790)
    near(moved(alive({"gate.bias": 100.0, "gate.weight": 0.0}, gated_attention=True)), 0)
    closed = alive({"gate.bias": -100.0, "gate.weight": 0.0}, gated_attention=True)
    near(closed(x), alive({"attn_scale": 0.0})(x))  # all gates closed: as if no layer attended


def test_exclusive_attention_on_any_layer():
    where = [(), (0,), (1,), (2,), (0, 2), last_layers(3, 3)]
    found = {layers: moved(alive(xsa_layers=layers)) for layers in where}
    assert min(found.values()) > 1e-3 and len(set(found.values())) == len(where)
    with expect_fail(GolfError, "k must be from 0 to n=3, not 4"):
        last_layers(4, 3)


def test_three_tokens_in_the_table_and_a_table_without_projection():
    same(
        moved(alive({"bigram.table.weight": 0.0}, trigram=True)),
        moved(alive({"bigram.scale": 0.0})),
    )
    wide = alive(bigram_width=32)
    assert "bigram.proj.weight" not in wide.state_dict()
    looked_up = wide.bigram([torch.tensor([3])], torch.float32, once(None))
    near(looked_up[0], wide.bigram.table.weight[3] * wide.bigram.scale)
    with expect_fail(GolfError, "trigram must be False where bigram_rows is 0"):
        replace(small, bigram_rows=0, trigram=True)


def test_an_output_head_of_its_own():
    untied = dict(tied=False)
    near(GPT(replace(small, **untied)).loss(x, y).item(), math.log(32), 1e-6)
    same(moved(alive({"output.weight": alive().embedding.weight.detach()}, **untied)), 0)


def test_deviations_vanish_and_are_other_matrices():
    shared = alive(sources=(0, 1, 0))
    low_rank = dict(sources=(0, 1, 0), deviation_rank=2)
    silent = {f"{role}_b": 0.0 for role in [*small.deviation_shapes(), "attention", "mlp"]}
    for kind in ("weights", "bypass"):
        quiet = alive(silent, deviation=kind, **low_rank)
        near((quiet(x) - shared(x)).abs().max(), 0)

    deviating = alive(deviation="weights", deviation_gate=True, **low_rank)
    plain = replace(small, deviation="", sources=())
    state = deviating.unshared().state_dict()
    for i in range(3):
        for role, (a, b, gate) in deviating.deviation(i).items():
            bank, index = plain.slice_of(role, i)
            state[bank][index] += (gate * a @ b).detach()
    merged = GPT(plain)
    merged.load_state_dict({k: v for k, v in state.items() if "deviations" not in k})
    near(merged(x), deviating(x), 1e-4)


def test_every_deviation_moves_the_logits():
    shared, low_rank = alive(sources=(0, 1, 0)), dict(sources=(0, 1, 0), deviation_rank=2)
    table = {}
    for kind in ("weights", "bypass"):
        for gated in (False, True):
            other = alive(deviation=kind, deviation_gate=gated, **low_rank)
            change = (other(x) - shared(x)).abs().max().item()
            table[kind, gated] = change, other.parameter_count() - shared.parameter_count()
    assert min(change for change, _ in table.values()) > 1e-3
    with expect_fail(GolfError, "deviation_rank must be positive with a deviation"):
        replace(small, deviation="bypass")
    with expect_fail(GolfError, "deviation_gate must be False without a deviation"):
        replace(small, deviation_gate=True)


def test_no_part_strays_in_precision_or_device():
    def half_precision_gap(changes):
        model = alive(**changes)
        exact = model.training_loss(x, y).item()
        model.compute_dtype = torch.bfloat16
        gap = abs(model.training_loss(x, y).item() - exact)
        same(model.to("meta").training_loss(x.to("meta"), y.to("meta")).device.type, "meta")
        return gap

    with torch.no_grad():
        gaps = pd.Series({name: half_precision_gap(c) for name, c in SWITCHES.items()})
    assert gaps.between(1e-6, 0.15).all(), gaps


def test_the_published_shapes_have_the_published_totals():
    bare = dict(value_layers=(), xsa_layers=(), layer_norm_scale=False, rope_dims=64)
    SHAPES = {
        "baseline": (dict(layers=9, mlp_width=1024, bigram_rows=0, smear=False, **bare), 17_059_912),
        "#484 A": (
            dict(
                layers=9, width=1024, heads=16, mlp_width=3072, bigram_rows=10240,
                sources=(0, 0, 0, 1, 1, 1, 2, 2, 2), deviation="bypass", deviation_rank=8,
                deviation_gate=True, **bare,
            ),
            29_566_018 + 1,
        ),
        "#484 B-F": (
            dict(layers=10, mlp_width=1024, activation="swiglu", bigram_rows=10240, **bare),
            25_517_137,
        ),
        "#484 H": (dict(bigram_rows=3072, value_residual="faint"), 27_124_848),
        "#953": (
            dict(kv_heads=8, mlp_width=1792, bigram_rows=6144, xsa_layers=last_layers(11, 11)),
            33_317_980,
        ),
    }  # fmt: skip
    packed = dict(
        value_layers=(8, 9, 10), xsa_layers=last_layers(5, 11), value_residual="even",
        gated_attention=True, activation="leaky_relu2",
    )  # fmt: skip
    SHAPES["#1185"] = packed, 27_038_923
    SHAPES["#1185, training"] = dict(mtp_heads=2, **packed), 28_087_499
    rows = {}
    for name, (changes, published) in SHAPES.items():
        with torch.device("meta"):
            built = GPT(GPTConfig(**changes))
        same(built.parameter_count(), published)
        rows[name] = published, built.flops_per_token() / 1e6


def test_flops_count_each_use_of_a_matrix():
    def flops(**changes):
        return alive(**changes).flops_per_token(training=False, context=16)

    same(flops(sources=(0, 1, 0)), flops())
    same(flops(activation="swiglu") - flops(), 2 * 3 * 96 * 32)
    same(flops(deviation="bypass", deviation_rank=2) - flops(), 2 * 3 * 2 * 2 * (2 * 32))
    same(flops(mtp_heads=2), flops())
    same(alive(mtp_heads=2).flops_per_token() - alive().flops_per_token(), 6 * 2 * 32 * 32)
    same(flops(tied=False), flops())
    by_hand = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 2 * 96 * 32) + 32 * 8 + 16 * 8 + 32 * 32
    same(flops(), 2 * (by_hand + 2 * 3 * 32 * 16 / 2))


def test_a_model_is_named_by_shape_precision_and_weights():
    first, second = GPT(small, seed=1), GPT(small, seed=1)
    same(digest(first.digestible()), digest(second.digestible()))
    second.embedding.weight.data[0, 0] += 1e-3
    third = GPT(small, seed=1, compute_dtype=torch.bfloat16)
    assert len({digest(m.digestible()) for m in (first, second, third)}) == 3


def test_logits_and_losses_of_each_token_are_those_of_the_formulas():
    model = filled(small)
    logits = model(x)
    near(logits.sum().item(), -1.34097, 2e-4)
    near(logits.abs().max().item(), 6.317377)
    near(logits[0, 0, :4], [-2.598626, 3.181514, -2.024422, -0.252334])
    near(logits[1, 15, :4], [3.963369, -2.457254, -0.414045, 3.052837])
    nll = F.cross_entropy(logits[0], y[0], reduction="none").detach()
    reference = [
        4.84002, 3.85115, 6.19489, 5.38611, 7.20680, 4.13337, 4.32872, 6.81440,
        6.96384, 3.45264, 3.21466, 8.42368, 3.93142, 3.05818, 4.15909, 6.34033,
    ]  # fmt: skip
    near(nll, reference)


def test_a_text_read_in_pieces_has_the_states_of_one_reading():
    def in_pieces(changes):
        "Largest difference between states of one reading and of three."
        toy, memory = alive(**changes), Memory()
        line = torch.randint(32, (2, 14), generator=torch.Generator().manual_seed(5))
        parts = [toy.hidden(piece, memory=memory) for piece in line.split([6, 1, 7], dim=1)]
        assert memory.last(4).length == 4 and memory.length == 14
        return (torch.cat(parts, 1) - toy.hidden(line)).abs().max().item()

    with torch.no_grad():
        apart = {name: in_pieces(changes) for name, changes in SWITCHES.items()}
    assert max(apart.values()) < 1e-4, apart  # rounding only


def test_the_seam_reaches_every_matrix_of_the_fullest_model():
    full = alive(**SWITCHES["all"])
    names = asked_by(lambda transform: full.training_loss(x, y, transform=transform))
    mixing = ("residual_mix", "skip_weights", "value_mix")
    matrices = {k for k, p in full.named_parameters() if p.ndim > 1 and not k.endswith(mixing)}
    same(set(names), matrices)
    same(len(names), len(matrices))
    for name in matrices - {"mtp_heads.0.weight"}:
        near(full(x, transform=enlarge(name)), scaled_by_hand(full, name), 1e-4)
    calls = []
    full(x, watch=lambda bank, index, h: calls.append((bank, index)))
    same(calls.count(("mlp_gate_bank", 0)), 2)  # layers 0 and 2 share it
    same(calls[-1], ("output.weight", 0))
