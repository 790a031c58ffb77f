"""Sampling from a language model: the distribution, prompts in batches, and long continuations."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.decode import sample as sampling
from qkv.decode.sample import Emitted, SampleConfig, next_token_probabilities, sample
from qkv.errors import QKVError
from qkv.model.language import LanguageModel, LanguageModelConfig

V = 11


def model_of(**options: Any) -> LanguageModel:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "layers": 1,
        "width": 8,
        "heads": 2,
        "feedforward": 8,
        "positions": "none",
        **options,
    }
    return LanguageModel(LanguageModelConfig(**config), V).eval()


def continue_all(model: LanguageModel, prompts: list[list[int]], **options: Any) -> list[list[Emitted]]:
    names = SampleConfig.model_fields
    config = SampleConfig(**{k: v for k, v in options.items() if k in names})
    others = {k: v for k, v in options.items() if k not in names}
    rows: list[list[Emitted]] = [[] for _ in prompts]
    for each in sample(model, prompts, config, **others):
        rows[each.row].append(each)
    return rows


def ids(rows: list[list[Emitted]]) -> list[list[int]]:
    return [[each.token for each in row] for row in rows]


def reference(logits: list[float], config: SampleConfig) -> list[float]:
    """Temperature, top-k and top-p, written as loops."""
    if config.temperature == 0:
        best = max(range(len(logits)), key=lambda i: (logits[i], -i))
        return [float(i == best) for i in range(len(logits))]
    powers = [math.exp(x / config.temperature) for x in logits]
    p = [x / sum(powers) for x in powers]
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: config.top_k or len(p)]
    total = sum(p[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass < config.top_p:
            kept.append(i)
        mass += p[i] / total
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.4, 1e-6])
def test_the_distribution_equals_its_loop(temperature: float, top_k: int | None, top_p: float) -> None:
    config = SampleConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits[3] = logits[3].round()  # with equal scores
    probabilities = next_token_probabilities(logits, config)
    for row, found in zip(logits.tolist(), probabilities.tolist(), strict=True):
        assert found == pytest.approx(reference(row, config), abs=1e-12)


def test_frequencies_approach_the_distribution() -> None:
    model = model_of()
    rows = continue_all(model, [[3, 5]] * 4000, length=1, temperature=1.0)
    counts = torch.tensor([row[0].token for row in rows]).bincount(minlength=V) / len(rows)
    with torch.no_grad():
        expected = model.output(model(torch.tensor([[3, 5]])))[0, -1].softmax(-1)
    assert (counts - expected).abs().max() < 4 * (0.25 / len(rows)) ** 0.5


@pytest.mark.parametrize("options", [{}, {"mixer": "gru"}, {"attention": {"kernel": "elu"}}])
def test_a_row_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    model, prompts = model_of(**options), [[1, 2, 3], [4], [5, 6]]
    together = ids(continue_all(model, prompts, length=9, temperature=1.5))
    alone = [
        ids(continue_all(model, [prompt], length=9, temperature=1.5, first_row=row))[0]
        for row, prompt in enumerate(prompts)
    ]
    assert together == alone
    assert together != ids(continue_all(model, prompts, length=9, temperature=1.5, seed=1))


def test_greedy_sampling_takes_the_best_token_and_its_log_probability() -> None:
    model = model_of()
    row = continue_all(model, [[7, 1]], length=5, temperature=0)[0]
    text = [7, 1]
    for each in row:
        with torch.no_grad():
            log_probs = model.output(model(torch.tensor([text])))[0, -1].log_softmax(-1)
        assert each.token == int(log_probs.argmax())
        assert each.log_prob == pytest.approx(float(log_probs.max()), abs=1e-5)
        text.append(each.token)


def test_forbidden_tokens_are_not_emitted() -> None:
    model = model_of()
    greedy = ids(continue_all(model, [[7, 1]], length=40, temperature=0))[0]
    for temperature in (0, 5.0):
        options = {"length": 40, "temperature": temperature, "forbidden": (greedy[0], 1, 2)}
        emitted = set(ids(continue_all(model, [[7, 1]], **options))[0])
        assert emitted
        assert not emitted & {greedy[0], 1, 2}


def test_finished_rows_leave_the_batch() -> None:
    model = model_of()

    def is_finished(row: int, token: int) -> bool:
        return row == 1

    rows = continue_all(model, [[1], [2], [3]], length=4, is_finished=is_finished)
    assert [len(row) for row in rows] == [4, 1, 4]
    free = continue_all(model, [[1], [2], [3]], length=4)
    assert ids(rows)[0] == ids(free)[0]
    assert ids(rows)[2] == ids(free)[2]


def test_a_limited_context_starts_again_from_its_last_half() -> None:
    model = model_of(positions="learned", max_length=6)
    prompt = [1, 2, 3, 4]
    row = continue_all(model, [prompt], length=9, temperature=0, context=6)[0]
    text, first = list(prompt), 0
    for each in row:
        if len(text) - 1 - first == 6:
            first = len(text) - 1 - 3
        with torch.no_grad():
            scores: Tensor = model.output(model(torch.tensor([text[first:]])))[0, -1]
        assert each.token == int(scores.argmax())
        text.append(each.token)


@pytest.mark.parametrize("context", [None, 6])
def test_dropped_tokens_change_nothing(context: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = {"positions": "learned", "max_length": 6}
    model, prompts = model_of(**(limited if context else {})), [[1, 2, 3, 4, 5], [3], [2, 2]]
    options: dict[str, Any] = {"length": 25, "context": context}
    expected = ids(continue_all(model, prompts, **options))
    lengths, drop = [], sampling._Rows.drop_tokens_before

    def drop_and_measure(rows: Any, position: int) -> None:
        drop(rows, position)
        lengths.append(max(map(len, rows.sequences)))

    monkeypatch.setattr(sampling, "DROPPED_TOGETHER", 3)
    monkeypatch.setattr(sampling._Rows, "drop_tokens_before", drop_and_measure)
    assert ids(continue_all(model, prompts, **options)) == expected
    assert max(lengths) <= 3 + 5 + (context or 0)


def test_captured_weights_cover_what_was_read() -> None:
    row = continue_all(model_of(), [[1, 2]], length=3, capture=True)[0]
    assert [each.weights["layer.0"].shape for each in row] == [(2, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize(
    ("prompts", "context", "message"),
    [([[1], []], None, "prompt 2 is empty"), ([[1, 2, 3]], 2, "prompt 1 has 3 tokens.*at most 2")],
)
def test_a_prompt_that_cannot_be_read(prompts: list[list[int]], context: int | None, message: str) -> None:
    with pytest.raises(QKVError, match=message):
        continue_all(model_of(), prompts, context=context)


def test_scores_that_are_no_numbers() -> None:
    model = model_of()
    model.embedding.weight.data.fill_(math.nan)
    with pytest.raises(QKVError, match="are not numbers"):
        continue_all(model, [[1]])


def test_no_prompt_gives_no_text() -> None:
    assert continue_all(model_of(), []) == []
