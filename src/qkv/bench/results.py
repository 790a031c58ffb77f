"""The results of a comparison, as values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qkv.bench.curves import find_crossing, fit_exponent
from qkv.bench.machine import Machine
from qkv.bench.specs import Contender, Setting

JSON_KEYS = {"mode": "what", "failure": "why"}  # fields of a cell that have other names in a JSON file


@dataclass(frozen=True)
class Cell:
    """One contender at one length.

    Args:
        mode: what was timed, a key of `qkv.bench.calls.MODES`.
        label: the contender's label.
        length: tokens.
        seconds: the median of one pass, or of one decoding step of the whole batch; None without a result.
        fastest: seconds of the fastest repeat.
        slowest: seconds of the slowest repeat.
        failure: why there is no result.
        state: bytes that the decode state of the batch holds after `length` tokens.
        allocated: bytes of the memory behind the state, which may have room for further tokens.
        peak: bytes that the call took beyond the memory in use before it; None where not measured.
    """

    mode: str
    label: str
    length: int
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    failure: str = ""
    state: int = 0
    allocated: int = 0
    peak: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {JSON_KEYS.get(name, name): value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Comparison:
    """All cells of a comparison, with the machine and the setting.

    Args:
        machine: what it was measured on.
        setting: what all contenders shared.
        contenders: the attentions; the first one is the baseline.
        cells: the results.
    """

    machine: Machine
    setting: Setting
    contenders: Sequence[Contender]
    cells: Sequence[Cell]

    @property
    def modes(self) -> list[str]:
        """What was timed, in order."""
        return list(dict.fromkeys(cell.mode for cell in self.cells))

    def select_cells(self, mode: str, label: str) -> list[Cell]:
        """The cells of one contender in one mode, by length."""
        cells = (cell for cell in self.cells if (cell.mode, cell.label) == (mode, label))
        return sorted(cells, key=lambda cell: cell.length)

    def curve(self, mode: str, label: str) -> list[tuple[int, float]]:
        """Pairs of length and seconds of one contender, where there is a result."""
        cells = self.select_cells(mode, label)
        return [(cell.length, cell.seconds) for cell in cells if cell.seconds is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with exponents and crossings."""
        return {
            "machine": asdict(self.machine),
            "setting": asdict(self.setting),
            "contenders": [
                {"label": c.label, "written": c.text, "fused": c.is_fused, "spec": c.spec.to_dict()}
                for c in self.contenders
            ],
            "cells": [cell.to_dict() for cell in self.cells],
            "curves": [self._describe_curve(mode, c.label) for mode in self.modes for c in self.contenders],
        }

    def _describe_curve(self, mode: str, label: str) -> dict[str, Any]:
        curve = self.curve(mode, label)
        crossing = find_crossing(self.curve(mode, self.contenders[0].label), curve)
        crosses = None if crossing is None else crossing._asdict()
        return {"what": mode, "label": label, "exponent": fit_exponent(curve), "crosses_first": crosses}
