"""The task `fill`: BERT's masking, training, blanks, and the likelihood of a word given the others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import qkv
from qkv.data.masking import MaskedPlan, mask_tokens
from qkv.data.streams import StreamConfig, StreamPlan
from qkv.errors import BadData, QKVError
from qkv.task.texts import TextConfig, read_test_text, read_texts
from tiny_text import fill_recipe

V, MASK = 100, 100


def test_the_shares_of_the_masking() -> None:
    ids = torch.randint(4, V, (400, 128), generator=torch.Generator().manual_seed(0))
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[:, 100:] = False
    masked = mask_tokens(ids, keep, mask=MASK, first=4, vocab=V, generator=torch.Generator().manual_seed(1))
    chosen = masked.chosen
    assert not chosen[:, 100:].any()
    assert (masked.inputs[~chosen] == ids[~chosen]).all()
    count = int(chosen.sum())
    assert count / keep.sum() == pytest.approx(0.15, abs=0.01)
    inputs, originals = masked.inputs[chosen], ids[chosen]
    assert (inputs == MASK).float().mean() == pytest.approx(0.8, abs=0.02)
    unchanged = float((inputs == originals).float().mean())
    assert unchanged == pytest.approx(0.1 + 0.1 / (V - 4), abs=0.02)
    assert inputs[inputs != MASK].min() >= 4


def test_at_least_one_token_of_every_row_is_chosen() -> None:
    ids = torch.randint(4, V, (50, 3))
    keep = torch.tensor([[True, False, False]]).expand(50, 3)
    masked = mask_tokens(ids, keep, mask=MASK, first=4, vocab=V, rate=0.01)
    assert masked.chosen[:, 0].all()
    assert not masked.chosen[:, 1:].any()


def test_whole_words_are_chosen_together() -> None:
    ids = torch.randint(4, V, (64, 40))
    starts = torch.rand(64, 40, generator=torch.Generator().manual_seed(0)) < 0.5
    masked = mask_tokens(
        ids, torch.ones_like(starts), mask=MASK, first=4, vocab=V, rate=0.3, starts_word=starts
    )
    same_word = ~starts[:, 1:]
    assert (masked.chosen[:, 1:] == masked.chosen[:, :-1])[same_word].all()


def test_updates_are_the_same_for_any_number_of_processes() -> None:
    plan = StreamPlan(np.arange(1000) % 90 + 4, StreamConfig(streams=6, length=20), seed=1)
    masked = MaskedPlan(plan, MASK, 0.15, None, seed=1)
    (whole,) = masked.window(0, 2, 0, 1)
    parts = [masked.window(0, 2, rank, 4) for rank in range(4)]
    for field in range(4):
        rows = [part[0][field] for part in parts if part]
        for rank, some in enumerate(rows):
            assert torch.equal(some, whole[field][rank::4])
    assert masked.count(0, 2) == int(whole.chosen.sum())
    again = MaskedPlan(plan, MASK, 0.15, None, seed=1).window(0, 2, 0, 1)[0]
    assert torch.equal(again.inputs, whole.inputs)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("fill")
    recipe = fill_recipe(
        folder,
        model={"layers": 2, "width": 32, "heads": 4, "feedforward": 64},
        batch={"streams": 16},
        train={"steps": 700, "validate_every": 700, "lr": 0.005},
    )
    scores = qkv.fit(recipe, folder / "run", quiet=True).scores
    assert scores["nll"] < 1.8  # a table of word frequencies has 2.1
    return qkv.load(folder / "run")


def test_blanks_are_filled_with_words_that_fit(run: Any) -> None:
    (guesses,) = run.fill("ann [MASK] bob .", n=3)
    assert {guess.word for guess in guesses} == {"sees", "likes", "knows"}
    assert [guess.probability for guess in guesses] == sorted(
        (guess.probability for guess in guesses), reverse=True
    )
    assert len(run.fill("cat [MASK] dan [MASK]", n=1)) == 2


def test_the_likelihood_of_a_word_given_the_others(run: Any) -> None:
    likely = {each.token: each.log_prob for each in run.likelihood("ann sees bob .")}
    ids = torch.tensor([run.tokenizer.encode(["ann sees bob ."])[0]])
    ids[0, 1] = run.mask
    with torch.no_grad():
        scores = run.model.output(run.model(ids, torch.ones_like(ids, dtype=torch.bool)))[0, 1]
    scores[[0, 2, run.mask]] = -torch.inf
    token = run.tokenizer.encode(["sees"])[0][0]
    assert likely["sees"] == pytest.approx(float(scores.log_softmax(-1)[token]), abs=1e-5)


def test_the_trace_shows_every_layer(run: Any) -> None:
    example = run.trace("ann [MASK] bob .").examples[0]
    assert example.named_axes["text"][1] == "[MASK]"
    assert example.weights["layer.0"].shape == (4, 4, 4)


def test_resuming_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = fill_recipe(tmp_path, tokens={"kind": "bpe", "vocab": 60}, objective={"whole_words": True})
    stopped = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 11})})
    qkv.fit(recipe, tmp_path / "whole", quiet=True)
    qkv.fit(stopped, tmp_path / "parts", quiet=True)
    qkv.fit(recipe, tmp_path / "parts", resume=True, quiet=True)
    states = [
        torch.load(tmp_path / name / "training/state.pt", weights_only=True)["weights"]
        for name in ("whole", "parts")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_bad_input_is_refused_with_its_reason(run: Any, tmp_path: Path) -> None:
    with pytest.raises(QKVError, match=r"there is no \[MASK\]"):
        run.fill("ann sees bob .")
    with pytest.raises(QKVError, match="no token"):
        run.likelihood("")
    with pytest.raises(QKVError, match=r"needs tokens.kind: bpe"):
        fill_recipe(tmp_path, objective={"whole_words": True})
    with pytest.raises(QKVError, match="no state to carry"):
        fill_recipe(tmp_path, batch={"carry": True})


def test_text_from_rows_of_json(tmp_path: Path) -> None:
    rows = [{"text": "ann sees bob .\ncat knows dan .", "label": 1}, {"text": "bob likes ann ."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TextConfig(train=str(tmp_path / "rows.jsonl"), text_key="text", holdout=0.3)
    texts = read_texts(config)
    assert texts == (["ann sees bob .", "cat knows dan ."], ["bob likes ann ."])
    assert read_test_text(config, tmp_path / "rows.jsonl") == [*texts.train, *texts.valid]
    for key, message in (
        ("txt", r"'txt' is None, expected a text \(keys here: text"),
        ("label", "'label' is 1"),
    ):
        with pytest.raises(BadData, match=message):
            read_texts(config.model_copy(update={"text_key": key}))
    (tmp_path / "rows.jsonl").write_text("ann sees bob .\n")
    with pytest.raises(BadData, match=r"rows.jsonl, line 1: .* is not JSON"):
        read_texts(config)
