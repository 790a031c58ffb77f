"""`qkv parts`, what it reads from the parts, and the page of mechanisms made of the same."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from PIL import Image
from pydantic.dataclasses import dataclass

import qkv
import tiny
from qkv import catalogue, compatibility
from qkv.cli.commands.parts import format_overview, format_part
from qkv.kernel import RFA, Elu, Softmax
from qkv.part import Part, list_options
from qkv.rules import RULES
from qkv.scope import SCOPES, Global, Predictive, Window
from qkv.score import Dot
from qkv.select import Hard, Soft
from qkv.strict import PART
from qkv.task.recipe import parse_recipe

DOCS = Path(__file__).parent.parent / "docs"
every_kind = pytest.mark.parametrize("kind", catalogue.list_part_classes(), ids=lambda kind: kind.name)


@pytest.fixture
def mechanisms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/make_mechanisms.py."""
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("make_mechanisms")


# ---- the command ----


def test_all_parts_are_listed_with_formula_paper_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("parts") == 0
    out, err = capsys.readouterr()
    told = " ".join(out.split())
    for kind in catalogue.list_part_classes():
        assert f"\n  {kind.name} " in out
        for text in (kind.formula, kind.paper, catalogue.format_options(kind)):
            assert " ".join(text.split()) in told
    for rule in RULES:
        assert rule.why in told
    assert (err, "\x1b" in out) == ("", False)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_lines_fit_the_terminal(width: int) -> None:
    lines = [line for kind in catalogue.list_part_classes() for line in format_part(kind.name, 80)]
    assert max(map(len, lines)) <= 80
    assert max(map(len, format_overview(width))) <= width


def test_the_matrix_names_parts_in_full_where_there_is_room() -> None:
    assert any(line.split()[:2] == ["scaled_dot", "dot"] for line in format_overview(140))
    assert any(line.split()[:2] == ["sca", "dot"] for line in format_overview(80))
    marks = "·" * 6 + "c" + "·" * (len(SCOPES) - 1) + "c" + "·" * 4
    assert any(line.split() == ["rfa", "gate=True", *marks] for line in format_overview(80))


def test_one_part_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("parts", "rfa") == 0
    out = capsys.readouterr().out
    assert out.startswith("rfa (kernel: how is the average computed?)\n  Random Feature Attention: ")
    for line in (
        "  paper         Peng et al. 2021, eq. 5",
        "                estimates the softmax of σ²·cosine / τ²",
        "  features=64",
        "  pool=500",
        "  scaled_dot, dot, general, additive, cosine, location",
        "  window, predictive, neighbourhood",
        "  dropout > 0",
        "  causal=False (rfa gate=True)",
        "  cross: {kernel: {name: rfa, features: 64}}",
        "  qkv.Attention(512, heads=8, kernel=qkv.RFA(features=64))",
    ):
        assert f"\n{line}\n" in out


def test_python_names_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("parts", "ScaledDot") == 0
    assert capsys.readouterr().out.startswith("scaled_dot (score")


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("parts", "windw") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("qkv: unknown part: 'windw'. Did you mean 'window'? Known: additive, ")
    assert err.count("\n") == 1


# ---- what is read from the parts ----


@every_kind
def test_every_option_has_a_meaning(kind: type[Part]) -> None:
    about, options = catalogue.describe(kind)
    assert about
    assert all(options.values())
    assert list(options) == list_options(kind)


def test_meanings_come_from_the_args_block() -> None:
    assert catalogue.describe(Window).options == {
        "half_width": "How many positions the window reaches to either side.",
        "left": "How many positions it reaches back; None takes `half_width`.",
        "right": "How many positions it reaches ahead; None takes `half_width`.",
    }
    assert catalogue.describe(RFA).summary.endswith("kernel, in linear time.")


def test_facts_read_as_the_part_with_these_options() -> None:
    assert catalogue.list_facts(Predictive())[-1] == "weights sum to less than 1"
    assert catalogue.list_facts(Predictive(renormalise=True))[-1] == "weights sum to 1"
    assert catalogue.list_facts(Softmax()) == ["forms the T×S weights"]


