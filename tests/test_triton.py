"""The Triton kernels against the torch route in float64, at sizes that cross the edges of their blocks.

On a CPU they run by Triton's interpreter, which has to be asked for before Triton is imported: in a process
of its own.  With `-m gpu` the same tests run on a CUDA device.
"""

import os
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from native_cases import Inputs, cores, doubled, every_map, inputs, part
from qkv.kernel import triton
from qkv.kernel.key_weights import compute_key_weights
from qkv.kernel.linear import Linear
from qkv.kernel.masking import Masking
from qkv.kernel.sums import Sums
from qkv.kernel.triton import call
from qkv.shapes import Dims

INSTALLED = triton.is_installed()
INTERPRETED = triton.is_interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
SMALL, WIDE = Dims(2, 5, 5, 7), Dims(1, 20, 20, 18)
ON_A_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
needs_triton = pytest.mark.skipif(not INSTALLED, reason="Triton 3.3 or newer is not installed")


def attended(
    core: Linear, inputs: Inputs, carry: Sums | None = None, causal: bool = True
) -> tuple[Tensor, Sums]:
    """The float32 core's attention by the kernels."""
    q, k, v, masking = inputs
    log_factor = core.features.compute_key_log_factor_outside_backend(k.float())
    key_weights = compute_key_weights(log_factor, masking.gate, masking.keep)
    kind = core.features.describe_for_backends(core.features.choose_projections())
    return triton.compute_linear_attention(
        kind, (q, k, v), key_weights, masking.keep, carry, causal, core.floor
    )


def leaves(inputs: Inputs, dtype: torch.dtype) -> tuple[Inputs, list[Tensor]]:
    """The same inputs in this type, and those of them that are to have gradients."""
    q, k, v, given = inputs
    made = [x.detach().to(dtype).requires_grad_() for x in (q, k, v, given.gate) if x is not None]
    gate = None if given.gate is None else made[3]
    return (made[0], made[1], made[2], given._replace(gate=gate)), made


def compare(core: Linear, reference: Linear, inputs: Inputs, causal: bool) -> None:
    """Outputs, and the gradients of everything that has any."""
    mine, wanted = leaves(inputs, torch.float32)
    theirs, wanted_there = leaves(inputs, torch.float64)
    out, expected = attended(core, mine, causal=causal)[0], reference(*theirs)
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-5)
    weights = torch.randn(out.shape).to(out)
    found = torch.autograd.grad((out * weights).sum(), [*wanted, *core.parameters()])
    known = torch.autograd.grad((expected * weights).sum(), [*wanted_there, *reference.parameters()])
    as_close(found, known)


def as_close(found: Any, expected: Any) -> None:
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-5 * max(e.abs().max().item(), 1))


def moved(inputs: Inputs) -> Inputs:
    q, k, v, given = inputs
    keep, gate = (None if x is None else x.to(DEVICE) for x in (given.keep, given.gate))
    return q.to(DEVICE), k.to(DEVICE), v.to(DEVICE), Masking(keep=keep, gate=gate)


def made(name: str, dims: Dims, causal: bool = True) -> tuple[Linear, Linear]:
    core, reference = cores(name, dims, causal)
    return core.to(DEVICE), reference.to(DEVICE)


