"""The layers under torch's tools, beside torch's own layer: what is recorded, converted or adapted computes
the same.  docs/torch.md lists the tools; the last test holds the two together.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize, prune

import qkv
from qkv.errors import BadMask, BadShape
from qkv.model.positions import Sinusoids
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig

WIDTH, HEADS = 8, 2
SIZES = [(3, 17), (1, 5), (2, 600)]  # not those that programs are recorded with
PAGE = Path(__file__).parent.parent / "docs" / "torch.md"

pytestmark = [
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

DROP_INS: dict[str, dict[str, Any]] = {
    "drop-in": {},
    "drop-in, elu": {"kernel": qkv.Elu()},
    "drop-in, rfa": {"kernel": qkv.RFA(8)},
}
ATTENTIONS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "causal": {"causal": True},
    "shared heads": {"kv_heads": 1},
    "general": {"score": qkv.General()},
    "additive": {"score": qkv.Additive()},
    "location": {"score": qkv.Location(2048)},
    "window": {"scope": qkv.Window(2)},
    "causal window": {"scope": qkv.Window(2), "causal": True},
    "predictive": {"scope": qkv.Predictive(2)},
    "sparsemax": {"select": qkv.Sparsemax()},
    "top-k": {"select": qkv.TopK(3)},
    "hard": {"select": qkv.Hard()},
    "elu": {"kernel": qkv.Elu()},
    "causal elu": {"kernel": qkv.Elu(), "causal": True},
    "rfa": {"kernel": qkv.RFA(8)},
    "rfa with a gate": {"kernel": qkv.RFA(8, gate=True), "causal": True},
    "rfa with lengths": {"kernel": qkv.RFA(8, normalise=False), "causal": True},
    "arccos": {"kernel": qkv.RFA(8, "arccos")},
    "causal favor": {"kernel": qkv.Favor(8), "causal": True},
}
EVERY = ["torch", *DROP_INS, *ATTENTIONS]
SLOW = {
    "shared heads",
    "general",
    "location",
    "causal window",
    "sparsemax",
    "top-k",
    "hard",
    "elu",
    "rfa",
    "arccos",
}
every_kind = pytest.mark.parametrize("kind", EVERY)
most_kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in EVERY]
)


class Model(nn.Module):
    """A layer that attends from x [B,N,M] to itself; keep [B,N] marks the real positions."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.kind = kind
        if kind in ATTENTIONS:
            self.layer: Any = qkv.Attention(WIDTH, HEADS, **ATTENTIONS[kind], **options)
        elif kind == "torch":
            self.layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        else:
            self.layer = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, **DROP_INS[kind], **options)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        if self.kind in ATTENTIONS:
            return self.layer(x, keep=keep)
        ignore = torch.zeros_like(keep, dtype=x.dtype).masked_fill(~keep, -torch.inf)
        return self.layer(x, x, x, key_padding_mask=ignore, need_weights=False)[0]


