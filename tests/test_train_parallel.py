"""Two processes train what one would, with ddp and with fsdp: same global batches, same gradients, same
weights on both, same files.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import qkv.train.engine
from qkv.errors import BadRecipe
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.train import Translation, fit, load_weights
from qkv.train.checkpoint import load_state
from qkv.train.ranks import Ranks
from test_train_loop import lines_of
from test_train_optimizers import TwoNetworks
from test_train_resume import assert_same, lines_without_times
from test_train_terms import translator
from test_train_toy import CLASSES, ToyBatches, ToyModel, config_of, scores_of, toy
from text_trainings import TRAININGS, train_text

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# shards cannot carry a state
TEXT_STRATEGIES = {name: ("ddp",) if name == "carry" else ("ddp", "fsdp") for name in TRAININGS}
OPTIONS = {"validate_every": 7, "average": 3, "weight_decay": 0.1, "clip": 0.5, "rates": {"inner.*": 0.02}}


def transformer() -> Any:
    """Tied embeddings, a layer to shard in each stack, and widths that two processes cannot halve."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "width": 6,
        "heads": 2,
        "feedforward": 5,
    }
    model = Transformer(TransformerConfig(**options, dropout=0.0), CLASSES, CLASSES)
    return Translation(model.double(), 0.1)


def train(objective: Any, run: Path, resume: bool = False, **options: Any) -> nn.Module:
    fit(
        objective,
        ToyBatches(),
        config_of(**{**OPTIONS, **options}),
        run=run,
        validate=lambda: scores_of(objective),
        resume=resume,
        quiet=True,
    )
    return objective


def train_transformer(run: Path, **options: Any) -> nn.Module:
    # a larger eps, for the gradient of a bias of keys is zero but for rounding
    return train(transformer(), run, rates={}, freeze=("encoder.0.*",), eps=1e-4, steps=8, **options)


def train_sampling(run: Path, **options: Any) -> nn.Module:
    """Hard attention, whose baseline follows the reward of every update."""
    objective = translator("hard").double()
    fit(objective, ToyBatches(), config_of(steps=6, **options), run=run, quiet=True)
    return objective


def train_two_networks(run: Path, **options: Any) -> nn.Module:
    objective = TwoNetworks()
    # every update has rows for both processes, for batch normalisation needs some
    # a larger eps, for the gradient of a bias before batch normalisation is zero but for rounding
    config = config_of(steps=6, eps=1e-3, **options)
    fit(objective, ToyBatches(length=1), config, run=run, quiet=True)
    return objective


def test_two_processes_equal_one(launched: Path, tmp_path: Path) -> None:
    """In float64, without dropout; update 1 of an epoch has one row, so nothing for the second process."""
    assert not ToyBatches().window(0, 1, 1, 2)
    one = {"toy": train(toy(dtype=torch.float64), tmp_path / "toy")}
    one["transformer"] = train_transformer(tmp_path / "transformer")
    for name, objective in one.items():
        for strategy in ("ddp", "fsdp"):
            compare(objective, tmp_path / name, launched / f"{name}-{strategy}")


