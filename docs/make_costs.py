"""Writes docs/costs.md from docs/costs.json; with --check, only reports whether it is stale.

python docs/make_costs.py --compute            compute the table of published models anew (a minute)
python docs/make_costs.py --checks FILE        take the results of docs/cost_checks.py over
python docs/make_costs.py --crossovers FILE    take the results of docs/cost_crossovers.py over
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from costs_prose import CHECKS, CROSSOVERS, DEVICES, INTRO, MEGATRON_NOTE, SCALING
from published_models import PUBLISHED, Published

from qkv.cost.estimate import estimate_cost

HERE = Path(__file__).parent
PAGE, DATA = HERE / "costs.md", HERE / "costs.json"
UTILISATION = 0.3
DAY = 86_400
NEAR = 0.15
AIM = 1.5  # the largest factor between a computed and a measured crossover
MEASURED_PEAKS = ("allocated", "process, blocks returned", "process")
LABELS = ("parameters", "operations", "saved")


def compute_row(model: Published) -> dict[str, Any]:
    """What is computed of a published model.

    Args:
        model: the model.

    Returns:
        Its parameters, and the operations of the whole training; None where its tokens are unknown.
    """
    cost = estimate_cost(model.config, model.sizes)
    operations = None
    if model.tokens is not None:
        lengths = {length: model.sizes._replace(length=length) for length in model.tokens}
        costs = {length: estimate_cost(model.config, sizes) for length, sizes in lengths.items()}
        operations = sum(
            tokens * costs[length].training / costs[length].counted for length, tokens in model.tokens.items()
        )
    return {"parameters": cost.parameters, "operations": operations}


def render(data: dict[str, Any]) -> str:
    """The page.

    Args:
        data: the content of docs/costs.json.

    Returns:
        Markdown.
    """
    return (
        INTRO
        + "\n".join(
            [
                *_render_scaling(data["published"]),
                *_render_checks(data.get("checks", [])),
                *_render_crossovers(data.get("crossovers", [])),
            ]
        )
        + "\n"
    )


def _render_scaling(rows: dict[str, Any]) -> Iterator[str]:
    devices = {model.device for model in PUBLISHED if model.device}
    stated = ", ".join(f"{device.name} {device.operations / 1e12:g}·10¹²/s" for device in sorted(devices))
    yield SCALING.format(utilisation=UTILISATION, devices=stated).rstrip() + "\n"
    yield (
        "| model | layers | width | heads | parameters | published | 6·N·tokens | operations | device-days "
        "| published |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for model in PUBLISHED:
        yield _format_row(model, rows[model.name])
    yield MEGATRON_NOTE
    yield "Why computed and published parameters differ:\n"
    for why in dict.fromkeys(model.deviation for model in PUBLISHED if model.deviation):
        names = ", ".join(model.name for model in PUBLISHED if model.deviation == why)
        yield f"- {names}: {why}."
    yield "\nSources, and what was compared with them on 2026-11-30:\n"
    for verified in dict.fromkeys(model.verified for model in PUBLISHED):
        models = [model for model in PUBLISHED if model.verified == verified]
        yield f"- {', '.join(model.name for model in models)} ({models[0].source}): {verified}."
    yield "\n" + DEVICES


def _format_row(model: Published, row: dict[str, Any]) -> str:
    config, exact = model.config, row["operations"]
    tokens = sum(model.tokens.values()) if model.tokens else 0
    layers = getattr(config, "layers", None) or f"{config.encoder_layers}+{config.decoder_layers}"
    estimate = f"{6 * row['parameters'] * tokens:.3g}" if tokens else ""
    days = f"{exact / (UTILISATION * model.device.operations * DAY):,.0f}" if exact and model.device else ""
    published = f"{model.device_days:,.0f} {model.device.name}" if model.device_days and model.device else ""
    cells = [
        *(model.name, str(layers), f"{config.width:,}", str(config.heads)),
        *(f"{row['parameters']:,}", f"{model.parameters:,.0f}"),
        *(estimate, f"{exact:.3g}" if exact else "", days, published),
    ]
    return f"| {' | '.join(cells)} |"


def _render_checks(checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not checks:
        return
    yield "## Computed against measured\n"
    processes = [check["process"] / check["peak"] for check in checks]
    returned = [check["process, blocks returned"] / check["peak"] for check in checks]
    yield CHECKS.format(
        smallest=min(check["process"] for check in checks) / 1e6,
        largest=max(check["process"] for check in checks) / 1e6,
        near=sum(abs(check["peak"] / check["allocated"] - 1) <= NEAR for check in checks),
        all=len(checks),
        most=max(processes),
        returned_least=min(returned),
        returned_most=max(returned),
    )
    yield (
        "| family | configurations | equal parameters | equal operations | equal stored bytes "
        "| peak: computed / allocated | computed / process, blocks returned | computed / process |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for family in dict.fromkeys(check["family"] for check in checks):
        members = [check for check in checks if check["family"] == family]
        equal = (str(sum(check[label][0] == check[label][1] for check in members)) for label in LABELS)
        ratios = (_format_ratios(members, key) for key in MEASURED_PEAKS)
        yield f"| {family} | {len(members)} | {' | '.join(equal)} | {' | '.join(ratios)} |"
    unequal = [check for check in checks if check["saved"][0] != check["saved"][1]]
    if unequal:
        worst = min(check["saved"][0] / check["saved"][1] for check in unequal)
        yield f"\nStored bytes differ where an LSTM runs in oneDNN; the smallest ratio is {worst:.2f}."


def _format_ratios(checks: Sequence[dict[str, Any]], key: str) -> str:
    ratios = sorted(check["peak"] / check[key] for check in checks)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}"


def _render_crossovers(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    factors = [row["computed"] / row["measured"] for row in rows]
    worst = max(max(factor, 1 / factor) for factor in factors)
    is_near = [max(factor, 1 / factor) <= AIM for factor in factors]
    missed = dict.fromkeys(row["kernel"] for row, near in zip(rows, is_near, strict=True) if not near)
    yield CROSSOVERS.format(
        repetitions=rows[0]["repetitions"],
        worst=worst,
        near=sum(is_near),
        all=len(rows),
        missed=", ".join(f"`{kernel}`" for kernel in missed),
    )
    for row, factor in zip(rows, factors, strict=True):
        least, most = row["range"]
        measured = f"{row['measured']:.0f} ({least:.0f} to {most:.0f})"
        cells = (row["kernel"], row["width"], row["heads"], row["threads"], row["computed"], measured)
        yield f"| {' | '.join(map(str, cells))} | {factor:.2f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page or check it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--compute", action="store_true", help="compute the published models anew")
    parser.add_argument("--checks", type=Path, help="the results of docs/cost_checks.py")
    parser.add_argument("--crossovers", type=Path, help="the results of docs/cost_crossovers.py")
    options = parser.parse_args(arguments)
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    if options.compute:
        data["published"] = {model.name: compute_row(model) for model in PUBLISHED}
    for key, path in (("checks", options.checks), ("crossovers", options.crossovers)):
        if path:
            data[key] = json.loads(path.read_text(encoding="utf-8"))
    if options.compute or options.checks or options.crossovers:
        DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = render(data)
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is stale: run python docs/make_costs.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