def inputs(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """x and keep: rows of different lengths, padded on the right."""
    ends = length - torch.arange(batch)[:, None] % length
    return torch.randn(batch, length, WIDTH), torch.arange(length) < ends


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def agree(recorded: Callable[..., Tensor], model: nn.Module, sizes: list[tuple[int, int]] = SIZES) -> None:
    """The same values for other sizes, other inputs and other padding."""
    with torch.no_grad():
        for size in sizes:
            given = inputs(*size)
            close(recorded(*given), model(*given), 3e-5)


def twins(**options: Any) -> tuple[Any, Any]:
    """torch's layer and ours with the same weights."""
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def fill_memory() -> None:
    """Leave numbers in the memory that to_empty is going to find."""
    junk = [torch.full((size,), 7e3) for size in (16, 64, 256, 2048, 4096) for _ in range(30)]
    del junk


# ---- programs ----


@every_kind
def test_traced_by_jit(kind: str) -> None:
    model = Model(kind).eval()
    with torch.no_grad():
        traced: Any = torch.jit.trace(model, inputs(2, 10))
        agree(traced, model)


@pytest.mark.parametrize("need_weights", [True, False])
def test_traced_drop_in_with_a_mask_that_adds(need_weights: bool) -> None:
    x, mask = torch.randn(2, 10, WIDTH), torch.zeros(10, 10)
    for layer in twins():

        class Masked(nn.Module):
            def __init__(self, layer: nn.Module) -> None:
                super().__init__()
                self.layer = layer

            def forward(self, x: Tensor, mask: Tensor) -> Tensor:
                return self.layer(x, x, x, attn_mask=mask, need_weights=need_weights)[0]

        model = Masked(layer.eval())
        with torch.no_grad():
            traced: Any = torch.jit.trace(model, (x, mask))
            for length in (10, 13):
                other = torch.randn(3, length, WIDTH), torch.randn(length, length)
                close(traced(*other), model(*other))


def export(model: nn.Module, strict: bool, least: int = 1) -> Callable[..., Tensor]:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=least, max=2048)
    shapes = {"x": {0: batch, 1: length}, "keep": {0: batch, 1: length}}
    with torch.no_grad():
        return torch.export.export(model, inputs(2, 70), dynamic_shapes=shapes, strict=strict).module()


@most_kinds
def test_exported_with_any_batch_and_length(kind: str) -> None:
    model = Model(kind).eval()
    agree(export(model, strict=False), model)


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("torch", "drop-in, rfa", "window") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in EVERY
    ],
)
def test_exported_strictly(kind: str) -> None:
    model = Model(kind).eval()
    agree(export(model, strict=True), model)


@pytest.mark.parametrize("kind", ["window", "rfa with lengths"])
def test_exported_for_long_inputs_only(kind: str) -> None:
    """There the fast routes hold for every size, and are recorded."""
    model = Model(kind).eval()
    agree(export(model, strict=False, least=66), model, [(3, 70), (2, 600)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        *(
            pytest.param(o, marks=pytest.mark.slow)
            for o in ({"score": qkv.Additive()}, {"scope": qkv.Predictive(2)})
        ),
    ],
)
def test_exported_attention_to_a_memory(options: dict[str, Any]) -> None:
    class Reader(nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.layer = qkv.Attention(WIDTH, HEADS, d_memory=6, **options)

        def forward(self, x: Tensor, memory: Tensor, keep: Tensor, bias: Tensor) -> Tensor:
            return self.layer(x, memory, keep=keep, bias=bias)

    batch, queries, keys = (torch.export.Dim(name, min=2, max=1024) for name in ("batch", "queries", "keys"))
    shapes = ({0: batch, 1: queries}, {0: batch, 1: keys}, {0: batch, 1: keys}, {0: queries, 1: keys})

    def given(batch: int, queries: int, keys: int) -> tuple[Tensor, ...]:
        x, memory = torch.randn(batch, queries, WIDTH), torch.randn(batch, keys, 6)
        return x, memory, torch.rand(batch, keys) < 0.7, torch.randn(queries, keys)

    model = Reader(**options).eval()
    exported = torch.export.export(model, given(2, 5, 7), dynamic_shapes=shapes).module()
    for sizes in ((3, 4, 9), (2, 700, 3)):
        other = given(*sizes)
        close(exported(*other), model(*other), 3e-5)


@pytest.mark.parametrize(
    "kind", ["torch", "drop-in", "drop-in, rfa", "window", "causal elu", "rfa with a gate"]
)
def test_exported_in_training(kind: str) -> None:
    """The recorded program draws, drops and learns; its shapes are those of the layer."""
    model = Model(kind)
    given = inputs(2, 10)
    exported = torch.export.export(model, given).module()
    exported(*given).sum().backward()
    assert all(parameter.grad is not None for parameter in exported.parameters())


@most_kinds
def test_recorded_by_make_fx(kind: str) -> None:
    model = Model(kind).eval()
    weights = {name: value.detach() for name, value in model.state_dict().items()}

    def call(weights: dict[str, Tensor], x: Tensor, keep: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x, keep))

    with torch.no_grad():
        graph = make_fx(call, tracing_mode="symbolic")(weights, *inputs(5, 11))  # no size of a weight
    agree(lambda x, keep: graph(weights, x, keep), model)


