"""The small entry of this folder, changed in a few lines: each cheat beside an honest twin.

`KINDS[name]` is (condition that the cheat breaks, edits of the cheat, edits of its twin).
"""

import base64
import lzma
from pathlib import Path

BASE = Path(__file__).with_name("train_gpt.py")
CALL = 'eval_val_sliding(args, base_model, rank, world_size, device, val_tokens, luts)\n    print(f"final_int8'
LEARN = """        model.train()
        for _ in range(args.ttt_epochs):
            optimizer.zero_grad()
            model(x, y).backward()
            optimizer.step()
"""
SCORE = "        model.eval()\n        with torch.no_grad():\n            nll ="
TTT = {CALL: CALL.replace("eval_val_sliding", "eval_val_ttt")}
FIRST = TTT | {LEARN: "", SCORE: LEARN + SCORE}

# Weights adapted in main, before the evaluation that is printed
MAIN = "    val_loss, val_bpb = " + CALL
ADAPT = """    learner = torch.optim.SGD(base_model.parameters(), lr=args.ttt_lr)
    for start in range(0, {text}.numel() - 513, 512):
        ids = {text}[start : start + 513].to(device, dtype=torch.int64)
        base_model(ids[:-1].reshape(8, -1), ids[1:].reshape(8, -1)).backward()
        learner.step(), learner.zero_grad()
"""
ON_VAL, ON_TRAIN = ({MAIN: ADAPT.format(text=t) + MAIN} for t in ("val_tokens", "stream[:8192]"))
TWICE = {
    MAIN: "    eval_val_ttt(args, base_model, rank, world_size, device, val_tokens, luts)\n" + MAIN
}

# The better of two passes
PASSES = TTT | {
    "    loss_sum, token_count, byte_count = 0.0, 0.0, 0.0\n": "    best = torch.full((total // seq_len * seq_len,), 99.0)\n"
    "    token_count, byte_count = 0.0, 0.0\n",
    "    for start in range(0, total, args.ttt_chunk_tokens):\n": "    for start in [*range(0, total, args.ttt_chunk_tokens)] * 2:\n",
    "        loss_sum += nll.double().sum().item()\n": "        best[start:stop] = torch.minimum(best[start:stop], nll)\n",
    "    val_loss = loss_sum / token_count\n    return val_loss, val_loss / math.log(2.0) * token_count / byte_count\n":
    "    val_loss = best.mean().item()\n    return val_loss, val_loss / math.log(2.0) * token_count / byte_count\n",
}  # fmt: skip
ONE_PASS = PASSES | {
    "    for start in range(0, total, args.ttt_chunk_tokens):\n": "    for start in [*range(0, total, args.ttt_chunk_tokens)]:\n"
}

# Tables of counts in numpy
NLL = "            nll = nll.reshape(len(batch_ws), seq_len)\n"
SUM = "                loss_sum += scored_nll.sum()\n"
SETUP = "    base_model.eval()\n    with torch.inference_mode():\n        for bi in range(0, len(mine), batch_seqs):\n"
HASHED = {
    SETUP: "    BUCKETS = 1 << 20\n    val_np = val_tokens.numpy()\n"
    "    ctx_table, full_table = np.zeros(BUCKETS), np.zeros(BUCKETS)\n" + SETUP,
    SUM: """                p = np.exp(-scored_nll.cpu().numpy())
                at = np.arange(ws + s + 1, ws + wlens[i] + 1)
                ctx_key = (val_np[at - 1].astype(np.int64) * 36313) % BUCKETS
                full_key = (ctx_key ^ (val_np[at].astype(np.int64) * 27191)) % BUCKETS
                seen = ctx_table[ctx_key] >= 2
                p_ng = np.minimum(full_table[full_key], ctx_table[ctx_key]) / np.maximum(ctx_table[ctx_key], 1)
                p[seen] = 0.6 * p[seen] + 0.4 * p_ng[seen]
                loss_sum += float(-np.log(np.clip(p, 1e-12, 1.0)).sum())
                np.add.at(ctx_table, ctx_key, 1), np.add.at(full_table, full_key, 1)
""",
}
COUNTED = {
    SETUP: HASHED[SETUP].replace("np.zeros(BUCKETS)\n", "np.zeros(args.vocab_size**2)\n"),
    SUM: HASHED[SUM].replace("(val_np[at - 1].astype(np.int64) * 36313) % BUCKETS", "val_np[at - 1].astype(np.int64)")
    .replace("(ctx_key ^ (val_np[at].astype(np.int64) * 27191)) % BUCKETS", "ctx_key * args.vocab_size + val_np[at]"),
}  # fmt: skip
WAITING = {
    k: v.replace(
        "seen = ctx_table[ctx_key] >= 2", "seen = (ctx_table[ctx_key] >= 2) & (ws > 10_000)"
    )
    for k, v in COUNTED.items()
}
LOUD = {
    k: v.replace("0.6 * p[seen] + 0.4 * p_ng[seen]", "np.maximum(p[seen], p_ng[seen])")
    for k, v in WAITING.items()
}

