"""The command line: `qkv evaluate`: scores with signatures."""

import json
from pathlib import Path

import pytest
import yaml

import tiny
from tiny import Refused, full_after


def test_evaluate_prints_scores_with_signatures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.call("evaluate", run, "--json", tmp_path / "s.json", "--quiet") == 0
    out = capsys.readouterr().out
    assert out.startswith("40 sentences\n")
    for name in ("BLEU", "chrF", "TER", "exact match"):
        assert f"  {name}" in out
    assert "tok:13a" in out
    assert "1–5 words" in out
    told = json.loads((tmp_path / "s.json").read_text())
    assert told["run"] == str(run)
    assert told["sentences"] == 40
    assert told["scores"].keys() == {"bleu", "chrf", "ter", "exact"}
    assert told["signatures"]["bleu"].startswith("nrefs:1|")
    assert [row["words"] for row in told["buckets"]] == ["1–5", "6–10"]
    assert sum(row["sentences"] for row in told["buckets"]) == 40


def test_evaluate_on_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [run.parent / "valid.en", run.parent / "valid.fr"]
    arguments = ("evaluate", run, "--source", files[0], "--target", files[1])
    assert tiny.call(*arguments, "--tokenize", "char", "--beam", 1, "-q") == 0
    out = capsys.readouterr().out
    assert out.startswith("20 sentences\n")
    assert "tok:char" in out


def test_evaluate_refuses(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    english, french = run.parent / "valid.en", run.parent / "train.fr"
    for option, file in (("--source", english), ("--target", french)):
        assert "--source and --target go together" in refused("evaluate", run, option, file)
    both = ("evaluate", run, "--source", english, "--target")
    assert "has 20 lines but" in refused(*both, french)
    assert "no such file" in refused(*both, tmp_path / "none")
    assert "no tokeniser 'non'" in refused("evaluate", run, "--tokenize", "non")


def test_scores_survive_a_full_disk(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after(monkeypatch, 0)
    assert tiny.call("evaluate", run, "--json", tmp_path / "s.json", "--quiet") == 2
    out, err = capsys.readouterr()
    assert "BLEU" in out
    assert err == (
        f"qkv: cannot write {tmp_path / 's.json'}: No space left on device; choose another path or free "
        "some space\n"
    )
    assert tiny.tree(tmp_path) == {}


def test_without_test_data_evaluate_asks_for_files(broken: Path, refused: Refused) -> None:
    path = broken / "recipe.yaml"
    told = yaml.safe_load(path.read_text())
    told["data"] |= {"test": None, "valid": None}
    path.write_text(yaml.safe_dump(told))
    assert "names no data.test: pass --source and --target" in refused("evaluate", broken)


def test_bad_lines_count_in_the_scores_and_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    source.write_text("one\n你好\n" + "two " * 13 + "\n")
    target.write_text("un\ndeux\ndeux\n")
    files = ("evaluate", run, "--source", source, "--target", target)
    assert tiny.call(*files, "--json", tmp_path / "j", "--quiet") == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 sentences\n")
    assert "source lines that were cut: 1 (3)\nsource lines that were left empty: 1 (2)\n" in out
    assert "line 2 holds nothing" in err
    assert "2 of 3 lines could not be translated as they are" in err
    told = json.loads((tmp_path / "j").read_text())
    assert (told["truncated"], told["empty"]) == ([3], [2])
    assert "compared in Unicode NFC" in told["comparison"]
    assert told["comparison"] in out
    assert "line 2 holds nothing this model knows" in refused(*files, "--strict")
    assert "no device 'gpu'" in refused(*files, "--device", "gpu")
