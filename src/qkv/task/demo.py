"""The main job from start to picture: generate phrases, train two translators, test them, show where they
look.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

from qkv.errors import BadRun, QKVError
from qkv.task.drawing import draw_example
from qkv.task.runs import load
from qkv.task.translate.pairs import read_test_pairs
from qkv.trace import Trace
from qkv.train import STATE

RUNS = {
    "demo-rnn": "RNN with additive attention (Bahdanau et al. 2015)",
    "demo-rfa": "Transformer whose decoder attends through random features (Peng et al. 2021)",
}
SHOWN = 5


def run_demo(out: Path, source: str, target: str, changes: Sequence[str] = ()) -> None:
    """Train what is not trained yet under `out`, then print scores and draw the attention.

    `changes` are further settings of both recipes.  Raises BadRun where a training fails.
    """
    languages = (f"data.phrases.source={source}", f"data.phrases.target={target}")
    _train_all(out, (*languages, *changes))
    reports = {}
    for name, title in RUNS.items():
        print(f"\n{name}: {title}", flush=True)
        translator = load(out / name)
        report = translator.evaluate()
        reports[name] = report
        _show_examples(translator, out / f"{name}.npz", out / f"{name}.png")
    print(f"\nunseen phrases, {source} to {target}\n{'':<10} {'exact match':>12} {'BLEU':>8}")
    for name, report in reports.items():
        print(f"{name:<10} {report.scores['exact']:>10.1f} % {report.scores['bleu']:>8.1f}")
    first = next(iter(RUNS))
    print(reports[first].comparison)
    print(f"\ntry:  echo 'July 4, 2031' | qkv translate {out / first}")


def _train_all(out: Path, changes: Sequence[str]) -> None:
    """Train the models side by side, a process each: models this small gain little from more threads."""
    print(f"training {' and '.join(RUNS)} side by side; each line says how long it still takes", flush=True)
    threads = max(1, (os.cpu_count() or 1) // len(RUNS))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(_start(name, out / name, changes, environment)) for name in RUNS
        }
        readers = [Thread(target=_relay, args=(name, child)) for name, child in trainings.items()]
        for reader in readers:
            reader.start()
        try:
            failed = [name for name, child in trainings.items() if child.wait() != 0]
        except SystemExit:  # SIGTERM, which unlike Ctrl-C reached only this process
            for child in trainings.values():
                child.terminate()
            raise
        finally:
            for reader in readers:
                reader.join()  # after Ctrl-C too, which reached the children: each saves before it ends
    if failed:
        raise BadRun(
            f"{' and '.join(failed)} could not be trained, for the reason above; once mended, run again"
        )


def _start(
    name: str, run: Path, changes: Sequence[str], environment: dict[str, str]
) -> subprocess.Popen[str]:
    resume = ["--resume"] if (run / STATE).exists() else []
    settings = [f"--set={change}" for change in changes]
    command = [sys.executable, "-m", "qkv", "train", name, f"--out={run}", *settings, *resume]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _relay(name: str, child: subprocess.Popen[str]) -> None:
    for line in child.stderr or ():
        print(f"{name}  {line.rstrip()}", file=sys.stderr, flush=True)


def _show_examples(translator: Any, trace_file: Path, picture: Path) -> None:
    pairs = _varied(read_test_pairs(translator.recipe.data))
    said = translator.translate([source for source, _ in pairs])
    scoring = translator.scoring([target for _, target in pairs])
    for (source, target), text in zip(pairs, said, strict=True):
        print(f"    {'✓' if scoring.is_match(text, target) else '✗'} {source}  →  {text}")
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
