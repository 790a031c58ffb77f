"""The number of this process and how many there are: decided here alone, from what a launcher has set.

torchrun, and `fabric run`, which calls it, describe a process completely.  One of their variables without the
others was left in the environment by another program, and is ignored.
"""

import os
from typing import NamedTuple

from qkv.errors import BadRun

REQUIRED_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How other launchers tell each of their processes how many they started.
COUNT_VARIABLES = {"srun": "SLURM_STEP_NUM_TASKS", "mpirun": "OMPI_COMM_WORLD_SIZE", "mpiexec": "PMI_SIZE"}
TORCHRUN_ADVICE = "start one process per machine, and in it `torchrun --nproc-per-node N -m qkv train ...`"


class Ranks(NamedTuple):
    """Which process this is among all that were started.

    Args:
        rank: the number of this process among all, from 0.
        world: the number of processes on all machines.
        local_rank: the number of this process among those on this machine, from 0.
        local_world: the number of processes on this machine, which is that on every machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def machine_count(self) -> int:
        """The number of machines that the processes are on."""
        return self.world // self.local_world


def detect_ranks() -> Ranks:
    """Find out from the environment which process this is.

    Returns:
        The place of this process among those that torchrun started; without torchrun, it is the only one.

    Raises:
        BadRun: WORLD_SIZE names several processes but their description is incomplete or contradicts itself,
            or another launcher started several processes, each of which would train the same model.
    """
    world = _read_integer_environment_variable("WORLD_SIZE", 1)
    if world > 1:
        return _read_and_check_torchrun_variables(world)
    for launcher, variable in COUNT_VARIABLES.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise BadRun(
                f"{launcher} started {count} processes ({variable}), and each would train the "
                f"same model: {TORCHRUN_ADVICE}"
            )
    return Ranks()


def _read_and_check_torchrun_variables(world: int) -> Ranks:
    """The place of this process among `world` processes; raises BadRun where the variables do not fit."""
    missing = [name for name in REQUIRED_VARIABLES if not os.environ.get(name)]
    if missing:
        raise BadRun(
            f"WORLD_SIZE={world}, but {', '.join(missing)} not set: start with torchrun, which sets them "
            "all, or unset WORLD_SIZE to train on one process"
        )
    local_world = _read_integer_environment_variable("LOCAL_WORLD_SIZE", world)
    ranks = Ranks(
        _read_integer_environment_variable("RANK"),
        world,
        _read_integer_environment_variable("LOCAL_RANK"),
        local_world,
    )
    if ranks.rank >= world or ranks.local_rank >= local_world or local_world < 1 or world % local_world:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        values = ", ".join(f"{name}={value}" for name, value in zip(names, ranks, strict=True))
        raise BadRun(
            f"{values} contradict each other: every machine needs the same number of processes; start with "
            "torchrun, or unset them to train on one process"
        )
    return ranks


def _read_integer_environment_variable(name: str, default: int | None = None) -> int:
    """The whole number in an environment variable, or the default where it is not set."""
    text = os.environ.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise BadRun(
            f"{name}={text!r} in the environment is not a whole number: unset it, or start with torchrun"
        )
    return int(text)
