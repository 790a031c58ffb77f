"""A torch that lacks one of the private names that qkv uses: slower routes, the same results, no crash."""

import subprocess
import sys
from pathlib import Path

import qkv
from qkv import torch_internals

# Runs in a process of its own, because torch itself uses these names.
PROGRAM = """
import sys
import torch, torch.func
from torch.autograd import forward_ad
import torch._C._functorch, torch.utils._python_dispatch, torch.nn.modules.module

for path in sys.argv[1:]:
    owner, _, name = path.rpartition(".")
    delattr(eval(owner), name)

import qkv
from qkv import torch_internals
from qkv import doctor
from qkv.kernel import native

assert torch_internals.MISSING == sys.argv[1:], torch_internals.MISSING
x = torch.randn(3, 6, 16)
assert native.explain_why_unsupported(x).endswith(torch_internals.missing_names())
for options in ({}, {"score": "additive"}, {"kernel": "rfa"}, {"kernel": "favor"}, {"kernel": "elu"}):
    layer = qkv.Attention(16, 2, **options, causal=True).eval()
    with torch.no_grad():
        whole, state = layer(x), layer.start(batch=3)
        for t in range(6):
            out, state = layer.step(x[:, t], state)
            torch.testing.assert_close(out, whole[:, t], rtol=1e-4, atol=1e-5)
    layer(x.requires_grad_()).sum().backward()
    torch.testing.assert_close(layer.double()(x.double()).float(), whole, rtol=1e-4, atol=1e-5)
found = doctor.examine()
print(next(line for line in doctor.report_lines(found) if line.startswith("native")))
print({check.route for check in found.checks}, found.healthy)
"""
NAMES = (
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C._functorch.get_interpreter_stack",
    "torch.utils._python_dispatch.is_in_torch_dispatch_mode",
    "torch._assert_async",
    "torch.autograd.forward_ad._current_level",
)


def test_the_installed_torch_has_them_all() -> None:
    assert torch_internals.MISSING == []
    assert torch_internals.missing_names() == ""


def test_without_them_the_native_engine_is_not_used() -> None:
    source = str(Path(str(qkv.__file__)).parent.parent)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *NAMES]
    process = subprocess.run(command, env={"PYTHONPATH": source}, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    line, routes = process.stdout.splitlines()
    assert line.endswith(f"lacks {', '.join(NAMES)}")
    assert routes == "{'torch'} True"
