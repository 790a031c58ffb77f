"""The tokenizer file: what was saved comes back, whole or not at all, and damage is named."""

import json
import os
from typing import Any

import pytest

from qkv.data import TokenizerConfig, TokenizerPair, train_tokenizers
from qkv.errors import BadRun

ODD = "a\u00a0b\u202f! \u2009x\u2028 <pad> ▁ \u00e9 e\u0301"


def trained(joint: bool = True, kind: Any = "bpe"):
    return train_tokenizers(
        [(f"the cat {ODD}", "le chat"), ("a dog", "un chien")], TokenizerConfig(kind=kind, joint=joint)
    )


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
@pytest.mark.parametrize("joint", [True, False])
def test_saved_and_loaded_is_the_same(tmp_path, kind, joint):
    path = tmp_path / "tokenizer.json"
    before = trained(kind=kind, joint=joint)
    path.write_text("old")
    before.save(path)
    after = TokenizerPair.load(path)
    assert after.is_joint == joint
    for old, new in zip(before, after, strict=True):
        assert (new.kind, new.size) == (old.kind, old.size)
        rows = old.encode([ODD, "the <pad> Ж"])
        assert new.encode([ODD, "the <pad> Ж"]) == rows
        assert [new.decode(ids) for ids in rows] == [old.decode(ids) for ids in rows]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["format"], content["joint"]) == ("qkv-tokenizer/1", joint)
    assert (content["target"] is None) == joint
    assert os.listdir(tmp_path) == ["tokenizer.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, broken)
    with pytest.raises(OSError, match="disk full"):
        trained().save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["tokenizer.json"]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tokenizer.json"
    trained(joint=False).save(path)
    return path


def test_missing_tokenizer_file(tmp_path):
    with pytest.raises(BadRun, match=r"tokenizer\.json: cannot be read \(No such file"):
        TokenizerPair.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("cut", [0, 1, 500, -1])
def test_truncated_tokenizer_file(saved, cut):
    saved.write_bytes(saved.read_bytes()[:cut])
    with pytest.raises(BadRun, match=r"tokenizer\.json: damaged, not a JSON file"):
        TokenizerPair.load(saved)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": "qkv-tokenizer/9"}'])
def test_tokenizer_file_of_another_format(saved, content):
    saved.write_text(content)
    with pytest.raises(BadRun, match=r"tokenizer\.json: not a tokenizer of the format qkv-tokenizer/1"):
        TokenizerPair.load(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("source"),
        lambda content: content.update(kind="morse"),
        lambda content: content.update(target=None),
        lambda content: content["target"].update(model=3),
        lambda content: content["target"]["model"]["vocab"].update({"<s>": 9000}),
        lambda content: content["target"]["model"]["vocab"].pop("<pad>"),
    ],
)
def test_damaged_tokenizer_file(saved, damage):
    content = json.loads(saved.read_text(encoding="utf-8"))
    damage(content)
    saved.write_text(json.dumps(content))
    with pytest.raises(BadRun, match=r"tokenizer\.json: damaged \(\w+: ") as caught:
        TokenizerPair.load(saved)
    assert "\n" not in str(caught.value)