@every_kind
@pytest.mark.parametrize("length", [10, 700])
def test_fake_tensors(kind: str, length: int) -> None:
    with FakeTensorMode():
        model, (x, keep) = Model(kind), inputs(2, length)
        assert model.eval()(x, keep).shape == x.shape
        model.train()(x, keep).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@every_kind
def test_fake_tensors_made_of_a_real_layer(kind: str) -> None:
    model = Model(kind).eval()
    state, given = model.state_dict(), inputs(2, 10)
    with FakeTensorMode() as mode:
        weights: dict[str, Any] = {name: mode.from_tensor(value) for name, value in state.items()}
        x, keep = (mode.from_tensor(part) for part in given)
        assert torch.func.functional_call(model, weights, (x, keep)).shape == x.shape


def test_fake_steps() -> None:
    every: list[dict[str, Any]] = [{}, {"scope": qkv.Window(2)}, {"kernel": qkv.RFA(8)}]
    with FakeTensorMode(), torch.no_grad():
        for options in every:
            layer = qkv.Attention(WIDTH, HEADS, causal=True, **options).eval()
            state = layer.start(batch=2)
            for _ in range(3):
                out, state = layer.step(torch.randn(2, 1, WIDTH), state, keep=torch.ones(2, 1).bool())
            assert out.shape == (2, 1, WIDTH)


@every_kind
def test_leaf_of_an_fx_graph(kind: str) -> None:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, qkv.Attention | nn.MultiheadAttention)

    model = Model(kind).eval()
    graph = torch.fx.GraphModule(model, Tracer().trace(model))
    assert [node.op for node in graph.graph.nodes].count("call_module") == 1
    agree(graph, model)


# ---- a boolean padding mask in torch's encoder, which hands on a float one ----


def encoder(**parts: Any) -> Any:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, 0.0, batch_first=True)
    torch_encoder: Any = nn.TransformerEncoder(layer, 2).eval()
    if parts.pop("ours", True):
        for inner in torch_encoder.layers:
            inner.self_attn = qkv.MultiheadAttention.from_torch(inner.self_attn, **parts)
    return torch_encoder


ENCODERS: dict[str, dict[str, Any]] = {
    "torch": {"ours": False},
    "softmax": {},
    "elu": {"kernel": qkv.Elu()},
    "rfa": {"kernel": qkv.RFA(8)},
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoder_compiled_and_exported(kind: str) -> None:
    torch.compiler.reset()
    model = encoder(**ENCODERS[kind])
    x, keep = inputs(2, 10)
    expected = model(x, src_key_padding_mask=~keep)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(x, src_key_padding_mask=~keep)[keep], expected[keep])
    exported = torch.export.export(model, (x,), {"src_key_padding_mask": ~keep}).module()
    close(exported(x, src_key_padding_mask=~keep)[keep], expected[keep])


