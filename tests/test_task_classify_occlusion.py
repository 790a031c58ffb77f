"""What leaving out each word of a text does to the probability of its label."""

import math
from pathlib import Path
from typing import Any

import pytest

import qkv
import tiny
from qkv.trace import Trace
from tiny_text import classify_recipe

TEXT = "ann sees bob ."
SENTENCES = {"kind": "hierarchical", "max_sentences": 4, "max_sentence_length": 6}


def train(folder: Path, **sections: Any) -> Any:
    qkv.fit(
        classify_recipe(folder, train={"steps": 30, "validate_every": 30}, **sections),
        folder / "run",
        quiet=True,
    )
    return qkv.load(folder / "run")


def measure_fall(run: Any, whole: Any, shortened: Any) -> float:
    """How far the log-probability of the label of a text falls in another one."""
    before, after = run.classify([whole, shortened])
    return math.log(before.probability) - math.log(after.probabilities[before.label])


def test_the_effect_is_the_difference_of_two_classifications(tmp_path: Path) -> None:
    run = train(tmp_path, model={"pool": "attention"})
    trace = run.trace([TEXT, ""], occlude=True)
    example, empty = trace.examples
    assert tuple(example.weight_axes["occlusion.text"])[:2] == ("label", "text")
    assert example.named_axes["text"] == ("<s>", "ann", "sees", "bob", ".")
    without = ["sees bob .", "ann bob .", "ann sees .", "ann sees bob"]
    expected = [0.0, *(measure_fall(run, TEXT, text) for text in without)]
    assert example.weights["occlusion.text"][0, 0].tolist() == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, expected)) > 1e-3
    assert "occlusion.text" in trace.unnormalised
    assert not any(name.startswith("occlusion") for name in empty.weights)
    assert "occlusion.text" not in run.trace(TEXT).examples[0].weights


def test_both_texts_of_a_pair(tmp_path: Path) -> None:
    run = train(tmp_path, pairs=True)
    pair = ("ann sees bob .", "ann knows dan .")
    example = run.trace([pair], occlude=True).examples[0]
    expected = measure_fall(run, pair, (pair[0], "ann dan ."))
    assert example.weights["occlusion.second.text"][0, 0, 2] == pytest.approx(expected, abs=1e-5)
    expected = measure_fall(run, pair, ("ann sees bob", pair[1]))
    assert example.weights["occlusion.text"][0, 0, 4] == pytest.approx(expected, abs=1e-5)


def test_words_of_sentences(tmp_path: Path) -> None:
    run = train(tmp_path, model=SENTENCES)
    example = run.trace("ann sees bob. cat. sees dan.", occlude=True).examples[0]
    assert [name for name in example.weights if name.startswith("occlusion")] == [
        f"occlusion.words.{number}" for number in (1, 2, 3)
    ]
    expected = measure_fall(run, "ann sees bob. cat. sees dan.", "ann bob. cat. sees dan.")
    assert example.weights["occlusion.words.1"][0, 0, 1] == pytest.approx(expected, abs=1e-5)
    expected = measure_fall(run, "ann sees bob. cat. sees dan.", "ann sees bob. sees dan.")
    assert example.weights["occlusion.words.2"][0, 0, 0] == pytest.approx(expected, abs=1e-5)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, model={"pool": "attention"})
    texts, trace = tmp_path / "texts.txt", tmp_path / "t.npz"
    texts.write_text(TEXT + "\n")
    assert tiny.call("classify", tmp_path / "run", texts, "--occlude", "--trace", trace) == 0
    assert Trace.load(trace).examples[0].weights["occlusion.text"].any()
    assert tiny.call("view", trace, "--output", tmp_path / "page.html") == 0
    assert tiny.call("classify", tmp_path / "run", texts, "--occlude") == 2
    assert "pass --trace FILE too" in capsys.readouterr().err
