"""Compares the training throughput of our language models with a plain PyTorch loop of the same shape.

    python benchmarks/language_speed.py [shakespeare|wikitext2] [--threads 1] [--updates 5] [--rounds 7]

`shakespeare` is the recipe lm-shakespeare, `wikitext2` the recipe lm-wikitext2-softmax, on generated tokens
whose frequencies fall as in text.  Ours is the loop of `qkv train` without its files: batches, schedule,
clipping, AdamW and metrics.  The plain loop consists of torch's own parts: nn.TransformerEncoderLayer
(norm_first; its attention is scaled_dot_product_attention with is_causal), an embedding tied to the output
layer, F.cross_entropy, clip_grad_norm_ and AdamW with its defaults.  Rounds of both alternate, so that the
ratio holds where the speed of the machine drifts.  Printed are medians over the rounds, in float32 and with
bfloat16 products, which `train.precision: auto` chooses on a CPU that has them.

The bound.  One token costs 6 (12 L M^2 + M V) operations in products with weights, forward and backward, and
12 L N M in attention (N: length of a segment): 5.2 million for shakespeare, 50 million for wikitext2, of
which 38 million are the output layer's.  With clusters of rare words the output layer scores about 4,900 of
the 33,281 words for an average token, and costs 6 million.  AdamW reads or writes 28 bytes per parameter and
update: 22 MB for shakespeare, 230 MB for wikitext2, some 2 and 20 ms.  The script measures how fast this
machine multiplies matrices of these shapes, and prints the tokens per second at which the products alone
would run: nothing that computes the same can be faster.
"""

import argparse
import platform
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from markdown_tables import Table, format_markdown
from torch import nn

from qkv.data.streams import StreamPlan
from qkv.model.language import LanguageModel
from qkv.task.recipe import read_recipe
from qkv.train.engine import start_fabric
from qkv.train.loop_state import LoopState
from qkv.train.metrics import MetricSums
from qkv.train.objective.language import LanguageModeling
from qkv.train.update import Updater

RECIPES = {"shakespeare": ("lm-shakespeare", 69), "wikitext2": ("lm-wikitext2-softmax", 33_281)}
PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16}
SCORED_WORDS = 4_900  # of the output layer with clusters, for an average token of WikiText-2
TEXT = 200_000  # tokens


