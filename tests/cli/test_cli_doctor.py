"""`qkv doctor`: what it tells, and what it notices."""

import json
from dataclasses import replace

import pytest

import qkv
import tiny
from qkv.bench import health
from qkv.kernel import native


def test_it_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert [title for title in titles if title != "extras"] == [
        *("versions", "CPU", "memory", "GPU", "native", "Triton", "check")
    ]
    assert f"qkv {qkv.__version__}" in lines[0]
    checks = [line for line in lines if "relative error" in line]
    assert len(checks) == 5
    assert all("  ok  " in line for line in checks)


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("doctor", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert told["native"] == native.about()
    assert {check["part"] for check in told["checks"]} == {"softmax", "rfa", "favor", "elu", "additive"}
    assert all(0 <= check["error"] < 1e-5 for check in told["checks"])


def test_a_wrong_result_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = qkv.Attention.forward
    monkeypatch.setattr(qkv.Attention, "forward", lambda self, *given: forward(self, *given) * 1.001)
    assert tiny.call("doctor") == 1
    assert capsys.readouterr().out.count("FAILED") == 5


def test_a_result_that_is_no_number_is_wrong() -> None:
    assert not health.Check("rfa", "torch", float("nan")).ok
    assert health.Check("rfa", "torch", 1e-7).ok


def test_a_missing_engine_is_told_with_the_way_to_get_it() -> None:
    found = replace(health.examine(), native={"built": False, "instruction set": "", "compiler": ""})
    (line,) = (line for line in health.lines_of(found) if line.startswith("native"))
    assert "not built" in line
    assert "pip install --force-reinstall --no-cache-dir qkv" in line


def test_missing_extras_come_with_their_command() -> None:
    found = replace(health.examine(), extras={"plot": [], "hf": ["transformers"]})
    told = [line for line in health.lines_of(found) if "plot" in line or "hf" in line]
    assert told == [
        "extras    plot   present",
        "          hf     missing transformers: pip install 'qkv[hf]'",
    ]


@pytest.mark.parametrize(
    ("triton", "gpu", "said"),
    [
        ("", "", "not installed: nothing is lost without a GPU"),
        ("", "H200", "not installed: feature-map kernels on the GPU run through torch"),
        (
            "3.9",
            "H200",
            "3.9: torch.compile and feature-map kernels use it on an NVIDIA GPU of capability 8.0 or later",
        ),
        (
            "3.9",
            "",
            "3.9: torch.compile and feature-map kernels use it on an NVIDIA GPU of "
            "capability 8.0 or later; there is none",
        ),
    ],
)
def test_what_triton_means(triton: str, gpu: str, said: str) -> None:
    usual = health.examine()
    machine = replace(usual.machine, gpu=gpu)
    found = replace(usual, triton=triton, machine=machine)
    assert f"Triton    {said}" in list(health.lines_of(found))


def test_looking_changes_no_random_numbers() -> None:
    import torch

    before = torch.get_rng_state()
    health.examine()
    assert torch.equal(torch.get_rng_state(), before)
