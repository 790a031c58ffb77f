"""The cost of a model as lines of text."""

import unicodedata
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from qkv.cost.crossover import Crossover
from qkv.cost.estimate import ComponentCost, Cost
from qkv.cost.measured_crossover import MeasuredCrossover
from qkv.cost.probe import Probe
from qkv.cost.workload import Workload

PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
BYTE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def format_count(value: float | int) -> str:
    """A number with three digits and a prefix: 44.1M, 2.20P."""
    for prefix, factor in PREFIXES:
        if value >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


def format_bytes(value: float | int) -> str:
    """A number of bytes with three digits: 1.53 GiB."""
    for factor, unit in BYTE_UNITS:
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def format_table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """Rows of text in columns.

    Args:
        rows: the cells; the first row is the head.
        left: the columns that are aligned on the left; the others are on the right.

    Yields:
        One line for each row.
    """
    widths = [max(map(_measure_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            _pad(cell, width, number in left)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def describe_cost(cost: Cost, beam: int) -> Iterator[str]:
    """The lines that `qkv cost` prints about one length.

    Args:
        cost: the cost.
        beam: hypotheses of the search.

    Yields:
        The lines.
    """
    sizes = cost.sizes
    rows_of = "" if sizes.length == 1 else f"{sizes.batch:,} × {sizes.length:,}, "
    yield f"one step: {rows_of}{cost.counted:,} {cost.unit}"
    rows = [("component", "parameters", "forward", "training", "formula of the parameters")]
    rows += [_format_component(component) for component in cost.components]
    rows.append(("all", f"{cost.parameters:,}", format_count(cost.forward), format_count(cost.training), ""))
    yield from format_table(rows, left=(0, 4))
    per_unit = cost.training / max(cost.counted, 1)
    yield f"operations: {format_count(per_unit)} for each of the {cost.unit} in training"
    yield from _describe_memory(cost)
    yield from _describe_decoding(cost, beam)


def describe_crossovers(crossovers: Sequence[Crossover]) -> Iterator[str]:
    """The lines that `qkv cost` prints about the lengths at which attention costs less than softmax.

    Args:
        crossovers: those of the attentions of a model.

    Yields:
        One line for each.
    """
    for name, operations, state in crossovers:
        line = f"{name} against softmax over all keys: fewer operations in a forward pass "
        line += f"from {operations:,} tokens on" if operations else "at no length"
        yield line + (f"; a smaller state of decoding from {state:,} tokens on" if state else "")


def describe_measured_crossover(measured: MeasuredCrossover) -> str:
    """The line that `qkv cost --measure` prints about one attention.

    Args:
        measured: where it becomes faster than softmax.
    """
    name, crossing, is_faster, longest = measured
    if longest == 0:
        outcome = "not measured, because it reads so few tokens"
    elif crossing is not None:
        side = "from about {} tokens on" if crossing.faster_above else "only below about {} tokens"
        outcome = "faster " + side.format(f"{crossing.rounded:,}")
    else:
        outcome = f"{'faster' if is_faster else 'slower'} at every length up to {longest:,}"
    return f"{name} against softmax over all keys, measured here: a forward pass is {outcome}"


def describe_probe(probe: Probe, workload: Workload, recipe: Any) -> Iterator[str]:
    """The lines that `qkv cost --probe` prints.

    Args:
        probe: what training steps took.
        workload: the step.
        recipe: the recipe, whose whole training is estimated.

    Yields:
        The lines.
    """
    threads = f" with {probe.threads} thread(s)" if probe.device == "cpu" else ""
    speed = f"{workload.counted / probe.seconds:,.0f} {workload.unit}/s"
    yield (
        f"measured on this {probe.device}{threads}: {probe.seconds:.3g} s for each of {probe.steps:,} steps, "
        f"{speed}, at most {format_bytes(probe.peak)} beyond the weights"
    )
    updates = recipe.train.steps
    seconds = probe.seconds * getattr(recipe.batch, "accumulate", 1) * (updates or 1000)
    reason = "" if updates else f"; the data say how many train.epochs={recipe.train.epochs} are"
    yield f"{updates or 1000:,} updates take {timedelta(seconds=round(seconds))}, without validation{reason}"


def _format_component(component: ComponentCost) -> tuple[str, ...]:
    formula = component.formula + (" + shared" if component.formula else "shared") * component.is_tied
    operations = (format_count(each) if each else "" for each in (component.forward, component.training))
    parameters = f"{component.parameters:,}" if component.parameters else ""
    return (component.name, parameters, *operations, formula)


def _describe_memory(cost: Cost) -> Iterator[str]:
    memory = cost.memory
    named = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "stored for the backward pass": memory.saved,
    }
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in named.items())
    peak = f"at most {format_bytes(memory.peak)} of tensors at a time"
    half = "" if cost.sizes.precision == "32" else f" under autocast to {cost.sizes.precision}"
    yield f"memory of a training step{half}: {parts}; {peak}"


def _describe_decoding(cost: Cost, beam: int) -> Iterator[str]:
    state = cost.decode
    if state is None:
        return
    growth = f"{format_bytes(state.per_token)} for each further token" if state.per_token else "fixed"
    yield (
        f"memory of decoding: {format_bytes(state.at_length)} for each hypothesis after {state.length:,} "
        f"tokens, {growth}; {format_bytes(beam * state.at_length)} with a beam of {beam}"
    )


def _measure_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _pad(text: str, width: int, is_left: bool) -> str:
    fill = " " * (width - _measure_width(text))
    return text + fill if is_left else fill + text