def test_recorded_feature_map_asserts_that_the_mask_does_not_add() -> None:
    torch.compiler.reset()
    layer = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True, kernel=qkv.Elu()).eval()
    x, mask = torch.randn(2, 5, WIDTH), torch.zeros(2, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for call in (layer, compiled):
        call(x, x, x, mask)
        with pytest.raises((BadMask, RuntimeError), match="adds to the scores, but Elu"):
            call(x, x, x, mask + 1)


def test_encoders_do_not_go_around_the_parts() -> None:
    """torch's layer would compute with the weights in evaluation, and not call the attention."""
    x, keep = inputs(3, 6)
    plain = encoder(ours=False)
    for parts in ({"score": qkv.Cosine()}, {"kernel": qkv.Elu()}):
        model = encoder(**parts)
        assert model.layers[0].self_attn._qkv_same_embed_dim
        model.load_state_dict(plain.state_dict(), strict=False)
        expected = model(x, src_key_padding_mask=~keep)
        with torch.no_grad():
            close(model(x, src_key_padding_mask=~keep)[keep], expected[keep])
            assert (model(x) - plain(x)).abs().max() > 1e-3
            close(copy.deepcopy(model)(x), model(x))


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


def test_exported_positions_of_any_length() -> None:
    positions, x = Sinusoids(WIDTH), torch.randn(2, 10, WIDTH)
    length = torch.export.Dim("length", min=2, max=2048)
    exported = torch.export.export(positions, (x,), dynamic_shapes=({1: length},)).module()
    for size in (7, 700):
        longer = torch.randn(2, size, WIDTH)
        close(exported(longer), positions(longer))


# ---- weights that are not plain parameters ----


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def test_from_torch_of_a_pruned_module() -> None:
    theirs, _ = twins()
    prune.l1_unstructured(theirs, "in_proj_weight", 0.5)
    prune.random_unstructured(theirs.out_proj, "weight", 0.5)
    with torch.no_grad():
        theirs.in_proj_weight_orig.mul_(2)  # as an optimizer does: the mask is applied at the next call
    ours = qkv.MultiheadAttention.from_torch(theirs)
    x = torch.randn(2, 5, WIDTH)
    close(ours(x, x, x)[0], theirs(x, x, x)[0])
    assert (ours.in_proj_weight == 0).sum() == ours.in_proj_weight.numel() // 2
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_from_torch_of_a_parametrised_module() -> None:
    theirs, _ = twins()
    parametrize.register_parametrization(theirs, "in_proj_weight", Halved())
    parametrize.register_parametrization(theirs.out_proj, "weight", Halved())
    parametrize.register_parametrization(theirs, "in_proj_bias", Halved())
    theirs.parametrizations.in_proj_bias.original.requires_grad_(False)
    ours = qkv.MultiheadAttention.from_torch(theirs)
    x = torch.randn(2, 5, WIDTH)
    close(ours(x, x, x)[0], theirs(x, x, x)[0])
    frozen = [name for name, parameter in ours.named_parameters() if not parameter.requires_grad]
    assert frozen == ["in_proj_bias"]


@pytest.mark.parametrize("kind", EVERY)
def test_pruned_and_parametrised_layers_compute_with_the_new_weights(kind: str) -> None:
    model, given = Model(kind).eval(), inputs(2, 10)
    plain = copy.deepcopy(model)
    place = ("to_q", "weight") if kind in ATTENTIONS else ("", "in_proj_weight")
    module, other = (m.layer.get_submodule(place[0]) for m in (model, plain))
    prune.l1_unstructured(module, place[1], 0.5)
    last = "to_out" if place[0] else "out_proj"
    parametrize.register_parametrization(model.layer.get_submodule(last), "weight", Halved())
    with torch.no_grad():
        getattr(other, place[1]).copy_(getattr(module, place[1]))
        plain.layer.get_submodule(last).weight.div_(2)
        close(model(*given), plain(*given))


def test_dynamically_quantised() -> None:
    """torch does not quantise a layer's own projections; qkv.Attention has linear layers, which it does."""
    x, keep = inputs(3, 6)
    model = encoder(ours=False)
    ours = copy.deepcopy(model)
    for layer in ours.layers:
        layer.self_attn = qkv.MultiheadAttention.from_torch(layer.self_attn)
    both = [torch.ao.quantization.quantize_dynamic(m, {nn.Linear}, torch.qint8) for m in (model, ours)]
    for layer in both[1].layers:
        assert type(layer.self_attn.out_proj) is type(both[0].layers[0].self_attn.out_proj)
    torch.backends.mha.set_fastpath_enabled(False)  # torch's own would read the packed weights as tensors
    try:
        close(*(m(x, src_key_padding_mask=~keep)[keep] for m in both))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    attention = Model("softmax").eval()
    quantised = torch.ao.quantization.quantize_dynamic(attention, {nn.Linear}, torch.qint8)
    assert "quantized" in type(quantised.layer.to_q).__module__
    close(quantised(x, keep), attention(x, keep), 0.05)


def test_quantised_layers_are_those_of_torch() -> None:
    x = torch.randn(2, 5, WIDTH)
    outs = []
    for layer in twins():
        quantised = torch.ao.quantization.quantize_dynamic(layer.eval(), {nn.Linear}, torch.qint8)
        outs.append(quantised(x, x, x)[0])
        close(outs[-1], layer(x, x, x)[0], 0)
    close(*outs)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_dropout_of_everything(dropout: float) -> None:
    x = torch.randn(2, 5, WIDTH)
    for need_weights in (True, False):
        theirs, ours = twins(dropout=dropout)
        close(ours(x, x, x, need_weights=need_weights)[0], theirs(x, x, x, need_weights=need_weights)[0])
    layer = qkv.Attention(WIDTH, HEADS, dropout=dropout)
    assert layer(x).any() == (dropout == 0)
    layer(x).sum().backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in layer.parameters() if parameter.grad is not None
    )


