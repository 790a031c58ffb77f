"""The table of what cannot go together, and the message that a broken rule makes."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from qkv import rules
from qkv.errors import IncompatibleParts
from qkv.kernel import RFA, Softmax
from qkv.rules import AXES, RULES, Choice
from qkv.scope import Global
from qkv.score import ScaledDot
from qkv.select import Hard, Soft

LEGAL = Choice(ScaledDot(), Global(), Soft(), Softmax())
ILLEGAL = replace(LEGAL, kernel=RFA(7), dropout=0.5)


def test_the_registries_are_keyed_by_the_names_of_their_parts() -> None:
    for axis, registry in AXES.items():
        for name, kind in registry.items():
            assert (kind.axis, kind.name) == (axis, name)
            assert kind.formula
            assert kind.paper


def test_rules_stand_between_axes_or_facts_of_the_place() -> None:
    for rule in RULES:
        assert set(rule.between) <= {*AXES, "causal", "dropout"}
        assert rule.why


def test_a_legal_choice_passes() -> None:
    assert rules.find_broken(LEGAL) == []
    rules.check(LEGAL)
    rules.check(replace(LEGAL, score=None, kernel=RFA()))


def test_the_whole_message() -> None:
    with pytest.raises(IncompatibleParts) as refusal:
        rules.check(replace(LEGAL, kernel=RFA(7)))
    said = str(refusal.value)
    assert said.startswith("this attention cannot be built:\n    score   = ScaledDot()")
    assert "\n    kernel  = RFA(features=7," in said
    assert "\n  - kernel and score clash: a feature map replaces the score" in said
    assert said.endswith("\n  Any one of these makes it legal: no score | kernel=Softmax()")


def test_every_clash_is_named_and_only_what_heals_all_is_offered() -> None:
    clashing = [rule.between for rule in rules.find_broken(ILLEGAL)]
    assert clashing == [("kernel", "score"), ("kernel", "dropout")]
    assert rules.find_fixes(ILLEGAL) == ["kernel=Softmax()"]
    with pytest.raises(
        IncompatibleParts, match=r"(?s)dropout = 0.5.*kernel and dropout clash.*kernel=Softmax\(\)$"
    ):
        rules.check(ILLEGAL)


@dataclass(frozen=True)
class Narrow:
    """A scope that no feature map can honour, with an option that has no default."""

    width: int
    is_global = supports_causal = False


@pytest.mark.parametrize(
    ("change", "clash"),
    [({"scope": Narrow(3)}, "scope"), ({"select": Hard()}, "select")],
    ids=["scope", "select"],
)
def test_a_feature_map_refuses_other_scopes_and_selections(change: dict[str, Any], clash: str) -> None:
    choice = replace(LEGAL, score=None, kernel=RFA(), **change)
    assert [rule.between for rule in rules.find_broken(choice)] == [("kernel", clash)]
    default = {"scope": "scope=Global()", "select": "select=Soft()"}[clash]
    assert default in rules.find_fixes(choice)


def test_no_single_change_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    never = rules.Rule(("scope", "select"), lambda choice: True, "nothing pleases this rule")
    monkeypatch.setattr(rules, "RULES", (never,))
    with pytest.raises(IncompatibleParts, match=r"nothing pleases this rule\n.*legal: none; change two axes"):
        rules.check(LEGAL)


def test_parts_that_need_options_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules.AXES["scope"], "narrow", Narrow)
    assert not any("Narrow" in fix for fix in rules.find_fixes(ILLEGAL))
