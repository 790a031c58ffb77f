"""From which length on an attention takes less time than softmax, measured on this machine."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from qkv.bench import Contender, Crossing, Setting, find_crossing, measure
from qkv.cost.crossover import get_softmax_spec, iterate_alternatives
from qkv.spec import AttentionSpec
from qkv.train.devices import choose_device

SHORTEST, LONGEST = 64, 16384
CONFIRMATIONS = 3  # lengths in succession at which it is faster


class MeasuredCrossover(NamedTuple):
    """Where a layer of attention becomes faster than the same layer with softmax.

    Args:
        name: which attention of the model, such as "model.decoder".
        crossing: where; None if one of them was faster at every length.
        is_faster: whether it was faster at the longest length.
        longest: the longest length that was measured; 0 if there is none, because the attention reads so few.
    """

    name: str
    crossing: Crossing | None
    is_faster: bool
    longest: int


def measure_crossovers(config: Any, report: Callable[[str], None]) -> Iterator[MeasuredCrossover]:
    """Time a forward pass of every attention that is not softmax over all keys, and of softmax.

    Args:
        config: the config of the model.
        report: is called with a description of each measurement before it starts.

    Yields:
        One crossover for each kind of attention.
    """
    for name, spec in iterate_alternatives(config):
        yield _measure_crossover(name, spec, lambda step, name=name: report(f"{name}: {step}"))


def _measure_crossover(name: str, spec: AttentionSpec, report: Callable[[str], None]) -> MeasuredCrossover:
    device = choose_device("auto")
    heads = 1 if spec.heads is None else spec.heads
    setting = Setting(spec.width, heads, causal=spec.causal, layer=True, device=device)
    softmax, other = Contender("softmax", "softmax", get_softmax_spec(spec)), Contender(name, name, spec)
    curves: tuple[list[tuple[int, float]], ...] = ([], [])
    limit, length, longest_measured, faster = spec.key_limit, SHORTEST, 0, 0
    longest = LONGEST if limit is None else min(limit[0], LONGEST)
    while length <= longest and faster < CONFIRMATIONS:
        cells = list(measure([softmax, other], [length], setting=setting, report=report))
        seconds = [cell.seconds for cell in cells if cell.seconds is not None]
        if len(seconds) < len(curves):  # no memory for such a length
            break
        for curve, value in zip(curves, seconds, strict=True):
            curve.append((length, value))
        faster = faster + 1 if seconds[1] < seconds[0] else 0
        longest_measured, length = length, 2 * length
    return MeasuredCrossover(name, find_crossing(*curves), faster > 0, longest_measured)
