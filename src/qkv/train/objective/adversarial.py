"""The objective of generative adversarial networks: the hinge loss, in two alternating turns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qkv.kernel.masking import promote_to_float32
from qkv.model.gan import scale_pictures
from qkv.train.config import TrainConfig
from qkv.train.objective.base import Loss, Objective
from qkv.train.optimizers import make_adamw

DISCRIMINATOR, GENERATOR = "discriminator", "generator"


class Adversarial(Objective):
    """The hinge loss of a discriminator and a generator, each with its own learning rate.

        discriminator: mean relu(1 - D(real)) + mean relu(1 + D(G(noise)))
        generator:     -mean D(G(noise))

    Lim and Ye 2017; two learning rates: Heusel et al. 2017; both as in SAGAN, Zhang et al. 2019.

    Args:
        model: `model.generator(noise)` gives pictures, `model.discriminator(pictures)` scores.
        rate_ratio: the learning rate of the discriminator as a multiple of the generator's, `train.lr`.
    """

    unit = "pictures"
    progress_metrics = ("discriminator_loss", "generator_loss")

    def __init__(self, model: nn.Module, rate_ratio: float = 4.0) -> None:
        super().__init__()
        self.model, self.rate_ratio = model, rate_ratio
        self.register_buffer("turns", torch.zeros((), dtype=torch.int64))
        self.turns: Tensor

    @property
    def updates(self) -> int:
        """The number of complete updates."""
        return int(self.turns) // 2

    def optimizers(self, config: TrainConfig, device: str) -> dict[str, Any]:
        """AdamW for each network; the discriminator's turn comes first."""
        model: Any = self.model
        rate = self.rate_ratio * config.lr
        return {
            DISCRIMINATOR: make_adamw(self, config, device, module=model.discriminator, lr=rate),
            GENERATOR: make_adamw(self, config, device, module=model.generator),
        }

    def forward(self, batch: Any, name: str) -> Loss:
        """The loss of a `qkv.data.pictures.NoiseBatch` for one of the networks."""
        model: Any = self.model
        dtype = model.generator.output.weight.dtype
        noise, count = batch.noise.to(dtype), len(batch.noise)
        if name == GENERATOR:
            generated = model.generator(noise[:, 1])
            with _held_constant(model.discriminator):
                total = -promote_to_float32(model.discriminator(generated)).sum()
            return Loss(total, count, {"generator_loss": total.detach()})
        with torch.no_grad():
            generated = model.generator(noise[:, 0])
        real = scale_pictures(batch.pictures, dtype)
        both = model.discriminator(torch.cat([real, generated.to(dtype)]))
        real_scores, scores = promote_to_float32(both).split(count)
        total = (1 - real_scores).relu().sum() + (1 + scores).relu().sum()
        sums = {"real_score": real_scores.detach().sum(), "generated_score": scores.detach().sum()}
        return Loss(total, count, {"discriminator_loss": total.detach(), **sums})

    def update_statistics(self, sum_over_processes_in_place: Callable[[Tensor], Tensor]) -> None:
        """Count the turns."""
        self.turns += 1

    def saved_module(self) -> nn.Module:
        """Both networks."""
        return self.model


@contextmanager
def _held_constant(module: nn.Module) -> Iterator[None]:
    """Gradients of what is computed inside pass through the module, and do not reach its parameters."""
    learnt = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learnt:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learnt:
            parameter.requires_grad_(True)