@every_kind
def test_the_examples_work(kind: type[Part]) -> None:
    attention = eval(catalogue.format_for_python(kind), {"qkv": qkv})
    assert type(getattr(attention.spec, kind.axis)) is kind
    written = yaml.safe_load(catalogue.format_for_recipe(kind))
    recipe = parse_recipe({"data": {"phrases": {}}, "model": {"kind": "transformer", **written}}, "example")
    assert getattr(recipe.model.cross, kind.axis) == getattr(attention.spec, kind.axis)


class Nearest(Part):
    """A scope of the same key only.

    Args:
        key_spacing: The distance between two keys.
    """

    axis = "scope"
    name = "nearest"
    formula = "s = p"
    paper = "Nobody 2026"
    learns = reweights = is_global = False
    normalised = positional = supports_causal = True
    reach = None
    key_spacing: int

    def build(self, dims: Any) -> Any:
        return self

    def __call__(self, q: Any, positions: Any) -> Any:
        return positions.queries[:, None, :, None] == positions.keys[:, None, None, :], None


def test_a_registered_part_is_public_documented_and_pictured(
    mechanisms: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = dataclass(frozen=True, config=PART)(Nearest)
    monkeypatch.setitem(SCOPES, "nearest", nearest)
    compatibility._fewest_broken_rules.cache_clear()
    assert qkv.Nearest is nearest
    assert "Nearest" in qkv.__all__
    assert mechanisms.make_pictures("scope")[-1].title == "Nearest(64)"
    assert "| `nearest` | `s = p` | Nobody 2026 | `key_spacing` |" in mechanisms.page()
    assert any("scope=qkv.Nearest(key_spacing=64)" in line for line in format_part("nearest", 80))
    monkeypatch.undo()
    compatibility._fewest_broken_rules.cache_clear()


# ---- what goes together ----


def test_marks_say_where_two_parts_go_together() -> None:
    assert compatibility.get_mark(Dot(), Hard()) == "✓"
    assert compatibility.get_mark(Dot(), RFA()) == "·"
    assert compatibility.get_mark(RFA(), Soft()) == "✓"
    assert compatibility.get_mark(RFA(gate=True), Global()) == "c"
    assert compatibility.get_mark(Predictive(), Soft()) == "n"


def test_clashes_name_a_variant_only_where_it_differs() -> None:
    assert [label for names in compatibility.find_clashes(Dot()).values() for label in names] == [
        "rfa",
        "favor",
        "elu",
    ]
    assert list(compatibility.find_clashes(Predictive()).values()) == [
        ["rfa", "favor", "elu"],
        ["causal=True"],
    ]
    assert compatibility.find_clashes(Soft()) == {}


def test_variants_are_the_switches_that_change_what_goes_together() -> None:
    assert compatibility.list_variants(RFA) == [RFA(), RFA(gate=True)]
    assert compatibility.list_variants(Elu) == [Elu()]
    assert compatibility.list_variants(Predictive) == [Predictive()]


# ---- the page ----


def test_the_page_and_its_pictures_are_fresh(
    mechanisms: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mechanisms.main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_page_or_picture_is_found(
    mechanisms: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "images").mkdir()
    for picture in (DOCS / "images").glob("mechanisms-*.png"):
        (tmp_path / "images" / picture.name).write_bytes(picture.read_bytes())
    page = tmp_path / "mechanisms.md"
    page.write_text((DOCS / "mechanisms.md").read_text().replace("q·k", "k·q"))
    (tmp_path / "images" / "mechanisms-score.png").unlink()
    monkeypatch.setattr(mechanisms, "HERE", tmp_path)
    monkeypatch.setattr(mechanisms, "PAGE", page)
    assert mechanisms.main(["--check"]) == 1
    told = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(page), str(tmp_path / "images" / "mechanisms-score.png")]


def test_a_picture_of_other_weights_is_stale(mechanisms: ModuleType) -> None:
    with Image.open(mechanisms.picture_of("score")) as image:
        known = json.loads(image.info["Weights"])
    assert mechanisms._match(known, known)
    other = json.loads(json.dumps(known))
    other[0][2][3] += 0.004
    assert not mechanisms._match(known, other)
    assert not mechanisms._match(known, known[:-1])


@every_kind
def test_every_part_is_in_a_picture(kind: type[Part], mechanisms: ModuleType) -> None:
    with Image.open(mechanisms.picture_of(kind.axis)) as image:
        titles = [title for title, _, _ in json.loads(image.info["Weights"])]
    assert any(title.startswith(f"{kind.__name__}(") for title in titles)
