"""Compares the crossovers that `qkv cost` computes with those that it measures, and keeps them as JSON.

python docs/cost_crossovers.py crossovers.json      # on a machine that does nothing else
python docs/make_costs.py --crossovers crossovers.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from qkv.catalogue import format_label
from qkv.cost.crossover import find_crossovers
from qkv.cost.measured_crossover import measure_crossovers
from qkv.kernel import RFA, Elu, Favor
from qkv.model.language import LanguageModelConfig
from qkv.spec import AttentionSpec

CASES = [
    (512, 8, RFA(64)),
    (512, 8, RFA(128)),
    (512, 8, RFA(64, gate=True)),
    (256, 4, RFA(64)),
    (192, 6, RFA(64)),
    (768, 12, RFA(64)),
    (512, 8, Favor(64)),
    (512, 8, Elu()),
]
REPETITIONS = 3


def compare_crossovers(width: int, heads: int, kernel: Any) -> dict[str, Any]:
    """The computed and the measured lengths of a causal layer; the median of some measurements."""
    spec = AttentionSpec(causal=True, kernel=kernel)
    config = LanguageModelConfig(width=width, heads=heads, attention=spec)
    (computed,) = find_crossovers(config)
    lengths = []
    for _ in range(REPETITIONS):
        (measured,) = measure_crossovers(config, lambda step: None)
        lengths.append(None if measured.crossing is None else measured.crossing.length)
    found = sorted(length for length in lengths if length is not None)
    return {
        "width": width,
        "heads": heads,
        "kernel": format_label(kernel),
        "threads": torch.get_num_threads(),
        "computed": computed.operations,
        "measured": found[len(found) // 2] if found else None,
        "range": [found[0], found[-1]] if found else None,
        "repetitions": REPETITIONS,
    }


def main(path: Path) -> None:
    """Compare all cases, with one and with two threads, and write the results."""
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for case in CASES:
            results.append(compare_crossovers(*case))
            print(json.dumps(results[-1]), flush=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
