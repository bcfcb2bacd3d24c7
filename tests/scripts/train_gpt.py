"""A small entry in the challenge's style: train, round, read back, evaluate with overlapping windows."""

# fmt: off
import glob
import io
import math
import os
import random
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from flash_attn_interface import flash_attn_func
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP


class Hyperparameters:
    data_path = os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024")
    train_files = os.path.join(data_path, "fineweb_train_*.bin")
    val_files = os.path.join(data_path, "fineweb_val_*.bin")
    tokenizer_path = os.environ.get("TOKENIZER_PATH", "./data/tokenizers/fineweb_1024_bpe.model")
    seed = int(os.environ.get("SEED", 1337))
    val_batch_size = int(os.environ.get("VAL_BATCH_SIZE", 524_288))
    iterations = int(os.environ.get("ITERATIONS", 20_000))
    train_batch_tokens = int(os.environ.get("TRAIN_BATCH_TOKENS", 524_288))
    train_seq_len = int(os.environ.get("TRAIN_SEQ_LEN", 1024))
    eval_stride = int(os.environ.get("EVAL_STRIDE", 64))
    max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600.0))
    vocab_size = int(os.environ.get("VOCAB_SIZE", 1024))
    num_layers = int(os.environ.get("NUM_LAYERS", 3))
    num_heads = int(os.environ.get("NUM_HEADS", 4))
    num_kv_heads = int(os.environ.get("NUM_KV_HEADS", 2))
    model_dim = int(os.environ.get("MODEL_DIM", 512))
    lr = float(os.environ.get("MATRIX_LR", 0.01))
    ttt_lr = float(os.environ.get("TTT_LR", 0.05))
    ttt_epochs = int(os.environ.get("TTT_EPOCHS", 2))
    ttt_chunk_tokens = int(os.environ.get("TTT_CHUNK_TOKENS", 32_768))


def load_data_shard(file: Path) -> Tensor:
    header = np.fromfile(file, dtype="<i4", count=256)
    if header.size != 256 or int(header[0]) != 20240520 or int(header[1]) != 1:
        raise ValueError(f"unexpected header in {file}")
    tokens = np.fromfile(file, dtype="<u2", count=int(header[2]), offset=256 * 4)
    return torch.from_numpy(tokens.astype(np.uint16, copy=False))


def load_validation_tokens(pattern: str, seq_len: int) -> Tensor:
    files = [Path(p) for p in sorted(glob.glob(pattern))]
    if not files:
        raise FileNotFoundError(f"no files for {pattern}")
    tokens = torch.cat([load_data_shard(file) for file in files]).contiguous()
    usable = (tokens.numel() - 1) // seq_len * seq_len
    return tokens[: usable + 1]


def build_sentencepiece_luts(sp, vocab_size: int, device) -> tuple[Tensor, Tensor, Tensor]:
    size = max(int(sp.vocab_size()), vocab_size)
    base_bytes = np.zeros((size,), dtype=np.int16)
    leading_space, boundary = np.zeros((size,), dtype=np.bool_), np.ones((size,), dtype=np.bool_)
    for i in range(int(sp.vocab_size())):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
            continue
        boundary[i] = False
        if sp.is_byte(i):
            base_bytes[i] = 1
            continue
        piece = sp.id_to_piece(i)
        if piece.startswith("\u2581"):
            leading_space[i] = True
            piece = piece[1:]
        base_bytes[i] = len(piece.encode("utf-8"))
    return tuple(torch.tensor(t, device=device) for t in (base_bytes, leading_space, boundary))


def count_bytes(luts, prev: Tensor, target: Tensor) -> Tensor:
    base_bytes, leading_space, boundary = luts
    return base_bytes[target].to(torch.int64) + (leading_space[target] & ~boundary[prev]).long()


