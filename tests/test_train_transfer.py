"""Attention transfer: what is measured, what learns, and that the mismatch falls."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.errors import BadRecipe
from qkv.model.language import LanguageModel, LanguageModelConfig
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.train.objective.transfer import (
    AttentionTransfer,
    Match,
    read_language_batch,
    read_translation_batch,
    sum_divergences,
    sum_relative_errors,
)

V = 12
RFA = {"kernel": {"name": "rfa", "features": 16, "gate": True}}


def language_model(attention: dict[str, Any] | None = None, **sizes: Any) -> LanguageModel:
    torch.manual_seed(0)
    spec = {"attention": attention} if attention else {}
    config: Any = {"layers": 2, "width": 16, "heads": 2, "feedforward": 16, "dropout": 0.2, **spec, **sizes}
    return LanguageModel(LanguageModelConfig(**config), V)


def segments(rows: int = 3, length: int = 10) -> Any:
    keep = torch.ones(rows, length, dtype=torch.bool)
    keep[0, 6:] = False
    ids = torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(inputs=ids, targets=ids, keep=keep, scored=keep, is_start=True)


def transfer(attention: dict[str, Any], match: Match = "outputs") -> AttentionTransfer:
    trained, model = language_model(), language_model(attention)
    for layer in trained.attention_layers().values():  # far from uniform weights
        nn.init.normal_(layer.to_q.weight, std=0.8)
        nn.init.normal_(layer.to_kv.weight, std=0.8)
    model.load_state_dict(trained.state_dict(), strict=False)
    return AttentionTransfer(model, trained, read_language_batch, match)


def test_the_measures_against_loops() -> None:
    torch.manual_seed(0)
    out, expected, queries = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.rand(2, 3) < 0.7
    errors = 0.0
    for i, t in queries.nonzero().tolist():
        errors += float((out[i, t] - expected[i, t]).square().sum() / expected[i, t].square().sum())
    assert float(sum_relative_errors(out, expected, queries)) == pytest.approx(errors)
    new, old = torch.randn(2, 2, 3, 5).softmax(-1), torch.randn(2, 2, 3, 5).softmax(-1)
    total = 0.0
    for i, t in queries.nonzero().tolist():
        for head in range(2):
            pairs = zip(old[i, head, t], new[i, head, t], strict=True)
            total += sum(float(a * (a / b).log()) for a, b in pairs) / 2
    assert float(sum_divergences(new, old, queries)) == pytest.approx(total, rel=1e-5)
    assert float(sum_divergences(old, old, queries)) == 0


@pytest.mark.parametrize("match", ["outputs", "weights"])
def test_every_layer_reads_what_the_trained_layer_reads(match: Match) -> None:
    objective = transfer(RFA, match)
    batch = segments()
    objective.eval()
    trained: Any = objective.trained
    x = trained._embed(batch.inputs, 0)
    mismatches: list[Tensor] = []
    for block, other in zip(trained.blocks, objective.model.blocks, strict=True):  # pyright: ignore[reportArgumentType]
        read = block.norm(x)
        attended, new = block.mixer.attention.attend(read), other.mixer.attention.attend(read)
        measured = {
            "outputs": (sum_relative_errors, new.out, attended.out),
            "weights": (sum_divergences, new.weights, attended.weights),
        }[match]
        mismatches.append(measured[0](*measured[1:], batch.keep))
        x, _ = block.attend(x)
    loss = objective(batch)
    assert loss.count == int(batch.keep.sum())
    torch.testing.assert_close(loss.total, torch.stack(mismatches).mean())


def test_only_attentions_of_another_kind_learn() -> None:
    objective = transfer(RFA)
    learning = {name for name, each in objective.named_parameters() if each.requires_grad}
    names = [name for name, _ in objective.model.named_parameters()]
    assert learning == {f"model.{name}" for name in names if ".attention." in name}
    weights = transfer(RFA, "weights")
    fixed = learning - {name for name, each in weights.named_parameters() if each.requires_grad}
    assert {name.rpartition(".attention.")[2] for name in fixed} == {"to_out.weight", "to_out.bias"}
    objective.train()
    assert objective.model.training
    assert not objective.trained.training


@pytest.mark.parametrize("match", ["outputs", "weights"])
def test_the_mismatch_falls_and_the_trained_model_stays(match: Match) -> None:
    objective = transfer({"kernel": "elu"}, match)
    assert not objective.trained.training
    before = {name: value.clone() for name, value in objective.trained.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=0.01)
    batch, losses = segments(), []
    for _ in range(60):
        loss = objective(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in objective.trained.state_dict().items())


@pytest.mark.parametrize("match", ["outputs", "weights"])
def test_rows_add_up(match: Match) -> None:
    objective = transfer({"kernel": "elu"}, match).eval()
    batch = segments()
    rows = [
        SimpleNamespace(
            **{name: value[i : i + 1] for name, value in vars(batch).items() if name != "is_start"}
        )
        for i in range(3)
    ]
    total = torch.stack([objective(row).total for row in rows]).sum()
    torch.testing.assert_close(total, objective(batch).total)


def test_padding_does_not_count() -> None:
    objective = transfer({"kernel": "elu"}).eval()
    batch, changed = segments(), segments()
    changed.inputs = torch.where(batch.keep, batch.inputs, (batch.inputs + 1) % V)
    torch.testing.assert_close(objective(batch).total, objective(changed).total)


def test_a_translator_matches_the_attentions_that_differ() -> None:
    sizes: Any = {"encoder_layers": 1, "decoder_layers": 2, "width": 16, "heads": 2, "feedforward": 16}
    trained = Transformer(TransformerConfig(**sizes), V, V)
    model = Transformer(TransformerConfig(**sizes, cross=qkv.AttentionSpec(kernel="elu")), V, V)
    objective = AttentionTransfer(model, trained, read_translation_batch, "outputs")
    assert objective.names == ["cross.0", "cross.1"]
    learning = {name for name, each in objective.named_parameters() if each.requires_grad}
    assert {name.rpartition(".to_")[0] for name in learning} == {
        "model.decoder.0.cross",
        "model.decoder.1.cross",
    }
    batch = SimpleNamespace(
        source=torch.randint(4, V, (2, 5)),
        source_keep=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
        target=torch.randint(4, V, (2, 7)),
        target_keep=torch.tensor([[True] * 7, [True] * 4 + [False] * 3]),
    )
    loss = objective(batch)
    assert loss.count == 6 + 3
    assert float(loss.total.detach()) > 0


def test_models_that_cannot_be_matched(tmp_path: Path) -> None:
    def refusal(model: LanguageModel, trained: LanguageModel, match: Match = "outputs") -> str:
        with pytest.raises(BadRecipe) as caught:
            AttentionTransfer(model, trained, read_language_batch, match)
        return str(caught.value)

    assert "nothing to match" in refusal(language_model(), language_model())
    assert "this one has layer.0, layer.1, and the trained one layer.0:" in refusal(
        language_model(RFA), language_model(layers=1)
    )
    assert "and the trained one none" in refusal(language_model(RFA), language_model(mixer="gru"))
    assert "as many heads" in refusal(language_model({**RFA, "heads": 4}), language_model(), "weights")
