"""`SelfAttention2d` equals its formula on single cells, in both published forms and with other parts."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qkv.errors import BadData, BadMask, BadRecipe, BadShape, IncompatibleParts, UnknownName
from qkv.kernel import RFA, Elu
from qkv.model.self_attention_2d import SelfAttention2d
from qkv.scope import Neighbourhood, Predictive, Window
from qkv.score import Additive, Cosine, Location
from qkv.select import Entmax, Hard, TopK
from qkv.trace import Grid, Trace, trace_query_points
from reference import grid
from reference.loops import weights_of
from test_exact import Largest, close

C, Y, X = 8, 3, 5
FORMS: dict[str, dict[str, Any]] = {
    "lecture": {},
    "heads": {"heads": 2, "inner": 6, "value": 4, "bias": False},
    "pooled": {"heads": 2, "inner": 4, "pool": 2},
    "sagan": {
        "inner": 2,
        "value": 4,
        "pool": 2,
        "spectral_norm": True,
        "gamma": 0.0,
        "bias": False,
        "score": "dot",
    },
    "neighbourhood": {"scope": Neighbourhood(Y, X, 1)},
    "causal": {"scope": Neighbourhood(Y, X, 1), "causal": True, "select": Entmax()},
    "cosine": {"score": Cosine(3.0), "select": TopK(2)},
    "additive": {"heads": 2, "score": Additive(5), "pool": 2},
    "location": {"score": Location(6), "pool": 2},
    "predictive": {"scope": Predictive(2), "pool": 2},
    "rfa": {"heads": 2, "kernel": RFA(16, temperature=0.5)},
    "pooled elu": {"kernel": Elu(), "pool": 2},
}
every_form = pytest.mark.parametrize("form", FORMS)


def build(form: str) -> SelfAttention2d:
    """The module in evaluation, with all parameters away from their initial values."""
    module = SelfAttention2d(C, **FORMS[form]).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return with_exact_norms(module)


def with_exact_norms(module: SelfAttention2d) -> SelfAttention2d:
    """The module in evaluation, after enough power iterations of its spectral norm: every use is one."""
    for convolution in (module.to_q, module.to_k, module.to_v, module.to_out):
        for _ in range(300 if module.has_spectral_norm else 0):
            convolution.weight.norm()
    return module.eval()


def feature_map(batch: int = 2) -> Tensor:
    return torch.randn(batch, C, Y, X).double()


def hidden_cells() -> Tensor:
    """Single cells, a whole square, and in the second map all but one cell."""
    keep = torch.rand(2, Y, X) < 0.7
    keep[0, :2, :2] = False
    keep[1] = False
    keep[1, 2, 4] = True
    return keep


@every_form
def test_equals_the_formula_on_single_cells(form: str) -> None:
    module, x = build(form), feature_map()
    for keep in (None, hidden_cells()):
        expected, attended = grid.self_attention_2d(module, x, keep), module.attend(x, keep=keep)
        close(attended.out, expected.out, 1e-9)
        close(module(x, keep=keep), expected.out, 1e-9)
        weights = weights_of(attended)
        if keep is not None:  # the formula leaves out the rows of hidden cells
            weights = torch.where(keep.flatten(1)[:, None, :, None], weights, 0)
        close(weights, expected.weights, 1e-9)


def test_sagan_is_the_published_module() -> None:
    module, x = SelfAttention2d.sagan(64), torch.randn(2, 64, 6, 8)
    shapes = [tuple(c.weight.shape[:2]) for c in (module.to_q, module.to_k, module.to_v, module.to_out)]
    assert shapes == [(8, 64), (8, 64), (32, 64), (64, 32)]
    assert module.attend(x).weights.shape == (2, 1, 48, 12)  # pyright: ignore[reportOptionalMemberAccess]
    assert module.gamma.shape == (1,)  # pyright: ignore[reportOptionalMemberAccess]
    assert all(c.bias is None for c in (module.to_q, module.to_k, module.to_v, module.to_out))
    assert repr(module.spec.score) == "Dot()"
    module = SelfAttention2d.sagan(C).double()
    with torch.no_grad():
        module.gamma.fill_(0.7)  # pyright: ignore[reportOptionalMemberAccess]
    module, x = with_exact_norms(module), feature_map()
    close(module(x), grid.self_attention_2d(module, x).out, 1e-9)
    assert SelfAttention2d.sagan(64, kernel="rfa").spec.score is None


def test_with_gamma_zero_it_is_the_identity_and_only_gamma_learns() -> None:
    module, x = SelfAttention2d.sagan(C).double(), feature_map()
    assert module(x).equal(x)
    module(x).square().sum().backward()
    gradients = {
        name: p.grad.abs().max().item() for name, p in module.named_parameters() if p.grad is not None
    }
    assert len(gradients) == 5
    assert {name for name, largest in gradients.items() if largest} == {"gamma"}


def test_without_pooling_and_positions_it_is_permutation_equivariant() -> None:
    x, order = feature_map(), torch.randperm(Y * X)
    for form in ("lecture", "heads", "cosine", "rfa"):
        module = build(form)
        permuted = x.flatten(2)[..., order].unflatten(2, (Y, X))
        close(module(permuted).flatten(2), module(x).flatten(2)[..., order])
    module = build("neighbourhood")
    assert (module(permuted).flatten(2) - module(x).flatten(2)[..., order]).abs().max() > 1e-3


@every_form
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    module, keep = build(form), hidden_cells()
    assert torch.autograd.gradcheck(
        lambda x: module(x, keep=keep), feature_map().requires_grad_(), fast_mode=True
    )
    parameters = dict(module.named_parameters())
    x = feature_map()

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), (x,))

    leaves = [parameter.detach().requires_grad_() for parameter in parameters.values()]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@every_form
def test_what_hidden_cells_hold_changes_nothing(form: str) -> None:
    module, keep, x = build(form), hidden_cells(), feature_map()
    results = []
    for junk in (0.1, torch.nan, torch.inf):
        filled = torch.where(keep[:, None], x, junk).requires_grad_()
        out = module(filled, keep=keep)
        gradients = torch.autograd.grad(out.square().sum(), [filled, *module.parameters()], allow_unused=True)
        results.append([out, *(g for g in gradients if g is not None)])
        assert not gradients[0].permute(0, 2, 3, 1)[~keep].any()
        assert not out.permute(0, 2, 3, 1)[~keep].any()
    close(results[1:], [results[0]] * 2, 1e-9)


@every_form
def test_channels_last_stays_channels_last(form: str) -> None:
    module, x = build(form), torch.randn(2, C, Y, X).double()
    last = module(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert module(x).is_contiguous()
    close(last, module(x))


# The shape checks of the test run, though switched off, do not compile where RFA reads longer inputs.
@pytest.mark.parametrize(("form", "rows"), [("heads", 3), ("sagan", 3), ("neighbourhood", 3), ("rfa", 1)])
def test_compiles_and_exports_as_one_graph(form: str, rows: int, unchecked: None) -> None:
    torch.compiler.reset()
    module, x = build(form), feature_map()[:, :, :rows]
    close(torch.compile(module, fullgraph=True, backend="eager")(x), module(x))
    close(torch.export.export(module, (x,)).module()(x), module(x))


@every_form
def test_weights_round_trip_through_a_checkpoint(form: str) -> None:
    module, x, file = build(form), feature_map(), io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    twin = SelfAttention2d(C, **FORMS[form]).double().eval()
    assert (twin(x) - module(x)).abs().max() > 1e-3
    twin.load_state_dict(torch.load(file, weights_only=True))
    close(twin(x), module(x), 0)
    close(copy.deepcopy(module)(x), module(x), 0)


def test_parameters_can_be_initialised_later_and_again() -> None:
    with torch.device("meta"):
        module = SelfAttention2d.sagan(C)
    module.to_empty(device="cpu").reset_parameters()
    assert module.gamma.item() == 0  # pyright: ignore[reportOptionalMemberAccess]
    assert 0.9 < torch.linalg.matrix_norm(module.eval().to_q.weight[:, :, 0, 0], 2) < 1.1
    before = [id(parameter) for parameter in module.parameters()]
    module.reset_parameters()
    assert [id(parameter) for parameter in module.parameters()] == before


def test_a_gate_lets_earlier_cells_decay() -> None:
    module, x = SelfAttention2d(C, kernel=RFA(16, gate=True), causal=True).double(), feature_map()
    weights = weights_of(module.attend(x))
    assert not weights[0, 0].triu(1).any()
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_sampled_cells_have_a_log_probability() -> None:
    attended = SelfAttention2d(C, select=Hard()).double().attend(feature_map())
    assert attended.log_prob.shape == (2, 1, Y * X)  # pyright: ignore[reportOptionalMemberAccess]


def test_half_precision_and_autocast() -> None:
    x = feature_map()
    module = build("sagan")
    expected = module(x)
    close(module.bfloat16()(x.bfloat16()).double(), expected, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        close(module.float()(x.float()).double(), expected, 0.1)


def test_a_neighbourhood_of_a_large_map_makes_no_tensor_of_all_pairs() -> None:
    module, x = SelfAttention2d(C, scope=Neighbourhood(64, 64, 2)), torch.randn(1, C, 64, 64)
    assert " tiles of " in module.explain(64, 64)
    for kernel_module in (module, SelfAttention2d(C, kernel=RFA(8))):
        with Largest() as largest:
            kernel_module(x).sum().backward()
        assert largest.elements < (64 * 64) ** 2 / 10


@pytest.mark.parametrize(
    ("channels", "options", "error", "message"),
    [
        (0, {}, BadRecipe, "channels must be a positive whole number, got 0"),
        (8, {"pool": 1.5}, BadRecipe, "pool must be a positive whole number, got 1.5"),
        (
            8,
            {"heads": 3},
            BadShape,
            "inner=8 channels cannot be split into heads=3 of equal width",
        ),
        (8, {"heads": 2, "value": 5}, BadShape, "value=5 channels cannot be split into heads=2"),
        (8, {"kernel": RFA(), "score": "dot"}, IncompatibleParts, "kernel and score clash"),
        (8, {"kernel": "rfq"}, UnknownName, "Did you mean 'rfa'"),
        (
            8,
            {"pool": 2, "scope": Window(2)},
            IncompatibleParts,
            r"scope=Window.*pool=2.*or scope=Global",
        ),
        (8, {"pool": 2, "scope": Neighbourhood(4, 4, 1)}, IncompatibleParts, "coarser grid than the queries"),
        (8, {"pool": 2, "causal": True}, IncompatibleParts, "causal=True compares.*pool=1 or causal=False"),
    ],
)
def test_mistakes_are_named(
    channels: int, options: dict[str, Any], error: type, message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=message):
        SelfAttention2d(channels, **options)


@pytest.mark.parametrize(
    ("shape", "keep", "error", "message"),
    [
        ((2, 7, 4, 6), None, BadShape, r"x must be \[batch, 8, height, width\], got \(2, 7, 4, 6\)"),
        ((2, 8, 24), None, BadShape, r"got \(2, 8, 24\)"),
        ((2, 8, 6, 4), None, BadShape, r"x has 6×4 cells, but the scope is Neighbourhood\(height=4, width=6"),
        ((2, 8, 4, 6), torch.ones(2, 24).bool(), BadMask, r"keep must be .* = \[2, 4, 6\], got \[2, 24\]"),
        ((2, 8, 4, 6), torch.ones(2, 4, 6), BadMask, "keep must be boolean"),
    ],
)
def test_wrong_inputs_are_named(
    shape: tuple[int, ...], keep: Any, error: type, message: str, unchecked: None
) -> None:
    with pytest.raises(error, match=message):
        SelfAttention2d(8, scope=Neighbourhood(4, 6, 1))(torch.randn(shape), keep=keep)


@pytest.mark.parametrize("form", ["sagan", "neighbourhood", "rfa"])
def test_query_points_make_a_trace(form: str, tmp_path: Path) -> None:
    module, x = build(form), feature_map(1)
    trace = trace_query_points(module, x, [(0, 4), (2, 1)], picture="cat.png")
    [example], weights = trace.examples, weights_of(module.attend(x))[0].detach()
    assert example.named_axes["query points"] == ("(0, 4)", "(2, 1)")
    rows, columns = module.key_grid(Y, X)
    assert example.named_axes["cells"] == Grid(rows, columns, "cat.png")
    np.testing.assert_allclose(example.weights["self.0"], weights[:, [4, 11]].float(), rtol=1e-6)
    trace.save(tmp_path / "points.npz")
    assert Trace.load(tmp_path / "points.npz").examples[0].weights["self.0"].shape[1:] == (2, rows * columns)
    assert trace.unnormalised == (("self.0",) if form == "rfa" else ())


@pytest.mark.parametrize(
    ("batch", "points", "message"),
    [
        (1, [(3, 0)], r"\(3, 0\) is not a cell of a map of 3×5: pass .* to \(2, 4\)"),
        (1, [(0, -1)], r"\(0, -1\) is not a cell"),
        (1, [], "points is empty"),
        (2, [(0, 0)], r"x holds 2 feature maps.*pass x\[:1\]"),
    ],
)
def test_wrong_query_points_are_named(batch: int, points: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(BadData, match=message):
        trace_query_points(build("lecture"), feature_map(batch), points)
