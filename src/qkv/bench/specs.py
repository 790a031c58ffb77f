"""What is compared: attention specs as a person writes them, and the setting they all share."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
import yaml

from qkv.catalogue import build_example, format_label
from qkv.errors import BadRecipe, QKVError, UnknownName, did_you_mean
from qkv.rules import AXES
from qkv.spec import AttentionSpec
from qkv.yaml_input import load_yaml

FUSED = "sdpa"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setting:
    """What all contenders share.

    width, heads, batch: of the layer and its input.  causal: for specs that do not say.  layer: with the
    projections of a whole layer, or else the bare core on queries, keys and values.  dtype: a name in DTYPES.
    device: as torch names it.  repeats: the median of so many.
    """

    width: int = 512
    heads: int = 8
    batch: int = 1
    causal: bool = True
    layer: bool = False
    dtype: str = "fp32"
    device: str = "cpu"
    repeats: int = 5
    seed: int = 0

    def __str__(self) -> str:
        order = "causal" if self.causal else "not causal"
        of = "whole layer" if self.layer else "core"
        sizes = f"batch {self.batch}, width {self.width}, {self.heads} heads"
        return f"{of}, {order}, {sizes}, {self.dtype}, {self.device}, median of {self.repeats} in turn"


@dataclass(frozen=True)
class Contender:
    """One attention in a comparison.

    label: its name in tables.  written: it as a recipe would write it.  fused: torch's
    scaled_dot_product_attention itself, in place of the core that the spec has.
    """

    label: str
    written: str
    spec: AttentionSpec
    fused: bool = False


def read(written: Sequence[str], setting: Setting) -> list[Contender]:
    """Contenders from `sdpa`, the name of a part or an inline mapping, each with `label=` in front or not.

    Raises QKVError for one that cannot be read or built, and for two of one label.
    """
    found: dict[str, Contender] = {}
    for text in written:
        contender = _read(text, setting)
        if contender.label in found:
            raise BadRecipe(
                f"two specs are called {contender.label!r}: name one of them, other={text.rpartition('=')[2]}"
            )
        found[contender.label] = contender
    return list(found.values())


def _read(text: str, setting: Setting) -> Contender:
    name, body = _named(text)
    try:
        told = {} if body == FUSED else _mapping(body)
        for key in ("d_model", "d_memory"):
            if key in told:
                raise BadRecipe(f"{key} is the same for all: leave it out, and say --width")
        spec = _spec(told, setting)
    except QKVError as error:
        raise type(error)(f"{body}: {error}") from None
    parts = {axis: part.to_dict() for axis in told if (part := getattr(spec, axis, None)) and axis in AXES}
    shown = body if body.startswith("{") or body == FUSED else _flow(parts)
    return Contender(name or (FUSED if body == FUSED else _label(told, spec)), shown, spec, body == FUSED)


def _named(text: str) -> tuple[str, str]:
    name, equals, body = text.strip().partition("=")
    return (name.strip(), body.strip()) if equals and "{" not in name else ("", text.strip())


def _mapping(body: str) -> dict[str, Any]:
    if not body.startswith("{"):
        return _of_part(body)
    try:
        told = load_yaml(body)
    except ValueError as error:
        raise BadRecipe(f"this is no mapping like {{kernel: {{name: rfa, features: 64}}}}: {error}") from None
    return {str(key): value for key, value in told.items()}


def _of_part(name: str) -> dict[str, Any]:
    for axis, registry in AXES.items():
        if name in registry:
            return {axis: build_example(registry[name])}
    known = [FUSED, *(name for registry in AXES.values() for name in registry)]
    raise UnknownName(f"no such attention. {did_you_mean(name, known)}; or {{axis: {{name: ..., ...}}}}")


def _spec(told: Mapping[str, Any], setting: Setting) -> AttentionSpec:
    shared = {"d_model": setting.width, "heads": setting.heads, "causal": setting.causal}
    return AttentionSpec.from_dict({**shared, **told})


def _label(told: Mapping[str, Any], spec: AttentionSpec) -> str:
    parts = [format_label(getattr(spec, axis)) for axis in AXES if told.get(axis) is not None]
    rest = [f"{key}={value}" for key, value in told.items() if key not in AXES]
    return " ".join([*parts, *rest]) or "softmax"


def _flow(told: Mapping[str, Any]) -> str:
    """On one line, with options only where they are not the usual ones or have to be given."""
    short = {}
    for axis, options in told.items():
        kind = AXES[axis][options["name"]]
        required = {"name", *_required(kind)}
        kept = {key: value for key, value in options.items() if key in required}
        short[axis] = kept["name"] if len(kept) == 1 else kept
    return yaml.safe_dump(short, default_flow_style=True, width=1000, sort_keys=False).strip()


def _required(kind: Any) -> list[str]:
    return [field.name for field in fields(kind) if field.default is MISSING]