@needs_triton
class TestKernels:
    """By the interpreter where it was asked for, otherwise on a CUDA device."""

    pytestmark = [] if INTERPRETED else ON_A_DEVICE

    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CHUNK", "MAX_TILE_FEATURES", "MAX_TILE_COLUMNS"):
            monkeypatch.setattr(call, name, 16)

    @every_map
    def test_causal_attention_equals_the_torch_route(self, name: str) -> None:
        compare(*made(name, SMALL), moved(inputs(name, SMALL, 1, 20, 20, masked=True)), True)

    @pytest.mark.parametrize("name", ["lengths", "favor", "elu"])
    def test_so_does_attention_both_ways(self, name: str) -> None:
        compare(*made(name, SMALL, False), moved(inputs(name, SMALL, 1, 18, 20, masked=True)), False)

    @pytest.mark.parametrize("name", ["arccos", "elu"])
    def test_vectors_wider_than_a_tile_are_taken_in_several(self, name: str) -> None:
        compare(*made(name, WIDE), moved(inputs(name, WIDE, 1, 9, 9)), True)

    @pytest.mark.parametrize(("name", "causal"), [("gate-lengths", True), ("favor", False)])
    def test_gradients_can_be_differentiated_again(self, name: str, causal: bool) -> None:
        core, reference = made(name, SMALL, causal)
        mine, wanted = leaves(moved(inputs(name, SMALL, 1, 18, 18, masked=True)), torch.float32)
        theirs, wanted_there = leaves(moved(inputs(name, SMALL, 1, 18, 18, masked=True)), torch.float64)

        def twice(out: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
            first = torch.autograd.grad(out.square().sum(), of, create_graph=True)
            return torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), of)

        as_close(
            twice(attended(core, mine, causal=causal)[0], wanted), twice(reference(*theirs), wanted_there)
        )

    def test_one_token_is_enough(self) -> None:
        compare(*made("gate", SMALL), moved(inputs("gate", SMALL, 1, 1, 1)), True)

    @pytest.mark.parametrize("name", ["gate-lengths", "rfa"])
    def test_gradients_run_through_a_state(self, name: str) -> None:
        core, reference = made(name, SMALL)
        whole = moved(inputs(name, SMALL, 1, 21, 21, masked=True))
        mine, wanted = leaves(whole, torch.float32)
        theirs, wanted_there = leaves(whole, torch.float64)
        first, before = attended(core, part(mine, slice(3)))
        rest, after = attended(core, part(mine, slice(3, None)), before)
        nothing = part(mine, slice(0))
        last = attended(core, (mine[0], *nothing[1:]), after, False)[0]
        state = reference.start(*part(theirs, slice(0))[1:])
        expected, known = reference.extend(state, *theirs)
        every = reference.attend_to_state(theirs[0], known)[0].out
        out = torch.cat([first, rest], 2)
        torch.testing.assert_close(out.double(), expected.out, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(last.double(), every, rtol=2e-5, atol=2e-5)
        loss = (
            (out * out).sum()
            + after.feature_sums.square().sum()
            + after.plain_sums.square().sum()
            + last.sum()
        )
        there = (
            expected.out.square().sum()
            + known.feature_sums.square().sum()
            + known.plain_sums.square().sum()
            + every.sum()
        )
        found = torch.autograd.grad(loss, [*wanted, *core.parameters()])
        as_close(found, torch.autograd.grad(there, [*wanted_there, *reference.parameters()]))

    def test_keys_alone_make_a_state(self) -> None:
        core, reference = made("gate", SMALL)
        q, k, v, given = moved(inputs("gate", SMALL, 1, 20, 20, masked=True))
        found = attended(core, (q[:, :, :0], k, v, given), causal=False)[1]
        expected = reference.start(k.double(), v.double(), doubled(given))
        for a, e in zip(found, expected[:3], strict=True):
            torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-5)

    def test_padding_is_never_read(self) -> None:
        core, _ = made("favor", SMALL)
        q, k, v, given = moved(inputs("favor", SMALL, 1, 20, 20, masked=True))
        assert given.keep is not None
        hidden = ~given.keep[:, None, :, None]
        poisoned = (k.masked_fill(hidden, float("nan")), v.masked_fill(hidden, float("inf")))
        out = [attended(core, (q, *keys, given))[0] for keys in ((k, v), poisoned)]
        assert torch.equal(*out)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_short_floats_and_any_strides_are_read_as_they_are(self, dtype: torch.dtype) -> None:
        core, _ = made("rfa", SMALL)
        q, k, v, given = moved(inputs("rfa", SMALL, 1, 20, 20))
        q, k, v = (x.to(dtype) for x in (q, k, v))
        expected = attended(core, (q.float(), k.float(), v.float(), given))[0]
        wide = [x.transpose(1, 2).repeat_interleave(2, 3).transpose(1, 2)[..., ::2] for x in (q, k, v)]
        out = attended(core, (wide[0], wide[1], wide[2], given))[0]
        assert out.dtype == dtype
        # One unit in the last place; on a device the products have as few digits.
        torch.testing.assert_close(out, expected.to(dtype), rtol=2**-7, atol=0 if INTERPRETED else 2e-3)

    @pytest.mark.slow
    @every_map
    @pytest.mark.parametrize("length", [1, 15, 16, 33, 130])
    def test_every_length(self, name: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(call, "CHUNK", 64 if length > 64 else 16)
        given = moved(inputs(name, SMALL, 2, length, length, masked=length != 16))
        compare(*made(name, SMALL), given, True)
        if "gate" not in name:
            compare(*made(name, SMALL, False), given, False)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["rfa", "gate", "favor", "elu"])
    def test_the_operators_keep_torchs_rules(self, name: str) -> None:
        q, k, v, _ = moved(inputs(name, SMALL, 1, 5, 5))
        features = made(name, SMALL)[0].features
        kind = features.describe_for_backends(features.choose_projections())
        masses = [(-torch.rand(1, 2, 5, device=DEVICE)).requires_grad_() for _ in range(2)]
        numbers = (
            triton.MAP_NUMBERS[kind.map],
            kind.scales_to_unit_length,
            True,
            kind.squared_length_factor,
            1e-2,
        )
        matrix = None if kind.matrix is None else kind.matrix.detach().requires_grad_()
        qkv = [x.requires_grad_() for x in (q, k, v)]
        given = (
            *qkv,
            matrix,
            None,
            *(masses if name == "gate" else (None, None)),
            None,
            None,
            None,
            *numbers,
        )
        torch.library.opcheck(triton.compute_linear_attention_and_query_sums, given)


