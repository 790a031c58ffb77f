"""Two processes train what one would: same global batches, same gradients, same weights on both."""

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

import test_train_toy
from qkv.train import fit
from qkv.train.checkpoint import load_state
from test_train_loop import lines_of
from test_train_toy import ToyBatches, config_of, scores_of, toy

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_two_processes_equal_one(tmp_path):
    """In float64, without dropout; update 1 of an epoch has one row, so nothing for the second process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    assert not ToyBatches().window(0, 1, 1, 2)
    pair = tmp_path / "pair"
    command = [*LAUNCH, test_train_toy.__file__, str(pair), "--double", "--steps", "20"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    objective = toy(dtype=torch.float64)
    config = config_of(steps=20, validate_every=7, average=3)
    fit(
        objective,
        ToyBatches(),
        config,
        run=tmp_path / "one",
        validate=lambda: scores_of(objective),
        quiet=True,
    )

    ranks = [torch.load(pair / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, value in objective.named_parameters():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        assert_close(ranks[0][name], value.data, rtol=1e-9, atol=1e-12)
    for kind in ("train", "validation", "average"):
        for ours, theirs in zip(lines_of(tmp_path / "one", kind), lines_of(pair, kind), strict=True):
            timeless = ours.keys() - {"seconds", "tokens_per_second"}
            assert {key: theirs[key] for key in timeless} == pytest.approx(
                {key: ours[key] for key in timeless}
            )
    moments = [load_state(run)["optimizer"]["state"] for run in (pair, tmp_path / "one")]
    for ours, theirs in zip(moments[0].values(), moments[1].values(), strict=True):
        assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=1e-9, atol=1e-12)
