"""Every illegal combination is refused when it is built, by the names of its axes, with fixes that work."""

import re
from dataclasses import replace

import pytest
from cases import CASES, EXAMPLES, ILLEGAL, LEGAL, build, filled, inputs

from qkv import kernel, rules, scope, score, select
from qkv.errors import IncompatibleParts
from qkv.layer import Attention
from qkv.rules import Choice
from qkv.spec import AttentionSpec

DROPPED = [replace(choice, dropout=0.25) for choice in LEGAL]
NAMES = {name: value for module in (kernel, scope, score, select) for name, value in vars(module).items()}


def named(choice: Choice) -> str:
    parts = [getattr(choice, axis) for axis in rules.AXES]
    return "-".join(getattr(part, "name", "none") for part in parts) + "-causal" * choice.causal


def options(choice: Choice) -> dict:
    return {axis: getattr(choice, axis) for axis in (*rules.AXES, "causal", "dropout")}


def healed(choice: Choice, fix: str) -> Choice:
    """The choice after a fix has been applied as the message words it."""
    if fix == "no score":
        return replace(choice, score=None)
    axis, value = fix.split("=", 1)
    meant = eval(value, NAMES)
    return replace(choice, **{axis: float(meant) if axis == "dropout" else meant})


@pytest.mark.parametrize("choice", LEGAL, ids=named)
def test_legal_combinations_are_built(choice: Choice) -> None:
    assert Attention(6, 2, **options(choice)).spec.choice == choice


@pytest.mark.parametrize("choice", [*ILLEGAL, *(c for c in DROPPED if rules.find_broken(c))], ids=named)
def test_illegal_combinations_are_refused_by_name_with_fixes_that_work(choice: Choice) -> None:
    with pytest.raises(IncompatibleParts) as refusal:
        Attention(6, 2, **options(choice))
    said = str(refusal.value)
    for rule in rules.find_broken(choice):
        assert f"{rule.between[0]} and {rule.between[1]} clash: {rule.why}" in said
    for axis in rules.AXES:
        assert re.search(rf"{axis} += {re.escape(repr(getattr(choice, axis)))}", said)
    fixes = said.split("Any one of these makes it legal: ")[1].split(" | ")
    if fixes == ["none; change two axes"]:
        assert len({axis for rule in rules.find_broken(choice) for axis in rule.between}) > 2
        return
    for fix in fixes:
        AttentionSpec(6, 2, **options(healed(choice, fix)))


def test_the_suite_sees_both_kinds_and_denominators_that_need_filling() -> None:
    assert len(LEGAL) >= 150
    assert len(ILLEGAL) >= 300
    mapped = [case for case in CASES if case.choice.kernel == EXAMPLES["rfa"][0] and case.layout == "grouped"]
    assert all(filled(build(case), *inputs(case)) for case in mapped)