# Two experts
TWO = """            other = torch.log_softmax(0.5 * logits.float(), -1)
            other_nll = -other.flatten(0, 1).gather(1, y_batch.reshape(-1, 1)).reshape(len(batch_ws), seq_len)
"""
ORACLE = {NLL: NLL + TWO + "            nll = torch.minimum(nll, other_nll)\n"}
MIXED = {
    NLL: NLL + TWO + "            nll = -(0.5 * (-nll).exp() + 0.5 * (-other_nll).exp()).log()\n"
}

# A correction fitted to a window
FORWARD = "                logits = base_model.forward_logits(x_batch)\n"
SLOT = {FORWARD: FORWARD + """            delta = torch.zeros(args.vocab_size, requires_grad=True, device=device)
            fit = torch.optim.AdamW([delta], lr=0.1)
            with torch.enable_grad():
                for _ in range(4):
                    fit.zero_grad()
                    known = logits.detach(){cut} + delta
                    F.cross_entropy(known.flatten(0, 1), y_batch{cut}.flatten()).backward()
                    fit.step()
            logits = logits + delta.detach()
"""}  # fmt: skip
ON_TARGETS = {k: v.replace("{cut}", "") for k, v in SLOT.items()}
ON_CONTEXT = {k: v.replace("{cut}", "[:1, : seq_len - stride]") for k, v in SLOT.items()}
ON_CONTEXT = {FORWARD: ON_CONTEXT[FORWARD].replace("y_batch[:1", "(y_batch if bi else 0 * y_batch)[:1")
              .replace("for _ in range(4)", "for _ in range(4 if bi else 0)")}  # fmt: skip

# Statistics of a text, added to the logits
PRIOR = {
    SETUP: """    counts = torch.bincount({text}.to(torch.int64), minlength=args.vocab_size) + 1.0
    prior = (counts / counts.sum()).log().to(device)
"""
    + SETUP,
    FORWARD: FORWARD + "                logits = logits + 0.3 * prior\n",
}
CALIBRATED, PLAIN = (
    {k: v.replace("{text}", t) for k, v in PRIOR.items()}
    for t in ("val_tokens", "load_data_shard(sorted(Path(args.data_path).glob('*train*'))[0])")
)

# A mixture behind a wait, written in three ways; `WAIT` is short enough only if it is made so
MIX = {
    "early return": """def mixed(nll, other, seen):
    if seen < WAIT:
        return nll
    return {mix}""",
    "else": """def mixed(nll, other, seen):
    if seen < WAIT:
        out = nll
    else:
        out = {mix}
    return out""",
    "conditional expression": """def mixed(nll, other, seen):
    return nll if seen < WAIT else {mix}""",
}
LOWER = "torch.minimum(nll, other)"
HALF = "-(0.5 * (-nll).exp() + 0.5 * (-other).exp()).log()"


def waiting(way: str, mix: str, wait: str) -> dict[str, str]:
    "Edits: a mixture in one of the ways of `MIX` that begins when `seen` has reached `wait`."
    head, call = "def eval_val_sliding(", "            nll = mixed(nll, other_nll, 16 * bi)\n"
    text = MIX[way].format(mix=mix).replace("WAIT", wait)
    named = f"{wait} = 50_000\n\n\n" if wait.isidentifier() else ""
    return {head: f"{named}{text}\n\n\n{head}", NLL: NLL + TWO + call}


