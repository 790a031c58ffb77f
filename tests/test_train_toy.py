"""The toy that the tests of training share: a model with tied weights and dropout, and seeded batches."""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qkv.train import Loss, TrainConfig, Translation, fit

CLASSES, WIDTH = 12, 8


class Batch(NamedTuple):
    source: Tensor
    source_keep: Tensor
    target: Tensor
    target_keep: Tensor


class ToyModel(nn.Module):
    """hidden = dropout(tanh(linear(embedded target + mean embedded source))); the output weight is tied."""

    calls: Tensor

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(WIDTH, CLASSES)
        self.output.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def attention_layers(self) -> dict[str, Any]:
        return {}

    def attention_places(self) -> dict[str, Any]:
        return {}

    def layers(self) -> list[nn.Module]:
        return [self.inner]

    def forward(self, source, source_keep, target_in):
        if self.training:
            self.calls += 1
        keep = source_keep[..., None].to(self.embedding.weight.dtype)
        mean = (self.embedding(source) * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)
        return self.dropout(torch.tanh(self.inner(self.embedding(target_in) + mean)))


class ToyBatches:
    """Updates of `micro` micro-batches; rows differ in length, and update 1 of an epoch has a single row."""

    def __init__(self, micro: int = 2, length: int = 5) -> None:
        self.micro, self.length = micro, length

    def steps(self, epoch: int) -> int:
        return self.length

    def rows(self, epoch: int, index: int, part: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(epoch * 1000 + index * 10 + part)
        count = 1 if index == 1 else 4
        lengths = torch.randint(2, 7, (count,), generator=generator).tolist()
        return [torch.randint(4, CLASSES, (n,), generator=generator).tolist() for n in lengths]

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Batch]:
        local_rows = [self.rows(epoch, index, part)[rank::world] for part in range(self._parts(index))]
        return [collate(rows) for rows in local_rows if rows]

    def count(self, epoch: int, index: int) -> int:
        return sum(
            len(row) + 1 for part in range(self._parts(index)) for row in self.rows(epoch, index, part)
        )

    def _parts(self, index: int) -> int:
        return 1 if index == 1 else self.micro


def collate(rows: list[list[int]]) -> Batch:
    width = max(map(len, rows))
    source = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    target = torch.tensor([[2, *row, 3] + [0] * (width - len(row)) for row in rows])
    return Batch(source, source != 0, target, target != 0)


def toy(dropout: float = 0.0, smoothing: float = 0.1, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return Translation(ToyModel(dropout).to(dtype), smoothing)


def scores_of(objective: nn.Module) -> dict[str, float]:
    loss: Loss = objective(collate([[4, 5, 6], [7, 8], [9, 10, 11, 4]]))
    return {"loss": loss.total.item() / loss.count, "accuracy": loss.metrics["accuracy"].item() / loss.count}


def config_of(**options) -> TrainConfig:
    defaults = {"steps": 20, "precision": "32", "device": "cpu", "lr": 0.05, "warmup": 5, "log_every": 4}
    return TrainConfig(**{**defaults, **options})


def test_the_toy_learns(tmp_path: Path) -> None:
    objective = toy()
    before = scores_of(objective)["loss"]
    result = fit(objective, ToyBatches(), config_of(steps=60), run=tmp_path, quiet=True)
    assert result.steps == 60
    assert result.stopped == "steps"
    assert scores_of(objective)["loss"] < 0.8 * before


def main() -> None:
    """Train the toy in a process of its own: to be killed, or as one of many."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--save-every-seconds", type=float, default=300.0)
    parser.add_argument("--validate-every", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    objective = toy(options.dropout, dtype=torch.float64 if options.double else torch.float32)
    config = config_of(
        steps=options.steps,
        validate_every=options.validate_every,
        average=3,
        save_every_seconds=options.save_every_seconds,
    )
    fit(
        objective,
        ToyBatches(),
        config,
        run=options.run,
        validate=lambda: scores_of(objective),
        resume=options.resume,
        quiet=True,
    )
    rank = int(os.environ.get("RANK", "0"))
    torch.save(objective.state_dict(), options.run / f"rank{rank}.pt")


if __name__ == "__main__":
    main()
