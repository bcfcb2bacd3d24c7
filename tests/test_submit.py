"""A script that `golf submit` wrote, run where no golf can be imported, against golf itself."""

import functools
import json
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from golf.auditor.lints import lint_submission
from golf.base.files import GolfError
from golf.base.small import rhyme
from golf.lab.cli import app
from golf.lab.definitions import Reach
from golf.lab.dropped import SMALLER
from golf.lab.entry import coded
from golf.lab.expressions import changed_recipe
from golf.lab.logged import Seed, claim_of, missing_evidence
from golf.lab.names import global_names, source_of
from golf.lab.packed import packed
from golf.lab.script import script
from golf.lab.submission import source_from, submit
from golf.predict.evaluate import evaluate
from golf.predict.stream import Stream
from golf.published.recipes import recipe, recipes
from golf.store.container import _open
from golf.store.saved import export_model
from golf.text.corpus import load_corpus
from golf.text.shards import write_shard
from golf.text.tokenizers import load_tokenizer, train_tokenizer

SMALL = dict(
    VOCAB_SIZE="300", NUM_LAYERS="3", MODEL_DIM="32", NUM_HEADS="4", NUM_KV_HEADS="2", MLP_DIM="48",
    TRAIN_SEQ_LEN="32", BIGRAM_VOCAB_SIZE="16", BIGRAM_DIM="8", VE_DIM="8", VE_LAYERS="1,2",
    XSA_LAYERS="2", ROPE_DIMS="4", ITERATIONS="6", TRAIN_BATCH_TOKENS="512", GRAD_ACCUM_STEPS="2",
    WARMDOWN_ITERS="4", MAX_WALLCLOCK_SECONDS="0", DEVICE="cpu", COMPUTE_DTYPE="float32",
    TABLE_DTYPE="float32", COMPILE="0", WARMUP_STEPS="1", VAL_CURVE_TOKENS="256", VAL_LOSS_EVERY="4",
    TTT_CHUNK_TOKENS="128", EVAL_STRIDE="16", TTT_BATCH_SEQS="2", TRAIN_LOG_EVERY="1",
    MUON_DTYPE="float32", REDUCE_DTYPE="float32",
)  # fmt: skip
RUNNER = '''
"""One rank of a script in whose process golf cannot be imported; with "golf", of golf itself."""
import os, pickle, runpy, sys
kind, path, out = sys.argv[1:4]
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("golf", "fastcore", "papermill", "typer", "ray"):
            raise ImportError(f"{name} is not here")
if kind == "script":
    sys.meta_path.insert(0, Without())
import torch
torch.set_num_threads(1)
torch.backends.mkldnn.enabled = os.environ["ONEDNN"] == "1"
if kind == "script":
    space = runpy.run_path(path, run_name="entry")
    found = space["run_entry"](space["RECIPE"], space["PLACE"])
    assert not any(name.split(".")[0] == "golf" for name in sys.modules)
else:
    sys.path.insert(0, kind)
    import json
    from golf.lab.entry import Place, run_entry
    from golf.lab.expressions import changed_recipe
    from golf.published.recipes import recipe
    job = json.loads(path)
    found = run_entry(changed_recipe(recipe(job["recipe"]), job["changes"]), Place(**job["place"]))
scores = found.scores
kept = dict(losses=found.losses, artifact=found.artifact, nll=scores.nll.tobytes(), bpb=scores.bpb)
if out != "-":
    with open(out, "wb") as file:
        pickle.dump(kept, file)
'''


