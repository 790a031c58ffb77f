"""Where the examples of a recipe come from: files of the user's own, or one kind of generated ones."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


def check_one_source(data: Any, generators: Sequence[str], unit: str) -> None:
    """Check that a section `data` names one source, and no held-out files beside generated examples.

    Args:
        data: the section, with `train`, perhaps `valid` and `test`, and the keys of generated examples.
        generators: those keys.
        unit: what generated examples are called, in the plural.

    Raises:
        ValueError: it names none or several, or held-out files that would not be read.
    """
    chosen = [name for name in generators if getattr(data, name) is not None]
    if len(chosen) + (data.train is not None) != 1:
        keys = ", ".join(map(repr, generators))
        one_of = keys if len(generators) == 1 else f"one of {keys}"
        raise ValueError(f"give either 'train', {unit} of your own, or {one_of}, generated ones")
    unread = [name for name in ("valid", "test") if getattr(data, name, None) is not None]
    if chosen and unread:
        names = " and ".join(map(repr, unread))
        raise ValueError(f"{chosen[0]!r} generates its held-out {unit}: leave out {names}")


def select_balanced(labels: Sequence[str], order: Sequence[int], count: int) -> list[int]:
    """The first `count` examples in an order, as many of each class as there are.

    Args:
        labels: the label of every example.
        order: numbers of examples.
        count: how many to select.
    """
    share = -(-count // len(set(labels)))
    counts: Counter[str] = Counter()
    chosen: list[int] = []
    for number in order:
        if counts[labels[number]] < share and len(chosen) < count:
            counts[labels[number]] += 1
            chosen.append(number)
    return chosen
