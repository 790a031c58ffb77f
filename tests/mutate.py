"""Plants known defects in a copy of the source and demands that the tests catch each.

    python tests/mutate.py [--native] [SOURCE]

SOURCE is the package folder to copy, src/qkv by default; --native plants those of the C++ engine, which is
built anew for each.  Run it by hand after changing a test or the core: a suite that passes on broken code is
worth nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants import MUTANTS, Mutant
from native_mutants import NATIVE_MUTANTS
from picture_mutants import PICTURE_MUTANTS
from task_mutants import TASK_MUTANTS

ROOT = Path(__file__).parent.parent
PYTHON_MUTANTS = (*MUTANTS, *TASK_MUTANTS, *PICTURE_MUTANTS)


def passes(package: Path, tests: tuple[str, str]) -> bool:
    """Whether these tests pass with the package found in this folder."""
    files, chosen = tests
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *files.split(),
        *(["-k", chosen] * bool(chosen)),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run {files} -k {chosen!r}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def caught(mutant: Mutant, source: Path) -> bool:
    """Whether the tests fail on a copy with this defect."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "src" / "qkv"
        # Without the native engine, which would hide the torch route; a defect of its own is built.
        shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        file = package / mutant.file
        healthy = file.read_text()
        if mutant.text not in healthy:
            raise SystemExit(
                f"{mutant.defect}: {mutant.file} no longer holds {mutant.text!r}; rewrite this mutant"
            )
        file.write_text(healthy.replace(mutant.text, mutant.broken))
        if mutant.file.startswith("kernel/native/"):
            build(Path(folder))
        return not passes(package.parent, mutant.tests)


def build(folder: Path) -> None:
    """The native engine of the package in this folder."""
    shutil.copy(ROOT / "CMakeLists.txt", folder)
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build", "--parallel"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the native engine does not build:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Check the healthy source, then every mutant; exit 1 if one survives."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--native", action="store_true")
    ask.add_argument("source", nargs="?", type=Path, default=ROOT / "src" / "qkv")
    given = ask.parse_args()
    source, mutants = given.source.resolve(), NATIVE_MUTANTS if given.native else PYTHON_MUTANTS
    for tests in sorted({mutant.tests for mutant in mutants}):
        if not passes(source.parent, tests):
            raise SystemExit(
                f"{tests[0]} -k {tests[1]!r} fails on the healthy source: nothing can be told from it"
            )
    survivors = []
    for mutant in mutants:
        found = caught(mutant, source)
        print(f"{'caught  ' if found else 'SURVIVED'}  {mutant.defect}", flush=True)
        survivors += [] if found else [mutant.defect]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} caught")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
