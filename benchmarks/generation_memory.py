"""Memory and time per token while a language model generates a long text.

    python benchmarks/generation_memory.py FOLDER [--kinds rfa,softmax] [--tokens 100000] [--run RUN]

Every kind runs in a process of its own, through `Generator.stream` as `qkv generate` does, with one row and
one thread.  Without --run the models have random weights, which cost the same as trained ones: 4 layers, 128
wide, bytes as tokens.  Softmax attention over all keys has sinusoidal positions, so that no table limits its
length; it stops at --softmax-tokens, because its time per token grows with the text.

FOLDER receives generation.json, to which later calls add, generation.md, a table, and generation.png:
resident memory of the process, and CPU time per token since the last point (a median over 32 tokens each),
both over the number of tokens, on a logarithmic axis.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from markdown_tables import Table, format_markdown

import qkv
from qkv.data.byte_tokens import ByteTokenizer
from qkv.model.language import LanguageModel
from qkv.task.generate.generator import Generator
from qkv.task.recipe import parse_recipe

RFA = {"name": "rfa", "features": 64}
KINDS = {
    "softmax": {"positions": "sinusoidal"},
    "window": {"positions": "sinusoidal", "attention": {"scope": {"name": "window", "half_width": 128}}},
    "rfa": {"positions": "sinusoidal", "attention": {"kernel": RFA}},
    "rfa-gate": {"positions": "none", "attention": {"kernel": {**RFA, "gate": True}}},
    "lstm": {"mixer": "lstm"},
}
FIRST, STRETCHES_PER_DOUBLING = 128, 2
TIMED_TOGETHER = 32  # tokens; the median of such times is less disturbed by other processes than their mean


def build_generator(kind, run):
    if run is not None:
        return qkv.load(run)
    raw = {"task": "generate", "data": {"train": "-"}, "tokens": {"kind": "byte"}, "model": KINDS[kind]}
    recipe = parse_recipe(raw, kind)
    torch.manual_seed(0)
    tokenizer = ByteTokenizer()
    return Generator(recipe, tokenizer, LanguageModel(recipe.model, tokenizer.size).eval())


def list_marks(tokens):
    """The numbers of tokens at which to measure: equally spaced on a logarithmic axis."""
    marks, mark = [], float(FIRST)
    while mark < tokens:
        marks.append(round(mark))
        mark *= 2 ** (1 / STRETCHES_PER_DOUBLING)
    return [*marks, tokens]


def read_resident_megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class TokenCounter:
    """Counts the tokens that a model reads; text comes in pieces of one token or more."""

    def __init__(self, model):
        self.count, self.read = 0, model.read
        model.read = self.read_and_count

    def read_and_count(self, tokens, state, **options):
        self.count += tokens.shape[1]
        return self.read(tokens, state, **options)


def measure(kind, tokens, run):
    """Generate, and print a line of JSON whenever a mark is passed."""
    torch.set_num_threads(1)
    generator, marks = build_generator(kind, run), list_marks(tokens)
    counter, before, begin, times = TokenCounter(generator.model), 0, time.process_time(), []
    for _ in generator.stream([""], length=tokens + 1, temperature=1.0):
        if counter.count - before < TIMED_TOGETHER:
            continue
        times.append((time.process_time() - begin) / (counter.count - before) * 1e6)
        if counter.count >= marks[0]:
            row = {"kind": kind, "tokens": counter.count, "us_per_token": statistics.median(times)}
            print(json.dumps({**row, "resident_mb": read_resident_megabytes()}), flush=True)
            marks, times = [mark for mark in marks if mark > counter.count], []
            if not marks:
                break
        before, begin = counter.count, time.process_time()


def run_in_fresh_process(kind, options):
    tokens = options.softmax_tokens if kind == "softmax" else options.tokens
    command = [sys.executable, __file__, str(options.folder), "--measure", kind, "--tokens", str(tokens)]
    command += ["--run", str(options.run)] if options.run else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        rows = []
        for line in process.stdout or ():
            rows.append(json.loads(line))
            print(line, end="", file=sys.stderr)
    if process.returncode:
        sys.exit(f"{kind}: the process ended with status {process.returncode}")
    return rows


def format_table(rows, kinds):
    columns = ("tokens", *(f"{kind}: MB" for kind in kinds), *(f"{kind}: µs per token" for kind in kinds))
    marks = (1_000, 10_000, 20_000, 100_000)
    lines = []
    for mark in marks:
        nearest = [find_nearest([row for row in rows if row["kind"] == kind], mark) for kind in kinds]
        if any(nearest):
            megabytes = (f"{row['resident_mb']:.0f}" if row else "" for row in nearest)
            lines.append(
                [f"{mark:,}", *megabytes, *(f"{row['us_per_token']:.0f}" if row else "" for row in nearest)]
            )
    heading = f"Generation: torch {torch.__version__}, one thread"
    return "\n".join(format_markdown(Table(heading, columns, lines))) + "\n"


def find_nearest(rows, mark):
    """The measurement nearest to a number of tokens; None where none is within a third of it."""
    row = min(rows, key=lambda row: abs(row["tokens"] - mark), default=None)
    return row if row and abs(row["tokens"] - mark) <= mark / 3 else None


def draw(rows, kinds, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for key, label, panel in zip(
        ("resident_mb", "us_per_token"),
        ("resident memory, MB", "CPU time per token, µs"),
        panels,
        strict=True,
    ):
        for kind in kinds:
            points = [row for row in rows if row["kind"] == kind]
            panel.semilogx([row["tokens"] for row in points], [row[key] for row in points], label=kind)
        panel.set(xlabel="tokens generated", ylabel=label, ylim=(0, 1.1 * max(row[key] for row in rows)))
        panel.grid(alpha=0.3)
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--softmax-tokens", type=int, default=20_000)
    parser.add_argument("--run", type=Path, help="measure this trained run alone")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.tokens, options.run)
        return
    kinds = [options.run.name] if options.run else options.kinds.split(",")
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "generation.json"
    rows = json.loads(results.read_text()) if results.exists() else []
    for kind in kinds:
        new = run_in_fresh_process(kind, options)
        rows = [row for row in rows if row["kind"] != kind] + new
        results.write_text(json.dumps(rows, indent=1))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    table = format_table(rows, kinds)
    (options.folder / "generation.md").write_text(table)
    print(table)
    draw(rows, kinds, options.folder / "generation.png")


if __name__ == "__main__":
    main()
