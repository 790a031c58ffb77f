"""`qkv demo --task generate`: trains a small character model on phrases, and shows what it writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkv.errors import QKVError
from qkv.task.recipe import read_recipe
from qkv.task.run_directory import load
from qkv.task.trace_picture import draw_example
from qkv.task.training import fit
from qkv.train import STATE
from qkv.wording import name_command

RECIPE = "demo-characters"
MOST_SHOWN = 8  # sampled lines


def run_demo(out: Path, language: str, changes: Sequence[str] = ()) -> None:
    """Train the model under `out` unless it is trained, print a sample and scores, and draw its attention.

    Args:
        out: the folder for the run, its trace and its picture.
        language: the language to write, as Babel names it.
        changes: further settings of the recipe, as `--set` takes them.

    Raises:
        QKVError: the language does not exist, or the training failed.
    """
    other = "en" if language != "en" else "fr"  # phrases come in pairs of languages; one is read
    languages = (f"data.phrases.source={language}", f"data.phrases.target={other}")
    recipe = read_recipe(RECIPE, [*languages, *changes])
    run = out / RECIPE
    print(f"training {RECIPE}: a character language model of generated phrases in {language!r}", flush=True)
    fit(recipe, run, resume=(run / STATE).exists())
    generator = load(run)
    lines = _show_sample(generator)
    scores = generator.evaluate()
    nll, bits = scores["nll"], scores["bits_per_byte"]
    print(f"\nunseen phrases: {nll:.3f} nats per character, {bits:.3f} bits per byte")
    for line in _draw_trace(generator, max(lines, key=len), out):
        print(line)
    print(f"\ntry:  {name_command()} generate {run} --prompt '{lines[0][:3]}' --seed 1")


def _show_sample(generator: Any) -> list[str]:
    """Print some sampled lines; returns them."""
    text = generator.generate("")
    lines = [line for line in text.split("\n")[:-1] if line] or [text.strip() or "a"]
    print("\na sample:")
    for line in lines[:MOST_SHOWN]:
        print(f"    {line}")
    return lines[:MOST_SHOWN]


def _draw_trace(generator: Any, line: str, out: Path) -> list[str]:
    """Write the attention within a line, and draw it if it can be drawn here; the lines to print about it."""
    text = line[: (generator.context or len(line) + 2) - 1]
    trace = generator.trace(text)
    trace.save(out / f"{RECIPE}.npz")
    picture = out / f"{RECIPE}.png"
    try:
        return [*draw_example(trace, picture, heads="all"), f"where it looked: {picture}"]
    except QKVError as error:
        return [f"no picture: {error}"]
