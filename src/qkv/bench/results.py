"""What a comparison found, as values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qkv.bench.curves import crossing, exponent
from qkv.bench.machine import Machine
from qkv.bench.specs import Contender, Setting


@dataclass(frozen=True)
class Cell:
    """One contender at one length.

    seconds: the median of one pass, or of one step of decoding for the whole batch; None where there is none.
    fastest, slowest: of the repeats.  why: what was in the way.
    state: bytes that the decode state of the batch holds after `length` tokens.  allocated: bytes of the
    memory behind it, which may have room for further tokens.
    peak: bytes that the call took beyond what was there before it, None where not measured.
    """

    what: str
    label: str
    length: int
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    why: str = ""
    state: int = 0
    allocated: int = 0
    peak: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Every cell that was measured, and what it was measured on."""

    machine: Machine
    setting: Setting
    contenders: Sequence[Contender]
    cells: Sequence[Cell]

    @property
    def whats(self) -> list[str]:
        """What was timed, in the order it was."""
        return list(dict.fromkeys(cell.what for cell in self.cells))

    def of(self, what: str, label: str) -> list[Cell]:
        """The cells of one contender, by length."""
        found = (cell for cell in self.cells if (cell.what, cell.label) == (what, label))
        return sorted(found, key=lambda cell: cell.length)

    def curve(self, what: str, label: str) -> list[tuple[int, float]]:
        """Length and seconds, where both are known."""
        return [(cell.length, cell.seconds) for cell in self.of(what, label) if cell.seconds is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with exponents and crossings."""
        return {
            "machine": asdict(self.machine),
            "setting": asdict(self.setting),
            "contenders": [
                {"label": c.label, "written": c.written, "fused": c.fused, "spec": c.spec.to_dict()}
                for c in self.contenders
            ],
            "cells": [asdict(cell) for cell in self.cells],
            "curves": [self._curve_facts(what, c.label) for what in self.whats for c in self.contenders],
        }

    def _curve_facts(self, what: str, label: str) -> dict[str, Any]:
        curve = self.curve(what, label)
        met = crossing(self.curve(what, self.contenders[0].label), curve)
        crosses = None if met is None else met._asdict()
        return {"what": what, "label": label, "exponent": exponent(curve), "crosses_first": crosses}
