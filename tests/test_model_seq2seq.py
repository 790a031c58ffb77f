"""The recurrent translator: steps equal teacher forcing, padding is invisible, and it learns."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from qkv.errors import BadMask
from qkv.kernel import RFA
from qkv.model.recurrent_cell import RecurrentCell, _GRUGates
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.score import Additive
from qkv.spec import AttentionSpec
from qkv.state import select_rows
from qkv.strict import describe_errors
from qkv.symbols import BOS, PAD

SOURCE_WORDS, TARGET_WORDS = 17, 13
B, S, T = 3, 7, 5
LENGTHS = torch.tensor([7, 4, 5])

ATTENTIONS: dict[str, Any] = {
    "additive": {"score": {"name": "additive", "hidden": 5}},
    "additive, heads": {"score": "additive", "heads": 2},
    "scaled dot": {"score": "scaled_dot"},
    "scaled dot, heads": {"heads": 2},
    "rfa": {"kernel": {"name": "rfa", "features": 16}},
    "none": None,
}
DECODERS: dict[str, Any] = {
    "luong": {"decoder": "luong"},
    "luong, fed": {"decoder": "luong", "input_feeding": True},
    "luong, one way": {"decoder": "luong", "bidirectional": False},
}
SCORES: dict[str, Any] = {
    "dot": {"score": "dot"},
    "general": {"score": "general"},
    "concat": {"score": "additive"},
    "location": {"score": {"name": "location", "length": 9}},
    "local-m": {"score": "general", "scope": {"name": "window", "half_width": 1}},
    "local-p": {"score": "general", "scope": {"name": "predictive", "half_width": 2}},
    "hard": {"score": "additive", "select": "hard"},
    "sparsemax": {"score": "general", "select": "sparsemax"},
    "cosine": {"score": {"name": "cosine", "strength": 4.0}},
    "rfa": {"kernel": {"name": "rfa", "features": 16}},
}
with_every_attention = pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS.keys())
with_every_cell = pytest.mark.parametrize("cell", ["gru", "lstm"])


def model_of(attention: Any, **options: Any) -> RNNTranslator:
    config = RNNConfig(attention=attention, **{"embedding": 6, "hidden": 8, "dropout": 0.0, **options})
    return RNNTranslator(config, SOURCE_WORDS, TARGET_WORDS).double().eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    keep = torch.arange(S) < LENGTHS[:, None]
    source = torch.randint(4, SOURCE_WORDS, (B, S)).where(keep, torch.tensor(PAD))
    target = torch.randint(4, TARGET_WORDS, (B, T))
    target[:, 0] = BOS
    return source, keep, target


def shown(model: RNNTranslator, source: Tensor, keep: Tensor, target: Tensor) -> dict[str, Tensor]:
    looks = model.forward_with_weights(source, keep, target)[1]
    return {name: look.weights for name, look in looks.items() if look.weights is not None}


def stepped(
    model: RNNTranslator, source: Tensor, keep: Tensor, target: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    state = model.start(source, keep, capture=True)
    logits, looks = [], []
    for tokens in target.unbind(1):
        step = model.step(tokens, state, capture=True)
        state = step.state
        logits.append(step.logits)
        looks.append(step.weights)
    weights = {name: torch.stack([each[name] for each in looks], 2) for name in looks[0]}
    return torch.stack(logits, 1), weights


@with_every_cell
@with_every_attention
def test_steps_equal_teacher_forcing(attention: Any, cell: Any) -> None:
    model = model_of(attention, cell=cell, layers=2)
    source, keep, target = batch()
    logits, weights = stepped(model, source, keep, target)
    torch.testing.assert_close(logits, model.output(model(source, keep, target)))
    torch.testing.assert_close(weights, shown(model, source, keep, target))


@pytest.mark.parametrize(
    ("attention", "heads"), [("additive", 1), ("additive, heads", 2), ("scaled dot, heads", 2), ("rfa", 1)]
)
def test_weights_are_an_average_over_the_real_source(attention: str, heads: int) -> None:
    source, keep, target = batch()
    weights = shown(model_of(ATTENTIONS[attention]), source, keep, target)["cross.0"]
    assert weights.shape == (B, heads, T, S)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, heads, T, dtype=weights.dtype))
    assert not weights.masked_select(~keep[:, None, None].expand_as(weights)).any()


@pytest.mark.parametrize("attention", ["additive", "rfa"])
def test_looking_changes_no_output(attention: str) -> None:
    model = model_of(ATTENTIONS[attention])
    source, keep, target = batch()
    looked = model.step(target[:, 0], model.start(source, keep, capture=True), capture=True)
    blind = model.step(target[:, 0], model.start(source, keep))
    assert blind.weights == {}
    assert getattr(blind.state.source.core, "seen", None) is None
    assert looked.weights["cross.0"].shape == (B, 1, S)
    torch.testing.assert_close(looked.logits, blind.logits)


@pytest.mark.parametrize("attention", SCORES.values(), ids=SCORES.keys())
@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS.keys())
def test_luongs_decoder_steps_pads_and_learns(attention: Any, decoder: Any) -> None:
    model = model_of(attention, **decoder)
    source, keep, target = batch()
    logits, weights = stepped(model, source, keep, target)
    torch.testing.assert_close(logits, model.output(model(source, keep, target)))
    torch.testing.assert_close(weights, shown(model, source, keep, target))
    junk = source.where(keep, torch.randint(4, SOURCE_WORDS, (B, S)))
    torch.testing.assert_close(model.output(model(junk, keep, target)), logits)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        alone = model.output(model(source[one, :length], keep[one, :length], target[one]))
        torch.testing.assert_close(alone, logits[one])
    changed = target.clone()
    changed[:, 3:] = 4 + (target[:, 3:] + 1) % (TARGET_WORDS - 4)
    torch.testing.assert_close(model.output(model(source, keep, changed))[:, :3], logits[:, :3])


@with_every_cell
@with_every_attention
def test_padding_is_invisible(attention: Any, cell: Any) -> None:
    model = model_of(attention, cell=cell)
    source, keep, target = batch()
    junk = source.where(keep, torch.randint(4, SOURCE_WORDS, (B, S)))
    out = model(source, keep, target)
    torch.testing.assert_close(model(junk, keep, target), out, rtol=0, atol=0)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        alone = model(source[one, :length], keep[one, :length], target[one])
        torch.testing.assert_close(alone, out[one])


@with_every_attention
def test_padding_gets_no_gradient(attention: Any) -> None:
    model = model_of(attention)
    source, keep, target = batch()
    model(source.where(keep, torch.tensor(5)).masked_fill(keep, 6), keep, target).sum().backward()
    gradient = model.encoder.words.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [6]


def test_a_row_without_real_tokens_is_finite_and_reads_no_junk() -> None:
    model = model_of(ATTENTIONS["additive"])
    source, keep, target = batch()
    keep[1] = False
    out = model(source, keep, target)
    assert out.isfinite().all()
    source[1] = 9
    torch.testing.assert_close(model(source, keep, target), out, rtol=0, atol=0)


@with_every_attention
def test_later_target_words_do_not_leak(attention: Any) -> None:
    model = model_of(attention)
    source, keep, target = batch()
    out = model(source, keep, target)
    target[:, 3:] = 4 + (target[:, 3:] + 1) % (TARGET_WORDS - 4)
    changed = model(source, keep, target)
    torch.testing.assert_close(changed[:, :3], out[:, :3], rtol=0, atol=0)
    assert not changed[:, 3:].isclose(out[:, 3:]).all()


@with_every_attention
def test_reordered_state_continues_as_its_rows(attention: Any) -> None:
    model = model_of(attention)
    source, keep, target = batch()
    rows = torch.tensor([2, 0, 0])
    after = model.step(target[:, 0], model.start(source, keep)).state
    moved = model.step(target[rows, 1], select_rows(after, rows))
    torch.testing.assert_close(moved.logits, model.step(target[:, 1], after).logits[rows])


def test_without_attention_the_source_is_one_vector() -> None:
    model = model_of(None)
    source, keep, target = batch()
    state = model.start(source, keep)
    assert state.source.shape == (B, 8)
    assert shown(model, source, keep, target) == {}
    assert model.step(target[:, 0], state, capture=True).weights == {}
    # The summary alone drives the decoder: exchanging it exchanges the translations.
    swapped = model.start(source.flip(0), keep.flip(0))
    mixed = state._replace(source=swapped.source, cell=swapped.cell)
    expected = model.step(target[:, 0], model.start(source, keep)).logits.flip(0)
    torch.testing.assert_close(model.step(target[:, 0].flip(0), mixed).logits, expected)


def test_encoder_shows_no_weights() -> None:
    source, keep, _ = batch()
    assert model_of(None).encoder_weights(source, keep) == {}


@with_every_cell
@with_every_attention
def test_gradient_reaches_every_parameter(attention: Any, cell: Any) -> None:
    model = model_of(attention, cell=cell, layers=2).train()
    source, keep, target = batch()
    logits = model.output(model(source, keep, target))
    F.cross_entropy(logits.flatten(0, 1), target.roll(-1, 1).flatten()).backward()
    untouched = [
        name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert untouched == []


def test_query_is_the_previous_state_and_readout_takes_the_new_one() -> None:
    model = model_of(ATTENTIONS["additive"])
    source, keep, target = batch()
    state = model.start(source, keep)
    s, word = state.cell[0], model.target_words(target[:, 0])
    assert model.decoder.attention is not None
    context = model.decoder.attention.step(s, state.source)[0]
    a = model.decoder.cell.from_word(word) + model.decoder.cell.from_context(context)
    b = model.decoder.cell.from_state(s)
    r, z = (a + b)[:, :16].sigmoid().chunk(2, -1)
    new = (1 - z) * (a[:, 16:] + r * b[:, 16:]).tanh() + z * s
    first, second = model.decoder.readout(torch.cat([new, word, context], -1)).chunk(2, -1)
    expected = model.output(torch.maximum(first, second))
    torch.testing.assert_close(model.step(target[:, 0], state).logits, expected)


@pytest.mark.parametrize("feeding", [False, True], ids=["plain", "fed"])
def test_luongs_query_is_the_new_state_and_feeding_reads_the_last_output(feeding: bool) -> None:
    model = model_of({"score": "dot"}, decoder="luong", input_feeding=feeding, bidirectional=False)
    source, keep, target = batch()
    decoder, state = model.decoder, model.start(source, keep)
    assert not decoder.attention.spec.project, "Luong's dot compares state and annotation as they are"
    fed = torch.zeros(B, 8, dtype=torch.float64)
    for tokens in target.unbind(1):
        gates = decoder.cell.from_word(model.target_words(tokens))
        cell = decoder.cell(gates, fed if feeding else None, state.cell)
        annotations = model.encoder(source, keep).annotations
        scores = torch.einsum("bn,bsn->bs", cell[0], annotations).masked_fill(~keep, -torch.inf)
        context = torch.einsum("bs,bsn->bn", scores.softmax(-1), annotations)
        fed = torch.tanh(F.linear(torch.cat([context, cell[0]], -1), decoder.join.weight))
        step = model.step(tokens, state)
        torch.testing.assert_close(step.logits, model.output(fed))
        state = step.state


def test_input_feeding_with_its_weights_at_zero_changes_nothing() -> None:
    fed = model_of({"score": "general"}, decoder="luong", input_feeding=True)
    plain = model_of({"score": "general"}, decoder="luong")
    plain.load_state_dict({k: v for k, v in fed.state_dict().items() if "from_context" not in k})
    torch.nn.init.zeros_(fed.decoder.cell.from_context.weight)
    source, keep, target = batch()
    torch.testing.assert_close(fed(source, keep, target), plain(source, keep, target))


def test_gru_gates_are_those_of_torch_and_differentiable() -> None:
    cell = torch.nn.GRUCell(3, 4).double()
    x, s = torch.randn(2, 3).double(), torch.randn(2, 4).double()
    a, b = F.linear(x, cell.weight_ih, cell.bias_ih), F.linear(s, cell.weight_hh, cell.bias_hh)
    torch.testing.assert_close(_GRUGates.apply(a, b, s), cell(x, s))
    leaves = [tensor.detach().requires_grad_() for tensor in (a, b, s)]
    assert torch.autograd.gradcheck(_GRUGates.apply, leaves)
    assert torch.autograd.gradgradcheck(_GRUGates.apply, leaves)


def test_second_derivatives_of_a_gru_step_are_those_of_torch() -> None:
    cell = RecurrentCell("gru", 3, 0, 4).double()
    x, s = torch.randn(2, 3).double(), torch.randn(2, 4).double()

    def step(s: Tensor) -> Tensor:
        return cell(cell.from_word(x), None, (s,))[0].square().sum()

    def formula(s: Tensor) -> Tensor:
        weights = (cell.from_word.weight, cell.from_state.weight, cell.from_word.bias, cell.from_state.bias)
        return torch._VF.gru_cell(x, s, *weights).square().sum()

    torch.testing.assert_close(
        torch.autograd.functional.hessian(step, s), torch.autograd.functional.hessian(formula, s)
    )


def test_lstm_step_is_that_of_torch() -> None:
    cell, twin = RecurrentCell("lstm", 3, 2, 4), torch.nn.LSTMCell(5, 4)
    with torch.no_grad():
        twin.weight_ih.copy_(torch.cat([cell.from_word.weight, cell.from_context.weight], 1))
        twin.bias_ih.copy_(cell.from_word.bias)
        twin.weight_hh.copy_(cell.from_state.weight)
        twin.bias_hh.copy_(cell.from_state.bias)
    word, context, last = torch.randn(2, 3), torch.randn(2, 2), (torch.randn(2, 4), torch.randn(2, 4))
    found = cell(cell.from_word(word), context, last)
    torch.testing.assert_close(found, twin(torch.cat([word, context], -1), last))


@with_every_cell
def test_first_state_comes_from_the_backward_state_at_the_first_word(cell: Any) -> None:
    model = model_of(ATTENTIONS["additive"], cell=cell, layers=2)
    source, keep, _ = batch()
    annotations = model.encoder.network(model.encoder.words(source[1:2, :4]))[0]
    state = model.start(source, keep)
    torch.testing.assert_close(state.cell[0][1:2], model.decoder.first_state(annotations[:, 0, 8:]).tanh())
    assert not any(memory.any() for memory in state.cell[1:])
    torch.testing.assert_close(state.source.core.values.entries[1:2, 0, :4], annotations)


def test_without_attention_the_summary_is_both_final_states() -> None:
    model = model_of(None)
    source, keep, _ = batch()
    annotations = model.encoder.network(model.encoder.words(source[1:2, :4]))[0]
    summary = model.decoder.summary(torch.cat([annotations[:, -1, :8], annotations[:, 0, 8:]], -1)).tanh()
    state = model.start(source, keep)
    torch.testing.assert_close(state.source[1:2], summary)
    torch.testing.assert_close(state.cell[0][1:2], model.decoder.first_state(summary).tanh())


def test_recurrent_matrices_start_orthogonal_and_an_lstm_remembers() -> None:
    model = model_of(ATTENTIONS["additive"], cell="lstm")
    for recurrent in (model.decoder.cell.from_state.weight, model.encoder.network.weight_hh_l0):
        for gate in recurrent.split(8):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8, dtype=gate.dtype), rtol=0, atol=1e-5)
    forget = torch.zeros(32, dtype=torch.float64)
    forget[8:16] = 1
    torch.testing.assert_close(
        model.decoder.cell.from_word.bias.data + model.decoder.cell.from_state.bias.data, forget
    )
    torch.testing.assert_close(
        model.encoder.network.bias_ih_l0.data + model.encoder.network.bias_hh_l0.data, forget
    )


def test_dropout_acts_in_training_only() -> None:
    model = model_of(ATTENTIONS["additive"], dropout=0.5)
    source, keep, target = batch()
    state = model.start(source, keep)
    assert model._decode(target, state)[0].all()
    model.train()
    first, second = (model._decode(target, state)[0] for _ in range(2))
    assert 0.25 < (first == 0).double().mean().item() < 0.75  # on the read-out
    both = (first != 0) & (second != 0)
    assert not first[both].isclose(second[both]).any()  # on the target's words
    assert not model.start(source, keep).cell[0].isclose(state.cell[0]).any()  # on the source's words


def test_tied_output_shares_its_weight() -> None:
    model = model_of(None, tie=True)
    assert model.output.weight is model.target_words.weight


@pytest.mark.parametrize("attention", ["additive", "none"])
@with_every_cell
def test_bfloat16_autocast_stays_close(attention: str, cell: Any) -> None:
    model = model_of(ATTENTIONS[attention], cell=cell).float()
    source, keep, target = batch()
    exact = model(source, keep, target)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(source, keep, target)
        step = model.step(target[:, 0], model.start(source, keep))
    assert step.logits.dtype == torch.float32
    if model.decoder.attention is not None:  # cast once, not at every step
        assert step.state.source.core.values.entries.dtype == torch.bfloat16
    near.float().sum().backward()
    torch.testing.assert_close(near.float(), exact, rtol=0.05, atol=0.05)


def test_learns_to_copy() -> None:
    model = RNNTranslator(RNNConfig(embedding=32, hidden=48, dropout=0.0), 14, 14)
    optimiser = torch.optim.Adam(model.parameters(), lr=8e-3)
    keep = torch.ones(32, 5, dtype=torch.bool)
    for _ in range(120):
        words = torch.randint(4, 14, (32, 5))
        target_in = F.pad(words[:, :-1], (1, 0), value=BOS)
        logits = model.output(model(words, keep, target_in))
        optimiser.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), words.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    words = torch.randint(4, 14, (32, 5))
    tokens, state, right = torch.full((32,), BOS), model.eval().start(words, keep), 0
    for column in words.unbind(1):
        step = model.step(tokens, state)
        tokens, state = step.logits.argmax(-1), step.state
        right += int((tokens == column).sum())
    assert right / words.numel() > 0.95


def test_config_round_trips() -> None:
    for attention in ATTENTIONS.values():
        config = RNNConfig(attention=attention, cell="lstm")
        assert RNNConfig(**config.model_dump()) == config
        assert RNNConfig.model_validate_json(config.model_dump_json()) == config
    assert RNNConfig().attention == AttentionSpec(score=Additive())
    assert (
        RNNConfig(attention=AttentionSpec(kernel=RFA(32))).model_dump()["attention"]["kernel"]["features"]
        == 32
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": {"score": "aditive"}}, "attention.*unknown score: 'aditive'. Did you mean 'additive'"),
        ({"attention": {"scor": "additive"}}, "unknown key of an attention: 'scor'. Did you mean 'score'"),
        ({"attention": {"score": "additive", "kernel": "rfa"}}, "kernel and score clash"),
        ({"attention": "additive"}, "expected an attention like"),
        ({"attention": {"causal": True}}, "causal has no meaning here"),
        ({"attention": {"d_model": 8}}, "follow from hidden"),
        ({"attention": {"project": False}}, "project=False needs a score for two widths"),
        ({"attention": {"heads": 3}, "hidden": 8}, "cannot be split into heads=3"),
        ({"input_feeding": True}, "input_feeding needs decoder: luong"),
        ({"decoder": "luong", "attention": None}, "luong needs an attention"),
        ({"decoder": "luong", "tie": True, "hidden": 8}, "set embedding and hidden to one number"),
        ({"cell": "rnn"}, "'cell' is 'rnn'.*'gru' or 'lstm'"),
        ({"hidden": 0}, "'hidden' is 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"hiden": 8}, "unknown key 'hiden'"),
    ],
)
def test_mistakes_in_the_config_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RNNConfig(**options)
    assert re.search(message, describe_errors(caught.value), re.DOTALL)


def test_left_padding_is_refused() -> None:
    source, keep, target = batch()
    with pytest.raises(BadMask, match="pad sources on the right"):
        model_of(None)(source, keep.flip(1), target)
