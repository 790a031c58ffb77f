"""Word alignments: links as text, combined directions, error rates, and what is read from the attention."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from qkv.data.generated.phrases import PhraseData, generate_gold_pairs, generate_phrases
from qkv.errors import BadData, UnknownName
from qkv.shapes import Attended
from qkv.task.translate import aligner
from qkv.task.translate.aligner import AlignOptions, Reading, align_pairs
from qkv.task.translate.links import Gold, format_links, read_gold, score_links, symmetrise
from untrained_translators import build_translator


def links(text: str) -> frozenset[tuple[int, int]]:
    return read_gold(text, "line").possible


# ---- links ----


def test_links_are_read_and_written() -> None:
    gold = read_gold("1-2 0-0 3?4", "gold.txt, line 1")
    assert gold == Gold(links("0-0 1-2"), links("0-0 1-2 3-4"))
    assert format_links(gold.possible) == "0-0 1-2 3-4"
    for wrong in ("0", "0-", "a-b", "0--1", "-1-0", "1-2?3", "9" * 30 + "-1"):
        with pytest.raises(BadData, match=r"gold\.txt, line 1: .* is not a link: write source word, - or \?"):
            read_gold(wrong, "gold.txt, line 1")


def test_the_error_rate_is_that_of_och_and_ney() -> None:
    gold = [Gold(links("0-0 1-1"), links("0-0 1-1 1-2"))]
    assert score_links([links("0-0 1-1")], gold) == (0, 1, 1)
    assert score_links([links("0-0 1-1 1-2")], gold) == (0, 1, 1)
    assert score_links([links("0-0 5-5")], gold) == pytest.approx((0.5, 0.5, 0.5))
    assert score_links([frozenset()], [Gold(frozenset(), frozenset())]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("forward", "backward", "combined"),
    [
        ("0-0 1-1", "0-0 1-1", "0-0 1-1"),
        ("0-0 1-1", "0-0 1-2", "0-0 1-1 1-2"),  # beside a link, and word 2 has none
        ("0-0", "0-0 3-3", "0-0 3-3"),  # not beside one, but both words are free
        ("0-0 0-3", "0-0", "0-0"),  # far away, and word 0 has a link
        ("0-1", "1-0", "0-1 1-0"),  # without a common link
        ("", "", ""),
    ],
)
def test_directions_are_combined(forward: str, backward: str, combined: str) -> None:
    assert format_links(symmetrise(links(forward), links(backward))) == combined


# ---- gold links of generated dates ----


def test_gold_links_belong_to_the_phrases_and_to_their_fields() -> None:
    for language in ("fr", "es", "hu"):
        data = PhraseData(target=language, size=200, dev=10, test=10)
        gold = generate_gold_pairs(data)
        for pair, phrases in zip(gold, generate_phrases(data), strict=True):
            assert pair is None or (pair.source, pair.target) == phrases
    pairs = {pair.source: pair for pair in gold if pair}  # Hungarian: year, month, day, weekday
    assert {format_links(pair.links) for pair in pairs.values()} == {"0-3 1-1 2-2 3-0", "0-1 1-2 2-0"}
    spanish = PhraseData(target="es", size=20, dev=1, test=1, kinds=("dates",))
    linked = [pair for pair in generate_gold_pairs(spanish) if pair and pair.source.count(" ") == 2]
    assert {format_links(pair.links) for pair in linked} == {"0-2 1-0 2-4"}  # "4 de julio de 2023"


# ---- attention ----


class Fixed(torch.nn.Module):
    """A translator whose weights are known: step t attends to source position t."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.weight = shift, torch.nn.Parameter(torch.zeros(1))
        self.length_limits = build_translator("rnn").model.length_limits

    def attention_places(self) -> dict[str, str]:
        return {"cross.0": "cross", "cross.1": "cross", "cross.2": "cross"}

    def forward_with_weights(self, source: Any, keep: Any, target: Any) -> tuple[None, dict[str, Any]]:
        steps = torch.arange(target.shape[1]) - self.shift
        diagonal = (steps[:, None] == torch.arange(source.shape[1])).float()[None, None]
        diagonal = diagonal.expand(1, 2, -1, -1)
        flat = torch.zeros_like(diagonal)
        return None, {
            "cross.0": Attended(flat, flat),
            "cross.1": Attended(flat, diagonal),
            "cross.2": Attended(flat, flat),
        }


PAIRS = [("one two three", "un deux trois"), ("four", "quatre"), ("", "un")]


@pytest.mark.parametrize(("kind", "shift"), [("rnn", 0), ("transformer", 0), ("transformer", 1)])
def test_the_layer_and_the_step_are_chosen(kind: str, shift: int) -> None:
    translator = build_translator(kind)
    translator.model = Fixed(shift)
    pairs = [*PAIRS, *tiny.pairs_of(30, seed=1)]
    expected = ["0-0 1-1 2-2", "0-0", ""]
    gold = [read_gold(line, "gold") for line in expected]
    for known_gold in ((), gold):
        reading, links = align_pairs(translator, pairs, AlignOptions(), known_gold)
        assert reading == Reading("cross.1", bool(shift))
        assert [format_links(each) for each in links[:3]] == expected
    other = AlignOptions(layer="cross.1", is_shifted=not shift)
    assert [format_links(each) for each in align_pairs(translator, PAIRS, other).links] != expected


def test_pieces_of_words_are_merged() -> None:
    weights = np.array([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]])
    assert aligner._link_words(weights, [0, 0, 1], [0, 1]) == {(0, 0), (1, 1)}
    assert aligner._link_words(weights, [0, 0, 1], [0, 0]) == {(1, 0)}


def test_a_layer_or_head_that_does_not_exist_is_named() -> None:
    translator = build_translator("transformer")
    with pytest.raises(UnknownName, match=r"no layer 'cross.9' between target and source"):
        align_pairs(translator, PAIRS, AlignOptions(layer="cross.9"))
    with pytest.raises(UnknownName, match=r"cross\.\d has no head 7: it has 2, counted from 0"):
        align_pairs(translator, PAIRS, AlignOptions(head=7))


# ---- the command ----


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    (folder / "s").write_text("one two three\nfour\n")
    (folder / "t").write_text("un deux trois\nquatre\n")
    (folder / "gold").write_text("0-0 1-1 2-2\n0-0\n")
    (folder / "short").write_text("0-0\n")
    return folder


def test_the_command_aligns_a_trained_run(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tiny.trained(), tmp_path / "other"
    shutil.copytree(run, other)
    command = ("align", run, "--source", files / "s", "--target", files / "t", "--gold", files / "gold")
    capsys.readouterr()
    assert tiny.call(*command, "--reverse", run) == 2
    assert "--reverse takes a run from target to source" in capsys.readouterr().err
    assert tiny.call(*command, "--reverse", other) == 0
    output = capsys.readouterr()
    assert output.out.splitlines()[1] == "0-0"
    assert "alignment error rate" in output.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "s"), "--source and --target belong together"),
        (("--source", "s", "--target", "t", "--gold", "short"), "short has 1 line for 2 pairs"),
        (("--source", "s", "--target", "t", "--tune", 1), "--tune 1 chooses the layer"),
        ((), "the run must be trained on generated phrases"),
    ],
)
def test_the_command_refuses(
    files: Path, options: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = tiny.trained()
    monkeypatch.chdir(files)
    assert tiny.call("align", run, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
