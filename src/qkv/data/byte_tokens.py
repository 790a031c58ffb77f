"""Bytes as tokens: no vocabulary to learn, and no text that it cannot read."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from qkv.data.tokens import CONTROL

WHITE_SPACE = frozenset(b" \t\n\v\f\r")


class ByteTokenizer:
    """Token id = byte + 4, behind the 4 control tokens; V = 260.

    Example:
        >>> ByteTokenizer().encode("é")
        [[199, 173]]
        >>> ByteTokenizer().decode([199, 173])
        'é'
    """

    kind: ClassVar[str] = "byte"
    size: ClassVar[int] = 256 + len(CONTROL)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """The ids of the UTF-8 bytes of each line; a string is one line."""
        lines = [lines] if isinstance(lines, str) else lines
        return [[byte + len(CONTROL) for byte in line.encode("utf-8", "surrogatepass")] for line in lines]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; control tokens vanish, and bytes that are no UTF-8 read "�"."""
        content = bytes(number - len(CONTROL) for number in ids if number >= len(CONTROL))
        return content.decode("utf-8", "replace")

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One string per id, for display: ASCII characters as they are, other bytes in hexadecimal."""
        return [_display(number) for number in ids]

    def count_known(self, ids: Sequence[int]) -> int:
        """How many of the ids are neither white space nor control tokens."""
        return sum(number >= len(CONTROL) and number - len(CONTROL) not in WHITE_SPACE for number in ids)

    def normalise(self, text: str) -> str:
        """The text itself: bytes hold any text."""
        return text


def _display(number: int) -> str:
    if number < len(CONTROL):
        return CONTROL[number]
    byte = number - len(CONTROL)
    return "▁" if byte == 0x20 else chr(byte) if 0x21 <= byte <= 0x7E else f"0x{byte:02X}"