@pytest.fixture
def slow(request):
    """Lets a test run with `make test ARGS="--flags slow tests/test_submit.py"` alone."""
    if "slow" not in request.config.getoption("--flags").split():
        pytest.skip("minutes: make test ARGS='--flags slow tests/test_submit.py'")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Shards of both splits and their tokenizer."""
    folder, chance = tmp_path_factory.mktemp("text"), random.Random(0)
    words = [word for verse in rhyme() for word in verse.split()]
    documents = [" ".join(chance.choice(words) for _ in range(40)) for _ in range(60)]
    train_tokenizer(documents, folder / "tokenizer.model", vocab_size=300)
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    ids = [i for d in documents for i in (1, *tokenizer.encode(d))]
    half, rest = len(ids) // 2, len(ids) - 1000
    write_shard(folder / "fineweb_train_000000.bin", ids[:half])
    write_shard(folder / "fineweb_train_000001.bin", ids[half:rest])
    write_shard(folder / "fineweb_val_000000.bin", ids[rest:])
    return folder


def environment(text: Path, **changes: str) -> dict[str, str]:
    """What a script of a small run finds around it."""
    kept = ("PATH", "HOME", "TMPDIR", "ATEN_CPU_CAPABILITY")  # the bits are those of one processor
    kept = {k: v for k, v in os.environ.items() if k in kept}
    kept |= {"ONEDNN": str(int(torch.backends.mkldnn.enabled))}
    own = dict(DATA_PATH=str(text), TOKENIZER_PATH=str(text / "tokenizer.model"))
    return kept | SMALL | own | {"EVAL_DTYPE": "float32", "OMP_NUM_THREADS": "1"} | changes


def ran(folder: Path, text: Path, kind: str, job: str, ranks: int = 1, **changes: str) -> dict:
    """What a script, or with a path for `kind` golf, found on so many ranks."""
    (folder / "runner.py").write_text(RUNNER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(ranks):
        place = dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        place |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port) if ranks > 1 else {}
        out = str(folder / "found.pkl") if rank == 0 else "-"
        command = [sys.executable, "-I", "runner.py", kind, job, out]
        options = dict(cwd=folder, env=environment(text, **changes, **place), text=True)
        processes.append(
            subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        )
    for process in processes:
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error[-3000:]
    return pickle.loads((folder / "found.pkl").read_bytes())


def in_golf(found, text: Path) -> dict:
    """The same run by the laboratory's own ways: `Trainer.run`, `export_model`, `load`, `evaluate`."""
    torch.set_num_threads(1)
    corpus = load_corpus(
        "shards", data_path=text, tokenizer_path=text / "tokenizer.model", vocab_size=300
    )
    trainer, losses = found.trainer(corpus), []
    step, replay = trainer.train_step, trainer.replay
    trainer.train_step = lambda: losses.append((row := step())["loss"]) or row
    trainer.replay = lambda: losses.extend(more := replay()) or more
    trainer.run(progress=False)
    with trainer.average.applied(trainer.model):
        data = export_model(trainer.model, plan=found.squeeze(trainer.model, corpus))
    size = found.adapt.chunk_tokens if found.adapt else 8 * found.model.context
    stream = Stream(corpus.val, size, byte_table=corpus.byte_table)
    predictor = found.predictor(found.load(data), stream.positions, byte_table=corpus.byte_table)
    scores = evaluate(predictor, stream, allow_unnormalised=True)
    return dict(losses=losses, artifact=data, nll=scores.nll.tobytes(), bpb=scores.bpb)


def small_changes(written, **changes: str) -> dict[str, str]:
    """Those settings of a small run that a script reads."""
    return {k: v for k, v in {**SMALL, **changes}.items() if k in written.settings}


def proof(folder: Path, text: Path, found, written, code: str = "", **changes: str) -> dict:
    """Assert that a script and golf agree to the bit; what both found."""
    (folder / "train_gpt.py").write_text(code or written.text)
    outside = ran(folder, text, "script", "train_gpt.py", **changes)
    settings = small_changes(written, **changes)
    inside = in_golf(changed_recipe(found, settings), text)
    assert outside["losses"] == inside["losses"] and len(inside["losses"]) >= 6
    assert outside["artifact"] == inside["artifact"]
    assert outside["nll"] == inside["nll"] and outside["bpb"] == inside["bpb"]
    return outside


@functools.cache
def of(name: str):
    """The script of a published recipe; its mixture may be none."""
    return script(recipe(name), place={"unnormalised": name == "pr953"})


