"""Kills a small training at its file operations, one process per stop, and lets another go on from there.

A script, because its children are forked: they start at once, and the parent has run no thread of torch.

    python tests/kills.py FOLDER fresh|resumed|initial|pair|shards|TASK [FIRST STEP]

It stops at operations FIRST, FIRST + STEP, ... and prints how many stops it made.  `fresh` stops a training
from its start to its end, `resumed` one that resumes, `initial` one that starts from another run, which is
gone when it resumes, `pair` the first of two processes, `shards` the first of two with `strategy: fsdp`.
These train a translator; a TASK of `OTHER_TASKS` trains a model of another task from its start to its end.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import tiny
import tiny_pictures
import tiny_text
from qkv.errors import BadRun
from qkv.task.run_directory import load
from qkv.task.training import fit
from qkv.train.checkpoint import STATE, load_state

BEFORE = ("mkdir", "open", "replace", "rename", "unlink", "remove", "rmdir", "fsync", "ftruncate")
TRAIN = {
    "epochs": 3,
    "lr": 0.02,
    "warmup": 2,
    "precision": "32",
    "device": "cpu",
    "average": 2,
    "log_every": 2,
    "save_every_seconds": 0.0,
}
MODEL = {"kind": "rnn", "embedding": 4, "hidden": 4, "dropout": 0.2}
TEXT_MODEL = {"width": 8, "feedforward": 8, "dropout": 0.2}
OTHER_TASKS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "generate": (tiny_text.language_recipe, {"model": TEXT_MODEL}),
    "carry": (
        tiny_text.language_recipe,
        {
            "model": {
                **TEXT_MODEL,
                "positions": "none",
                "attention": {"kernel": {"name": "rfa", "gate": True}},
            },
            "batch": {"carry": True, "length": 40},
        },
    ),
    "fill": (tiny_text.fill_recipe, {"model": TEXT_MODEL, "batch": {"streams": 12}}),
    "classify": (
        tiny_text.classify_recipe,
        {"model": {**TEXT_MODEL, "pool": "attention"}, "batch": {"batch_tokens": 60}},
    ),
    "sentences": (
        tiny_text.classify_recipe,
        {"model": {**TEXT_MODEL, "kind": "hierarchical"}, "batch": {"batch_tokens": 60}},
    ),
    "pictures": (tiny_pictures.picture_recipe, {"model": {"dropout": 0.2}}),
    "adversarial": (tiny_pictures.gan_recipe, {}),
    "captions": (tiny_pictures.caption_recipe, {"model": {"attention": {"select": "hard"}}}),
    "hidden": (tiny_pictures.fill_pictures_recipe, {"model": {"dropout": 0.2}}),
}
TIMES = {"seconds", "metrics_bytes", *(f"{unit}_per_second" for unit in ("tokens", "documents", "pictures"))}


class Operations:
    """Counts the file operations under a folder, every write to the system included, and kills at one."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last, self.count = str(folder), last, 0

    def watch(self) -> None:
        """Take the place of the functions through which files are changed."""
        for name in BEFORE:
            setattr(os, name, self._counting(getattr(os, name)))
        opened = io.open

        def watched(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode not in ("wb", "ab") or not self._is_inside(path):
                return opened(path, mode, *arguments, **options)
            self.happens()
            return io.BufferedWriter(Raw(self, path, mode))

        io.open = watched

    def happens(self) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, int) or self._is_inside(path):
                self.happens()
            return function(path, *arguments, **options)

        return counted

    def _is_inside(self, path: Any) -> bool:
        return not isinstance(path, int) and os.fspath(path).startswith(self.folder)


