"""The main job from start to picture: generate phrases, train two translators, test them, show where they
look.
"""

from pathlib import Path
from typing import Any

from qkv.errors import QKVError
from qkv.task.drawing import draw_example
from qkv.task.pairs import test_pairs
from qkv.task.recipe import read_recipe
from qkv.task.runs import load
from qkv.task.training import fit
from qkv.trace import Trace
from qkv.train import STATE

RUNS = {
    "demo-rnn": "RNN with additive attention (Bahdanau et al. 2015)",
    "demo-rfa": "Transformer whose decoder attends through random features (Peng et al. 2021)",
}
SHOWN = 5


def run_demo(out: Path, source: str, target: str) -> None:
    """Train what is not trained yet under `out`, then print scores and draw the attention."""
    rows = []
    for name, title in RUNS.items():
        run = out / name
        changes = [f"data.phrases.source={source}", f"data.phrases.target={target}"]
        print(f"\n{name}: {title}", flush=True)
        recipe = read_recipe(name, changes)
        fit(recipe, run, resume=(run / STATE).exists())
        translator = load(run)
        report = translator.evaluate()
        rows.append((name, report.scores["exact"], report.scores["bleu"]))
        _show_examples(translator, out / f"{name}.npz", out / f"{name}.png")
    print(f"\nunseen phrases, {source} to {target}\n{'':<10} {'exact match':>12} {'BLEU':>8}")
    for name, exact, bleu in rows:
        print(f"{name:<10} {exact:>10.1f} % {bleu:>8.1f}")
    first = next(iter(RUNS))
    print(f"\ntry:  echo 'July 4, 2031' | qkv translate {out / first}")


def _show_examples(translator: Any, trace_file: Path, picture: Path) -> None:
    pairs = _varied(test_pairs(translator.recipe.data))
    said = translator.translate([source for source, _ in pairs])
    for (source, target), text in zip(pairs, said, strict=True):
        print(f"    {'✓' if text == target else '✗'} {source}  →  {text}")
    longest = max(pairs, key=lambda pair: len(pair[0].split()))
    trace = translator.trace([longest[0]])
    trace.save(trace_file)
    for line in _drawn(trace, picture):
        print(f"    {line}")


def _drawn(trace: Trace, picture: Path) -> list[str]:
    try:
        return [*draw_example(trace, picture, merge=True), f"where it looked: {picture}"]
    except QKVError as error:
        return [f"no picture: {error}"]


def _varied(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A few pairs of different lengths."""
    ordered = sorted(pairs[:200], key=lambda pair: len(pair[0].split()))
    step = max(1, len(ordered) // SHOWN)
    return ordered[step // 2 :: step][:SHOWN]