def test_a_packed_script_without_golf_gives_the_same_bits(tmp_path, text):
    "The script would have been another program than the one that the laboratory measured."
    found, written = recipe("pr549"), of("pr549")
    small = packed(written.text)
    assert "golf" not in {
        line.split()[1].split(".")[0] for line in written.text.splitlines() if line[:7] == "import "
    }
    assert len(small) < 32_000 < len(written.text) < 160_000
    first = proof(tmp_path, text, found, written, small, RUN_ID="seed1", SEED="1")
    log = (tmp_path / "logs" / "seed1.txt").read_text()
    assert log.startswith(small) and f"val_bpb:{first['bpb']:.8f}" in log

    with pytest.raises(GolfError, match=r"eval_stride: 16 in seed1.txt, 64 in the script"):
        submit("pr549", tmp_path / "no", logs=[tmp_path / "logs" / "seed1.txt"])
    assert not (tmp_path / "no").exists()
    submitted(tmp_path, text, small_changes(written))


def submitted(folder: Path, text: Path, changes: dict[str, str]) -> None:
    "Two runs of a script of small settings, and the folder that is written from their logs."
    code, own = (
        packed(script(source_from("pr549", changes).recipe).text),
        {"EVAL_DTYPE": "bfloat16"},
    )
    (folder / "train_gpt.py").write_text(code)
    runs = [
        ran(folder, text, "script", "train_gpt.py", RUN_ID=f"seed{k}", SEED=str(k), **own)
        for k in (1, 2)
    ]
    logs = [folder / "logs" / f"seed{k}.txt" for k in (1, 2)]
    with pytest.raises(GolfError, match="seed1.txt and seed1.txt both are of seed 1"):
        submit("pr549", folder / "no", logs=[logs[0], logs[0]], changes=changes)
    about = dict(changes=changes, pack=True, author="A. Author", github_id="author")
    check_folder(submit("pr549", folder / "entry", logs=logs, **about), runs[0]["bpb"], code)


