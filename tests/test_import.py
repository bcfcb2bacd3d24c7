"""Files as the scripts of #414, #549, #1019 and the baseline write them, and files that only look so."""

import gzip
import io
import lzma
import pickle
import zipfile
import zlib
from dataclasses import replace

import pytest
import torch
import zstandard
from typer.testing import CliRunner

from golf.base.files import GolfError
from golf.lab.cli import app
from golf.net.model import GPT, GPTConfig
from golf.published import recipes as room
from golf.published.recipes import Recipe, default_squeeze
from golf.store.imported import import_model, published_names, read_published, unfolded
from golf.store.quant import quantize_rows
from golf.train.loop import TrainConfig

SHAPE = GPTConfig(
    vocab_size=64, layers=4, width=32, heads=2, kv_heads=1, mlp_width=64, context=32,
    activation="leaky_relu2", bigram_rows=32, bigram_width=8, value_rows_width=8,
    value_layers=(2, 3), xsa_layers=(3,), rope_dims=8,
)  # fmt: skip
LITTLE = 1 << 22
PACK = {
    "zstd": lambda data: zstandard.ZstdCompressor(level=9).compress(data),
    "lzma": lambda data: lzma.compress(data, preset=6),
    "zlib": lambda data: zlib.compress(data, 9),
}


def model_of(config: GPTConfig = SHAPE) -> GPT:
    """A model with something in every tensor."""
    model, chance = GPT(config, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=chance))
    return model


def apart(model: GPT) -> dict[str, torch.Tensor]:
    """The state dictionary as the scripts have it: one tensor a matrix, under their names."""
    found = {}
    for own, theirs in published_names(model.config).items():
        tensor = model.state_dict()[own].float()
        parts = tensor.unbind() if len(theirs) > 1 else [tensor]
        found |= {key: part.clone() for key, part in zip(theirs, parts)}
    return found


