"""Three ways of processing a sequence: recurrence, convolution and attention, at equal parameters.

    python benchmarks/three_ways.py [--runs FOLDER] [--kinds lstm,rfa] [--updates 5]

The models are those of the recipes lm-wikitext2-KIND: 4 layers, 192 wide, 33,281 words, 8.2 million
parameters with at most 0.4 % difference; the feed-forward networks are as wide as the mixers leave room for.
Every kind runs in a process of its own, with one thread, on generated tokens whose frequencies fall as in
text.

    training tokens/s   16 segments of 128 tokens per update, forward, backward, clipping and AdamW; the
                        median over the updates, per CPU second
    training memory     the largest resident memory of the process, less what it had before the model was
                        built
    step                CPU time of one step of one row behind a text of 128 and of 4,096 tokens, the scores
                        of all words included; the table of learned positions is too short for that, so
                        models with positions have sinusoids here
    state               what is kept of 4,096 tokens
    longest path        operations in sequence between two positions N apart, per layer (Vaswani et al. 2017,
                        table 1)
    perplexity          per word of the validation text: the best validation in FOLDER/lm-wikitext2-KIND
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from language_speed import generate_tokens, make_our_update
from markdown_tables import Table, format_markdown

from qkv.model.language import LanguageModel
from qkv.state import map_tensors
from qkv.task.recipe import read_recipe

VOCAB = 33_281
PATHS = {
    "lstm": "N",
    "conv": "N / 6 in layer 1, N / 48 in layer 4",
    "softmax": "1",
    "rfa": "1",
    "rfa-gate": "1 (decays)",
}
NAMES = {
    "lstm": "recurrence: LSTM",
    "conv": "convolution: dilated, depthwise, gated",
    "softmax": "attention: softmax",
    "rfa": "attention: random features",
    "rfa-gate": "attention: random features, gate",
}
PREFIXES = (128, 4096)
STEPS = 30


def measure_training(recipe, updates):
    """Tokens per CPU second, and the growth of the largest resident memory in MB."""
    before = read_peak_megabytes()
    update, seconds = make_our_update(recipe, VOCAB, generate_tokens(VOCAB), recipe.train.precision, 1), []
    for _ in range(updates + 1):
        begin = time.process_time()
        update()
        seconds.append(time.process_time() - begin)
    tokens = recipe.batch.streams * recipe.batch.length
    return tokens / statistics.median(seconds[1:]), read_peak_megabytes() - before


def read_peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in kilobytes


@torch.inference_mode()
def measure_decoding(recipe, prefix):
    """Seconds of one step behind a prefix, and the bytes of the state."""
    positions = "sinusoidal" if recipe.model.position_kind == "learned" else "none"
    torch.manual_seed(0)
    model = LanguageModel(recipe.model.model_copy(update={"positions": positions}), VOCAB).eval()
    text = torch.from_numpy(generate_tokens(VOCAB))
    state, seconds = model.read(text[None, :prefix], model.start(batch=1)).state, []
    for token in text[prefix : prefix + STEPS]:
        begin = time.process_time()
        state = model.step(token[None], state).state
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds), count_bytes(state)


def count_bytes(state):
    sizes = []

    def add_size(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    map_tensors(state, add_size)
    return sum(sizes)


def measure(kind, updates):
    """Print the measurements of one kind as JSON."""
    torch.set_num_threads(1)
    recipe = read_recipe(f"lm-wikitext2-{kind}")
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in LanguageModel(recipe.model, VOCAB).parameters())
    speed, megabytes = measure_training(recipe, updates)
    steps, sizes = zip(*(measure_decoding(recipe, prefix) for prefix in PREFIXES), strict=True)
    row = {"parameters": parameters, "tokens_per_second": speed, "training_mb": megabytes}
    print(json.dumps({**row, "step_seconds": steps, "state_bytes": sizes[-1]}))


def read_perplexity(runs, kind):
    """The best word perplexity of a run; None where there is no such run or no validation in it."""
    path = runs / f"lm-wikitext2-{kind}" / "metrics.jsonl" if runs else None
    if path is None or not path.exists():
        return None
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return min((line["word_perplexity"] for line in lines if line["kind"] == "validation"), default=None)


def format_row(kind, row, perplexity):
    steps = (f"{seconds * 1e3:.2f}" for seconds in row["step_seconds"])
    return [
        NAMES[kind],
        f"{row['parameters']:,}",
        "" if perplexity is None else f"{perplexity:.1f}",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['training_mb']:,.0f} MB",
        *steps,
        f"{row['state_bytes'] / 1024:,.0f} KiB",
        PATHS[kind],
    ]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="a folder with finished runs named lm-wikitext2-KIND")
    parser.add_argument("--kinds", default=",".join(NAMES))
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.updates)
        return
    rows = []
    for kind in options.kinds.split(","):
        command = [sys.executable, __file__, "--measure", kind, "--updates", str(options.updates)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append(format_row(kind, row, read_perplexity(options.runs, kind)))
    columns = ["", "parameters", "perplexity", "training tokens/s", "training memory"]
    columns += [f"step at {prefix:,}, ms" for prefix in PREFIXES]
    columns += [f"state at {PREFIXES[-1]:,}", "longest path"]
    heading = f"Three ways of processing a sequence: torch {torch.__version__}, one thread"
    print("\n".join(format_markdown(Table(heading, columns, rows))))


if __name__ == "__main__":
    main()