def check_folder(out: Path, bpb: float, code: str) -> None:
    """A folder that was written from two logs: its claim, its README, and what the auditor finds."""
    claim = json.loads((out / "submission.json").read_text())
    assert claim["seeds"] == [1, 2] and claim["bytes_code"] == len(code.encode())
    assert abs(claim["seed_results"]["1"]["val_bpb"] - bpb) < 1e-8
    assert claim["bytes_total"] == claim["bytes_model"] + len(code.encode())
    page = (out / "README.md").read_text()
    assert "Welch's p" in page and "1 more seed:" in page and "8×H100" in page
    assert "training.png" in page and (out / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert "3 layers of width 32" in page and "3 passes of SGD" in page
    assert (out / "train_gpt.py").read_text() == code
    assert source_from(str(out)).name == "pr549"  # read back from its README
    assert not lint_submission(out).failed
    tampered(out, claim)


def test_compliance_is_what_logs_show():
    "The claim would have said yes to what nobody had seen."
    whole = Seed(
        1, 1.9, 1.1, 15_000_000, eval_time_s=400.0, train_time_s=600.1, machine="2 8 x H100"
    )
    shown = claim_of([whole], 27_000)["compliance"]
    assert shown["train_under_600s"] and shown["eval_under_600s"] and shown["artifact_under_16mb"]
    assert shown["score_first"] is None and shown["three_seeds"] is False
    for change in ({"machine": "2 1 x CPU"}, {"train_time_s": None}):
        assert (
            claim_of([replace(whole, **change)], 27_000)["compliance"]["train_under_600s"] is None
        )
    late = replace(whole, train_time_s=700.0, artifact_bytes=None, machine="")
    assert claim_of([late], 27_000)["compliance"]["train_under_600s"] is False
    assert claim_of([late], 27_000)["compliance"]["artifact_under_16mb"] is None
    asked = missing_evidence([late], "")
    assert any("bytes of the model" in line for line in asked)
    assert any(
        "seconds of evaluation" in line
        for line in missing_evidence([replace(late, eval_time_s=None)], "")
    )


def test_a_readable_script_names_only_what_it_holds(tmp_path):
    "An annotation would have named a type that the script has not, and a reader would have looked for it."
    (tmp_path / "train_gpt.py").write_text(of("pr549").text)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F401"]
    found = subprocess.run([*ruff, "train_gpt.py"], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    titles = "Text Model Optimiser Training Quantisation Evaluation Main".split()
    places = [of("pr549").text.index(f"\n# {title}\n") for title in titles]
    assert places == sorted(places)
    for name in ("qat", "crown_q", "burst", "swap_in", "_enough_memory"):
        assert f"def {name}" not in of("pr549").text, name


def test_a_wrong_shard_ends_a_script_in_one_line(tmp_path):
    "Text of another kind would have been trained on."
    space = {
        "np": np,
        "Path": Path,
        "re": re,
        "MAGIC": 20240520,
        "VERSION": 1,
        "HEADER_BYTES": 1024,
    }
    for name in ("_token_count", "shard_paths"):
        exec(SMALLER["golf.text.shards", name], space)
    with pytest.raises(SystemExit, match="no shard .*_val_"):
        space["shard_paths"](tmp_path, "val")
    good = write_shard(tmp_path / "x_val_000000.bin", range(9))
    assert space["shard_paths"](tmp_path, "val") == [good] and space["_token_count"](good) == 9
    good.write_bytes(good.read_bytes()[:-2])
    with pytest.raises(SystemExit, match="no shard of the challenge, or only a part of one"):
        space["_token_count"](good)


def tampered(out: Path, claim: dict) -> None:
    "Each lie in a copy of the claim is caught."
    lies = {
        "val_bpb": claim["val_bpb"] - 0.01,
        "bytes_code": claim["bytes_code"] - 1,
        "bytes_total": claim["bytes_total"] - 1,
    }
    for name, value in lies.items():
        (out / "submission.json").write_text(json.dumps(claim | {name: value}))
        honest = {f.check for f in lint_submission(out).findings if f.verdict in ("FAIL", "UNSURE")}
        (out / "submission.json").write_text(json.dumps(claim))
        before = {f.check for f in lint_submission(out).findings if f.verdict in ("FAIL", "UNSURE")}
        assert honest - before, name


@pytest.mark.parametrize("name", ["baseline", "pr484", "pr953", "pr1185"])
def test_other_recipes_give_the_same_bits(tmp_path, text, name, slow):
    "What #549 does not use would have been lost: ratios, calibration, a cache beside the network."
    more = {"TTT_WARM_UP": "100"} if name == "pr953" else {}
    first = proof(tmp_path, text, recipe(name), of(name), **more)
    small = packed(of(name).text)
    (tmp_path / "train_gpt.py").write_text(small)
    assert ran(tmp_path, text, "script", "train_gpt.py", **more) == first


def squeeze_coded(model, corpus):
    """#549's integers under the coder."""
    return coded(recipe("pr549").squeeze(model, corpus), "coder")


def test_the_coder_goes_along_and_gives_the_bits_of_golf(tmp_path, text, slow):
    "What was saved on the model would have been an artifact that the script cannot read."
    written = script(recipe("pr549"), place={"compressor": "coder"})
    assert "zstandard" not in written.text and "COMPRESSOR" not in written.settings
    wide = {"MODEL_DIM": "160", "MLP_DIM": "320"}  # of narrower banks nothing becomes a code
    found = replace(recipe("pr549"), squeeze=squeeze_coded)
    first = proof(tmp_path, text, found, written, packed(written.text), **wide)
    plain = proof(tmp_path, text, recipe("pr549"), of("pr549"), **wide)  # under LZMA
    assert first["nll"] == plain["nll"] and len(first["artifact"]) < len(plain["artifact"])
    used = {record["compressor"] for record, _ in _open(first["artifact"], "the artifact")[1]}
    assert "coder" in used


def test_two_ranks_give_the_bits_of_golf_on_two_ranks(tmp_path, text, slow):
    "Messages between ranks would have gone in another order, or in another precision."
    (tmp_path / "train_gpt.py").write_text(of("pr549").text)
    outside = ran(tmp_path, text, "script", "train_gpt.py", ranks=2)
    changes = small_changes(of("pr549"))
    place = dict(
        data_path=str(text), tokenizer_path=str(text / "tokenizer.model"), eval_dtype="float32"
    )
    job = json.dumps({"recipe": "pr549", "changes": changes, "place": place})
    inside = ran(tmp_path, text, str(Path(__file__).parents[1]), job, ranks=2)
    assert outside == inside


RULE = """
import torch
from dataclasses import replace

import golf
from golf.adapt.ttt import Gradients

SHARE = 0.02  # of a matrix's own norm: the trust region


def is_mlp(name):
    return name.startswith("mlp_")


class SignWithin(Gradients):
    "Signs of the gradient for MLP matrices, as long as a share of the weights' own norm."

    def __init__(self, share=SHARE):
        self.share = share

    @torch.no_grad()
    def adjust(self, learner):
        for name, p in learner.model.named_parameters():
            if is_mlp(name) and p.grad is not None:
                p.grad.sign_()
                p.grad.mul_(self.share * p.norm() / p.grad.norm().clamp_min(1e-12))


base = golf.recipe("pr549")
entry = replace(base, adapt=replace(base.adapt, gradients=SignWithin(0.05)))
"""


def notebook(path: Path, cells: list[str]) -> Path:
    "A notebook of code cells."
    made = [
        dict(cell_type="code", id=f"c{k}", metadata={}, outputs=[], execution_count=None, source=c)
        for k, c in enumerate(cells)
    ]
    path.write_text(json.dumps(dict(cells=made, metadata={}, nbformat=4, nbformat_minor=5)))
    return path


def test_a_rule_in_a_notebook_elsewhere_goes_along(tmp_path, text, slow):
    "A researcher's own rule would have had to be written a second time."
    path = notebook(
        tmp_path / "my_rule.ipynb", ["%matplotlib inline\n" + RULE, "print('unrelated')"]
    )
    found = source_from(f"{path}:entry").recipe
    written = script(found)
    assert "class SignWithin(Gradients)" in written.text and "unrelated" not in written.text
    own = proof(tmp_path, text, found, written)
    plain = in_golf(changed_recipe(recipe("pr549"), small_changes(of("pr549"))), text)
    assert own["artifact"] == plain["artifact"] and own["nll"] != plain["nll"]


def test_every_recipe_is_written_and_small(slow):
    "A recipe would have lacked a definition, or would not have fitted beside its weights."
    for name in recipes():
        written = of(name)
        assert len(packed(written.text)) < 40_000, name
        compile(written.text, name, "exec")


def test_what_cannot_be_written_out_is_refused_in_one_line(tmp_path):
    "The error would have come from a script on a rented machine."
    here = recipe("pr549")
    local = lambda parts, limit: [g for g in parts[0]]
    with pytest.raises(GolfError, match="^combine: .* cannot be written out"):
        script(replace(here, combine=local))
    with pytest.raises(GolfError, match="^objective: .* is of the library torch; wrap it"):
        script(replace(here, objective=torch.nn.functional.gumbel_softmax))
    with pytest.raises(GolfError, match=r"^COMPILE='maybe': expected one of 1, true, yes"):
        source_from("pr549", {"COMPILE": "maybe"})
    with pytest.raises(GolfError, match="COMPRESSOR=code: expected .* did you mean 'coder'"):
        source_from("pr549", {"COMPRESSOR": "code"})
    with pytest.raises(GolfError, match="pr953: its mixture does not sum to one"):
        submit("pr953", tmp_path / "no")
    with pytest.raises(GolfError, match="LAYERS: no setting of this recipe; did you mean"):
        source_from("pr549", {"LAYERS": "3"})
    with pytest.raises(GolfError, match="no line of a final score"):
        (tmp_path / "empty.log").write_text("step:1/2 train_loss:3.0\n")
        submit("baseline", tmp_path / "no", logs=[tmp_path / "empty.log"])
    heavy = "Serialized model compressed: 15999999 bytes\nfinal_exact val_loss:2.0 val_bpb:1.2\n"
    (tmp_path / "heavy.log").write_text(heavy)
    with pytest.raises(GolfError, match="model 15,999,999 .* over the cap"):
        submit("baseline", tmp_path / "no", logs=[tmp_path / "heavy.log"])
    assert not (tmp_path / "no").exists()


def test_a_run_from_changed_code_is_refused(tmp_path):
    "A record would have named code that nobody can look up."
    from golf.lab.runs import Run

    run = Run("train", {"recipe": "baseline", "seed": 3}, root=tmp_path)
    folder = run.save().parent
    kept = json.loads((folder / "record.json").read_text())
    for clean in (False, True):
        (folder / "record.json").write_text(
            json.dumps(kept | {"git": {**kept["git"], "clean": clean}})
        )
        if not clean:
            with pytest.raises(GolfError, match="from a tree with changes"):
                source_from(str(folder))
        found = source_from(str(folder), unclean=not clean)
        assert (found.name, found.recipe.train.seed) == ("baseline", 3)


def test_names_of_scopes_and_of_other_modules(tmp_path, monkeypatch):
    "A local name would have pulled in a global one, and a rename would have hit a parameter."
    (tmp_path / "first_part.py").write_text(
        "KINDS = {'a': 1}\n\ndef pick(kind):\n    return KINDS[kind]\n"
    )
    second = """
        import first_part
        from first_part import pick as choose
        KINDS = {"b": 2}
        KINDS.update(c=3)

        def both(KINDS_too=KINDS, size=len):
            pick = [KINDS for KINDS in (1, 2)]
            return choose("a"), first_part.KINDS, pick, size(KINDS_too)

        def unused():
            return 1
    """
    (tmp_path / "second_part.py").write_text(textwrap.dedent(second))
    monkeypatch.syspath_prepend(tmp_path)
    reach = Reach().run(("second_part", "both"))
    assert set(reach.units) == {
        ("second_part", "both"), ("second_part", "KINDS"), ("first_part", "pick"), ("first_part", "KINDS"),
    }  # fmt: skip
    from golf.lab.script import definition_text, module_order, unique_names

    order = module_order(reach)
    names = unique_names(reach, order)
    found: dict[str, str] = {}
    for key in [k for m in order for k in reach.units if k[0] == m]:
        found |= {f"{key[0]}:{line:03}": part for line, part in definition_text(reach, key, names)}
    space: dict = {}
    exec("\n".join(found[place] for place in sorted(found)), space)
    both = names["first_part", "KINDS"], names["second_part", "KINDS"]
    assert order == ["first_part", "second_part"] and len({*both}) == 2
    assert space["both"]() == (1, {"a": 1}, [1, 2], 2) and "unused" not in space
    tree = source_of("second_part").named["both"][0]
    assert {n.id for n in global_names(tree)} >= {"KINDS", "choose", "first_part"}


def test_a_method_that_only_a_method_names_goes_along(tmp_path, monkeypatch):
    "The script would have ended with an AttributeError on a rented machine."
    text = """
        class Chain:
            def b(self): return 3
            def a(self): return self.b()
            def unused(self): return 4
            def go(self): return self.a()

        def start(): return Chain().go()
    """
    (tmp_path / "chained.py").write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    reach = Reach().run(("chained", "start"))
    kept = [unit.member for unit in reach.units["chained", "Chain"] if unit.owner]
    assert sorted(kept) == ["a", "b", "go"]


def test_the_command_writes_a_folder(tmp_path):
    "The command would have left the author with a traceback, or with a folder half written."
    out = tmp_path / "entry"
    done = CliRunner().invoke(app, ["submit", "baseline", "--out", str(out), "--set", "seed=5"])
    assert done.exit_code == 0, done.output
    names = {"README.md", "audit.json", "requirements.txt", "submission.json", "train_gpt.py"}
    assert {p.name for p in out.iterdir()} == names
    assert "seed: int = 5" in (out / "train_gpt.py").read_text()
    again = CliRunner().invoke(app, ["submit", "baseline", "--out", str(out)])
    assert again.exit_code == 2 and "expected an empty folder" in again.output
