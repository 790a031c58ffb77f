"""What each process carries from one update to the next, such as the states of its texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from qkv.errors import BadRun
from qkv.train.checkpoint import STATE, make_damaged_error
from qkv.train.objective.base import Objective


def gather_carried_states_on_first_process(objective: Objective, fabric: Any) -> list[Any]:
    """Gather what every process carries, on the first one.

    Args:
        objective: the trained objective of this process.
        fabric: the launched Fabric.

    Returns:
        One value per process, in their order; empty where nothing is carried, and on the other processes.
    """
    value = objective.carried_state()
    if fabric.world_size == 1:
        return [] if value is None else [value]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.gather_object(value, gathered if fabric.is_global_zero else None)
    return gathered if any(each is not None for each in gathered) else []


def restore_carried_state(
    saved_state: Mapping[str, Any], objective: Objective, fabric: Any, run: Path
) -> None:
    """Restore what this process carries from one update to the next.

    Args:
        saved_state: a saved state; under the key `carried` it holds what
            `gather_carried_states_on_first_process` returned.
        objective: the trained objective of this process.
        fabric: the launched Fabric.
        run: the run directory, which the errors name.

    Raises:
        BadRun: other processes carried it, or it does not fit the objective.
    """
    carried = saved_state.get("carried")
    if carried is None:
        return
    if len(carried) != fabric.world_size:
        raise BadRun(
            f"{run} was trained by {len(carried)} processes, each with the states of its texts, and is "
            f"resumed by {fabric.world_size}: start {len(carried)} processes again"
        )
    try:
        objective.restore_carried_state(carried[fabric.global_rank])
    except (ValueError, TypeError, KeyError) as error:
        raise make_damaged_error(run / STATE, f"carried does not fit: {error}") from None
