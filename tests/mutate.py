"""Plants known defects in a copy of the source and demands that the tests catch each.

    python tests/mutate.py [SOURCE]

SOURCE is the package folder to copy, src/qkv by default.  Run it by hand after changing a test or the core:
a suite that passes on broken code is worth nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FORMULA = ("tests/contracts/test_contract_formula.py", "equals")
REACH = ("tests/contracts/test_contract_visibility.py", "reaches or all_masks or before_the_first")
STEPS = ("tests/contracts/test_contract_steps.py", "")
SDPA = ("tests/test_attention.py", "parity")
RANDOM = ("tests/test_rfa.py", "not root_of_the_features")


class Mutant(NamedTuple):
    """In which file which text becomes which, and the tests (file, -k expression) that should see it."""

    defect: str
    file: str
    text: str
    broken: str
    tests: tuple[str, str]


MUTANTS = (
    Mutant(
        "causal sees one key too many",
        "masks.py",
        ".tril(keys - queries)",
        ".tril(keys - queries + 1)",
        REACH,
    ),
    Mutant(
        "causal sees one key too few", "masks.py", ".tril(keys - queries)", ".tril(keys - queries - 1)", REACH
    ),
    Mutant("causal aligned upper left", "masks.py", ".tril(keys - queries)", ".tril()", REACH),
    Mutant("prefix sums forget the newest key", "kernel/linear.py", "k.mT).tril()", "k.mT).tril(-1)", RANDOM),
    Mutant(
        "keep forgotten in the denominator",
        "kernel/linear.py",
        "v1 * keep[:, None, :, None]",
        "torch.cat([v1[..., :-1] * keep[:, None, :, None], v1[..., -1:]], -1)",
        STEPS,
    ),
    Mutant(
        "the caller's allow is dropped",
        "kernel/exact.py",
        "given.allow, self.scope",
        "None, self.scope",
        FORMULA,
    ),
    Mutant(
        "the fused route drops keep",
        "kernel/exact.py",
        "given.keep is None and given.allow is None",
        "given.allow is None",
        FORMULA,
    ),
    Mutant(
        "heads merged without transpose",
        "attention.py",
        "out.transpose(1, 2).flatten(2)",
        "out.reshape(len(out), out.shape[2], -1)",
        FORMULA,
    ),
    Mutant("additive maps queries as keys", "score/additive.py", "q @ self.w", "q @ self.u", FORMULA),
    Mutant("the dot product is not scaled", "score/dot.py", "* q.shape[-1] ** -0.5", "* 1.0", SDPA),
    Mutant(
        "head groups interleaved",
        "kernel/exact.py",
        "x.repeat_interleave(heads // x.shape[1], dim=1)",
        "x.repeat(1, heads // x.shape[1], 1, 1)",
        FORMULA,
    ),
    Mutant(
        "gaps are not filled",
        "kernel/linear.py",
        "(floor * count - total).clamp_min(0)",
        "0 * total",
        FORMULA,
    ),
    Mutant(
        "gaps are clamped, not filled",
        "kernel/linear.py",
        "sums[..., :-1] + gap * mean",
        "sums[..., :-1]",
        ("tests/test_rfa.py", "constants"),
    ),
    Mutant(
        "the plain sums have no cumsum", "kernel/linear.py", "v1.cumsum(2)", "v1.sum(2, keepdim=True)", RANDOM
    ),
    Mutant(
        "the bandwidth is ignored",
        "kernel/rfa.py",
        "self.bandwidth.to(normal.dtype) * normal",
        "normal",
        FORMULA,
    ),
    Mutant("vectors are not normalised", "kernel/rfa.py", "F.normalize(x, dim=-1) @", "x @", FORMULA),
    Mutant(
        "keys and queries drawn apart",
        "kernel/linear.py",
        "self._keys(k, projections)\n            weights",
        "self._keys(k, self.features.draw())\n            weights",
        RANDOM,
    ),
    Mutant("sums in half precision", "kernel/linear.py", "else x.float()", "else x", RANDOM),
    Mutant(
        "the state is changed in place",
        "kernel/linear.py",
        "sums = sums + k.mT @ v",
        "sums += k.mT @ v",
        STEPS,
    ),
    Mutant(
        "reordering forgets a field",
        "state.py",
        "[select_rows(part, rows) for part in state]",
        "[p if len(state) > 2 and i == 1 else select_rows(p, rows) for i, p in enumerate(state)]",
        STEPS,
    ),
    Mutant(
        "an empty row averages what it may not see",
        "select/soft.py",
        ".softmax(-1) * allow",
        ".softmax(-1)",
        ("tests/contracts/test_contract_visibility.py", "empty or before_the_first"),
    ),
)


def passes(package: Path, tests: tuple[str, str]) -> bool:
    """Whether these tests pass with the package found in this folder."""
    file, chosen = tests
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        file,
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
        raise SystemExit(f"pytest could not run {file} -k {chosen!r}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def caught(mutant: Mutant, source: Path) -> bool:
    """Whether the tests fail on a copy with this defect."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "qkv"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / mutant.file
        healthy = file.read_text()
        if mutant.text not in healthy:
            raise SystemExit(
                f"{mutant.defect}: {mutant.file} no longer holds {mutant.text!r}; rewrite this mutant"
            )
        file.write_text(healthy.replace(mutant.text, mutant.broken))
        return not passes(Path(folder), mutant.tests)


def main() -> None:
    """Check the healthy source, then every mutant; exit 1 if one survives."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "src" / "qkv").resolve()
    for tests in sorted({mutant.tests for mutant in MUTANTS}):
        if not passes(source.parent, tests):
            raise SystemExit(
                f"{tests[0]} -k {tests[1]!r} fails on the healthy source: nothing can be told from it"
            )
    survivors = []
    for mutant in MUTANTS:
        found = caught(mutant, source)
        print(f"{'caught  ' if found else 'SURVIVED'}  {mutant.defect}", flush=True)
        survivors += [] if found else [mutant.defect]
    print(f"{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} caught")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
