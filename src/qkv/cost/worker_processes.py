"""Runs one function with many arguments in several processes, which end with this one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from qkv.errors import BadRun

Result = TypeVar("Result")
STOPPED = threading.Event()  # of a worker process


def run_in_processes(
    work: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], processes: int
) -> Iterator[tuple[int, Result]]:
    """Call a function with each tuple of arguments; every process has its share of the CPU threads.

    When one call fails, or the caller stops, the calls that have not begun are dropped, and the others get a
    SIGTERM, at which a training saves its state.

    Args:
        work: a function of a module.
        arguments: the arguments of each call; they can be pickled.
        processes: how many calls run at the same time.

    Yields:
        The index of a call and what it returned, as each ends.

    Raises:
        BadRun: a process was killed.
        Exception: what a call raised.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, context, _start_process, (threads,)) as pool:
        calls = {pool.submit(_call, work, each): index for index, each in enumerate(arguments)}
        try:
            for call in as_completed(calls):
                yield calls[call], call.result()
        except BrokenProcessPool:
            raise BadRun(
                "one of the processes was killed, perhaps because memory ran out: the same command goes "
                "on, and takes less memory with fewer --processes"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def _start_process(threads: int) -> None:
    """Prepare a process: Ctrl-C in the terminal reaches only its parent, which tells it when to stop."""
    if os.name == "posix":
        os.setsid()
    signal.signal(signal.SIGTERM, _remember_to_stop)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _call(work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """Call the function; meanwhile SIGTERM raises KeyboardInterrupt."""
    if STOPPED.is_set():  # this call was queued before
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work(*arguments)
    except KeyboardInterrupt:
        STOPPED.set()
        raise
    finally:
        signal.signal(signal.SIGTERM, _remember_to_stop)


def _remember_to_stop(*_: object) -> None:
    """Answer SIGTERM between calls; a process that ended there would hold the lock of the queue for ever."""
    STOPPED.set()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # the main thread is training, and would go on