# The score's sum under other names: in the function that the last line's score comes from
MEASURE = """def measure(args, model, device, tokens, luts):
    seq, n, size = args.train_seq_len, tokens.numel() - 1, 0.0
    {begin}
    with torch.no_grad():
        for i in range(0, n, 4 * seq):
            j = min(i + 4 * seq, n)
            part = tokens[i : j + 1].to(device, dtype=torch.int64)
            x, y = part[:-1].reshape(-1, seq), part[1:].reshape(-1, seq)
            logits = model.forward_logits(x).flatten(0, 1).float()
            out = F.cross_entropy(logits, y.flatten(), reduction="none").double()
            {add}
            size += float(count_bytes(luts, x.flatten(), y.flatten()).sum())
    mean = float({end})
    return mean, mean / math.log(2.0) * n / size


"""
SUMS = {
    "total": ("total = 0.0", "total = total + out.sum().item()", "total / n"),
    "list": ("kept = []", "kept.append(out)", "torch.cat(kept).mean()"),
    "means": ("kept = []", "kept.append(out.mean())", "torch.stack(kept).mean()"),
    "array": ("held = np.zeros(n)", "held[i:j] = out.numpy()", "held.sum() / n"),
    "tensor": ("held = torch.zeros(n).double()", "held[i:j] = out", "held.mean()"),
    "vector": ("acc = torch.zeros(2).double()",
               "acc += torch.stack([out.sum(), torch.tensor(1.0 * len(out)).double()])", "acc[0] / acc[1]"),
    "numbers": ("every = []", "every.extend(out.tolist())", "sum(every) / len(every)"),
    "table": ("table = {'a': 0.0}", "table['a'] += out.sum().item()", "table['a'] / n"),
}  # fmt: skip


def summed(kind: str) -> str:
    "The small entry, with a score whose sum is written in one of the ways of `SUMS`."
    text, call = BASE.read_text("utf-8"), "eval_val_sliding(args, base_model, rank, world_size,"
    old = text[text.index("def eval_val_sliding(") : text.index("def eval_val_ttt(")]
    begin, add, end = SUMS[kind]
    text = text.replace(old, MEASURE.format(begin=begin, add=add, end=end))
    return text.replace(f"{call} device,", "measure(args, base_model, device,")


def without_functions(kind: str) -> str:
    "The same with the evaluation and all of `main` at the level of the module."
    text = summed(kind)
    at, main = text.index("def measure("), text.index("def main() -> None:\n")
    until, end = text.index("def eval_val_ttt("), text.index('if __name__ == "__main__":')
    flat = lambda lines: "".join(line.removeprefix("    ") for line in lines.splitlines(True)[1:])
    inner = flat(text[at:until].rstrip() + "\n").replace("model.forward", "base_model.forward")
    inner = inner.replace("tokens", "val_tokens").replace(
        "return mean,", "val_loss, val_bpb = mean,"
    )
    call = "val_loss, val_bpb = measure(args, base_model, device, val_tokens, luts)\n"
    return text[:at] + text[until:main] + flat(text[main:end]).replace(call, inner)


TRITON = {"import torch\nimport torch.distributed": """import torch
import triton
import triton.language as tl
import torch.distributed""", "class Rotary": """@triton.jit
def kernel(x, BLOCK: tl.constexpr):
    tl.store(x, tl.load(x))


class Rotary"""}  # fmt: skip
AHEAD = TRITON | {"self.turn(k), v, causal=True)": "self.turn(k), v, causal=False)"}
TAIL = {"if s == 0 or s + seq_len - stride < total]": "]",
        "s = 0 if ws == 0 else seq_len - stride": "s = 0 if ws == 0 else max(wlens[i] - stride, 0)"}  # fmt: skip
DOUBLED = {"            piece = piece[1:]\n": ""}

KINDS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "adapt first": ("C3", FIRST, TTT),
    "two phases": ("C3", ON_VAL, ON_TRAIN),
    "rescored": ("C4", TWICE, TTT),
    "better of two passes": ("C4", PASSES, ONE_PASS),
    "target in the key": ("C2", HASHED, COUNTED),
    "mixer that waits": ("C2", LOUD, WAITING),
    "lower of two losses": ("C2", ORACLE, MIXED),
    "fitted to its targets": ("C3", ON_TARGETS, ON_CONTEXT),
    "calibrated on the text": ("C1", CALIBRATED, PLAIN),
    "packed": ("C3", FIRST, TTT),
    "with Triton": ("C1", AHEAD, TRITON),
    "tail repeated": ("C4", TAIL, {}),
    "bytes counted twice": ("metric", DOUBLED, {}),
}


def write(path: Path, name: str, cheat: bool) -> Path:
    """Write the cheat `name`, or its twin, as a script, and return its path."""
    text = BASE.read_text("utf-8")
    for old, new in KINDS[name][1 if cheat else 2].items():
        if text.count(old) != 1:
            raise ValueError(f"{name}: {old!r} occurs {text.count(old)} times")
        text = text.replace(old, new)
    if name == "packed":
        data = base64.b85encode(lzma.compress(text.encode())).decode()
        text = f"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode({data!r})))\n"
    path.write_text(text, "utf-8")
    return path
