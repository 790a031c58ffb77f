"""Compares the training throughput of our Transformer with a plain loop around torch.nn.Transformer.

    python benchmarks/train_speed.py [--threads 2] [--updates 6] [--rounds 5]

Both have the same shape (Transformer-Tiny: 4 + 4 layers, width 128, 4 heads, inner width 256, joint
vocabulary of 10,000), batches, loss (label smoothing 0.1), AdamW, gradient clipping and dropout of 0.3. The
plain loop consists of torch's own parts: nn.Transformer, nn.Embedding, F.cross_entropy, AdamW with its
defaults. The two alternate, so that the ratio holds when the speed of the machine drifts. Printed are target
tokens per second, the median over the rounds.
"""

import argparse
import json
import math
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from qkv.data import Pairs
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.train import Translation

VOCAB, WIDTH, HEADS, INNER, LAYERS, DROPOUT, SMOOTHING, PAD = 10_000, 128, 4, 256, 4, 0.3, 0.1, 0


class Plain(nn.Module):
    """nn.Transformer with embeddings tied to the output layer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.table.weight, std=WIDTH**-0.5)
        self.body = nn.Transformer(
            WIDTH, HEADS, LAYERS, LAYERS, INNER, DROPOUT, batch_first=True, norm_first=True
        )
        rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        angles = torch.arange(512)[:, None] * rates
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        self.dropout = nn.Dropout(DROPOUT)

    def embed(self, tokens):
        return self.dropout(
            self.table(tokens) * math.sqrt(WIDTH) + self.get_buffer("positions")[: tokens.shape[1]]
        )

    def forward(self, batch):
        target_in, labels = batch.target[:, :-1], batch.target[:, 1:]
        hidden = self.body(
            self.embed(batch.source),
            self.embed(target_in),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target_in.shape[1]),
            src_key_padding_mask=~batch.source_keep,
            memory_key_padding_mask=~batch.source_keep,
            tgt_is_causal=True,
        )
        logits = F.linear(hidden, self.table.weight)
        return F.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
            reduction="sum",
        )


def make_batches(count, seed=0):
    """Batches of about 4,096 positions with lengths as in Multi30k: 10 to 22, within 2 of each other."""
    g = torch.Generator().manual_seed(seed)
    batches = []
    for i in range(count):
        longest = 12 + 2 * (i % 6)
        rows = 4096 // longest
        sides = []
        for _ in range(2):
            lengths = torch.randint(longest - 2, longest + 1, (rows,), generator=g)
            keep = torch.arange(longest) < lengths[:, None]
            sides += [torch.randint(4, VOCAB, (rows, longest), generator=g).masked_fill(~keep, PAD), keep]
        batches.append(Pairs(*sides))
    return batches


def build_transformer():
    config = TransformerConfig(
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        feedforward=INNER,
        dropout=DROPOUT,
    )
    return Transformer(config, VOCAB, VOCAB)


def make_update(kind):
    torch.manual_seed(0)
    if kind == "plain":
        model = Plain()
        optimizer, compute_loss = torch.optim.AdamW(model.parameters(), lr=1e-4), model
    else:
        model = Translation(build_transformer(), SMOOTHING)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        compute_loss = lambda batch: model(batch).total  # noqa: E731
    model.train()

    def update(batch, tokens, bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = compute_loss(batch) / tokens
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batches = make_batches(options.updates)
    counts = [int(batch.target_keep[:, 1:].sum()) for batch in batches]
    environment = f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}"
    print(f"{environment}; {sum(counts):,} tokens a round")
    for precision in ("fp32", "bf16"):
        updates = {kind: make_update(kind) for kind in ("plain", "qkv")}
        speeds = {kind: [] for kind in updates}
        for round_number in range(options.rounds + 1):
            for kind, update in updates.items():
                begin = time.perf_counter()
                for batch, tokens in zip(batches, counts, strict=True):
                    update(batch, tokens, precision == "bf16")
                if round_number:  # the first round warms up
                    speeds[kind].append(sum(counts) / (time.perf_counter() - begin))
        pairs = zip(speeds["qkv"], speeds["plain"], strict=True)
        ratio = statistics.median(ours / plain for ours, plain in pairs)
        row = {kind: round(statistics.median(rates)) for kind, rates in speeds.items()}
        print(
            json.dumps({"precision": precision, "tokens_per_second": row, "ratio": round(ratio, 3)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