class Raw(io.FileIO):
    def __init__(self, operations: Operations, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self.operations = operations

    def write(self, data: Any) -> int:
        self.operations.happens()
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.operations.happens()
        return super().truncate(size)


def in_child(work: Callable[[], None], environment: dict[str, str] | None = None) -> int:
    """The process number of a child that does the work and ends with 0, or 1 after a traceback."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment or {})
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(recipe: Path, run: Path, resume: bool) -> None:
    initial = recipe.parent / "initial"
    fit(recipe, run, initial=initial if initial.exists() and not resume else None, resume=resume, quiet=True)


def train_initial(recipe: Path) -> None:
    """Train the run that the others start from, with a vocabulary that they could not learn."""
    changes = ["tokens={kind: word, vocab: 20}", "train.steps=2"]
    fit(recipe, recipe.parent / "initial", changes=changes, quiet=True)


def train_and_list_modules(recipe: Path, run: Path, path: Path) -> None:
    train(recipe, run, resume=False)
    load(run)
    path.write_text("\n".join(sorted(sys.modules)))


def run_alone(work: Callable[[], None], _: Callable[[], None]) -> int:
    """Run the work of the first process; its exit status."""
    return ended(in_child(work))


def as_pair(first: Callable[[], None], second: Callable[[], None]) -> int:
    """Run two processes as torchrun does: where the first one ends badly, the other one is killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [
        in_child(work, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, work in enumerate((first, second))
    ]
    status = ended(children[0])
    if status != 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(children[1], signal.SIGKILL)
    other = ended(children[1])
    return status or other


def go_on(recipe: Path, run: Path) -> None:
    """What a user does after a stop: the wrong command is refused with the right one, which then works."""
    started = (run / STATE).is_file()
    advice = refusal(lambda: train(recipe, run, resume=not started))
    assert ("Continue it with --resume" if started else "Leave out --resume") in advice, advice
    with contextlib.suppress(BadRun):
        load(run)
    with without_initial(recipe) if started else contextlib.nullcontext():
        train(recipe, run, resume=started)


@contextlib.contextmanager
def without_initial(recipe: Path) -> Iterator[None]:
    """Hide the run that the training started from."""
    initial, hidden = recipe.parent / "initial", recipe.parent / "hidden"
    exists = initial.exists()
    if exists:
        initial.rename(hidden)
    yield
    if exists:
        hidden.rename(initial)


def refusal(work: Callable[[], None]) -> str:
    try:
        work()
    except BadRun as error:
        return str(error)
    raise AssertionError("it was not refused")


def content(run: Path) -> dict[str, Any]:
    """Every file of a run, without the times in it."""
    files: dict[str, Any] = dict(tiny.tree(run))
    lines = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    files["metrics.jsonl"] = [without_times(line) for line in lines]
    files[str(STATE)] = without_times(load_state(run))
    return files


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [without_times(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def first_state(recipe: Path, run: Path) -> None:
    """A training that is killed in its middle: the one to resume."""

    def stopped() -> None:
        Operations(run, 90).watch()
        train(recipe, run, resume=False)

    assert run_alone(stopped, stopped) == -signal.SIGKILL
    assert (run / STATE).is_file()


class Trial:
    """A small training in a folder, run undisturbed once, to be stopped again and again."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.launch, self.resume = (as_pair if kind in ("pair", "shards") else run_alone), kind == "resumed"
        self.recipe = make_recipe(folder, kind)
        self.before, self.run = folder / "before", folder / "run"
        if kind == "initial":
            self.recipe = small_recipe(folder, tokens={})
            assert self.launch(*[lambda: train_initial(self.recipe)] * 2) == 0
        undisturbed, modules = folder / "undisturbed", folder / "modules"
        assert self.launch(*[lambda: train_and_list_modules(self.recipe, undisturbed, modules)] * 2) == 0
        self.expected = content(undisturbed)
        for name in modules.read_text().split():  # so that the children need not
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        if self.resume:
            first_state(self.recipe, self.before)

    def stop(self, last: int) -> bool:
        """Stop at an operation, go on, compare.  False where the training ended before that operation."""
        shutil.rmtree(self.run, ignore_errors=True)
        if self.resume:
            shutil.copytree(self.before, self.run)

        def killed() -> None:
            Operations(self.run, last).watch()
            train(self.recipe, self.run, self.resume)

        status = self.launch(killed, lambda: silently(train, self.recipe, self.run, self.resume))
        if status != 0:
            assert status == -signal.SIGKILL, (last, status)
            started = (self.run / STATE).is_file()
            works = (lambda: go_on(self.recipe, self.run), lambda: train(self.recipe, self.run, started))
            assert self.launch(*works) == 0, f"could not go on after operation {last}"
        self.compare(last)
        return status != 0

    def compare(self, last: int) -> None:
        got = content(self.run)
        assert got.keys() == self.expected.keys(), (last, sorted(got))
        for name, value in self.expected.items():
            assert got[name] == value, f"{name} differs after a stop at operation {last}"


def make_recipe(folder: Path, kind: str) -> Path:
    if kind not in OTHER_TASKS:
        return small_recipe(folder, "fsdp" if kind == "shards" else "ddp")
    make, sections = OTHER_TASKS[kind]
    limits = {"steps": None, "validate_every": "epoch", "threads": 1}
    recipe = make(folder, **sections, train={**limits, **TRAIN})
    for name in ("train.txt", "labelled.jsonl"):  # fewer lines, for epochs of few updates
        if (folder / name).exists():
            lines = (folder / name).read_text().splitlines(keepends=True)
            (folder / name).write_text("".join(lines[:40]))
    path = folder / "tiny.yaml"
    path.write_text(recipe.to_yaml())
    return path


def small_recipe(folder: Path, strategy: str = "ddp", **sections: Any) -> Path:
    train = {**TRAIN, "strategy": strategy}
    batch = {"batch_tokens": 400, "max_length": 12}
    recipe = tiny.recipe_in(folder, train=train, model=MODEL, batch=batch, **sections)
    tiny.write_corpus(folder, count=80)
    return recipe


def silently(work: Callable[..., None], *arguments: Any) -> None:
    """Do the work of a process whose partner dies, and say nothing of how it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    work(*arguments)


def stop_everywhere(folder: Path, kind: str, first: int = 1, step: int = 1) -> int:
    """Stop at operation `first`, `first + step` and so on to the end; how many stops that were."""
    trial, stops = Trial(folder, kind), 0
    while trial.stop(first + stops * step):
        stops += 1
    return stops


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(stop_everywhere(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])))
