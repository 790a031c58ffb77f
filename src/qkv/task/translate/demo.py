"""`qkv demo`: generates phrases, trains two translators, tests them, and draws where they attend."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkv.errors import QKVError
from qkv.task.run_directory import load
from qkv.task.side_by_side import train_side_by_side
from qkv.task.trace_picture import draw_example
from qkv.task.translate.pairs import read_test_pairs
from qkv.trace import Trace
from qkv.wording import name_command

RUNS = {
    "demo-rnn": "RNN with additive attention (Bahdanau et al. 2015)",
    "demo-rfa": "Transformer whose decoder attends through random features (Peng et al. 2021)",
}
EXAMPLES = 5


def run_demo(out: Path, source: str, target: str, changes: Sequence[str] = ()) -> None:
    """Train the models that are not yet trained under `out`, then print scores and draw the attention.

    Args:
        out: the folder for runs, traces and pictures.
        source: the language to translate from, as Babel names it.
        target: the language to translate into.
        changes: further settings of both recipes, as `--set` takes them.

    Raises:
        BadRun: a training failed.
    """
    languages = (f"data.phrases.source={source}", f"data.phrases.target={target}")
    train_side_by_side(list(RUNS), out, (*languages, *changes))
    reports = {}
    for name, title in RUNS.items():
        print(f"\n{name}: {title}", flush=True)
        translator = load(out / name)
        reports[name] = translator.evaluate()
        _show_examples(translator, out / f"{name}.npz", out / f"{name}.png")
    print(f"\nunseen phrases, {source} to {target}\n{'':<10} {'exact match':>12} {'BLEU':>8}")
    for name, report in reports.items():
        print(f"{name:<10} {report.scores['exact']:>10.1f} % {report.scores['bleu']:>8.1f}")
    first = next(iter(RUNS))
    print(reports[first].comparison)
    print(f"\ntry:  echo 'July 4, 2031' | {name_command()} translate {out / first}")


def _show_examples(translator: Any, trace_file: Path, picture: Path) -> None:
    """Print a few translations, and draw the attention of the longest one."""
    pairs = _choose_examples(read_test_pairs(translator.recipe.data))
    translations = translator.translate([source for source, _ in pairs])
    scorer = translator.build_scorer([target for _, target in pairs])
    for (source, target), text in zip(pairs, translations, strict=True):
        print(f"    {'✓' if scorer.is_match(text, target) else '✗'} {source}  →  {text}")
    longest, _ = max(pairs, key=lambda pair: len(pair[0].split()))
    trace = translator.trace([longest])
    trace.save(trace_file)
    for line in _draw_trace(trace, picture):
        print(f"    {line}")


def _draw_trace(trace: Trace, picture: Path) -> list[str]:
    """Draw the trace if it can be drawn here; the lines to print about it."""
    try:
        return [*draw_example(trace, picture, merge=True), f"where it looked: {picture}"]
    except QKVError as error:
        return [f"no picture: {error}"]


def _choose_examples(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A few pairs of different lengths."""
    ordered = sorted(pairs[:200], key=lambda pair: len(pair[0].split()))
    step = max(1, len(ordered) // EXAMPLES)
    return ordered[step // 2 :: step][:EXAMPLES]