# ---- nested tensors ----


LAYOUTS = pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])


@LAYOUTS
@pytest.mark.parametrize("kind", DROP_INS)
@pytest.mark.parametrize("lengths", [(2, 5), (2, 4, 1), (3, 3)])
def test_nested(kind: str, layout: torch.layout, lengths: tuple[int, ...]) -> None:
    layer = Model(kind).eval().layer
    rows = [torch.randn(length, WIDTH) for length in lengths]
    x = torch.nested.nested_tensor(rows, layout=layout, requires_grad=True)
    out, weights = layer(x, x, x)
    assert out.layout == layout
    for row, expected in zip(out.unbind(), rows, strict=True):
        close(row, layer(expected[None], expected[None], expected[None])[0][0])
    assert weights.shape == (len(rows), max(lengths), max(lengths))
    total = torch.cat(out.unbind()).square().sum()
    total.backward()
    assert x.grad is not None
    assert (x + out).layout == layout  # a residual connection


def test_nested_views_with_holes() -> None:
    layer, dense = Model("drop-in").eval().layer, torch.randn(3, 6, WIDTH)
    x = torch.nested.narrow(dense, 1, torch.tensor([0, 1, 2]), torch.tensor([3, 5, 2]), layout=torch.jagged)
    out, _ = layer(x, x, x)
    for row, begin, length in zip(out.unbind(), (0, 1, 2), (3, 5, 2), strict=True):
        part = dense[[0, 1, 2][begin], begin : begin + length][None]
        close(row, layer(part, part, part)[0][0])


@LAYOUTS
def test_nested_where_it_is_refused(layout: torch.layout) -> None:
    rows = [torch.randn(length, WIDTH) for length in (2, 3, 3)]
    x = torch.nested.nested_tensor(rows, layout=layout)
    last = qkv.MultiheadAttention(WIDTH, HEADS)  # as many rows as the longest has positions: it would fit
    with pytest.raises(BadShape, match="made with batch_first=False"):
        last(x, x, x)
    first = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    dense = torch.randn(3, 3, WIDTH)
    for given in ((x, x, dense), (x, dense, dense), (dense, x, x)):
        with pytest.raises(BadShape, match="only attend to itself"):
            first(*given)
    with pytest.raises(BadShape, match="without masks"):
        first(x, x, x, torch.zeros(3, 3).bool())
    with pytest.raises(BadShape, match=r"x is a nested tensor: pass it padded, .*keep="):
        qkv.Attention(WIDTH, HEADS)(x)


