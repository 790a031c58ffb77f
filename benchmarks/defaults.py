"""Compares training settings under one budget of CPU time by the BLEU that they reach.

    QKV_DATA=... python benchmarks/defaults.py tatoeba-12000 [--rows 't128-*,rnn-*'] [--out runs/defaults]

A short probe measures the CPU seconds of an update. They give the number of updates that fits the budget, so
every learning-rate schedule ends inside it. All probes run first, one after the other (`--plan` stops there).
Run them on an idle machine: other work during the trainings then changes the times below, but no score. The
minutes in the table are CPU time of everything that `qkv train` does: reading, learning the vocabulary,
updates and validation. Scoring the development set, with the recipe's beam search, is not counted. One
thread, one seed. A row whose result is already in `--out` is not trained again.

The row `defaults` sets nothing but the files. Its number of updates follows from the defaults, unless
`--minutes` is passed, which plans them as for the other rows.
"""

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

import qkv
from qkv.data import ParallelData, read_pairs
from qkv.task.training import fit
from qkv.task.translate.pairs import Lines
from qkv.train import STATE
from qkv.train.update import Updater

PROBE, VALIDATIONS, OVERHEAD = 40, 8, 0.08
TATOEBA = "${QKV_DATA}/tatoeba-eng-fra/{split}.{side}.gz"
MULTI30K = "${QKV_DATA}/multi30k/raw/{split}.{side}.gz"


class Corpus(NamedTuple):
    """Parallel text and a budget.

    path: of the files, with {split} and {side}.  pairs: how many are drawn (None: all).  minutes: CPU minutes
    of a row.  dev: the split for scoring.
    """

    path: str
    pairs: int | None
    minutes: float
    dev: str = "dev"


CORPORA = {
    "tatoeba-3000": Corpus(TATOEBA, 3_000, 3),
    "tatoeba-12000": Corpus(TATOEBA, 12_000, 8),
    "tatoeba-130000": Corpus(TATOEBA, 130_000, 12),
    "multi30k": Corpus(MULTI30K, None, 12, dev="val"),
}

# A later word replaces an earlier one with the same key.
COSINE = "train.schedule=cosine tokens.vocab=3500 batch.batch_tokens=512"
T = f"{COSINE} model.kind=transformer train.lr=0.003 model.dropout=0.2"
T2 = f"{T} model.encoder_layers=2 model.decoder_layers=2"
RNN = f"{COSINE} model.kind=rnn train.lr=0.002"
SETTINGS: dict[str, str] = {
    "defaults": "",
    "old": (
        "model.kind=transformer batch.batch_tokens=4096 tokens.vocab=8000 train.schedule=inverse_sqrt "
        "train.warmup=400 train.lr=0.001 model.dropout=0.1 model.encoder_layers=4 model.decoder_layers=4"
    ),
    "t2-256": f"{T2} batch.batch_tokens=256",
    "t2-512": T2,
    "t2-1024": f"{T2} batch.batch_tokens=1024",
    "t2-512-v1000": f"{T2} tokens.vocab=1000",
    "t2-512-v1000-drop.1": f"{T2} tokens.vocab=1000 model.dropout=0.1",
    "t2-512-v1000-drop.3": f"{T2} tokens.vocab=1000 model.dropout=0.3",
    "t2-512-v8000": f"{T2} tokens.vocab=8000",
    "t2-512-words": f"{T2} tokens.kind=word tokens.vocab=8000",
    "t2-512-drop.1": f"{T2} model.dropout=0.1",
    "t2-512-drop0": f"{T2} model.dropout=0",
    "t2-512-drop.3": f"{T2} model.dropout=0.3",
    "t2-512-isqrt": f"{T2} train.schedule=inverse_sqrt",
    "t2-512-w256": f"{T2} model.width=256 model.feedforward=512 train.lr=0.0015",
    "t4-1024": f"{T} batch.batch_tokens=1024 model.encoder_layers=4 model.decoder_layers=4",
    "rnn-192": f"{RNN} model.embedding=192 model.hidden=192 model.dropout=0.2",
    "rnn-luong": f"{RNN} model.decoder=luong model.attention.score=general model.dropout=0.3",
}


def parse_setting(words: str) -> list[str]:
    """The changes of a row to the recipe; a later word replaces an earlier one with the same key."""
    keys = dict(word.split("=", 1) for word in words.split())
    return [f"{key}={value}" for key, value in keys.items()]


def draw_pairs(corpus: Corpus, seed: int) -> Lines:
    """The training pairs, the same for every row."""
    paths = {side: corpus.path.replace("{split}", "train").replace("{side}", side) for side in ("en", "fr")}
    pairs = read_pairs(ParallelData(source=paths["en"], target=paths["fr"]))
    return pairs if corpus.pairs is None else random.Random(seed).sample(pairs, corpus.pairs)