def rounded(w: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes and fp16 steps of the rows of a matrix, by the rule of #414 with its floor."""
    most = 2 ** (bits - 1) - 1
    step = (w.abs().amax(1) / most).clamp(min=1 / most).half()
    return (w / step.float()[:, None]).round().clamp(-most, most).to(torch.int8), step


def saved(content: dict) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def as_414(model: GPT) -> tuple[dict, dict[str, torch.Tensor]]:
    """The dictionary of #414 and its line, and the values that stand in it."""
    weights, about, values = {}, {}, {}
    for key, tensor in apart(model).items():
        table = key.endswith(("tok_emb.weight", "embed.weight"))
        if (
            ".attn.c_" in key
            or ".proj.weight" in key
            and "blocks" in key
            or ".mlp." in key
            or table
        ):
            codes, step = rounded(tensor, 8 if table else 6)
            weights[f"{key}.q"], weights[f"{key}.scale"] = codes, step
            about[key] = {"type": "int8" if table else "int6"}
            values[key] = codes.float() * step.float()[:, None]
        else:
            kept = tensor.half() if tensor.numel() % 3 else tensor
            weights[key], about[key] = (
                kept,
                "passthrough" if tensor.numel() % 3 else "passthrough_ctrl",
            )
            values[key] = kept.float()
    return {"w": weights, "m": about}, values


def as_baseline(model: GPT) -> tuple[dict, dict[str, torch.Tensor]]:
    """The dictionary of the challenge's first script."""
    codes, steps, whole, values = {}, {}, {}, {}
    for key, tensor in apart(model).items():
        if tensor.ndim == 2 and tensor.numel() > 100:
            codes[key], steps[key] = rounded(tensor, 8)
            values[key] = codes[key].float() * steps[key].float()[:, None]
        else:
            whole[key] = tensor.half()
            values[key] = whole[key].float()
    kinds = {key: "float32" for key in codes}
    found = dict(__quant_format__="int8_clean_per_row_v1", quantized=codes, scales=steps)
    return found | dict(dtypes=kinds, passthrough=whole, passthrough_orig_dtypes={}), values


@pytest.mark.parametrize("compressor", list(PACK))
@pytest.mark.parametrize("layout", [as_414, as_baseline])
def test_every_value_is_its_code_times_its_step(tmp_path, layout, compressor):
    "A bank would have been stacked in another order, or a step have met another row."
    model = model_of()
    content, values = layout(model)
    path = tmp_path / "final_model.ptz"
    path.write_bytes(PACK[compressor](saved(content)))
    back = apart(import_model(path, SHAPE))
    assert back.keys() == values.keys()
    for key, wanted in values.items():
        assert torch.equal(back[key], wanted), key
    ids = torch.arange(40).reshape(2, 20)
    assert (import_model(path, SHAPE)(ids) - model(ids)).abs().max() < 0.5


def test_other_names_and_whole_banks_are_taken(tmp_path):
    "A file of a neighbouring script would have been refused for what it calls a table."
    content, _ = as_414(model_of())
    for old, new in (
        ("bigram.embed.weight", "bigram.table"),
        ("ve_shared.embed.weight", "ve_shared.table.weight"),
    ):
        for end in ("", ".q", ".scale"):
            if old + end in content["w"]:
                content["w"][new + end] = content["w"].pop(old + end)
        content["m"][new] = content["m"].pop(old)
    content["w"]["mtp_heads.0.weight"], content["m"]["mtp_heads.0.weight"] = (
        torch.zeros(64, 32),
        "passthrough",
    )
    plain = tmp_path / "plain.ptz"
    plain.write_bytes(lzma.compress(saved(as_414(model_of())[0])))
    (tmp_path / "named.ptz").write_bytes(lzma.compress(saved(content)))
    a, b = (import_model(p, SHAPE).state_dict() for p in (plain, tmp_path / "named.ptz"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    whole = {k: v.half() for k, v in model_of().state_dict().items() if k.endswith("_bank")}
    rest = {
        k: v.half()
        for k, v in apart(model_of()).items()
        if "attn.c_" not in k and ".proj.w" not in k
    }
    rest = {k: v for k, v in rest.items() if ".mlp." not in k} | {
        k: v.half()
        for k, v in apart(model_of()).items()
        if k.endswith(("bigram.proj.weight", "shared.proj.weight"))
    }
    both = whole | rest
    (tmp_path / "banks.ptz").write_bytes(
        lzma.compress(saved({"w": both, "m": dict.fromkeys(both, "passthrough")}))
    )
    found = import_model(tmp_path / "banks.ptz", SHAPE).state_dict()
    assert all(torch.equal(found[k], v.float()) for k, v in whole.items())


def test_forms_that_people_write_give_the_same_values(tmp_path):
    "Steps as a column, another prefix, a plain state dictionary: each would have been sent back to its author."
    content, values = as_414(model_of())
    column = {
        k: v[:, None] if k.endswith(".scale") and v.ndim else v for k, v in content["w"].items()
    }
    prefixed = {
        part: {f"module._orig_mod.{k}": v for k, v in content[part].items()} for part in "wm"
    }
    inner = {
        part: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in content[part].items()}
        for part in "wm"
    }
    forms = {"column": content | {"w": column}, "prefixed": prefixed, "inner": inner}
    forms["state dictionary"] = {k: v for k, v in content["w"].items()}
    forms["values alone"] = values
    for name, form in forms.items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(saved(form))
        back = apart(import_model(path, SHAPE))
        assert all(torch.equal(back[key], wanted) for key, wanted in values.items()), name


@pytest.mark.parametrize("kind", ["alone", "gzip", "padded"])
def test_other_streams_are_unfolded(tmp_path, kind):
    data = saved(as_414(model_of())[0])
    packed = {
        "alone": lambda: lzma.compress(data, lzma.FORMAT_ALONE),
        "gzip": lambda: gzip.compress(data),
        "padded": lambda: zlib.compress(data) + b"\0\0\r\n",
    }[kind]()
    assert unfolded(packed) == data


def test_what_follows_a_stream_is_not_passed_over():
    "Half of a file that two streams make would have been taken for the whole."
    data = saved({"w": {}, "m": {}})
    for packed in (zlib.compress(data) + b"more", lzma.compress(data) + lzma.compress(data)):
        with pytest.raises(GolfError, match="bytes follow its end"):
            unfolded(packed)


def test_a_text_is_no_damaged_stream():
    with pytest.raises(GolfError, match="expected a stream of zstd, LZMA or zlib"):
        unfolded(b"xylophone, and more of it")


def test_tables_are_cast_as_the_scripts_cast_them(tmp_path):
    "Scores a thousandth off those of the script would have been set beside its own."
    path = tmp_path / "final_model.pt"
    path.write_bytes(saved(as_414(model_of())[0]))
    fine, cast = (import_model(path, SHAPE, table_dtype=d) for d in (torch.float32, torch.bfloat16))
    table = fine.state_dict()["embedding.weight"]
    assert torch.equal(cast.state_dict()["embedding.weight"], table.bfloat16().float())
    assert not torch.equal(table, table.bfloat16().float())
    assert torch.equal(fine.state_dict()["qo_bank"], cast.state_dict()["qo_bank"])


@pytest.mark.parametrize("form", ["even", "faint"])
def test_gates_and_value_residuals_of_484_and_1185_are_read(tmp_path, form):
    "The models of two of the five pull requests could not have been taken into the laboratory."
    shape = replace(SHAPE, value_residual=form, gated_attention=form == "even")
    model = model_of(shape)
    path = tmp_path / "final_model.int6.ptz"
    path.write_bytes(lzma.compress(saved(as_414(model)[0])))
    back = import_model(path, shape)
    mixed = [k for k in apart(model) if "vr_lambda" in k]
    assert mixed == [f"blocks.{i}.attn.vr_lambda" for i in range(form == "faint", 4)]
    assert torch.equal(back.state_dict()["value_mix"], model.state_dict()["value_mix"].half())
    assert not torch.equal(back.state_dict()["value_mix"], GPT(shape).state_dict()["value_mix"])
    gates = [k for k in model.state_dict() if "attn_gate" in k]
    assert len(gates) == (8 if form == "even" else 0)
    for key in gates:
        assert torch.equal(back.state_dict()[key], model.state_dict()[key].half().float())
    other = replace(shape, value_residual="")
    with pytest.raises(GolfError, match=r"has no place for .*vr_lambda"):
        import_model(path, other)


@pytest.mark.parametrize("names", [("gate", "fc", "proj"), ("w_gate", "w_up", "w_down")])
def test_a_gated_mlp_is_read_by_any_of_its_names(tmp_path, names):
    found = room.recipe("pr484_swiglu")
    keep = dict(value_layers=(), xsa_layers=(), rope_dims=16, activation="swiglu")
    shape = replace(SHAPE, **keep)
    model = found.build(shape, seed=3)
    renamed = {}
    for key, tensor in apart(model).items():
        for old, new in zip(("gate", "fc", "proj"), names):
            key = key.replace(f".mlp.{old}.", f".mlp.{new}.")
        renamed[key] = tensor
    path = tmp_path / "final_model.pt"
    path.write_bytes(saved(renamed))
    back = import_model(path, shape, build=found.build)
    assert all(torch.equal(t, model.state_dict()[k]) for k, t in back.state_dict().items())


def test_shared_blocks_are_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(GolfError, match="how scripts name the blocks that layers share"):
        import_model(tmp_path / "absent.ptz", room.recipe("pr484_ebls").model)


def test_one_layer_has_banks_of_one_slice(tmp_path):
    shape = replace(SHAPE, layers=1, value_layers=(0,), xsa_layers=())
    model = GPT(shape)
    path = tmp_path / "final_model.pt"
    found = {k: t[0] if ".mlp." in k else t for k, t in apart(model).items()}
    path.write_bytes(saved(found))
    assert torch.equal(import_model(path, shape).mlp_up_bank, model.mlp_up_bank)


class Trap:
    """Runs when it is unpickled by a reader that lets it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def zeros(size: int) -> bytes:
    return bytes(size)


def bomb() -> bytes:
    """A small archive whose one member claims to hold twice what is allowed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", zeros(2 * LITTLE))
    return file.getvalue()


@pytest.fixture
def little(monkeypatch):
    """The bound of 256 MiB, made small enough to be reached in no time."""
    monkeypatch.setattr("golf.store.imported.MOST", LITTLE)


@pytest.mark.parametrize(
    "kind", ["garbage", "cut", "bomb", "zip bomb", "trap", "list", "pickle", "empty"]
)
def test_what_only_looks_like_one_is_refused_in_one_line(tmp_path, kind, little):
    "Something in the file would have run, or have filled the memory."
    good = PACK["zlib"](saved(as_414(model_of())[0]))
    data = {
        "garbage": lambda: b"not at all",
        "cut": lambda: good[: len(good) // 2],
        "bomb": lambda: PACK["zstd"](zeros(2 * LITTLE)),
        "zip bomb": lambda: PACK["zlib"](bomb()),
        "trap": lambda: PACK["zlib"](saved({"w": Trap(), "m": {}})),
        "list": lambda: PACK["zlib"](saved([1, 2])),
        "pickle": lambda: PACK["zlib"](pickle.dumps({"w": {}, "m": {}})),
        "empty": lambda: b"",
    }[kind]()
    path = tmp_path / "file.ptz"
    path.write_bytes(data)
    with pytest.raises(GolfError) as error:
        read_published(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def change(content: dict, key: str, value) -> dict:
    content["w"][key] = value
    return content


FAULTS = {
    "missing": (lambda c: c["m"].pop("skip_weights") and c["w"].pop("skip_weights") is None or c, "'skip_weights' is missing"),
    "missing in w": (lambda c: c["w"].pop("skip_weights") is None or c, "'skip_weights' is missing, which m names"),
    "unnamed": (lambda c: c["m"].pop("skip_weights") and c, "'skip_weights', of which m says nothing"),
    "left over": (lambda c: c["m"].update(more="passthrough") or change(c, "more", torch.ones(3)), "no place for 'more'"),
    "shape": (lambda c: change(c, "smear.gate", torch.ones(31)), r"'smear.gate' is \(31,\), by the recipe \(32,\)"),
    "nan": (lambda c: change(c, "smear.gate", torch.full((32,), torch.nan)), "'smear.gate' has values that are not finite"),
    "codes": (lambda c: change(c, "tok_emb.weight.q", torch.ones(64, 32)), "must have int8 codes"),
    "steps": (lambda c: change(c, "tok_emb.weight.scale", torch.ones(7).half()), "and \\(7,\\) steps"),
    "no steps": (lambda c: c["w"].pop("tok_emb.weight.scale") is None or c, "'tok_emb.weight.scale' is missing"),
    "zero points": (lambda c: change(c, "tok_emb.weight.zero", torch.ones(64)), "'tok_emb.weight.zero', of which m says nothing"),
    "lookup": (lambda c: c["m"].update({"tok_emb.weight": {"type": "nf4"}}) or c, "codes of the kind 'nf4', expected int6 or int8"),
    "offset": (lambda c: c["m"].update({"tok_emb.weight": {"type": "int8", "zero": 3}}) or c, "codes of the kind 'type, zero'"),
    "beyond": (lambda c: change(c, "blocks.0.mlp.fc.weight.q", c["w"]["blocks.0.mlp.fc.weight.q"] + 77), "said to be int6 and holds codes beyond it"),
    "below zero": (lambda c: change(c, "tok_emb.weight.scale", -c["w"]["tok_emb.weight.scale"]), "has steps below zero"),
    "twice": (lambda c: c["m"].update({"module.smear.gate": "passthrough"}) or change(c, "module.smear.gate", torch.ones(32)), "are one tensor's names"),
    "meta": (lambda c: change(c, "smear.gate", torch.ones(32, device="meta")), "'smear.gate' is no tensor"),
    "huge": (lambda c: change(c, "smear.gate", torch.ones(1).expand(1 << 40)), "'smear.gate' is"),
    "text": (lambda c: change(c, "smear.gate", "a word"), "'smear.gate' is no tensor"),
    "layout": (lambda c: {"state": c}, "expected w and m"),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, fault):
    "Scores of a model that is not the recipe's would have been set beside its."
    spoil, words = FAULTS[fault]
    path = tmp_path / "file.ptz"
    path.write_bytes(PACK["zlib"](saved(spoil(as_414(model_of())[0]))))
    with pytest.raises(GolfError, match=words):
        import_model(path, SHAPE)


def test_bounds_hold_for_every_stream(little):
    "A kilobyte would have become gigabytes before anybody looked."
    for pack in PACK.values():
        with pytest.raises(GolfError, match="more than the 4,194,304 bytes"):
            unfolded(pack(zeros(LITTLE + 1)))


def test_the_command_scores_a_prefix_and_keeps_an_artifact(tmp_path, monkeypatch):
    "The number of a frozen model would have had to be found by hand."
    from golf.store.artifact import load_artifact
    from golf.store.saved import load_model

    small = Recipe(SHAPE, TrainConfig(), default_squeeze)
    monkeypatch.setattr("golf.lab.submission.recipe", lambda name: small)
    assert room.HOMES
    path, out = tmp_path / "final.ptz", tmp_path / "kept.golf"
    path.write_bytes(PACK["zstd"](saved(as_414(model_of())[0])))
    done = CliRunner().invoke(app, ["import", str(path), "--recipe", "pr414", "--out", str(out)])
    assert done.exit_code == 0 and "no text given" in done.output, done.output
    back, kept = import_model(path, SHAPE), load_model(load_artifact(out))
    assert all(
        torch.equal(a, b) for a, b in zip(back.state_dict().values(), kept.state_dict().values())
    )
    (tmp_path / "bad.ptz").write_bytes(b"nothing")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "bad.ptz"), "--recipe", "pr414"])
    assert done.exit_code == 2 and "expected a stream of zstd, LZMA or zlib" in done.output


def test_the_rule_of_the_line_rounds_as_ours(tmp_path):
    "Codes made by this package would not have been those that the line's reader expects."
    w = apart(model_of())["blocks.0.mlp.fc.weight"]
    codes, step = rounded(w, 6)
    own = quantize_rows(w, 6, clip="max", floor=1 / 31)
    assert torch.equal(own.q, codes) and torch.equal(own.scale, step)
