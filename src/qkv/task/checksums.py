"""Digests of files and of lines of text, which show that a file or the data changed."""

import hashlib
from collections.abc import Iterable


def digest_bytes(content: bytes) -> str:
    """A digest of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_lines(lines: Iterable[str]) -> str:
    """A digest of lines of text, in their order."""
    state = hashlib.blake2b(digest_size=16)
    for line in lines:
        state.update(line.encode() + b"\n")
    return state.hexdigest()