@needs_triton
@pytest.mark.timeout(1800)
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_kernels_by_the_interpreter(which: str) -> None:
    quiet = ["-q", "--tb=short", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *quiet, "-m", which, __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes tensors of any device")
def test_it_says_why_it_cannot_take_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1, 1, 1)
    monkeypatch.setattr(triton, "is_installed", lambda: True)
    assert triton.explain_why_unsupported(x.double()).startswith(
        "the Triton kernels read float32, bfloat16 and float16 only"
    )
    assert (
        triton.explain_why_unsupported(x)
        == "the Triton kernels run on CUDA devices only; torch forms the same sums instead"
    )
    monkeypatch.setattr(triton, "is_installed", lambda: False)
    assert not triton.is_available()
    assert triton.explain_why_unsupported(x).startswith("Triton 3.3 or newer is not installed: pip")


@pytest.mark.skipif(INTERPRETED, reason="this is about other processes")
def test_importing_the_package_does_not_import_triton() -> None:
    program = "import sys, qkv, qkv.kernel.triton; assert 'triton.language' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


class Absent:
    """A driver of a CUDA device that is not here, enough to compile for it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("name", ["lengths", "gate", "arccos", "favor", "elu"])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_devices(name: str, capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that they run; but that the compiler takes them, and that they fit into every device's shared
    memory.
    """
    from triton.runtime import driver

    from qkv.kernel.triton import inputs as kernel_inputs
    from qkv.kernel.triton import launches

    compiled = set()

    def compile_only(kernel: Any, grid: tuple[int, ...], *given: Any) -> None:
        made = kernel.run(*given, grid=grid, warmup=True, num_warps=call.WARPS, enable_fp_fusion=True)
        assert made.metadata.shared <= 99 * 1024
        compiled.add(kernel.fn.__name__)

    for module in (kernel_inputs, launches):
        monkeypatch.setattr(module, "launch_kernel", compile_only)
    driver.set_active(Absent(capability))  # type: ignore[arg-type]
    try:
        dims = Dims(2, 64, 64, 64)
        core, _ = cores(name, dims, True)
        mine, wanted = leaves(inputs(name, dims, 1, 70, 70, masked=True), torch.float32)
        torch.autograd.grad(attended(core, mine)[0].sum(), [*wanted, *core.parameters()])
    finally:
        with suppress(RuntimeError):  # there is no driver to return to without a device
            driver.reset_active()
    assert len(compiled) >= 6
