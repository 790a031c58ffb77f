"""Trains several recipes at the same time, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from qkv.cores import count_cores
from qkv.errors import BadRun
from qkv.train import STATE


def train_side_by_side(recipes: Sequence[str], out: Path, changes: Sequence[str] = ()) -> None:
    """Train each recipe into the run directory of its name below `out`, or resume it there.

    Small models gain little from more threads, so each process gets a share of the cores.

    Args:
        recipes: names of recipes.
        out: the folder that holds the run directories.
        changes: settings of all recipes, as `--set` takes them.

    Raises:
        BadRun: a training failed; what it printed says why.
    """
    print(
        f"training {' and '.join(recipes)} side by side; each line says how long it still takes", flush=True
    )
    threads = max(1, count_cores() // len(recipes))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with ExitStack() as stack:
        trainings = {
            name: stack.enter_context(_start(name, out / name, changes, environment)) for name in recipes
        }
        failed = _wait_for_all(trainings)
    if failed:
        raise BadRun(
            f"training {' and '.join(failed)} failed, and the lines above say why: correct the cause and "
            "run the same command again"
        )


def _wait_for_all(trainings: dict[str, subprocess.Popen[str]]) -> list[str]:
    """Print what the processes print until all have ended; the names of those that failed."""
    readers = [Thread(target=_print_lines, args=(name, child)) for name, child in trainings.items()]
    for reader in readers:
        reader.start()
    try:
        return [name for name, child in trainings.items() if child.wait() != 0]
    except SystemExit:  # SIGTERM, which unlike Ctrl-C reached only this process
        for child in trainings.values():
            child.terminate()
        raise
    finally:
        for reader in readers:
            reader.join()  # after Ctrl-C too, which reached the children: each saves before it ends


def _start(
    name: str, run: Path, changes: Sequence[str], environment: dict[str, str]
) -> subprocess.Popen[str]:
    resume = ["--resume"] if (run / STATE).exists() else []
    settings = [f"--set={change}" for change in changes]
    command = [sys.executable, "-m", "qkv", "train", name, f"--out={run}", *settings, *resume]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _print_lines(name: str, child: subprocess.Popen[str]) -> None:
    for line in child.stderr or ():
        print(f"{name}  {line.rstrip()}", file=sys.stderr, flush=True)
