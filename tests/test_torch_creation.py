"""Layers and models that are created on the meta device or in another dtype, then loaded or reset."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig
from torch_tool_cases import HEADS, TOOL_MARKS, WIDTH, Model, close, every_kind, fill_memory, inputs

pytestmark = TOOL_MARKS


# ---- made elsewhere ----


@every_kind
def test_meta_device(kind: str) -> None:
    with torch.device("meta"):
        model, x, keep = Model(kind), torch.randn(2, 10, WIDTH), torch.ones(2, 10).bool()
        assert model.eval()(x, keep).shape == x.shape
        model.train()(x, keep).sum().backward()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@every_kind
def test_meta_then_loaded(kind: str) -> None:
    real, given = Model(kind).eval(), inputs(2, 10)
    for assign in (False, True):
        with torch.device("meta"):
            model = Model(kind).eval()
        fill_memory()
        if not assign:
            model.to_empty(device="cpu")
        model.load_state_dict(real.state_dict(), assign=assign)
        close(model(*given), real(*given), 0)


@every_kind
def test_meta_then_reset(kind: str) -> None:
    """As FSDP does: to_empty, then reset_parameters of every module that has weights of its own."""
    real = Model(kind)
    for whole in (True, False):
        model = Model(kind).eval()
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan)
        for module in (model.layer,) if whole else model.modules():
            own = [*module.parameters(False), *module.buffers(False)]
            if own or whole:
                reset: Any = getattr(module, "reset_parameters", None) or module._reset_parameters
                reset()
        if kind == "torch":
            model.layer.out_proj.reset_parameters()
        for name, value in model.state_dict().items():
            spread, expected = (float(x.std()) for x in (value, real.state_dict()[name]))
            assert value.isfinite().all(), name
            if whole and kind != "torch":  # torch's layer, which has no reset of its own, draws another bias
                assert expected / 3 - 0.05 < spread < expected * 3 + 0.05, name
        assert model(*inputs(2, 10)).isfinite().all()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_default_dtypes(kind: str, dtype: torch.dtype) -> None:
    with default_dtype(dtype):
        model, (x, keep) = Model(kind), inputs(2, 10)
        out = model(x, keep)
        assert out.dtype == dtype
        assert out.isfinite().all()
        out.float().sum().backward()


def test_projections_do_not_depend_on_the_default_dtype() -> None:
    layer, x = qkv.Attention(WIDTH, HEADS, kernel=qkv.RFA(8)), torch.randn(2, 5, WIDTH)
    outs = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        torch.manual_seed(3)
        with default_dtype(dtype):
            outs.append(layer(x))
    assert outs[0].equal(outs[1])
    assert outs[0].equal(outs[2])


# ---- whole models ----


MODELS: dict[str, Any] = {
    "transformer": TransformerConfig(encoder_layers=1, decoder_layers=1, width=16, heads=2, feedforward=32),
    "learned positions": TransformerConfig(
        encoder_layers=1, decoder_layers=1, width=16, heads=2, positions="learned", embeddings="separate"
    ),
    "rnn": RNNConfig(embedding=16, hidden=16, tie=True, cell="lstm"),
    "luong": RNNConfig(
        embedding=16,
        hidden=16,
        decoder="luong",
        attention=qkv.AttentionSpec(score=qkv.General(), scope=qkv.Predictive(2)),
    ),
}
every_model = pytest.mark.parametrize("name", MODELS)


def translator(name: str) -> nn.Module:
    config = MODELS[name]
    kind: Any = Transformer if isinstance(config, TransformerConfig) else RNNTranslator
    return kind(config, 20, 20).eval()


def sentences() -> tuple[Tensor, Tensor, Tensor]:
    source, keep = torch.randint(4, 20, (2, 5)), torch.ones(2, 5).bool()
    keep[1, 3:] = False
    return source, keep, source


@every_model
@pytest.mark.parametrize("assign", [False, True])
def test_model_on_meta_then_loaded(name: str, assign: bool) -> None:
    """Tables of positions are in no checkpoint, and shared weights must stay one."""
    real, given = translator(name), sentences()
    with torch.device("meta"):
        model = translator(name)
    fill_memory()
    if not assign:
        model.to_empty(device="cpu")
        assert len(list(model.parameters())) == len(list(real.parameters()))
    model.load_state_dict(copy.deepcopy(real.state_dict()), assign=assign)
    assert model(*given).equal(real(*given))
    assert len(list(model.parameters())) == len(list(real.parameters()))
    assert not any(buffer.is_meta for buffer in model.buffers())


@every_model
def test_model_reset(name: str) -> None:
    model: Any = translator(name)
    before = {key: float(value.std()) for key, value in model.state_dict().items()}
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(torch.nan)
    model.reset_parameters()
    assert model(*sentences()).isfinite().all()
    for key, value in model.state_dict().items():
        assert before[key] / 3 - 0.05 < float(value.std()) < before[key] * 3 + 0.05, key


@every_model
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_model_in_default_dtypes(name: str, dtype: torch.dtype) -> None:
    with default_dtype(dtype):
        out = translator(name)(*sentences())
    assert out.dtype == dtype
    assert out.isfinite().all()