def write_pairs(pairs: Lines, folder: Path) -> dict[str, str]:
    """Write the two sides as text files into the folder of the results; returns side -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"source": folder / "train.en", "target": folder / "train.fr"}
    for side, path in enumerate(files.values()):
        path.write_text("".join(f"{pair[side]}\n" for pair in pairs), encoding="utf-8")
    return {side: str(path) for side, path in files.items()}


def train(recipe: Path, changes: Sequence[str], run: Path) -> Any:
    """Train into `run`, or resume where a stopped benchmark ended, and add the CPU seconds to a file."""
    start = time.process_time()
    try:
        return fit(recipe, run, changes=changes, resume=(run / STATE).exists(), quiet=True)
    finally:
        seconds_file = run.with_suffix(".seconds")
        before = float(seconds_file.read_text()) if seconds_file.exists() else 0.0
        seconds_file.write_text(str(before + time.process_time() - start))


def plan_updates(recipe: Path, changes: Sequence[str], seconds: float, run: Path) -> int:
    """The number of updates that fits `seconds`, with a reserve for everything else."""
    ends: list[float] = []
    update = Updater.update

    def timed(self: Updater, *arguments: Any) -> None:
        update(self, *arguments)
        ends.append(time.process_time())

    shutil.rmtree(run, ignore_errors=True)
    with patch.object(Updater, "update", timed):
        probe_changes = ["validation.decode=0", "train.warmup=10", f"train.steps={PROBE}"]
        train(recipe, [*changes, *probe_changes], run)
    # the first updates are slower: they allocate memory and compile kernels
    first = PROBE // 4
    update_seconds = (ends[-1] - ends[first]) / (PROBE - 1 - first)
    return int((1 - OVERHEAD) * seconds / update_seconds)


def plan(words: str, recipe: Path, seconds: float | None, folder: Path) -> list[str]:
    """The changes of a row, with a number of updates that fits the budget if there is one.

    They are stored in `folder`, so that a second call returns the same.
    """
    plan_file = folder / "changes.json"
    if not plan_file.exists():
        changes = ["validation.samples=0", *parse_setting(words)]
        if seconds is not None:
            steps = plan_updates(recipe, changes, seconds, folder / "probe")
            changes += [f"train.steps={steps}", f"train.validate_every={-(-steps // VALIDATIONS)}"]
            changes += [] if "train.warmup" in words else [f"train.warmup={steps // 10}"]
        plan_file.write_text(json.dumps(changes))
    return json.loads(plan_file.read_text())


def measure(name: str, changes: list[str], corpus: Corpus, recipe: Path, folder: Path) -> dict[str, Any]:
    """Train one row as planned and score it."""
    run = folder / "run"
    result = train(recipe, changes, run)
    seconds = float(run.with_suffix(".seconds").read_text())
    dev = {side: corpus.path.replace("{split}", corpus.dev).replace("{side}", side) for side in ("en", "fr")}
    report = qkv.load(run).evaluate(read_pairs(ParallelData(source=dev["en"], target=dev["fr"])))
    return {
        "name": name,
        "minutes": seconds / 60,
        "updates": result.steps,
        "epochs": result.epochs,
        "bleu": report.scores["bleu"],
        "chrf": report.scores["chrf"],
        "held_out": result.scores,
        "best": result.best,
        "changes": changes,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", choices=CORPORA)
    parser.add_argument("--rows", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--add", action="append", default=[], metavar="'NAME KEY=VALUE ...'")
    parser.add_argument("--minutes", type=float, help="CPU minutes a row  [default: the corpus's]")
    parser.add_argument("--draw", type=int, default=1, help="which pairs are drawn from the corpus")
    parser.add_argument("--plan", action="store_true", help="only measure the updates and plan the rows")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    corpus = CORPORA[options.corpus]
    minutes = options.minutes or corpus.minutes
    out = options.out / f"{options.corpus}-{minutes:g}min-draw{options.draw}"
    files = write_pairs(draw_pairs(corpus, options.draw), out)
    recipe = out / "recipe.yaml"
    recipe.write_text(f"data: {{train: {json.dumps(files)}}}\n", encoding="utf-8")
    settings = SETTINGS | dict(words.split(" ", 1) for words in options.add)
    rows = [name for name in settings if any(fnmatchcase(name, row) for row in options.rows.split(","))]
    plans = {}
    for name in rows:
        seconds = None if name == "defaults" and options.minutes is None else 60 * minutes
        (out / name).mkdir(exist_ok=True)
        plans[name] = plan(settings[name], recipe, seconds, out / name)
    for name, changes in () if options.plan else plans.items():
        result_file = out / name / "result.json"
        if not result_file.exists():
            result_file.write_text(json.dumps(measure(name, changes, corpus, recipe, out / name), indent=1))
        row = json.loads(result_file.read_text())
        counts = f"{row['minutes']:.1f} | {row['updates']:,} | {row['epochs']}"
        print(f"| {name} | {counts} | {row['bleu']:.2f} | {row['chrf']:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
