"""`qkv doctor`: what it tells, and what it notices."""

import json
import sys
from dataclasses import replace

import pytest

import qkv
import tiny
from qkv import doctor, requirements
from qkv.kernel import native
from qkv.requirements import Unmet


def test_it_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert [title for title in titles if title != "extras"] == [
        *("versions", "packages", "CPU", "memory", "GPU", "native", "Triton", "check")
    ]
    assert f"qkv {qkv.__version__}" in lines[0]
    checks = [line for line in lines if "relative error" in line]
    assert len(checks) == 5
    assert all("  ok  " in line for line in checks)


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.call("doctor", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is True
    assert told["native"] == native.describe_library()
    assert told["unmet"] == ([] if requirements.is_installed() else None)  # a checkout on the path is not
    assert all(
        set(one) == {"requirement", "installed"} for lacking in told["extras"].values() for one in lacking
    )
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
    assert not doctor.Check("rfa", "torch", float("nan")).ok
    assert doctor.Check("rfa", "torch", 1e-7).ok


def test_a_missing_engine_is_reported_with_the_command_that_builds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = "python -m pip install --no-deps SOURCE"
    monkeypatch.setattr(requirements, "format_rebuild_command", lambda: command)
    found = replace(doctor.examine(), native={"built": False, "reason": "it is not built here"})
    (line,) = (line for line in doctor.report_lines(found) if line.startswith("native"))
    assert "not built" in line
    assert line.endswith("this builds it: python -m pip install --no-deps SOURCE")


def test_missing_and_old_packages_come_with_their_command() -> None:
    lacking = [Unmet("numpy>=1.26", "1.20"), Unmet("rich>=13.9", "")]
    found = replace(doctor.examine(), unmet=lacking, extras={"plot": [], "hf": lacking[1:]})
    lines = [
        line
        for line in doctor.report_lines(found)
        if line.split()[-1].strip("'") in ("present", "rich>=13.9")
    ]
    python = f"{sys.executable} -m pip install"
    assert lines == [
        "packages  missing rich>=13.9; numpy>=1.26 is required, not 1.20: "
        f"{python} 'numpy>=1.26' 'rich>=13.9'",
        "extras    plot   present",
        f"          hf     missing rich>=13.9: {python} 'rich>=13.9'",
    ]
    assert not found.healthy


def test_a_required_package_that_is_missing_ends_it_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requirements, "find_unmet", lambda extra="": [Unmet("torch>=2.6", "")])
    assert tiny.call("doctor") == 1
    out = capsys.readouterr().out
    assert out == f"packages  missing torch>=2.6: {sys.executable} -m pip install 'torch>=2.6'\n"


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
    usual = doctor.examine()
    machine = replace(usual.machine, gpu=gpu)
    found = replace(usual, triton=triton, machine=machine)
    assert f"Triton    {said}" in list(doctor.report_lines(found))


def test_looking_changes_no_random_numbers() -> None:
    import torch

    before = torch.get_rng_state()
    doctor.examine()
    assert torch.equal(torch.get_rng_state(), before)
