"""Documents and pairs of documents from the command line: training, scores, labels, traces and bad input."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny
from qkv.trace import Trace
from tiny import Refused
from tiny_text import classify_recipe, labelled_file


def train(folder: Path, name: str, pairs: bool = False, **sections: Any) -> Path:
    recipe = classify_recipe(folder, pairs=pairs, **sections)
    (folder / f"{name}.yaml").write_text(recipe.to_yaml())
    assert tiny.call("train", folder / f"{name}.yaml", "--out", folder / name, "--quiet") == 0
    return folder / name


def write_columns(folder: Path) -> Path:
    rows = map(json.loads, Path(labelled_file(folder, "rows.jsonl", pairs=True)).read_text().splitlines())
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{row['label']}\t{row['text']}\t{row['other']}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run trained on JSON rows, and one trained on columns, of the same pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    columns = {"train": {"file": str(write_columns(folder)), "second_key": None}}
    model = {"pool": "attention"}
    return {
        "jsonl": train(folder, "jsonl", pairs=True, model=model),
        "tsv": train(folder, "tsv", pairs=True, model=model, data=columns),
    }


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("single"), "single", tokens={"kind": "byte"})


def test_pairs_give_the_same_from_either_format(pairs: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "lines").write_text("ann sees bob .\tann likes cat .\nbob sees cat .\t\n")
    rows = [{"text": "ann sees bob .", "other": "ann likes cat ."}, {"text": "bob sees cat .", "other": ""}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = []
    for run, file in (("jsonl", "lines"), ("jsonl", "rows.jsonl"), ("tsv", "lines")):
        assert tiny.call("classify", pairs[run], tmp_path / file, "--quiet") == 0
        outputs.append(capsys.readouterr().out)
        assert len(outputs[-1].splitlines()) == 2
    assert len(set(outputs)) == 1
    for run, file in (("tsv", "pairs.tsv"), ("jsonl", "labelled.jsonl")):
        data = pairs[run].parent / file
        assert tiny.call("evaluate", pairs[run], "--data", data, "--json", tmp_path / "s.json") == 0
        assert json.loads((tmp_path / "s.json").read_text())["examples"] == 120


def test_the_trace_of_a_pair_has_both_texts(pairs: Any, tmp_path: Path) -> None:
    trace = tmp_path / "t.npz"
    line = b"ann sees bob .\tann likes .\n"
    assert tiny.call("classify", pairs["tsv"], "--trace", trace, "--quiet", stdin=line) == 0
    (example,) = Trace.load(trace).examples
    assert set(example.weights) == {"layer.0", "pool", "second.layer.0", "second.pool"}
    assert example.named_axes["second text"] == ("<s>", "ann", "likes", ".")
    assert example.weights["second.layer.0"].shape == (2, 4, 4)
    assert tiny.call("view", trace, "--layers", "second.pool", "--png", tmp_path / "p.png") == 0


def test_what_is_cut_is_counted(single: Path, tmp_path: Path, capsys: Any) -> None:
    megabyte = "ann sees cat . " * 70_000
    (tmp_path / "texts").write_text(f"{megabyte}\n\nann sees\n")
    assert tiny.call("classify", single, tmp_path / "texts", "--quiet") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert printed.err.splitlines() == [
        "qkv: 1 of 3 texts were cut after 20 tokens",
        "qkv: 1 of 3 texts are empty, or none of their tokens is known: their labels say nothing about them",
    ]
    rows = [{"text": megabyte, "label": 0}, {"text": "", "label": 1}, {"text": "ann", "label": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tiny.call("evaluate", single, "--data", tmp_path / "rows.jsonl", "--quiet") == 0
    assert "1 document was cut after 20 tokens" in capsys.readouterr().out


def test_training_on_documents_of_a_megabyte(tmp_path: Path, capsys: Any) -> None:
    rows = [{"text": "ann " * 260_000, "label": 0}, {"text": "", "label": 1}, {"text": "bob", "label": 1}]
    content = "".join(json.dumps(row) + "\n" for row in rows * 4)
    recipe = classify_recipe(tmp_path, train={"steps": 2}, batch={"max_length": 50})
    raw = yaml.safe_load(recipe.to_yaml())
    raw["data"]["valid"] = raw["data"]["train"]
    (tmp_path / "labelled.jsonl").write_text(content)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    assert tiny.call("train", tmp_path / "r.yaml", "--out", tmp_path / "run") == 0
    assert "4 training documents (33%) cut after 50 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("run", "content", "message"),
    [
        (
            "jsonl",
            "ann sees bob .\n",
            "line 1: this run compares 2 texts, and the line has 1: write text<tab>",
        ),
        ("jsonl", "a\tb\na\tb\tc\n", "line 2: this run compares 2 texts, and the line has 3"),
        ("single", b"good\nb\xe9\n", "line 2: 0xe9 at position 1 is not UTF-8"),
    ],
)
def test_lines_that_cannot_be_classified(
    pairs: Any, single: Path, tmp_path: Path, refused: Refused, run: str, content: Any, message: str
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused("classify", single if run == "single" else pairs[run], path)


def test_other_bad_documents(pairs: Any, single: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n')
    assert "'other' is 'None', expected text" in refused("classify", pairs["jsonl"], tmp_path / "t.jsonl")
    (tmp_path / "one.tsv").write_text("1\tann\n")
    message = refused("evaluate", pairs["tsv"], "--data", tmp_path / "one.tsv")
    assert "reads 2 text(s) at a time, but document 1 has 1: pass pairs" in message
    (tmp_path / "two.tsv").write_text("1\tann\tbob\n")
    message = refused("evaluate", single, "--data", tmp_path / "two.tsv")
    assert "reads 1 text(s) at a time, but document 1 has 2: pass single texts" in message
    (tmp_path / "label.tsv").write_text("\tann\n")
    assert "line 1: the label is empty" in refused("evaluate", single, "--data", tmp_path / "label.tsv")
    (tmp_path / "other.tsv").write_text("maybe\tann\n")
    assert "has the label 'maybe'; known" in refused("evaluate", single, "--data", tmp_path / "other.tsv")


def test_a_text_too_long_for_a_trace(tmp_path: Path, refused: Refused) -> None:
    run = train(
        tmp_path,
        "long",
        tokens={"kind": "byte"},
        batch={"max_length": 6000, "batch_tokens": 7000},
        train={"steps": 1},
    )
    (tmp_path / "texts").write_text("a" * 5000)
    message = refused("classify", run, tmp_path / "texts", "--trace", tmp_path / "t.npz")
    assert "text 1 has 5,000 tokens: a trace holds the weights between at most 4,096" in message
