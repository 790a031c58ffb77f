"""A trace: decoded examples and where the model looked at every step, as a value and as an `.npz` file.

`docs/trace.md` describes the file for every other program.  Nothing here needs more than numpy.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qkv.errors import BadData, did_you_mean
from qkv.files import open_output, write_errors

VERSION = 1
KINDS = ("translation",)
PLACES = {"encoder": ("source", "source"), "cross": ("target", "source"), "decoder": ("target", "read")}
BEGIN = "<s>"
TOLERANCE = 5e-3  # of a row's sum: float16 on disk costs up to 2^-11, a bfloat16 model up to 2^-8

_NUMBER = "0|[1-9][0-9]{0,8}"
_LARGEST = 4 * 2**30  # bytes
_HEAL = "if the mechanism forms no distributions, list the name in `unnormalised`"
_HEADER = ("schema", "kind", "unnormalised", "meta", "examples")
_EXAMPLE = ("source", "target", "meta")


@dataclass(frozen=True, eq=False)
class Example:
    """One decoded example of S source and T target tokens.

    source, target: the tokens as the model saw them, special ones included ("</s>" if the end was emitted).
        The target does not hold the begin symbol, so it has one token per decoding step.
    weights: name -> [H, rows, columns]; "encoder.N" is [H,S,S], "cross.N" [H,T,S] and "decoder.N" [H,T,T], N
        counting layers from 0.  Step t of a decoder has read "<s>" and the t-1 tokens before it: its columns.
    log_probs: [T], the log-probability of every target token; None where it is not known.
    meta: whatever else should be remembered; plain JSON values.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    log_probs: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        log_probs = None if self.log_probs is None else _frozen(self.log_probs)
        weights = {name: _frozen(weight) for name, weight in self.weights.items()}
        values = {"source": tuple(self.source), "target": tuple(self.target), "meta": _plain(self.meta)}
        for name, value in (values | {"weights": weights, "log_probs": log_probs}).items():
            object.__setattr__(self, name, value)
        _check_example(self)

    def axes(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tokens that label a weight's rows and its columns; BadData for a name outside the schema."""
        sides = {
            "source": self.source,
            "target": self.target,
            "read": (BEGIN, *self.target)[: len(self.target)],
        }
        rows, columns = PLACES[_place(name)]
        return sides[rows], sides[columns]


@dataclass(frozen=True, eq=False)
class Trace:
    """One or more decoded examples of one model.

    kind: what the model does; "translation".
    unnormalised: names of weights whose rows need not be distributions: those that a feature map implies,
        which may be negative, and those of mechanisms that do not normalise by definition.
    meta: the model's name, the digest of its recipe, the search settings: plain JSON values.

    Raises BadData where tokens, shapes and values do not fit each other.
    """

    examples: tuple[Example, ...]
    kind: str = "translation"
    unnormalised: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {"examples": tuple(self.examples), "unnormalised": tuple(self.unnormalised)}
        for name, value in (values | {"meta": _plain(self.meta)}).items():
            object.__setattr__(self, name, value)
        if not self.examples:
            raise BadData("a trace holds at least one example")
        if self.kind not in KINDS:
            raise BadData(f"unknown kind of trace: {self.kind!r}. {did_you_mean(self.kind, KINDS)}")
        for number, example in enumerate(self.examples):
            for name in sorted(set(example.weights) - set(self.unnormalised)):
                _check_rows(f"example {number}, {name}", example.weights[name])

    def save(self, path: str | Path) -> None:
        """Write the file, all of it or nothing: weights as float16 (float32 where unnormalised).

        Raises BadData if it cannot be written there.
        """
        entries: dict[str, Any] = dict(_entries(self))
        content = io.BytesIO()  # pipes cannot seek, as writing an archive must
        with write_errors(path, "the trace "), open_output(path) as file:
            np.savez_compressed(content, **entries)
            file.write(content.getbuffer())

    @staticmethod
    def load(path: str | Path) -> "Trace":
        """Read a file written by `save`, or by another program after `docs/trace.md`; weights become float32.

        Raises BadData, naming the file, if it is missing, damaged, no trace, too new, or contradicts itself.
        """
        path = Path(path)
        try:
            return _read(path)
        except BadData as error:
            raise BadData(f"{path}: {error}") from None


def stack(steps: Sequence[np.ndarray]) -> np.ndarray:
    """Decoding steps [H,S_t], one after another, as one [H,T,S]; zeros where a step saw fewer keys."""
    width = max(step.shape[1] for step in steps)
    return np.stack([np.pad(step, ((0, 0), (0, width - step.shape[1]))) for step in steps], axis=1)


def _frozen(values: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = np.array(values, dtype=np.float32)
    array.setflags(write=False)
    return array


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(meta), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadData(
            f"meta holds JSON values only (text, finite numbers, lists, mappings): {error}"
        ) from None


def _place(name: str) -> str:
    place, _, layer = name.partition(".")
    if place not in PLACES or not re.fullmatch(_NUMBER, layer):
        known = ", ".join(f'"{known}.N"' for known in PLACES)
        raise BadData(f"weights are named {known} with a layer number N, not {name!r}")
    return place


def _check_example(example: Example) -> None:
    for name, weight in example.weights.items():
        rows, columns = map(len, example.axes(name))
        if weight.ndim != 3 or weight.shape[1:] != (rows, columns):
            raise BadData(
                f"{name} has shape {weight.shape}, but with {len(example.source)} source and "
                f"{len(example.target)} target tokens it must be (heads, {rows}, {columns})"
            )
        if not np.isfinite(weight).all():
            raise BadData(f"{name} holds values that are not finite")
        if PLACES[_place(name)] == ("target", "read") and np.triu(weight, 1).any():
            raise BadData(
                f"{name} looks at tokens that its step had not read: it must be zero above the diagonal"
            )
    log_probs = example.log_probs
    if log_probs is not None and log_probs.shape != (len(example.target),):
        raise BadData(f"log_probs has shape {log_probs.shape} for {len(example.target)} target tokens")
    if log_probs is not None and not (np.isfinite(log_probs) & (log_probs < TOLERANCE)).all():
        raise BadData("log_probs are natural logarithms of probabilities: finite and not above 0")


def _check_rows(label: str, weight: np.ndarray) -> None:
    if weight.size == 0:
        return
    low, high = float(weight.min()), float(weight.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise BadData(
            f"{label} holds values from {low:.4g} to {high:.4g}, but weights lie in [0, 1]; {_HEAL}"
        )
    sums = weight.sum(axis=-1, dtype=np.float64)
    wrong = sums[(np.abs(sums - 1) > TOLERANCE) & weight.any(axis=-1)]
    if wrong.size:
        raise BadData(
            f"{label} has {wrong.size} of {sums.size} rows that do not sum to 1 (the first: {wrong[0]:.4g}); "
            f"rows sum to 1, or are all 0 where nothing could be attended; {_HEAL}"
        )


def _entries(trace: Trace) -> Iterator[tuple[str, np.ndarray]]:
    examples = [{"source": e.source, "target": e.target, "meta": e.meta} for e in trace.examples]
    values = (f"qkv-trace/{VERSION}", trace.kind, trace.unnormalised, trace.meta, examples)
    text = json.dumps(dict(zip(_HEADER, values, strict=True)))
    yield "header", np.frombuffer(text.encode(), dtype=np.uint8)
    for number, example in enumerate(trace.examples):
        if example.log_probs is not None:
            yield f"{number}/log_probs", example.log_probs
        for name, weight in example.weights.items():
            yield f"{number}/{name}", weight.astype(np.float32 if name in trace.unnormalised else np.float16)


def _read(path: Path) -> Trace:
    try:
        with open(path, "rb") as file:
            header, arrays = _opened(file)
    except BadData:
        raise
    except FileNotFoundError:
        raise BadData("there is no such file") from None
    except Exception as error:  # zip and array readers answer damage with errors of a dozen types
        raise BadData(f"cannot be read, it is damaged or cut short ({error})") from None
    return _trace(header, arrays)


def _opened(file: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    magic = file.read(4)
    if magic != b"PK\x03\x04":
        raise BadData("is no trace: a trace is an .npz file, as `qkv translate --trace` writes it")
    archive = file if file.seekable() else io.BytesIO(magic + file.read(_LARGEST))
    archive.seek(0)
    with np.load(archive, allow_pickle=False) as entries:
        size = sum(info.file_size for info in entries.zip.infolist())
        if size > _LARGEST:
            raise BadData(
                f"holds {size / 2**30:,.0f} GiB, more than the {_LARGEST / 2**30:.0f} GiB of any trace"
            )
        header = _header(entries["header"] if "header" in entries.files else None)
        arrays = {name: entries[name] for name in entries.files if name != "header"}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise BadData(f"entry {name!r} is no .npy array")
    return header, arrays


def _header(array: Any) -> dict[str, Any]:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise BadData("is no trace: an .npz file, but without the `header` that docs/trace.md describes")
    try:
        header = json.loads(array.tobytes().decode())
    except ValueError as error:
        raise BadData(f"its header is not UTF-8 JSON ({error})") from None
    schema = header.get("schema") if isinstance(header, dict) else None
    version = re.fullmatch(r"qkv-trace/([0-9]{1,9})", str(schema))
    if version is None:
        raise BadData(f"is no trace: its schema is {schema!r}, not 'qkv-trace/{VERSION}'")
    if int(version[1]) > VERSION:
        raise BadData(
            f"has the schema {schema}, but this qkv reads up to qkv-trace/{VERSION}; "
            "it was written by a newer version: upgrade qkv"
        )
    return header


def _trace(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trace:
    _mapping(header, _HEADER, "its header")
    written = header.get("examples")
    if not isinstance(written, list):
        raise BadData("its header lists no examples")
    parts: list[dict[str, np.ndarray]] = [{} for _ in written]
    for entry, array in arrays.items():
        number, _, name = entry.partition("/")
        if not re.fullmatch(_NUMBER, number) or int(number) >= len(written):
            raise BadData(
                f"has an entry {entry!r}, but entries are named EXAMPLE/NAME with {len(written)} examples"
            )
        if array.dtype.kind != "f":
            raise BadData(f"entry {entry!r} holds {array.dtype}, not floating-point numbers")
        parts[int(number)][name] = array
    examples = tuple(_example(n, *both) for n, both in enumerate(zip(written, parts, strict=True)))
    unnormalised = _strings(header.get("unnormalised", []), "unnormalised")
    meta = _mapping(header.get("meta", {}), (), "meta")
    return Trace(examples, str(header.get("kind", "translation")), unnormalised, meta)


def _example(number: int, written: Any, arrays: dict[str, np.ndarray]) -> Example:
    try:
        _mapping(written, _EXAMPLE, "its entry in the header")
        source, target = (_strings(written.get(side), side) for side in ("source", "target"))
        log_probs = arrays.pop("log_probs", None)
        return Example(source, target, arrays, log_probs, _mapping(written.get("meta", {}), (), "meta"))
    except BadData as error:
        raise BadData(f"example {number}: {error}") from None


def _strings(written: Any, where: str) -> tuple[str, ...]:
    if not isinstance(written, list) or not all(isinstance(item, str) for item in written):
        raise BadData(f"{where} is not a list of strings")
    return tuple(written)


def _mapping(written: Any, known: tuple[str, ...], where: str) -> dict[str, Any]:
    """What was written, if it is a mapping; without known keys, every key will do."""
    if not isinstance(written, dict):
        raise BadData(f"{where} is not a mapping")
    for name in written:
        if known and name not in known:
            raise BadData(f"{where} has an unknown key {name!r}. {did_you_mean(name, known)}")
    return written