def weights_of_ranks(run: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(run / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def compare(objective: nn.Module, one: Path, pair: Path) -> None:
    ranks = weights_of_ranks(pair)
    assert_same(*ranks)
    for name, value in objective.named_parameters():
        assert_close(ranks[0][name], value.data, rtol=1e-9, atol=1e-12)
    for kind in ("train", "validation", "average"):
        for ours, theirs in zip(lines_of(one, kind), lines_of(pair, kind), strict=True):
            timeless = {key for key in ours if key != "seconds" and not key.endswith("_per_second")}
            assert {key: theirs[key] for key in timeless} == pytest.approx(
                {key: ours[key] for key in timeless}
            )
    optimizers = [load_state(run)["optimizer"] for run in (pair, one)]
    several = [{"": each} if "state" in each else each for each in optimizers]
    assert several[0].keys() == several[1].keys()
    for name in several[0]:
        moments = [each[name]["state"] for each in several]
        assert moments[0].keys() == moments[1].keys()
        for ours, theirs in zip(moments[0].values(), moments[1].values(), strict=True):
            assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_texts_as_one_does(launched: Path, tmp_path: Path, name: str) -> None:
    objective = train_text(name, tmp_path / name)
    for strategy in TEXT_STRATEGIES[name]:
        compare(objective, tmp_path / name, launched / f"{name}-{strategy}")


def test_two_processes_resume_with_the_states_that_they_carried(launched: Path) -> None:
    undisturbed, resumed = launched / "carry-ddp", launched / "carry-resumed"
    assert_same(*(weights_of_ranks(run)[0] for run in (undisturbed, resumed)))
    carried = [load_state(run)["carried"] for run in (undisturbed, resumed)]
    assert len(carried[0]) == 2
    assert str(carried[0]) == str(carried[1])


def test_alternating_optimizers_and_batch_statistics_are_the_same(launched: Path) -> None:
    replicated, sharded = (
        weights_of_ranks(launched / f"networks-{strategy}") for strategy in ("ddp", "fsdp")
    )
    assert int(replicated[0]["generator.1.num_batches_tracked"]) > 0
    assert_same(*replicated)
    assert_same(*sharded)
    assert_close(sharded[0], replicated[0], rtol=1e-4, atol=1e-6)  # in float32


def test_a_repeated_batch_counts_for_no_statistic(launched: Path) -> None:
    """The second process has no rows in update 1, and repeats a batch with shards."""
    replicated, sharded = (
        weights_of_ranks(launched / f"sampling-{strategy}") for strategy in ("ddp", "fsdp")
    )
    assert replicated[0]["baseline"].isfinite()
    assert_same(*sharded)
    assert_close(sharded[0], replicated[0], rtol=1e-9, atol=1e-12)


def test_shards_resume_exactly(launched: Path) -> None:
    undisturbed, resumed = launched / "undisturbed", launched / "resumed"
    ignored = {"steps", "strategy"}  # of the configuration
    states = [load_state(run) for run in (undisturbed, resumed)]
    assert_same(*({**state, "config": {}} for state in states))
    assert {
        key for key in states[0]["config"] if states[0]["config"][key] != states[1]["config"][key]
    } <= ignored
    assert lines_without_times(undisturbed) == lines_without_times(resumed)
    weights = "model.safetensors"
    assert (undisturbed / weights).read_bytes() == (resumed / weights).read_bytes()


def test_one_process_loads_and_continues_a_run_of_shards(launched: Path, tmp_path: Path) -> None:
    run = launched / "toy-fsdp"
    model = ToyModel().double()
    load_weights(model, run / "model.safetensors")
    expected = load_state(run)["standing"]["scores"]
    assert scores_of(Translation(model, 0.1))["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    longer = train(toy(dtype=torch.float64), tmp_path / "one", steps=24)
    continued = train(toy(dtype=torch.float64), run, resume=True, steps=24)
    assert_close(continued.state_dict(), longer.state_dict(), rtol=1e-9, atol=1e-12)


def test_float16_is_refused_for_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qkv.train.engine, "detect_ranks", lambda: Ranks(0, 2, 0, 2))
    with pytest.raises(BadRecipe, match=r"precision '16' does not work with train\.strategy 'fsdp'"):
        qkv.train.engine.start_fabric(config_of(strategy="fsdp", precision="16"))


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes trained all runs of `main`."""
    folder = tmp_path_factory.mktemp("pair")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*LAUNCH, __file__, str(folder)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def main() -> None:
    """Train every run as one of two processes."""
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    torch.set_num_threads(1)
    for strategy in ("ddp", "fsdp"):
        trainings = {
            "toy": lambda run, **options: train(toy(dtype=torch.float64), run, **options),
            "transformer": train_transformer,
            "networks": train_two_networks,
            "sampling": train_sampling,
        }
        for name, train_one in trainings.items():
            run = folder / f"{name}-{strategy}"
            objective = train_one(run, strategy=strategy)
            torch.save(objective.state_dict(), run / f"rank{rank}.pt")
        for name in TRAININGS:
            if strategy in TEXT_STRATEGIES[name]:
                objective = train_text(name, folder / f"{name}-{strategy}", strategy=strategy)
                torch.save(objective.state_dict(), folder / f"{name}-{strategy}" / f"rank{rank}.pt")
    train_text("carry", folder / "carry-resumed", steps=5)
    objective = train_text("carry", folder / "carry-resumed", resume=True)
    torch.save(objective.state_dict(), folder / "carry-resumed" / f"rank{rank}.pt")
    train(toy(dropout=0.3), folder / "undisturbed", strategy="fsdp")
    train(toy(dropout=0.3), folder / "resumed", strategy="fsdp", steps=7)
    train(toy(dropout=0.3), folder / "resumed", strategy="fsdp", resume=True)


if __name__ == "__main__":
    main()