def test_nested_without_sequences() -> None:
    first, empty = qkv.MultiheadAttention(WIDTH, HEADS, batch_first=True), torch.nested.nested_tensor([])
    with pytest.raises(BadShape, match=r"one or more sequences .*got 0 tensors"):
        first(empty, empty, empty)


# ---- PEFT ----


@pytest.mark.parametrize("parts", [{}, {"kernel": qkv.RFA(8, redraw=False)}, {"score": qkv.Additive()}])
def test_lora_adapts_and_merges(parts: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    x = torch.randn(2, 5, WIDTH)
    theirs, _ = twins()
    ours = qkv.MultiheadAttention.from_torch(theirs, **parts)
    config = peft.LoraConfig(r=2, target_modules=["attention"], init_lora_weights=False)
    outs = []
    for layer in (theirs, ours):
        torch.manual_seed(1)
        model = peft.get_peft_model(nn.ModuleDict({"attention": layer}), config).base_model.model
        adapted = model["attention"]
        before = layer(x, x, x)[0]
        out = adapted(x, x, x)[0]
        assert (out - before).abs().max() > 1e-3
        out.square().sum().backward()
        learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert learns
        assert all("lora_" in name for name in learns)
        outs.append(out)
        merged = adapted.unload_and_optionally_merge_module(True, True, None)
        assert merged is layer
        close(merged(x, x, x)[0], out)
    if not parts:
        close(*outs)


def test_lora_on_the_linear_layers_of_attention() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_kv", "to_out"], init_lora_weights=False)
    model, given = Model("causal elu").eval(), inputs(2, 10)
    plain = model(*given)
    adapted = peft.get_peft_model(model, config)
    out = adapted(*given)
    assert (out - plain).abs().max() > 1e-3
    with torch.no_grad():
        close(adapted.merge_and_unload()(*given), out)


# ---- what cannot work, and the page ----


def test_what_reads_the_source_of_forward_fails_as_the_page_says() -> None:
    layer: Any = qkv.MultiheadAttention(WIDTH, HEADS)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever torch finds first
        torch.jit.script(layer)
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.fx.symbolic_trace(layer)
    layer.qconfig = torch.ao.quantization.get_default_qconfig()
    with pytest.raises(AssertionError, match="Expected type"):
        torch.ao.nn.quantizable.MultiheadAttention.from_float(layer)


WORKS = {
    "torch.jit.trace": test_traced_by_jit,
    "torch.export": test_exported_with_any_batch_and_length,
    "torch.compile(fullgraph=True)": test_encoder_compiled_and_exported,
    "make_fx": test_recorded_by_make_fx,
    "FakeTensorMode": test_fake_tensors,
    "torch.fx, as a leaf": test_leaf_of_an_fx_graph,
    "the meta device": test_meta_device,
    "to_empty, load_state_dict": test_meta_then_loaded,
    "reset_parameters": test_meta_then_reset,
    "torch.set_default_dtype": test_default_dtypes,
    "prune, parametrize": test_pruned_and_parametrised_layers_compute_with_the_new_weights,
    "quantize_dynamic": test_dynamically_quantised,
    "nn.TransformerEncoder": test_encoders_do_not_go_around_the_parts,
    "nested tensors": test_nested,
    "peft.LoraConfig": test_lora_adapts_and_merges,
}
FAILS = ["torch.jit.script", "torch.fx.symbolic_trace", "torch.ao.nn.quantizable"]


def test_the_page_lists_the_tools_that_are_tested() -> None:
    cells = [
        line.split("|")[1:3] for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    listed = {name.strip().replace("`", ""): answer.strip() for name, answer in cells}
    assert listed == dict.fromkeys(WORKS, "yes") | dict.fromkeys(FAILS, "no")
