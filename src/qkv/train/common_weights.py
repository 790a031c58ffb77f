"""Copies the weights of one model into another: those with the same name and shape, and rows of tables."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkv.train.weights import collect_distinct_tensors, group_names_by_tensor
from qkv.wording import plural

SHOWN_NAMES = 4


class CommonWeights(NamedTuple):
    """What became of the weights of two models; a tensor with several names is listed under one of them.

    Args:
        loaded: name -> number of values, of tensors that were copied.
        resized: name -> the rows that the source and the model have, of tables whose common rows were copied.
        new: name -> number of values, of tensors of the model that keep their initial values.
        unused: name -> number of values, of tensors of the source that the model does not take.
    """

    loaded: dict[str, int]
    resized: dict[str, list[int]]
    new: dict[str, int]
    unused: dict[str, int]

    @property
    def share_of_new(self) -> float:
        """The share of the values of the model, resized tables aside, that keep their initial values."""
        new, loaded = sum(self.new.values()), sum(self.loaded.values())
        return new / max(new + loaded, 1)

    def format_lines(self) -> Iterator[str]:
        """One line for every kind of tensor, with counts and shortened names."""
        for kind in ("loaded", "new", "unused"):
            sizes: dict[str, int] = getattr(self, kind)
            parameters = (
                f", {sum(sizes.values()):,} values: {join_first_names_without_layer_numbers(sizes)}"
                if sizes
                else ""
            )
            yield f"{kind:<8} {plural(len(sizes), 'tensor')}{parameters}"
            if kind == "loaded" and self.resized:
                tables = (f"{name} ({old:,} → {new:,} rows)" for name, (old, new) in self.resized.items())
                yield f"resized  {plural(len(self.resized), 'table')}: {', '.join(tables)}"


def copy_common_weights(
    model: nn.Module, source: nn.Module, prefixes: Iterable[str] = ("",), tables: Collection[str] = ()
) -> CommonWeights:
    """Copy into a model, in place, what another one has under the same name and with the same shape.

    Args:
        model: the model to change.
        source: the model to copy from.
        prefixes: only names that begin with one of these are copied.
        tables: names of matrices whose rows keep their meaning when there are more or fewer of them, such as
            learned positions: the rows that both models have are copied.

    Returns:
        What was copied, and what was not.
    """
    prefixes, source_state, state = tuple(prefixes), source.state_dict(), model.state_dict()
    result, used = CommonWeights({}, {}, {}, {}), set()
    with torch.no_grad():
        for names in group_names_by_tensor(model):
            usable = [name for name in names if name in source_state and name.startswith(prefixes)]
            name = next(iter(usable), names[0])
            value = source_state[name] if usable else None
            if value is not None and value.shape == state[name].shape:
                state[name].copy_(value)
                result.loaded[name] = value.numel()
                used.add(name)
            elif value is not None and _differs_in_rows_of_table_only(name, value, state[name], tables):
                rows = min(len(value), len(state[name]))
                state[name][:rows].copy_(value[:rows])
                result.resized[name] = [len(value), len(state[name])]
                used.add(name)
            else:
                result.new[name] = state[name].numel()
    result.unused.update(_map_unused_names_to_sizes(source, used))
    return result


def join_first_names_without_layer_numbers(names: Iterable[str]) -> str:
    """The first few names, the numbers of layers in them as *.

    Args:
        names: names of tensors.

    Example:
        >>> names = ["layers.0.norm.weight", "layers.1.norm.weight", "output.bias"]
        >>> join_first_names_without_layer_numbers(names)
        'layers.*.norm.weight, output.bias'
    """
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
    remainder = f" and {len(patterns) - SHOWN_NAMES} more" if len(patterns) > SHOWN_NAMES else ""
    return ", ".join(patterns[:SHOWN_NAMES]) + remainder


def _differs_in_rows_of_table_only(name: str, value: Tensor, like: Tensor, tables: Collection[str]) -> bool:
    return name in tables and value.shape[1:] == like.shape[1:]


def _map_unused_names_to_sizes(source: nn.Module, used: set[str]) -> Mapping[str, int]:
    sizes = {name: value.numel() for name, value in collect_distinct_tensors(source).items()}
    names_by_first = {names[0]: names for names in group_names_by_tensor(source)}
    return {name: size for name, size in sizes.items() if not used.intersection(names_by_first[name])}
