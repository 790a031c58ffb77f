"""What every model of texts keeps to: causality, padding, steps, states that are split, and batches."""

from typing import Any

import pytest
import torch
from model_cases import CASES, MIXERS, REACH, V, build_language_model
from torch import Tensor

from qkv.state import select_rows

N = 12
every_mixer = pytest.mark.parametrize("mixer", MIXERS)
every_case = pytest.mark.parametrize("name", CASES)


def draw_tokens(rows: int = 3, length: int = N) -> Tensor:
    return torch.randint(4, V, (rows, length), generator=torch.Generator().manual_seed(1))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


@every_mixer
def test_a_token_reaches_itself_and_what_follows_but_nothing_before(mixer: str) -> None:
    model, ids = build_language_model(mixer), draw_tokens(1)
    embedded: list[Any] = []
    model.embedding.register_forward_hook(lambda _, __, out: embedded.append(out))
    hidden = model(ids)
    reach = REACH.get(mixer, N)
    for t in range(N):
        total = (hidden[0, t] * torch.linspace(1, 2, hidden.shape[-1])).sum()
        (gradient,) = torch.autograd.grad(total, embedded[0], retain_graph=True)
        strength = gradient[0].abs().amax(-1)
        assert not strength[t + 1 :].any(), t
        inside = strength[max(0, t - reach) : t + 1]
        if mixer == "entmax":  # it gives many keys no weight at all
            assert inside[-1] > 0
            assert t == 0 or inside[:-1].any()
        else:
            assert (inside > 0).all(), t
        assert not strength[: max(0, t - reach)].any(), t


@every_mixer
def test_the_whole_equals_steps_and_pieces_of_any_size(mixer: str) -> None:
    model, ids = build_language_model(mixer).requires_grad_(False), draw_tokens(2)
    hidden = model(ids)
    scores, state = model.output(hidden), model.start(batch=2)
    for t in range(N):
        step = model.step(ids[:, t], state)
        state = step.state
        torch.testing.assert_close(step.logits, scores[:, t], rtol=1e-5, atol=1e-5)
    for split in (1, 5, N - 1):
        first, state = model.extend(ids[:, :split], model.start(batch=2))
        second, _ = model.extend(ids[:, split:], state)
        assert_same(torch.cat([first, second], 1), hidden)


@every_mixer
def test_a_state_is_a_value_that_can_be_read_twice(mixer: str) -> None:
    model, ids = build_language_model(mixer).requires_grad_(False), draw_tokens()
    _, state = model.extend(ids[:, :7], model.start(batch=3))
    first, _ = model.extend(ids[:, 7:], state)
    model.extend((ids[:, 7:] + 1) % V, state)
    order = torch.tensor([2, 0, 0])
    again, _ = model.extend(ids[order, 7:], select_rows(state, order))
    assert_same(again, first[order])


@every_mixer
def test_rows_of_a_language_model_are_independent(mixer: str) -> None:
    model, ids = build_language_model(mixer).requires_grad_(False), draw_tokens()
    hidden, order = model(ids), [2, 0, 1]
    assert_same(model(ids[order]), hidden[order])
    assert_same(torch.cat([model(row[None]) for row in ids]), hidden)
    padded = torch.cat([ids, torch.randint(0, V, (3, 5))], 1)
    assert_same(model(padded)[:, :N], hidden)


def draw_texts() -> tuple[Tensor, Tensor]:
    """Texts of 12, 7 and 4 tokens, padded on the right."""
    return draw_tokens(), torch.arange(N) < torch.tensor([12, 7, 4])[:, None]


def drop_padding(outputs: Tensor, keep: Tensor, gives_states: bool) -> Tensor:
    return outputs[keep] if gives_states else outputs


@every_case
def test_padding_is_invisible_whatever_it_holds(name: str) -> None:
    case, (ids, keep) = CASES[name], draw_texts()
    model = case.build()
    expected = drop_padding(case.read(model, ids, keep), keep, case.gives_states)
    longer = torch.cat([ids.masked_fill(~keep, 5), torch.randint(0, V, (3, 6))], 1)
    mask = torch.cat([keep, torch.zeros(3, 6, dtype=torch.bool)], 1)
    embedding = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding))
    with torch.no_grad():
        embedding.weight[0] = torch.nan  # that of padding
    outputs = drop_padding(case.read(model, longer, mask), mask, case.gives_states)
    assert_same(outputs, expected)
    outputs.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_case
def test_a_batch_equals_its_texts_one_by_one_in_any_order(name: str) -> None:
    case, (ids, keep) = CASES[name], draw_texts()
    model = case.build().requires_grad_(False)
    outputs, order = case.read(model, ids, keep), [2, 0, 1]
    reordered = case.read(model, ids[order], keep[order])
    real = keep[order]
    assert_same(
        drop_padding(reordered, real, case.gives_states),
        drop_padding(outputs[order], real, case.gives_states),
    )
    for row, length in enumerate(keep.sum(1).tolist()):
        size = length if case.gives_states else -(-length // 3) * 3  # hierarchical cases read threes
        alone = case.read(model, ids[row : row + 1, :size], keep[row : row + 1, :size])
        whole = outputs[row : row + 1, :size] if case.gives_states else outputs[row : row + 1]
        assert_same(alone, whole)


@every_case
def test_every_token_matters(name: str) -> None:
    case, (ids, keep) = CASES[name], draw_texts()
    model = case.build().requires_grad_(False)
    outputs = case.read(model, ids, keep)
    for position in (0, 3):
        changed = ids.clone()
        changed[:, position] = (changed[:, position] + 1) % (V - 4) + 4
        difference = (case.read(model, changed, keep) - outputs).abs().flatten(1).amax(1)
        assert (difference > 1e-8).all()


@every_case
def test_weights_on_request_change_no_output(name: str) -> None:
    case, (ids, keep) = CASES[name], draw_texts()
    model = case.build().requires_grad_(False)
    expected = case.read(model, ids, keep)
    capturing = lambda *text: model.forward_with_weights(*text)[0]  # noqa: E731
    assert_same(case.read(capturing, ids, keep), expected)
