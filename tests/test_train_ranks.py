"""Which process this is: what torchrun sets counts, what other programs leave in the environment does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from qkv.errors import BadRecipe, BadRun
from qkv.task.run_directory import is_first_process
from qkv.train import engine, fit
from qkv.train.ranks import Ranks, detect_ranks
from test_train_toy import ToyBatches, config_of, toy

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
SBATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node[1-2]",
    "SLURM_NNODES": "2",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in TORCHRUN or name.startswith(("SLURM_", "OMPI_", "PMI_", "LT_")):
            monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RANK": "8"},
        {"RANK": "eight"},
        {"LOCAL_RANK": "3"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": ""},
        {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
        SBATCH,
        {**SBATCH, "SLURM_STEP_NUM_TASKS": "1"},
        {"LT_DEVICES": "2", "LT_ACCELERATOR": "cuda", "LT_CLI_USED": "1"},
    ],
)
def test_what_describes_no_other_process_changes_nothing(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_all(monkeypatch, variables)
    assert detect_ranks() == Ranks()
    assert is_first_process()
    fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)
    assert (tmp_path / "model.safetensors").exists()
    assert {name: os.environ[name] for name in variables} == variables


def test_torchrun_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {**TORCHRUN, **SBATCH, "SLURM_STEP_NUM_TASKS": "2"})
    assert detect_ranks() == Ranks(rank=3, world=4, local_rank=1, local_world=2)
    assert detect_ranks().machine_count == 2
    assert not is_first_process()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({**TORCHRUN, "RANK": ""}, "but RANK not set"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4, WORLD_SIZE=4, .* contradict each other"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK='-1' in the environment is not a whole number"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "LOCAL_RANK=2, LOCAL_WORLD_SIZE=2 contradict"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "3"}, "contradict each other"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "contradict each other"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE='many' in the environment is not a whole number"),
        ({**SBATCH, "SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes .*torchrun"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
    ],
)
def test_what_is_incomplete_is_refused_in_one_line(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(BadRun, match=message) as raised:
        detect_ranks()
    assert "\n" not in str(raised.value)


def test_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, TORCHRUN)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(BadRecipe, match="started 2 processes on this machine, which has 1 cuda device"):
        engine.start_fabric(config_of(device="cuda"))


def test_a_rank_of_somebody_else_trains_a_complete_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "8")
    recipe = tiny.recipe_in(tmp_path, train={"steps": 2, "precision": "32"})
    assert tiny.call("train", recipe, "--out", tmp_path / "run", "--quiet") == 0
    assert tiny.call("translate", tmp_path / "run", "--quiet", stdin=b"one\n") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "strategy"), [("torchrun", "ddp"), ("torchrun", "fsdp"), ("fabric", "ddp")]
)
def test_launchers_start_two_processes(launcher: str, strategy: str, tmp_path: Path) -> None:
    train = {"steps": 4, "precision": "32", "device": "cpu", "strategy": strategy}
    recipe = tiny.recipe_in(tmp_path, train=train)
    if launcher == "torchrun":
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "qkv"]
    else:
        (tmp_path / "start.py").write_text("from qkv.cli import main\nmain()\n")
        start = ["-m", "lightning_fabric.cli", "--accelerator", "cpu", "--devices", "2"]
        start += [str(tmp_path / "start.py")]
    command = [sys.executable, *start, "train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr
    assert re.search("trained 4 updates", ran.stdout)
    assert ran.stdout.count("trained") == 1
    assert tiny.call("translate", tmp_path / "run", "--quiet", stdin=b"one\n") == 0