class Rotary(nn.Module):
    def __init__(self, dim: int, base: float = 10000.0):
        super().__init__()
        self.register_buffer("freq", 1.0 / base ** (torch.arange(0, dim, 2) / dim), persistent=False)
        self.cached = None

    def forward(self, length: int, device):
        if self.cached is None or self.cached[0].shape[1] != length:
            angle = torch.outer(torch.arange(length, device=device).float(), self.freq.to(device))
            self.cached = angle.cos()[None, :, None], angle.sin()[None, :, None]
        return self.cached


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int):
        super().__init__()
        self.head_dim = dim // heads
        self.q, self.proj = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * kv_heads * self.head_dim, bias=False)
        self.fc, self.out = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)
        self.rotary = Rotary(self.head_dim)

    def turn(self, x: Tensor) -> Tensor:
        cos, sin = self.rotary(x.shape[1], x.device)
        a, b = F.rms_norm(x, (x.shape[-1],)).chunk(2, -1)
        return torch.cat([a * cos + b * sin, b * cos - a * sin], -1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.rms_norm(x, (x.shape[-1],))
        q, (k, v) = self.q(h).unflatten(-1, (-1, self.head_dim)), self.kv(h).chunk(2, -1)
        k, v = (t.unflatten(-1, (-1, self.head_dim)) for t in (k, v))
        x = x + self.proj(flash_attn_func(self.turn(q), self.turn(k), v, causal=True).flatten(2))
        return x + self.out(F.leaky_relu(self.fc(F.rms_norm(x, (x.shape[-1],))), 0.5).square())


class GPT(nn.Module):
    def __init__(self, args: Hyperparameters):
        super().__init__()
        self.tok_emb = nn.Embedding(args.vocab_size, args.model_dim)
        nn.init.normal_(self.tok_emb.weight, std=0.05)
        self.blocks = nn.ModuleList(
            Block(args.model_dim, args.num_heads, args.num_kv_heads) for _ in range(args.num_layers)
        )

    def forward_logits(self, ids: Tensor) -> Tensor:
        x = F.rms_norm(self.tok_emb(ids), (self.tok_emb.weight.shape[1],))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(F.rms_norm(x, (x.shape[-1],)), self.tok_emb.weight)
        return 30.0 * torch.tanh(logits / 30.0)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        logits = self.forward_logits(ids)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="mean")


