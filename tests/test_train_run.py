"""Starting, stopping and continuing: what is refused, what signals do, where and how precisely it trains."""

import os
import signal

import pytest
import torch

from qkv.errors import BadRecipe, BadRun, QKVError
from qkv.train import Translation, devices, engine, fit
from test_train_loop import lines_of, scripted
from test_train_toy import ToyBatches, ToyModel, config_of, scores_of, toy


class Signalling(ToyBatches):
    """Sends this process a signal in the middle of an update."""

    def __init__(self, update, number):
        super().__init__()
        self.countdown, self.number = update, number

    def window(self, epoch, index, rank, world):
        self.countdown -= 1
        if self.countdown == 0:
            os.kill(os.getpid(), self.number)
        return super().window(epoch, index, rank, world)


def test_a_started_run_is_not_overwritten(tmp_path):
    fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)
    with pytest.raises(BadRun, match=r"already holds a training .* --resume"):
        fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)


def test_resume_refuses_what_it_cannot_continue(tmp_path):
    with pytest.raises(BadRun, match="no training to resume"):
        fit(toy(), ToyBatches(), config_of(), run=tmp_path, resume=True, quiet=True)
    fit(toy(), ToyBatches(), config_of(steps=2), run=tmp_path, quiet=True)
    with pytest.raises(BadRun, match=r"other settings of train: lr, seed\. Resuming may only change .*steps"):
        fit(toy(), ToyBatches(), config_of(lr=0.1, seed=2), run=tmp_path, resume=True, quiet=True)
    model = ToyModel()
    model.add_module("other", ToyModel())
    wider = Translation(model, 0.1)
    with pytest.raises(BadRun, match=r"trained with another model: .*inner\.weight"):
        fit(wider, ToyBatches(), config_of(), run=tmp_path, resume=True, quiet=True)


def test_longer_training_continues_a_finished_one(tmp_path):
    at_once, in_parts = toy(dropout=0.2), toy(dropout=0.2)
    short, long = (config_of(steps=steps, validate_every=5, average=3) for steps in (10, 15))

    def train(objective, config, run, resume=False):
        return fit(
            objective,
            ToyBatches(),
            config,
            run=tmp_path / run,
            validate=lambda: scores_of(objective),
            resume=resume,
            quiet=True,
        )

    expected = train(at_once, long, "once")
    train(in_parts, short, "twice")
    result = train(in_parts, long, "twice", resume=True)
    assert result._replace(seconds=0.0) == expected._replace(seconds=0.0)
    assert result.averaged is not None
    assert torch.equal(at_once.model.inner.weight, in_parts.model.inner.weight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_update_saves_and_can_be_resumed(tmp_path, number):
    before = signal.getsignal(number)
    undisturbed, resumed = toy(dropout=0.2), toy(dropout=0.2)
    fit(undisturbed, ToyBatches(), config_of(), run=tmp_path / "undisturbed", quiet=True)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 7; all is saved"):
        fit(resumed, Signalling(7, number), config_of(), run=tmp_path / "resumed", quiet=True)
    assert signal.getsignal(number) is before
    resumed = toy(dropout=0.2)
    fit(resumed, ToyBatches(), config_of(), run=tmp_path / "resumed", resume=True, quiet=True)
    assert torch.equal(undisturbed.model.inner.weight, resumed.model.inner.weight)


def test_a_signal_during_validation_is_not_made_to_wait(tmp_path):
    config = config_of(validate_every=4, steps=8)

    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("validation went on")

    with pytest.raises(KeyboardInterrupt, match="stopped after update 4"):
        fit(toy(), ToyBatches(), config, run=tmp_path, validate=interrupted, quiet=True)
    fit(toy(), ToyBatches(), config, run=tmp_path, validate=scripted([2.0, 1.0]), resume=True, quiet=True)
    assert [line["step"] for line in lines_of(tmp_path, "validation")] == [4, 8]


def test_says_what_happens(tmp_path, capsys):
    fit(toy(), ToyBatches(), config_of(steps=10), run=tmp_path, validate=scripted([2.0, 1.5]))
    output = capsys.readouterr().err
    assert "update 5: loss 2 (best so far)" in output
    assert "update 10: loss 1.5 (best so far)" in output


def test_randomness_is_a_function_of_seed_step_and_rank():
    def draw(*place):
        engine.seed_torch_for_update(*place)
        return torch.rand(()).item()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(*place) for place in [(1, 2, 3), (1, 3, 2), (2, 1, 3), (12, 3, 1), (1, 23, 1)]}) == 5


def test_precision_is_chosen_by_what_the_device_can_do(monkeypatch):
    monkeypatch.setattr(devices, "_read_cpu_instruction_sets", lambda: {"avx512_bf16": True})
    assert devices.choose_fabric_precision("auto", "cpu") == "bf16-mixed"
    monkeypatch.setattr(devices, "_read_cpu_instruction_sets", lambda: {"avx2": True, "avx512_bf16": False})
    assert devices.choose_fabric_precision("auto", "cpu") == "32-true"
    assert devices.choose_fabric_precision("bf16", "cpu") == "bf16-mixed"
    with pytest.raises(BadRecipe, match="precision '16' needs a CUDA device"):
        devices.choose_fabric_precision("16", "cpu")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadRecipe, match=r"train\.device is 'cuda', but torch finds no such device"):
        devices.choose_device("cuda")


def test_bfloat16_trains(tmp_path):
    objective = toy()
    before = scores_of(objective)["loss"]
    fit(objective, ToyBatches(), config_of(steps=40, precision="bf16"), run=tmp_path, quiet=True)
    assert objective.model.inner.weight.dtype == torch.float32
    assert scores_of(objective)["loss"] < 0.9 * before


@pytest.mark.parametrize("validated", [True, False])
def test_weights_that_are_not_finite_are_no_success(tmp_path, validated):
    objective = toy()
    torch.nn.init.constant_(objective.model.inner.weight, torch.inf)
    validate = (lambda: {"loss": 1.0}) if validated else None
    config = config_of(steps=3, average=2 if validated else 0)
    with pytest.raises(QKVError, match="the training diverged: after 3 updates there are no usable weights"):
        fit(objective, ToyBatches(), config, run=tmp_path, validate=validate, quiet=True)
    assert validated != (tmp_path / "model.safetensors").exists()
