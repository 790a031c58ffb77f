"""Which process this is, and of how many: decided here alone, from what a launcher really set.

torchrun, and `fabric run`, which calls it, describe a process completely.  One of their variables without the
others was left in the environment by something else, and says nothing.
"""

import os
from typing import NamedTuple

from qkv.errors import BadRun

VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How other launchers tell each of their processes how many they started.
COUNTS = {"srun": "SLURM_STEP_NUM_TASKS", "mpirun": "OMPI_COMM_WORLD_SIZE", "mpiexec": "PMI_SIZE"}
JOIN = "start one process per machine, and in it `torchrun --nproc-per-node N -m qkv train ...`"


class Ranks(NamedTuple):
    """rank of world processes; local_rank of local_world on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def machines(self) -> int:
        """How many machines the processes are on."""
        return self.world // self.local_world


def detect_ranks() -> Ranks:
    """The place of this process among those that torchrun started; the only one without it.

    Raises BadRun where WORLD_SIZE names several processes but their description is incomplete or contradicts
    itself, and where another launcher started several, each of which would train the same.
    """
    world = _number("WORLD_SIZE", 1)
    if world > 1:
        return _described(world)
    for launcher, variable in COUNTS.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise BadRun(
                f"{launcher} started {count} processes ({variable}), and each would train the "
                f"same model: {JOIN}"
            )
    return Ranks()


def _described(world: int) -> Ranks:
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise BadRun(
            f"WORLD_SIZE={world}, but {', '.join(missing)} not set: start with torchrun, which sets them "
            "all, or unset WORLD_SIZE to train on one process"
        )
    local_world = _number("LOCAL_WORLD_SIZE", world)
    ranks = Ranks(_number("RANK"), world, _number("LOCAL_RANK"), local_world)
    if ranks.rank >= world or ranks.local_rank >= local_world or local_world < 1 or world % local_world:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = ", ".join(f"{name}={value}" for name, value in zip(names, ranks, strict=True))
        raise BadRun(
            f"{values} contradict each other: each machine needs as many processes; start with torchrun, or "
            "unset them to train on one process"
        )
    return ranks


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise BadRun(
            f"{name}={text!r} in the environment is no whole number: unset it, or start with torchrun"
        )
    return int(text)
