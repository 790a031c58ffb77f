"""The parameters of a model, component by component, each with a closed formula of its sizes.

A formula is a product of sums of sizes, written with · for products and ² for squares: the layers of a
Transformer have `4·(512² + 512)` parameters in their attention, `2·512·2048 + 512 + 2048` in their
feed-forward networks and `2·512` in a normalisation.
"""

import re
from collections import Counter
from typing import Any, NamedTuple

from torch import nn

from qkv.cost.components import OTHERS, iterate_modules
from qkv.layer import Attention
from qkv.model.blocks import FeedForward
from qkv.model.feedforward import FeedForwardNet


class ParameterCount(NamedTuple):
    """The parameters of one component.

    Args:
        count: how many there are; weights that several modules share are counted once, where they are first.
        formula: the same as a closed formula; "" where all are shared with an earlier component.
        is_tied: whether some of its weights are counted in an earlier component.
    """

    count: int
    formula: str
    is_tied: bool


def count_parameters(model: nn.Module) -> dict[str, ParameterCount]:
    """Count the parameters of every component.

    Args:
        model: the model.

    Returns:
        Component -> its parameters, in the order of the model.
    """
    formulas: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    owners: dict[int, str] = {}  # id of a weight -> the component in which it is counted
    tied = set()
    for _, module, component in iterate_modules(model):
        name, own = component or OTHERS, list(module.parameters(recurse=False))
        if any(owners.get(id(weight), name) != name for weight in own):
            tied.add(name)
        new = [weight for weight in _list_weights_of_formula(module) or own if id(weight) not in owners]
        if own or new:
            formulas.setdefault(name, [])
        if new:
            formulas[name].append(_write_formula(module, new))
            counts[name] += sum(weight.numel() for weight in new)
            owners.update(dict.fromkeys(map(id, new), name))
    return {
        name: ParameterCount(counts[name], _sum_formulas(of_modules), name in tied)
        for name, of_modules in formulas.items()
    }


def _list_weights_of_formula(module: Any) -> list[nn.Parameter]:
    """The weights of the modules inside that the formula of a module covers; empty where it covers none."""
    if isinstance(module, FeedForward | FeedForwardNet):
        return list(module.parameters())
    if _has_standard_projections(module):
        linears = (module.to_q, module.to_kv, module.to_out)
        return [weight for linear in linears for weight in linear.parameters()]
    return []


def _has_standard_projections(module: nn.Module) -> bool:
    """Whether an attention has four square projections with biases."""
    if not isinstance(module, Attention):
        return False
    spec = module.spec
    has_square = spec.memory_width == spec.width and spec.kv_heads in (None, spec.heads)
    return spec.project and spec.bias and has_square


def _write_formula(module: Any, weights: list[nn.Parameter]) -> str:
    """The formula of the weights that are counted with a module."""
    if _has_standard_projections(module):
        return f"4·({module.spec.width}² + {module.spec.width})"
    if isinstance(module, FeedForward | FeedForwardNet):
        return _write_feed_forward_formula(module)
    shapes = Counter(tuple(size for size in weight.shape if size != 1) or (1,) for weight in weights)
    return " + ".join(_write_product(shape, count) for shape, count in shapes.items())


def _write_feed_forward_formula(module: Any) -> str:
    width, inner = module.widen.in_features, module.narrow.in_features
    if getattr(module, "is_gated", False):
        return f"3·{width}·{inner}"
    return f"2·{width}·{inner} + {width} + {inner}"


def _write_product(shape: tuple[int, ...], count: int) -> str:
    factors = [f"{shape[0]}²"] if len(shape) == 2 and shape[0] == shape[1] else [str(size) for size in shape]
    return "·".join(([str(count)] if count > 1 else []) + factors)


def _sum_formulas(formulas: list[str]) -> str:
    """The sum of the formulas of several modules, equal ones as a multiple."""
    terms = []
    for formula, count in Counter(formulas).items():
        needs_brackets = count > 1 and "+" in formula and not re.fullmatch(r"\d+·\([^()]*\)", formula)
        body = f"({formula})" if needs_brackets else formula
        terms.append(f"{count} × {body}" if count > 1 else body)
    return " + ".join(terms)
