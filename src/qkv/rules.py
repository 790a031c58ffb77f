"""The one table of parts that cannot be combined.  The checker, the tests and the docs all read it."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NamedTuple

from qkv.errors import IncompatibleParts
from qkv.kernel import KERNELS
from qkv.scope import SCOPES
from qkv.score import SCORES
from qkv.select import SELECTS

AXES: dict[str, dict[str, Any]] = {"score": SCORES, "scope": SCOPES, "select": SELECTS, "kernel": KERNELS}


@dataclass(frozen=True)
class Choice:
    """One part of every axis, and the facts of the place of use that the rules read.

    Args:
        score: The score, or None where the kernel replaces it.
        scope: The scope.
        select: The selection.
        kernel: The kernel.
        causal: Whether queries see no later keys.
        dropout: The probability with which weights are dropped in training.
    """

    score: Any
    scope: Any
    select: Any
    kernel: Any
    causal: bool = False
    dropout: float = 0.0


class Rule(NamedTuple):
    """A combination that is not possible.

    Args:
        between: The two axes or facts that clash.
        is_broken_by: Whether a choice breaks the rule.
        why: The reason, for error messages and docs.
    """

    between: tuple[str, str]
    is_broken_by: Callable[[Choice], bool]
    why: str


def _is_feature_map(choice: Choice) -> bool:
    return not choice.kernel.forms_weights


RULES = (
    Rule(
        ("kernel", "score"),
        lambda c: _is_feature_map(c) and c.score is not None,
        "a feature map replaces the score: φ(q)·φ(k) stands for one fixed score",
    ),
    Rule(
        ("kernel", "scope"),
        lambda c: _is_feature_map(c) and not c.scope.is_global,
        "a feature map sums over all keys or a prefix; it cannot remove keys outside a window from the sum",
    ),
    Rule(
        ("kernel", "select"),
        lambda c: _is_feature_map(c) and not c.select.is_softmax,
        "a feature map never forms the T×S weights, so there is nothing to select from",
    ),
    Rule(
        ("kernel", "dropout"),
        lambda c: _is_feature_map(c) and c.dropout > 0,
        "a feature map never forms the T×S weights, so there is nothing to drop",
    ),
    Rule(
        ("kernel", "causal"),
        lambda c: c.kernel.is_gated and not c.causal,
        "a gate lets earlier keys decay, which is defined only for causal attention",
    ),
    Rule(
        ("scope", "causal"),
        lambda c: c.causal and not c.scope.supports_causal,
        "a predicted position is a share of the whole length, which causal attention does not know yet",
    ),
)


def find_broken(choice: Choice) -> list[Rule]:
    """Find the rules that a choice breaks.

    Args:
        choice: The parts and the place of use.

    Returns:
        The broken rules; empty for a legal choice.
    """
    return [rule for rule in RULES if rule.is_broken_by(choice)]


def find_fixes(choice: Choice) -> list[str]:
    """Find every single change that makes a choice legal, by trying them all.

    Args:
        choice: An illegal choice.

    Returns:
        The changes as text, such as "kernel=Softmax()".
    """
    return [change for change, changed in _single_changes(choice) if not find_broken(changed)]


def check(choice: Choice) -> None:
    """Check that the parts of a choice can be combined.

    Args:
        choice: The parts and the place of use.

    Raises:
        IncompatibleParts: A rule is broken; the message shows the choice, the clashes with their reasons, and
            the single changes that fix it.
    """
    broken = find_broken(choice)
    if not broken:
        return
    shown = "\n".join(f"    {axis:<7} = {getattr(choice, axis)!r}" for axis in AXES)
    if choice.causal:
        shown += "\n    causal  = True"
    if choice.dropout:
        shown += f"\n    dropout = {choice.dropout}"
    reasons = "\n".join(f"  - {a} and {b} clash: {why}" for (a, b), _, why in broken)
    fixes = " | ".join(find_fixes(choice)) or "none; change two axes"
    raise IncompatibleParts(
        f"this attention cannot be built:\n{shown}\n{reasons}\n  Any one of these makes it legal: {fixes}"
    )


def _single_changes(choice: Choice) -> Iterator[tuple[str, Choice]]:
    """Every change of one axis or fact as text, and the choice after it."""
    for axis, registry in AXES.items():
        part = getattr(choice, axis)
        if axis == "score" and part is not None:
            yield "no score", replace(choice, score=None)
        for part_class in registry.values():
            if type(part) is not part_class and (other := _build_default(part_class)) is not None:
                yield f"{axis}={other!r}", replace(choice, **{axis: other})
    if choice.kernel.is_gated:
        ungated = choice.kernel.without_gate()
        yield f"kernel={ungated!r}", replace(choice, kernel=ungated)
    yield f"causal={not choice.causal}", replace(choice, causal=not choice.causal)
    if choice.dropout:
        yield "dropout=0", replace(choice, dropout=0.0)


def _build_default(part_class: Any) -> Any:
    """The part with its defaults; None where an option has no default."""
    return None if any(field.default is MISSING for field in fields(part_class)) else part_class()
