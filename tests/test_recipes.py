"""Last digits of the published scripts: each written down once more, plainly, and compared."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golf.net.average import EMA, LAWA
from golf.net.config import GPTConfig
from golf.net.model import GPT
from golf.net.optim import Muon
from golf.net.parts import bigram_rows
from golf.net.switches import trigram_rows
from golf.predict.evaluate import evaluate
from golf.predict.stream import Stream
from golf.published import pr473, pr473_squeezing, pr484, pr484_stacks, pr953, pr953_adapt
from golf.published.recipes import recipes
from golf.store.plans import SMALL
from golf.store.qat import qat_transform
from golf.store.quant import prune_smallest, quantize_rows
from golf.text.corpus import Corpus
from golf.text.tokenizers import ByteTable
from golf.train.loop import Trainer
from golf.train.settings import TrainConfig

SHAPE = GPTConfig(
    vocab_size=256, layers=4, width=32, heads=2, kv_heads=1, mlp_width=64, context=64,
    bigram_rows=64, bigram_width=8, value_rows_width=8, value_layers=(3,), xsa_layers=(2, 3),
    rope_dims=8,
)  # fmt: skip
RANDOM = torch.Generator().manual_seed(0)
TEXT = np.frombuffer(b"a quick brown fox jumps over two lazy dogs, and they let it. " * 60, "uint8")
NONE = torch.zeros(256, dtype=torch.bool)
BYTES = ByteTable(1 + torch.arange(256) % 3, NONE, NONE)


def small_corpus(folder) -> Corpus:
    "A corpus of a few thousand bytes."
    rule = folder / "bytes.txt"
    rule.write_text("an id is a byte")
    text = TEXT.astype("uint16")
    return Corpus("fox", text[:2800], text[2800:], rule, BYTES, 256)


def opinionated(config: GPTConfig = SHAPE) -> GPT:
    "An untrained model whose rows are not flat and whose layers all act."
    model, random = GPT(config, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.embedding.weight.mul_(100)
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=random))
    return model


# --- #720: how it adapts ---------------------------------------------------------------------


def may_move(name: str, p: Tensor, layers: int) -> Tensor:
    "1 where #720 trains: the last two blocks, and whatever is called a scale."
    if "scale" in name or name.startswith((f"blocks.{layers - 2}.", f"blocks.{layers - 1}.")):
        return torch.ones_like(p)
    mask = torch.zeros_like(p)
    if name.endswith("_bank"):
        half = len(p) // layers  # 2 where a bank holds two roles
        mask.view(half, layers, *p.shape[1:])[:, -2:] = 1
    return mask


def script_720(model: GPT, text: Tensor, chunk: int, stride: int, lr: float, polyak: float):
    "Losses of #720's loop without its mixture: float64 [targets], in order."
    L, T = model.config.context, len(text) - 1
    chunks, named = math.ceil(T / chunk), dict(model.named_parameters())
    masks = {n: may_move(n, p, model.config.layers) for n, p in named.items()}
    optimiser = torch.optim.AdamW(named.values(), lr, betas=(0.9, 0.999), weight_decay=0.0)
    mean = {n: p.detach().clone() for n, p in named.items()}
    losses = []
    for k in range(chunks):
        begin, stop = k * chunk, min((k + 1) * chunk, T)
        scorer = copy.deepcopy(model)
        if k > 0:
            scorer.load_state_dict(mean, strict=False)
        first, end = begin, begin + (L if k == 0 else stride)
        while first < stop:
            end = min(end, stop)
            with torch.no_grad():
                z = scorer(text[max(0, end - L) : end][None])[0, first - end :].float()
            p = z.softmax(1)
            entropy = -(p * (p + 1e-10).log()).sum(1, keepdim=True)
            heat = 1 - (1 - 0.98) * (1 - entropy / math.log(z.size(1)))
            z = z / heat.clamp(0.9, 1.05)
            losses.append(F.cross_entropy(z, text[first + 1 : end + 1], reduction="none"))
            first, end = end, end + stride
        if k == chunks - 1:
            break
        cosine = 0.5 * (1 + math.cos(math.pi * k / (chunks - 1)))
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine * (1 + 2 * min(k / (0.3 * chunks), 1))
        x = text[begin:stop].view(-1, L)
        y = text[begin + 1 : stop + 1].view(-1, L)
        for _ in range(3):
            optimiser.zero_grad()
            each = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
            weight = (1 + y.flatten() % 3).float()
            ((each * weight).sum() / weight.sum()).backward()
            for n, p in named.items():
                p.grad = masks[n] * (p.grad if p.grad is not None else 0)
            torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
            optimiser.step()
            for n, p in named.items():
                mean[n].lerp_(p.detach(), 1 - polyak)
    return torch.cat(losses).double()


def test_720_adapts_at_one_temperature_without_groups(tmp_path):
    "A score by pr720's recipe would have been that of #953's rates and calibration."
    corpus = small_corpus(tmp_path)
    stream = Stream(corpus.val, 256, limit=768)
    small = dict(chunk_tokens=256, mixer=False, lr=0.005, polyak=0.9)
    ran = {
        name: evaluate(
            replace(pr953_adapt.ADAPT[name], **small).start(opinionated(), 768, byte_table=BYTES),
            stream,
        ).nll
        for name in ("pr720", "pr953")
    }
    text = torch.from_numpy(corpus.val[:769].astype("int64"))
    by_hand = script_720(opinionated(), text, 256, 32, 0.005, 0.9)
    assert abs(ran["pr720"].mean() - by_hand.mean().item()) < 1e-5
    np.testing.assert_allclose(ran["pr720"], by_hand.numpy(), atol=1e-4)
    as_953 = replace(
        pr953_adapt.ADAPT["pr953"], epochs=3, stride=32, trainable=pr953_adapt.last_blocks(2)
    )
    before = evaluate(replace(as_953, **small).start(opinionated(), 768, byte_table=BYTES), stream)
    assert abs(before.nll.mean() - by_hand.mean().item()) > 1e-3
    assert abs(ran["pr953"].mean() - ran["pr720"].mean()) > 1e-3


def test_720_has_no_wart_of_calibration():
    "The chapter would have said that #720 picks its temperature from text just trained on."
    calibrated = [w for w in pr953_adapt.WARTS if w.name == "A temperature from seen text"]
    assert [w.of for w in calibrated] == [("pr953", "pr967", "pr995")]
    for name, adapt in pr953_adapt.ADAPT.items():
        assert adapt.calibrate == (adapt.scale is not None) == (name != "pr720")
        assert adapt.temperature == 0.98


# --- rounding --------------------------------------------------------------------------------


def script_eight(t: Tensor, share: float = 0.9999984) -> tuple[Tensor, Tensor]:
    "Codes and steps of a table [r, c] as the scripts make them."
    clip = torch.quantile(t.abs(), share, dim=1)
    cut = torch.maximum(torch.minimum(t, clip[:, None]), -clip[:, None])
    step = (clip / 127.0).clamp_min(1.0 / 127.0)
    return (cut / step[:, None]).round().clamp(-127, 127).to(torch.int8), step.half()


def table_plans() -> dict:
    "For each recipe that rounds tables to eight bits, what does it."
    with torch.device("meta"):
        model = GPT(pr473.MODEL)
    state, name = model.exported(), "embedding.weight"
    return {
        "#399, #414, #473, #549": pr473_squeezing.published_plan(state).of(name).quantizer,
        "#1019, #1043, #1185": pr473_squeezing.published_plan(state, small=0).of(name).quantizer,
        "baseline": pr473_squeezing.baseline_plan(state).of(name).quantizer,
        "#484, #589": pr484_stacks.squeeze_steps(model, None).of(name).quantizer,
        "#720, #953": pr953.pruned_table,
    }


def test_tables_are_cut_at_the_scripts_percentile():
    "One code in some thousand of every table would have been another than the published run's."
    table = torch.randn(256, 512, generator=torch.Generator().manual_seed(2))
    table *= torch.logspace(-2, 1, 256)[:, None]
    codes, steps = script_eight(table)
    old = script_eight(table, 0.9999998)
    assert 10 < (old[0] != codes).sum() < 2000
    for name, rounding in table_plans().items():
        found, reference = rounding(table), (codes, steps)
        if "953" in name:
            reference = script_eight(prune_smallest(table, 0.03))
        assert torch.equal(found.q, reference[0]), name
        assert torch.equal(found.scale, reference[1]), name


def test_a_table_is_cut_before_it_is_rounded():
    "The largest value of a row on the floor would have been rounded up where the script cut it."
    row = torch.zeros(1, 512)
    row[0, 0] = 63.5001 / 127
    assert pr473_squeezing.quantize_table(row).q[0, 0] == script_eight(row)[0][0, 0] == 63


def test_ebls_rounds_all_that_is_large_by_the_fp32_step():
    "Version A's tables would have eight bits, its controls fp16, its codes another step."
    with torch.device("meta"):
        model = pr484.Ebls(pr484.MODEL_A)
    plan, state = pr484.squeeze_ebls(model, None), model.exported()
    kinds: dict[str, int] = {}
    for name, t in state.items():
        way = plan.of(name)
        kind = f"{way.kind}{way.bits if way.kind == 'int' else ''}"
        kinds[kind] = kinds.get(kind, 0) + t.numel()
        in_script = t.numel() // (3 if "deviations" in name else 1)  # one tensor a shared block
        matrix = in_script if t.ndim < 3 or "deviations" in name else t.shape[-2:].numel()
        assert (way.kind == "int") == (matrix > SMALL), name
        assert (way.kind == "raw") == name.endswith(pr484.CONTROLS), name
    assert sum(kinds.values()) == 29_566_018
    assert kinds["int6"] == 9 * 1024 * 1024 // 3 * 9 - 3 * 1024 * 512 + 1024 * 1024 + 10_240 * 128 + 1024 * 128  # fmt: skip
    w = 3 * torch.randn(2, 64, 256, generator=torch.Generator().manual_seed(3))
    step = (w.abs().amax(-1) / 31.0).clamp_min(1.0 / 31.0)
    codes = (w / step[..., None]).round().clamp(-32, 31).to(torch.int8)
    for name in ("qo_bank", "bigram.table.weight"):
        found = plan.of(name).quantizer(w)
        assert torch.equal(found.q, codes) and torch.equal(found.scale, step.half())
    assert codes.min() == -31  # the code -32 cannot occur
    by_fp16 = quantize_rows(w, 6, clip="max", floor=1 / 31).q
    assert 0 < (by_fp16 != codes).float().mean() < 1e-2


def test_no_recipe_has_matrices_that_473_would_keep_in_fp16():
    "A bank counts as a whole here and matrix by matrix in #473: the two must part in no recipe."
    smallest = {}
    for name, r in recipes().items():
        with torch.device("meta"):
            state = r.build(r.model).exported()
        banks = {n: t.shape[-2:].numel() for n, t in state.items() if n.endswith("_bank")}
        smallest[name] = min(banks.values())
    assert min(smallest.values()) == 256 * 512 == 131_072 > SMALL


# --- training --------------------------------------------------------------------------------


def orthogonal(g: Tensor) -> Tensor:
    "Newton-Schulz of #473's Muon, five steps in bf16."
    x = g.bfloat16()
    if tall := x.size(-2) > x.size(-1):
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return x.mT if tall else x


def three_steps(bank: Tensor, grads: list[Tensor], ahead) -> Tensor:
    "`bank` [S, r, c] after three steps of #473's Muon, with `ahead(g, buffer)` before the flattening."
    p, buffer = bank.clone(), torch.zeros_like(bank, dtype=torch.bfloat16)
    for grad in grads:
        g = grad.bfloat16()
        buffer.mul_(0.92).add_(g)
        update = orthogonal(ahead(g, buffer))
        p.mul_(1 - 0.025 * 0.04)
        p.add_(update.to(p.dtype), alpha=-0.025 * max(1, p.size(-2) / p.size(-1)) ** 0.5)
    return p


@pytest.mark.parametrize("shape", [(4, 48, 32), (3, 32, 64)])
def test_a_bf16_buffer_of_muon_is_added_with_one_rounding(shape):
    "Three steps of a bank would have ended elsewhere than #473's."
    random = torch.Generator().manual_seed(4)
    bank, *grads = (torch.randn(shape, generator=random) for _ in range(4))
    expected = three_steps(bank, grads, lambda g, b: g.add(b, alpha=0.92))
    twice = three_steps(bank, grads, lambda g, b: g + 0.92 * b)
    p = torch.nn.Parameter(bank.clone())
    muon = Muon([p], 0.025, momentum=0.92, weight_decay=0.04)
    for grad in grads:
        p.grad = grad
        muon.step()
    assert torch.equal(p.detach(), expected)
    assert (twice != expected).float().mean() > 0.5


@pytest.mark.parametrize("form", ["even", "faint", "added"])
def test_the_value_residual_carries_the_first_layers_embedding(form):
    "A value embedding on layer 0 would have stayed there; in every recipe it comes later."
    model = opinionated(replace(SHAPE, value_residual=form, value_layers=(0, 3)))
    with torch.no_grad():  # the first layer's values are their embedding alone
        model.kv_bank[model.config.layers] = 0
        model.value_scales.fill_(10)
        model.value_mix.fill_(0.5)
    ids = torch.from_numpy(TEXT[:64].astype("int64"))[None]
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    of_layer_2 = model.value_mix.grad[2 if form == "even" else 1]
    assert of_layer_2.flatten()[0].abs() > 1e-6  # 0 if the embedding were left behind
    assert all(0 not in r.model.value_layers for r in recipes().values())


def test_953_trains_with_the_code_below_the_grid():
    "A late run as #953 meant it would never have used the code -16."
    w = torch.randn(128, 2048, generator=torch.Generator().manual_seed(5)).requires_grad_()
    step = (torch.quantile(w.detach().abs(), 0.9995, dim=1) / 15).clamp(min=1 / 15)[:, None]
    script = (w.detach() / step).round().clamp(-16, 15)
    used = qat_transform(pr953.LATE_QAT)("qo_bank", w)
    codes = (used.detach() / step).round()
    assert (codes != script).float().mean() < 1e-3  # steps are rounded to fp16 here
    assert min((codes == -16).sum(), (script == -16).sum()) > 40
    assert torch.autograd.grad(used.sum(), w)[0].unique().tolist() == [1.0]
    assert quantize_rows(w.detach(), 5, clip=0.9995, floor=1 / 15).q.min() == -15


def test_late_phases_do_not_end_when_the_rate_rises(tmp_path):
    "After a slow step of a run by the clock, training would have left the grid, and the price."
    corpus = small_corpus(tmp_path)
    config = TrainConfig(batch_tokens=256, steps=9, qat=replace(pr953.LATE_QAT, soft_below=0.1))
    trainer = Trainer(SHAPE, config, corpus, objective=pr953.objective_953)
    phases = []
    for scale in (1.0, 0.6, 0.4, 0.7, 0.05, 0.7):
        trainer.update(scale)
        phases.append(trainer.phase)
    assert phases == ["off", "off", "hard", "hard", "soft", "hard"]
    trainer.save(tmp_path / "checkpoint")
    again = Trainer(SHAPE, config, corpus, objective=pr953.objective_953)
    again.load(tmp_path / "checkpoint")
    again.update(0.7)
    assert (again.phase, again.lowest_scale) == ("hard", 0.05)
    assert torch.isfinite(pr953.objective_953(again, *(t[:1] for t in again.stream.next())))


def test_a_late_average_is_not_held_again_when_the_rate_rises():
    "The average of #484 would have begun anew, from a copy of the weights of that moment."
    average = EMA({"w": torch.zeros(1)}, 0.9985)
    usual = lambda ids, targets: torch.zeros(())
    config = SimpleNamespace(average=SimpleNamespace(decay=0.9985))
    trainer = SimpleNamespace(average=average, usual=usual, config=config, lowest_scale=1.0)
    seen = []
    for scale in (0.5, 0.39, 0.5):
        trainer.scale, trainer.lowest_scale = scale, min(scale, trainer.lowest_scale)
        pr484_stacks.late_average(trainer, None, None)
        seen.append(average.decay)
    assert seen == [0.0, 0.9985, 0.9985]


# --- what cannot occur in a recipe ------------------------------------------------------------


def test_no_recipe_averages_by_lawa():
    "With one snapshot #473 would have exported its EMA; LAWA here gives the snapshot."
    assert {r.train.average.kind for r in recipes().values()} == {"ema", "swa", "none"}
    weights = {"w": torch.ones(1)}
    lawa = LAWA(weights, every=1, keep=3)
    lawa.update()
    weights["w"].fill_(5)
    assert lawa.average()["w"].item() == 1.0


def rows_in_32_bits(ids: Tensor, rows: int, three: bool) -> Tensor:
    "Rows of the hashed table as the scripts compute them, in int32."
    t = ids.to(torch.int32)
    found = (36313 * t[2:]) ^ (27191 * t[1:-1])
    if three:
        found ^= 51497 * t[:-2]
    return found % (rows - 1)


@pytest.mark.parametrize("first, three", [(59_139, False), (41_702, True)])
def test_hashed_rows_are_the_scripts_below_the_overflow(first, three):
    "From that id on the scripts' rows are others; every recipe has 1,024 ids."
    ours = trigram_rows if three else bigram_rows
    below, beyond = torch.arange(first - 500, first), torch.arange(first, first + 500)
    same, other = (
        (ours(ids[None], 3072)[0, 2:] == rows_in_32_bits(ids, 3072, three)).float().mean()
        for ids in (below, beyond)
    )
    assert same == 1 and other < 0.1
    assert {r.model.vocab_size for r in recipes().values()} == {1024}
