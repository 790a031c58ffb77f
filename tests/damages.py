"""Damages the files of a small run in every way, and looks at what the commands make of it.

A script, because its children are forked, so that even one that crashes is counted:

    python tests/damages.py FOLDER COUNT

Prints, as JSON, how many trials there were and how they ended.  `right`: the command did what it does on the
undamaged run.  `refused`: one line on stderr, exit status 2.  Everything else is a fault.
"""

import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import kills
import tiny
from qkv.task.run_directory import load, read_run_recipe
from qkv.task.translate.translator import Translator

FILES = ("recipe.yaml", "tokenizer.json", "model.safetensors", "training/state.pt", "metrics.jsonl")
LINES = ["one two three", "four", "", "nine eight seven six", "two two", "ten five one"]
Damage = Callable[[bytes, random.Random], bytes]


def flipped(content: bytes, choose: random.Random) -> bytes:
    place = choose.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << choose.randrange(8))]) + content[place + 1 :]


def another_digit(content: bytes, choose: random.Random) -> bytes:
    places = [i for i, byte in enumerate(content[:100_000]) if 48 <= byte < 58] or [0]
    place = choose.choice(places)
    return content[:place] + str(choose.randrange(10)).encode() + content[place + 1 :]


def cut(content: bytes, choose: random.Random) -> bytes:
    return content[: choose.randrange(len(content))]


def blanked(content: bytes, choose: random.Random) -> bytes:
    start, length = choose.randrange(len(content)), choose.choice((1, 16, 512, 4096))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def without_piece(content: bytes, choose: random.Random) -> bytes:
    start = choose.randrange(len(content))
    return content[:start] + content[start + choose.choice((1, 8, 64, 1000)) :]


def with_noise(content: bytes, choose: random.Random) -> bytes:
    start = choose.randrange(len(content))
    return content[:start] + choose.randbytes(choose.choice((1, 8, 64))) + content[start:]


def doubled(content: bytes, _: random.Random) -> bytes:
    return content + content


def emptied(_: bytes, __: random.Random) -> bytes:
    return b""


DAMAGES: tuple[Damage, ...] = (
    flipped,
    flipped,
    flipped,
    another_digit,
    cut,
    blanked,
    without_piece,
    with_noise,
    doubled,
    emptied,
)


class Runs:
    """A finished run, and another one of the same sizes."""

    def __init__(self, folder: Path, recipe: Path) -> None:
        self.folder, self.recipe, self.finished = folder, folder / "finished.yaml", folder / "finished"
        modules = folder / "modules"
        for name, seed in (("finished", 1), ("other", 2)):
            path = recipe.with_name(f"{name}.yaml")
            path.write_text(recipe.read_text().replace("epochs:", f"seed: {seed}\n  epochs:"))
            train = partial(kills.train_and_list_modules, path, folder / name, modules)
            assert kills.ended(kills.in_child(train)) == 0
        for name in modules.read_text().split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)

    def translate(self, run: Path, to: Path) -> None:
        """Translate the lines; where the recipe was edited, as the undamaged run does with that recipe."""
        recipe = read_run_recipe(run)
        undamaged = load(self.finished)
        translator = Translator(recipe, undamaged.tokens, undamaged.model)
        to.write_text("\n".join(translator.translate(LINES)))


def damage(runs: Runs, run: Path, choose: random.Random) -> str:
    """Damage one file of the run; says how."""
    name = choose.choice(FILES)
    path, how = run / name, choose.choice((*DAMAGES, "removed", "swapped", "folder"))
    content = path.read_bytes() if path.exists() else b"0"
    path.unlink(missing_ok=True)
    if callable(how):
        path.write_bytes(how(content, choose))
        return f"{name} {how.__name__}"
    if how == "swapped":
        shutil.copy(runs.folder / "other" / name, path)
    if how == "folder":
        path.mkdir()
    return f"{name} {how}"


def outcome(command: Any, run: Path) -> str:
    """Run a command in a child of its own: how that ended."""
    heard = command.runs.folder / "heard"

    def work() -> None:
        with heard.open("w") as err, contextlib.redirect_stderr(err):
            status = command.call(run)
        os._exit(status)

    status = kills.ended(kills.in_child(work))
    said = heard.read_text(errors="replace")
    if status == 2 and said.count("\n") == 1 and said.startswith("qkv: "):
        return "refused"
    if status != 0:
        return f"fault: exit status {status}: {said[-300:]}"
    return "right" if command.is_right(run) else "fault: another answer"


class Translating:
    """The undamaged run has learnt, so that another answer shows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.runs = Runs(folder, tiny.recipe_in(folder))
        self.start = self.runs.finished
        answer = folder / "translated"
        assert kills.ended(kills.in_child(lambda: self.runs.translate(self.start, answer))) == 0
        self.expected = answer.read_text()

    def call(self, run: Path) -> int:
        text = "".join(f"{line}\n" for line in LINES).encode()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = tiny.call("translate", run, "--quiet", stdin=text)
        (self.runs.folder / "answer").write_text(out.getvalue().removesuffix("\n"))
        return status

    def is_right(self, run: Path) -> bool:
        expected, wanted = self.expected, self.runs.folder / "wanted"
        if read_run_recipe(run) != read_run_recipe(self.start):
            assert kills.ended(kills.in_child(lambda: self.runs.translate(run, wanted))) == 0
            expected = wanted.read_text()
        return (self.runs.folder / "answer").read_text() == expected


class Resuming:
    """The undamaged run was killed, and ends like one that was not."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.runs, self.start = Runs(folder, kills.small_recipe(folder)), folder / "stopped"
        kills.first_state(self.runs.recipe, self.start)
        self.expected = kills.content(self.runs.finished)

    def call(self, run: Path) -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            return tiny.call("train", self.runs.recipe, "--out", run, "--resume", "--quiet")

    def is_right(self, run: Path) -> bool:
        try:
            content = kills.content(run)
        except ValueError:  # metrics.jsonl was the damaged file, and stays as it is up to the stop
            (run / "metrics.jsonl").write_text("")
            content = kills.content(run)
        return all(content[name] == self.expected[name] for name in FILES[:-1])


def trials(folder: Path, count: int) -> dict[str, Any]:
    """Damage and try so many times; how it ended, by command, and what was wrong."""
    commands, choose = (Translating(folder / "translate"), Resuming(folder / "resume")), random.Random(0)
    run = folder / "run"
    ends, faults = Counter[str](), []
    for number in range(count):
        command = commands[number % 2]
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(command.start, run)
        how = damage(command.runs, run, choose)
        end = outcome(command, run)
        ends[f"{type(command).__name__}: {end.partition(':')[0]}"] += 1
        if end.startswith("fault"):
            faults.append(f"trial {number}, {type(command).__name__}, {how}: {end}")
    return {"trials": count, "ends": dict(sorted(ends.items())), "faults": faults}


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.alarm(7200)
    print(json.dumps(trials(Path(sys.argv[1]), int(sys.argv[2])), indent=1))
