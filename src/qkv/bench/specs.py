"""The attentions of a comparison, as a user writes them, and the setting that they share."""

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

    Args:
        width: model width M of the layer.
        heads: attention heads.
        batch: sequences per call.
        causal: for specs that do not say.
        layer: time the whole layer with its projections; False times the core on queries, keys and values.
        dtype: of inputs and weights, a key of `DTYPES`.
        device: a device as torch names it.
        repeats: timed repeats, of which the median counts.
        seed: of inputs and weights.
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
        scope = "whole layer" if self.layer else "core"
        sizes = f"batch {self.batch}, width {self.width}, {self.heads} heads"
        return f"{scope}, {order}, {sizes}, {self.dtype}, {self.device}, median of {self.repeats} in turn"


@dataclass(frozen=True)
class Contender:
    """One attention in a comparison.

    Args:
        label: its name in tables.
        text: the attention as a recipe would write it.
        spec: the attention.
        is_fused: use torch's `scaled_dot_product_attention` itself in place of the core of the spec.
    """

    label: str
    text: str
    spec: AttentionSpec
    is_fused: bool = False


def read_contenders(texts: Sequence[str], setting: Setting) -> list[Contender]:
    """Parse the attentions of a comparison.

    Args:
        texts: each is `sdpa`, the name of a part or an inline mapping, with or without `LABEL=` before it.
        setting: width, heads and causal order for specs that do not say.

    Returns:
        One contender for each text.

    Raises:
        QKVError: for a text that cannot be read or built, and for two contenders with one label.
    """
    contenders: dict[str, Contender] = {}
    for text in texts:
        contender = _read_contender(text, setting)
        if contender.label in contenders:
            raise BadRecipe(
                f"two specs have the label {contender.label!r}: "
                f"name one of them, other={text.rpartition('=')[2]}"
            )
        contenders[contender.label] = contender
    return list(contenders.values())


def _read_contender(text: str, setting: Setting) -> Contender:
    name, body = _split_label(text)
    try:
        options = {} if body == FUSED else _parse_options(body)
        for key in ("d_model", "d_memory"):
            if key in options:
                raise BadRecipe(f"{key} is the same for all specs: leave it out and pass --width")
        spec = _build_spec(options, setting)
    except QKVError as error:
        raise type(error)(f"{body}: {error}") from None
    parts = {axis: part.to_dict() for axis in options if (part := getattr(spec, axis, None)) and axis in AXES}
    is_fused = body == FUSED
    recipe = body if body.startswith("{") or is_fused else _format_parts(parts)
    return Contender(name or (FUSED if is_fused else _make_label(options, spec)), recipe, spec, is_fused)


def _split_label(text: str) -> tuple[str, str]:
    name, equals, body = text.strip().partition("=")
    return (name.strip(), body.strip()) if equals and "{" not in name else ("", text.strip())


def _parse_options(body: str) -> dict[str, Any]:
    """The options of an AttentionSpec that an inline mapping or the name of a part stands for."""
    if not body.startswith("{"):
        return _find_part(body)
    try:
        options = load_yaml(body)
    except ValueError as error:
        raise BadRecipe(
            f"this is not a mapping like {{kernel: {{name: rfa, features: 64}}}}: {error}"
        ) from None
    return {str(key): value for key, value in options.items()}


def _find_part(name: str) -> dict[str, Any]:
    for axis, registry in AXES.items():
        if name in registry:
            return {axis: build_example(registry[name])}
    names = [FUSED, *(name for registry in AXES.values() for name in registry)]
    raise UnknownName(
        f"there is no such attention. {did_you_mean(name, names)}; or write {{axis: {{name: ..., ...}}}}"
    )


def _build_spec(options: Mapping[str, Any], setting: Setting) -> AttentionSpec:
    shared = {"d_model": setting.width, "heads": setting.heads, "causal": setting.causal}
    return AttentionSpec.from_dict({**shared, **options})


def _make_label(options: Mapping[str, Any], spec: AttentionSpec) -> str:
    parts = [format_label(getattr(spec, axis)) for axis in AXES if options.get(axis) is not None]
    overrides = [f"{key}={value}" for key, value in options.items() if key not in AXES]
    return " ".join([*parts, *overrides]) or "softmax"


def _format_parts(parts: Mapping[str, Any]) -> str:
    """YAML on one line; a part has only its required options."""
    short = {}
    for axis, options in parts.items():
        kind = AXES[axis][options["name"]]
        required = {"name", *_required_options(kind)}
        fields_to_show = {key: value for key, value in options.items() if key in required}
        short[axis] = fields_to_show["name"] if len(fields_to_show) == 1 else fields_to_show
    return yaml.safe_dump(short, default_flow_style=True, width=1000, sort_keys=False).strip()


def _required_options(kind: Any) -> list[str]:
    return [field.name for field in fields(kind) if field.default is MISSING]