def eval_val(args, model, rank, world_size, device, val_tokens, luts) -> tuple[float, float]:
    seq_len, rows = args.train_seq_len, max(1, args.val_batch_size // (8 * args.train_seq_len))
    total_seqs = (val_tokens.numel() - 1) // seq_len
    first, last = total_seqs * rank // world_size, total_seqs * (rank + 1) // world_size
    val_loss_sum = torch.zeros((), device=device, dtype=torch.float64)
    val_token_count, val_byte_count = torch.zeros_like(val_loss_sum), torch.zeros_like(val_loss_sum)
    model.eval()
    with torch.inference_mode():
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            local = val_tokens[start * seq_len : stop * seq_len + 1].to(device, dtype=torch.int64)
            x, y = local[:-1].reshape(-1, seq_len), local[1:].reshape(-1, seq_len)
            with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
                batch_loss = model(x, y).detach()
            val_loss_sum += batch_loss.to(torch.float64) * float(y.numel())
            val_token_count += float(y.numel())
            val_byte_count += count_bytes(luts, x.reshape(-1), y.reshape(-1)).sum()
    if dist.is_available() and dist.is_initialized():
        for total in (val_loss_sum, val_token_count, val_byte_count):
            dist.all_reduce(total, op=dist.ReduceOp.SUM)
    val_loss = (val_loss_sum / val_token_count).item()
    model.train()
    return val_loss, val_loss / math.log(2.0) * val_token_count.item() / val_byte_count.item()


def eval_val_sliding(args, base_model, rank, world_size, device, val_tokens, luts, batch_seqs=32):
    seq_len, stride, total = args.train_seq_len, args.eval_stride, val_tokens.numel() - 1
    window_starts = [s for s in range(0, total, stride) if s == 0 or s + seq_len - stride < total]
    mine = window_starts[len(window_starts) * rank // world_size : len(window_starts) * (rank + 1) // world_size]
    loss_sum = torch.zeros((), device=device, dtype=torch.float64)
    token_count, byte_count = torch.zeros_like(loss_sum), torch.zeros_like(loss_sum)
    base_model.eval()
    with torch.inference_mode():
        for bi in range(0, len(mine), batch_seqs):
            batch_ws, wlens = mine[bi : bi + batch_seqs], []
            x_batch = torch.zeros(len(batch_ws), seq_len, dtype=torch.int64, device=device)
            y_batch = torch.zeros(len(batch_ws), seq_len, dtype=torch.int64, device=device)
            for i, ws in enumerate(batch_ws):
                end = min(ws + seq_len, total)
                wlens.append(end - ws)
                chunk = val_tokens[ws : end + 1].to(dtype=torch.int64, device=device)
                x_batch[i, : end - ws], y_batch[i, : end - ws] = chunk[:-1], chunk[1:]
            with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
                logits = base_model.forward_logits(x_batch)
            nll = F.cross_entropy(logits.flatten(0, 1).float(), y_batch.flatten(), reduction="none")
            nll = nll.reshape(len(batch_ws), seq_len)
            for i, ws in enumerate(batch_ws):
                s = 0 if ws == 0 else seq_len - stride
                scored_nll = nll[i, s : wlens[i]].to(torch.float64)
                loss_sum += scored_nll.sum()
                token_count += float(wlens[i] - s)
                prev, tgt = x_batch[i, s : wlens[i]], y_batch[i, s : wlens[i]]
                byte_count += count_bytes(luts, prev, tgt).sum()
    if dist.is_available() and dist.is_initialized():
        for value in (loss_sum, token_count, byte_count):
            dist.all_reduce(value, op=dist.ReduceOp.SUM)
    val_loss = (loss_sum / token_count).item()
    base_model.train()
    return val_loss, val_loss / math.log(2.0) * token_count.item() / byte_count.item()


def eval_val_ttt(args, model, rank, world_size, device, val_tokens, luts):
    """Score a chunk, then learn from it."""
    seq_len, total = args.train_seq_len, val_tokens.numel() - 1
    loss_sum, token_count, byte_count = 0.0, 0.0, 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=args.ttt_lr)
    for start in range(0, total, args.ttt_chunk_tokens):
        stop = min(start + args.ttt_chunk_tokens, total) // seq_len * seq_len
        chunk = val_tokens[start : stop + 1].to(device, dtype=torch.int64)
        x, y = chunk[:-1].reshape(-1, seq_len), chunk[1:].reshape(-1, seq_len)
        model.eval()
        with torch.no_grad():
            nll = F.cross_entropy(model.forward_logits(x).flatten(0, 1).float(), y.flatten(), reduction="none")
        loss_sum += nll.double().sum().item()
        token_count += float(y.numel())
        byte_count += float(count_bytes(luts, x.flatten(), y.flatten()).sum())
        model.train()
        for _ in range(args.ttt_epochs):
            optimizer.zero_grad()
            model(x, y).backward()
            optimizer.step()
    val_loss = loss_sum / token_count
    return val_loss, val_loss / math.log(2.0) * token_count / byte_count


def quantise(state: dict) -> bytes:
    packed = {}
    for name, tensor in state.items():
        scale = tensor.float().abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127.0
        packed[name] = torch.round(tensor.float() / scale).to(torch.int8), scale.half()
    buffer = io.BytesIO()
    torch.save(packed, buffer)
    return zlib.compress(buffer.getvalue(), level=9)


def dequantise(blob: bytes) -> dict:
    packed = torch.load(io.BytesIO(zlib.decompress(blob)), map_location="cpu")
    return {name: q.float() * scale.float() for name, (q, scale) in packed.items()}


def main() -> None:
    args = Hyperparameters()
    distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA is required")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    if distributed:
        dist.init_process_group(backend="nccl", device_id=device)
    random.seed(args.seed), np.random.seed(args.seed), torch.manual_seed(args.seed)
    sp = spm.SentencePieceProcessor(model_file=args.tokenizer_path)
    if int(sp.vocab_size()) != args.vocab_size:
        raise ValueError(f"VOCAB_SIZE={args.vocab_size}, but the tokenizer has {sp.vocab_size()} ids")
    val_tokens = load_validation_tokens(args.val_files, args.train_seq_len)
    luts = build_sentencepiece_luts(sp, args.vocab_size, device)
    base_model = GPT(args).to(device)
    compiled = torch.compile(base_model, dynamic=False, fullgraph=True)
    model = DDP(compiled, device_ids=[0]) if distributed else compiled
    stream = torch.cat([load_data_shard(Path(p)) for p in sorted(glob.glob(args.train_files))])
    optimizer = torch.optim.AdamW(base_model.parameters(), lr=args.lr, fused=True)
    begun, at = time.perf_counter(), 0
    for step in range(args.iterations + 1):
        if step == args.iterations:
            val_loss, val_bpb = eval_val(args, model, rank, world_size, device, val_tokens, luts)
            print(f"step:{step}/{args.iterations} val_loss:{val_loss:.4f} val_bpb:{val_bpb:.4f}")
            break
        local = stream[at : at + args.train_batch_tokens + 1].to(device, dtype=torch.int64)
        at = (at + args.train_batch_tokens) % (stream.numel() - args.train_batch_tokens - 1)
        x, y = (t.reshape(-1, args.train_seq_len) for t in (local[:-1], local[1:]))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device_type="cuda", dtype=torch.bfloat16):
            loss = model(x, y)
        loss.backward()
        optimizer.step()
        if 1000.0 * (time.perf_counter() - begun) > 1000.0 * args.max_wallclock_seconds:
            break
    blob = quantise(base_model.state_dict())
    Path("final_model.int8.ptz").write_bytes(blob)
    print(f"Total submission size: {len(blob) + len(Path(__file__).read_bytes())} bytes")
    base_model.load_state_dict(dequantise(Path("final_model.int8.ptz").read_bytes()))
    val_loss, val_bpb = eval_val_sliding(args, base_model, rank, world_size, device, val_tokens, luts)
    print(f"final_int8_sliding_window_exact val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}")
    torch.cuda.synchronize()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
