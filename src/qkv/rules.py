"""The one table of parts that cannot go together.  The checker, the tests and the docs all read it."""

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
    """One choice on every axis, and the facts of the place of use that rules look at."""

    score: Any
    scope: Any
    select: Any
    kernel: Any
    causal: bool = False
    dropout: float = 0.0


class Rule(NamedTuple):
    """Two axes, when their parts clash, and why."""

    between: tuple[str, str]
    broken: Callable[[Choice], bool]
    why: str


def _no_weights(choice: Choice) -> bool:
    return not choice.kernel.forms_weights


RULES = (
    Rule(
        ("kernel", "score"),
        lambda c: _no_weights(c) and c.score is not None,
        "a feature map replaces the score: φ(q)·φ(k) stands for one fixed score",
    ),
    Rule(
        ("kernel", "scope"),
        lambda c: _no_weights(c) and not c.scope.is_global,
        "a feature map sums over all keys or a prefix; it cannot forget keys outside a window",
    ),
    Rule(
        ("kernel", "select"),
        lambda c: _no_weights(c) and not c.select.is_softmax,
        "a feature map never forms the T×S weights, so there is nothing to select from",
    ),
    Rule(
        ("kernel", "dropout"),
        lambda c: _no_weights(c) and c.dropout > 0,
        "a feature map never forms the T×S weights, so there is nothing to drop",
    ),
    Rule(
        ("kernel", "causal"),
        lambda c: c.kernel.is_gated and not c.causal,
        "a gate forgets what lies further back, which has a meaning only in causal attention",
    ),
    Rule(
        ("scope", "causal"),
        lambda c: c.causal and not c.scope.supports_causal,
        "a predicted position is a share of the whole length, which causal attention does not know yet",
    ),
)


def broken(choice: Choice) -> list[Rule]:
    """The rules this choice breaks."""
    return [rule for rule in RULES if rule.broken(choice)]


def one_change_fixes(choice: Choice) -> list[str]:
    """Every single change, found by trying, that makes the choice legal."""
    return [said for said, tried in _neighbours(choice) if not broken(tried)]


def check(choice: Choice) -> None:
    """Raise IncompatibleParts for an illegal choice: what was asked, what clashes, why, and what heals it."""
    clashes = broken(choice)
    if not clashes:
        return
    asked = "\n".join(f"    {axis:<7} = {getattr(choice, axis)!r}" for axis in AXES)
    if choice.causal:
        asked += "\n    causal  = True"
    if choice.dropout:
        asked += f"\n    dropout = {choice.dropout}"
    reasons = "\n".join(f"  - {a} and {b} clash: {why}" for (a, b), _, why in clashes)
    fixes = " | ".join(one_change_fixes(choice)) or "none; change two axes"
    raise IncompatibleParts(
        f"this attention cannot be built:\n{asked}\n{reasons}\n  Any one of these makes it legal: {fixes}"
    )


def _neighbours(choice: Choice) -> Iterator[tuple[str, Choice]]:
    for axis, registry in AXES.items():
        now = getattr(choice, axis)
        if axis == "score" and now is not None:
            yield "no score", replace(choice, score=None)
        for kind in registry.values():
            if not isinstance(now, kind) and (part := _default(kind)) is not None:
                yield f"{axis}={part!r}", replace(choice, **{axis: part})
    if choice.kernel.is_gated:
        ungated = choice.kernel.without_gate()
        yield f"kernel={ungated!r}", replace(choice, kernel=ungated)
    yield f"causal={not choice.causal}", replace(choice, causal=not choice.causal)
    if choice.dropout:
        yield "dropout=0", replace(choice, dropout=0.0)


def _default(kind: Any) -> Any:
    return None if any(field.default is MISSING for field in fields(kind)) else kind()