class Plain(nn.Module):
    """nn.TransformerEncoder with learned positions and tied embeddings."""

    def __init__(self, config, vocab, length):
        super().__init__()
        self.table, self.positions = nn.Embedding(vocab, config.width), nn.Embedding(length, config.width)
        for embedding in (self.table, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.feedforward,
            config.dropout,
            config.activation,
            batch_first=True,
            norm_first=True,
        )
        self.body = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, inputs, targets):
        x = self.table(inputs) + self.positions(torch.arange(inputs.shape[1]))
        hidden = self.body(self.dropout(x), mask=self.mask, is_causal=True)
        logits = F.linear(hidden, self.table.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def generate_tokens(vocab):
    """Token ids whose frequencies fall as 1 / rank; the first 4 are control symbols."""
    frequencies = 1 / np.arange(3, vocab - 1)
    return np.random.default_rng(0).choice(np.arange(4, vocab), TEXT, p=frequencies / frequencies.sum())


def make_our_update(recipe, vocab, ids, precision, threads):
    config = recipe.train.model_copy(update={"precision": precision, "threads": threads, "device": "cpu"})
    torch.manual_seed(0)
    objective = LanguageModeling(LanguageModel(recipe.model, vocab))
    updater = Updater(objective, config, start_fabric(config), config.steps)
    batches, state, sums = StreamPlan(ids, recipe.batch, 0), LoopState(), MetricSums()

    def update():
        updater.update(batches, state, sums)
        state.advance_one_update(batches.steps(state.epoch))

    return update


def make_plain_update(recipe, vocab, ids, precision):
    rows, length = recipe.batch.streams, recipe.batch.length
    torch.manual_seed(0)
    model = Plain(recipe.model, vocab, length)
    train = recipe.train
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.lr, betas=train.betas, eps=train.eps, weight_decay=train.weight_decay
    )
    text = torch.from_numpy(ids)

    def update():
        starts = torch.randint(len(text) - length, (rows,)).tolist()
        inputs = torch.stack([text[start : start + length] for start in starts])
        targets = torch.stack([text[start + 1 : start + 1 + length] for start in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def count_operations(recipe, vocab):
    """The operations of one token in products, with and without clusters in the output layer."""
    model, length = recipe.model, recipe.batch.length
    body = 6 * 12 * model.layers * model.width**2 + 12 * model.layers * length * model.width
    scored = SCORED_WORDS if model.clusters else vocab
    return body + 6 * model.width * scored, body + 6 * model.width * vocab


def measure_products(recipe, precision):
    """Operations per CPU second in the products of a feed-forward layer, forward and backward."""
    rows = recipe.batch.streams * recipe.batch.length
    shapes = (rows, recipe.model.width), (recipe.model.feedforward, recipe.model.width)
    x, weight = (torch.randn(shape).to(PRECISIONS[precision]) for shape in shapes)
    out = x @ weight.T
    seconds = []
    for _ in range(30):
        begin = time.process_time()
        _ = F.linear(x, weight), out @ weight, out.T @ x
        seconds.append(time.process_time() - begin)
    return 6 * x.numel() * weight.shape[0] / min(seconds)


def compare(recipe, vocab, precision, options):
    """Tokens per second of both loops and the ratio, by the clock and by the CPU time of this process."""
    ids = generate_tokens(vocab)
    updates = {
        "qkv": make_our_update(recipe, vocab, ids, precision, options.threads),
        "plain": make_plain_update(recipe, vocab, ids, precision),
    }
    tokens = options.updates * recipe.batch.streams * recipe.batch.length
    speeds = {(name, clock): [] for name in updates for clock in ("wall", "cpu")}
    for round_number in range(options.rounds + 1):
        for name, update in updates.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            for _ in range(options.updates):
                update()
            if round_number:  # the first round warms up
                speeds[name, "wall"].append(tokens / (time.perf_counter() - begin))
                speeds[name, "cpu"].append(tokens / (time.process_time() - begin_cpu))
    return speeds


def format_rows(recipe, vocab, options):
    """A row per precision and loop."""
    clustered, full = count_operations(recipe, vocab)
    medians, rows = {}, []
    for precision in PRECISIONS:
        products = measure_products(recipe, precision)
        speeds = compare(recipe, vocab, precision, options)
        for name, operations in (("qkv", clustered), ("plain", full)):
            wall, cpu = (statistics.median(speeds[name, clock]) for clock in ("wall", "cpu"))
            medians[name, precision] = cpu
            cells = (f"{rate:,.0f}" for rate in (wall, cpu, products / operations))
            rows.append([name, precision, *cells])
    for row in rows:
        ratios = (medians[row[0], row[1]] / medians["plain", baseline] for baseline in (row[1], "32"))
        row += [f"{ratio:.2f}" for ratio in ratios]
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", nargs="?", choices=RECIPES, default="shakespeare")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name, vocab = RECIPES[options.setting]
    recipe = read_recipe(name)
    heading = (
        f"Training of {name}: torch {torch.__version__}, {options.threads} thread(s), {platform.machine()}"
    )
    columns = (
        "loop",
        "precision",
        "tokens/s",
        "tokens per CPU second",
        "bound of the products",
        "ratio to plain",
    )
    columns = (*columns, "ratio to plain in float32")
    notes = ("The ratios are of tokens per CPU second, which other processes on the machine disturb less.",)
    print("\n".join(format_markdown(Table(heading, columns, format_rows(recipe, vocab, options), notes))))


if __name__ == "__main__":
    main()
