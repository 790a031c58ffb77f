"""AdamW over groups of parameters: what is decayed, what has its own learning rate, what is frozen."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from qkv.errors import BadRecipe
from qkv.train.config import TrainConfig


def make_adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig, device: str, **options: Any
) -> torch.optim.AdamW:
    """AdamW over those parameters that require a gradient, fused where that works.

    Args:
        named_parameters: as `objective.named_parameters()`, or `objective.critic.named_parameters("critic")`
            for a part: the names are those that the configuration's patterns match.  Vectors are not decayed.
        config: learning rates, decay and the other options.
        device: the kind of device that the parameters are on, such as "cpu".
        options: of `torch.optim.AdamW`, such as `lr` and `betas`, in place of the configuration's; the rates
            of `config.rates` still apply to the names that they match.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    settings = {"lr": config.lr, "betas": config.betas, "eps": config.eps, **options}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            rate = _own_rate(name, config) or settings["lr"]
            groups.setdefault((_is_decayed(name, parameter, config), rate), []).append(parameter)
    # decayed parameters first: the order is part of a saved state
    ordered = sorted(groups.items(), key=lambda item: not item[0][0])
    # the fused step unscales float16 gradients itself, which leaves nothing to clip beforehand
    fused = device in ("cpu", "cuda") and config.precision != "16"
    parts = [
        {"params": members, "lr": rate, "weight_decay": config.weight_decay if decayed else 0.0}
        for (decayed, rate), members in ordered
    ]
    return torch.optim.AdamW(parts, fused=fused, **settings)


def freeze(module: nn.Module, config: TrainConfig) -> None:
    """Take the parameters that `config.freeze` names out of the training.

    Raises BadRecipe for a pattern, here or in the other lists of names, that matches no parameter, and where
    no parameter is left to train.
    """
    names = [_short(name) for name, _ in module.named_parameters()]
    for key, pattern in _patterns(config):
        if not any(fnmatchcase(name, pattern) for name in names):
            first = sorted({name.partition(".")[0] for name in names})
            raise BadRecipe(
                f"{key} names {pattern!r}, which matches no parameter: they begin with {', '.join(first)}; "
                "a pattern such as 'encoder.*' matches every name that begins so"
            )
    for name, parameter in module.named_parameters():
        if _matches(name, config.freeze):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise BadRecipe("train.freeze leaves no parameter to train: name fewer")


def _patterns(config: TrainConfig) -> Iterator[tuple[str, str]]:
    yield from (("train.freeze", pattern) for pattern in config.freeze)
    yield from (("train.no_decay", pattern) for pattern in config.no_decay)
    yield from (("train.rates", pattern) for pattern in config.rates)


def _own_rate(name: str, config: TrainConfig) -> float | None:
    """The peak learning rate of the first pattern that matches; None where none does."""
    return next((rate for pattern, rate in config.rates.items() if fnmatchcase(_short(name), pattern)), None)


def _is_decayed(name: str, parameter: nn.Parameter, config: TrainConfig) -> bool:
    """Whether it has two or more dimensions and no pattern excludes it.

    The first dimension of a parameter inside an attention's core counts heads.
    """
    shape = parameter.shape[1:] if ".core." in name else parameter.shape
    return sum(size > 1 for size in shape) >= 2 and not _matches(name, config.no_decay)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(_short(name), pattern) for pattern in patterns)


def _short(name: str) -> str:
    """The name as the run's weights have it: without the objective's own `model.` in front."""
    return name.removeprefix("model.")
