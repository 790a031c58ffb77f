"""Decodes many picture files in their order, in worker processes where that pays."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from qkv.cores import count_cores
from qkv.data.pictures.sources import Entry, PictureSource, UnusableFile
from qkv.errors import QKVError
from qkv.picture_decoding import Decoded, decode_pictures, ignore_interrupts

PARALLEL_BYTES = 2**25  # of picture files; fewer are decoded before worker processes have started
_CHUNK_FILES, _CHUNK_BYTES = 32, 2**23
_CHUNKS_PER_WORKER = 2


def choose_worker_count(entries: Sequence[Entry], workers: int | None) -> int:
    """How many processes decode these files.

    Args:
        entries: the files.
        workers: a number that the user chose.
    """
    if workers is not None:
        return workers
    return count_cores() if sum(entry.size for entry in entries) > PARALLEL_BYTES else 1


def decode_entries(
    source: PictureSource, entries: Sequence[Entry], size: int, workers: int
) -> Iterator[Decoded]:
    """Decode files; the results have the order of the files.

    Args:
        source: where the files are.
        entries: the files.
        size: the side of the results in pixels.
        workers: processes that decode; 1: this one.

    Raises:
        QKVError: a worker process ended unexpectedly.
    """
    chunks = _read_chunks(source, entries)
    if workers == 1:
        yield from chain.from_iterable(decode_pictures(chunk, size) for chunk in chunks)
        return
    # a forked process would inherit the locks of torch's threads, so the workers start from nothing
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=ignore_interrupts)
    try:
        yield from _decode_in_order(pool, chunks, size, workers * _CHUNKS_PER_WORKER)
    except BrokenProcessPool:
        raise QKVError(
            "a process that decodes pictures ended: a script must train below `if __name__ == '__main__':`, "
            "and memory must suffice; or decode in this process with data.pictures.workers: 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_in_order(
    pool: ProcessPoolExecutor, chunks: Iterator[list[bytes | str]], size: int, most_pending: int
) -> Iterator[Decoded]:
    """The results of all chunks in order, with a bounded number of chunks in memory."""
    pending: deque[Future[list[Decoded]]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(decode_pictures, chunk, size))
        if len(pending) == most_pending:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _read_chunks(source: PictureSource, entries: Sequence[Entry]) -> Iterator[list[bytes | str]]:
    """The contents of the files, several at a time; in place of a file that cannot be read, why."""
    chunk: list[bytes | str] = []
    size = 0
    for entry in entries:
        try:
            chunk.append(source.read(entry))
        except UnusableFile as error:
            chunk.append(str(error))
        size += len(chunk[-1])
        if len(chunk) == _CHUNK_FILES or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
