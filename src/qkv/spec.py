"""AttentionSpec: a legal combination of parts as a frozen value that can be compared, stored and built."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qkv import layer_builder, part, rules
from qkv.errors import BadRecipe, BadShape, UnknownName, did_you_mean
from qkv.kernel import Softmax
from qkv.part import Part
from qkv.scope import Global
from qkv.score import ScaledDot
from qkv.select import Soft
from qkv.shapes import Dims


@dataclass(frozen=True)
class AttentionSpec:
    """Everything that `Attention` is built from.  Illegal combinations are refused when the spec is made.

    d_model: width of queries and output (None: to be given by the model that uses the spec).
    heads: of queries (None: the model's that uses the spec, or 1).
    kv_heads: of keys and values (None: as many; fewer: grouped queries).
    score, scope, select, kernel: a part, its name as in recipes ("rfa"), or a mapping of name and options
        ({"name": "rfa", "features": 64}).
    score: None takes the score the kernel is made for: ScaledDot for Softmax, none for a feature map.
    d_memory: width of the memory, where it differs from d_model.
    dropout: on the weights, in training.  bias: on the projections.
    project: False leaves out all projections: one head, memory as keys and as values (RNN decoders).
    """

    d_model: int | None = None
    heads: int | None = None
    score: Any = None
    scope: Any = Global()
    select: Any = Soft()
    kernel: Any = Softmax()
    causal: bool = False
    d_memory: int | None = None
    kv_heads: int | None = None
    dropout: float = 0.0
    bias: bool = True
    project: bool = True

    def __post_init__(self) -> None:
        for axis in rules.AXES:
            object.__setattr__(self, axis, read_part(axis, getattr(self, axis)))
        if self.score is None and self.kernel.forms_weights:
            object.__setattr__(self, "score", ScaledDot())
        if self.heads is None and self.d_model is not None:
            object.__setattr__(self, "heads", 1)
        self._check_numbers()
        rules.check(self.choice)
        self._check_heads()

    @property
    def choice(self) -> rules.Choice:
        """What the rules look at."""
        return rules.Choice(self.score, self.scope, self.select, self.kernel, self.causal, self.dropout)

    @property
    def dims(self) -> Dims:
        """Heads and widths per head."""
        width = self.width
        if not self.project:
            memory = self.d_memory or width
            return Dims(1, width, memory, memory)
        heads = self.heads or 1
        return Dims(heads, width // heads, width // heads, width // heads)

    @property
    def gated(self) -> bool:
        """Whether a gate read from the layer's input forgets what is old."""
        return self.kernel.is_gated

    @property
    def key_limit(self) -> tuple[int, str] | None:
        """The largest number of keys that every part serves, and the option that sets it ("score.length");
        None where any number is served.
        """
        parts = {axis: getattr(self, axis) for axis in rules.AXES}
        limits = [
            (getattr(part, part.key_limit_option), f"{axis}.{part.key_limit_option}")
            for axis, part in parts.items()
            if part is not None and part.key_limit_option is not None
        ]
        return min(limits, default=None)

    @property
    def width(self) -> int:
        """d_model; BadShape where it was left open."""
        if self.d_model is None:
            raise BadShape("this spec names no width: give it one, dataclasses.replace(spec, d_model=512)")
        return self.d_model

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data for YAML or JSON: only what differs from the defaults, parts with their
        options.
        """
        told = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Part):
                told[field.name] = value.to_dict()
            elif value is not None and value != field.default:
                told[field.name] = value
        return told

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "AttentionSpec":
        """Read what `to_dict` wrote, or what a person wrote: `{"kernel": "rfa"}`, `{"kernel": {"name": "rfa",
        ...}}`.

        Raises UnknownName with "did you mean", BadRecipe for a value out of range, IncompatibleParts.
        """
        known = [field.name for field in fields(cls)]
        for key in told:
            if key not in known:
                raise UnknownName(f"unknown key of an attention: {key!r}. {did_you_mean(key, known)}")
        return cls(**told)

    def build(self) -> Any:
        """The `Attention` layer of this spec.  Raises BadShape where d_model was left open."""
        return layer_builder.build_layer(self)

    def _check_numbers(self) -> None:
        for name in ("d_model", "heads", "d_memory", "kv_heads"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadRecipe(f"{name} must be a positive whole number, got {value!r}")
        for name in ("causal", "bias", "project"):
            if not isinstance(getattr(self, name), bool):
                raise BadRecipe(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.dropout, int | float) or not 0 <= self.dropout <= 1:
            raise BadRecipe(f"dropout must be a probability, 0 to 1, got {self.dropout!r}")
        object.__setattr__(self, "dropout", float(self.dropout))

    def _check_heads(self) -> None:
        heads = self.heads or 1
        if self.d_model is not None and self.d_model % heads:
            raise BadShape(f"d_model={self.d_model} cannot be split into heads={heads} of equal width")
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise BadShape(f"heads={self.heads} cannot share kv_heads={self.kv_heads} evenly")
        if not self.project and (heads != 1 or self.kv_heads not in (None, 1)):
            raise BadShape(f"project=False has no projections to split: it needs heads=1, got heads={heads}")
        two_widths = self.score is not None and self.score.two_widths
        if not self.project and self.d_memory not in (None, self.d_model) and not two_widths:
            raise BadShape(
                f"project=False leaves queries of width {self.d_model} and keys of width {self.d_memory} as "
                f"they are, and {self.score or self.kernel!r} needs one: use General() or Additive(), or "
                "project=True"
            )


def read_part(axis: str, written: Any) -> Any:
    """The part of an axis as it was written: a part, its name, or a mapping of name and options.

    None is no score.  Raises UnknownName for anything else, BadRecipe for an option out of range.
    """
    is_part = isinstance(written, Part) and written.axis == axis
    if is_part or (written is None and axis == "score"):
        return written
    registry = rules.AXES[axis]
    if isinstance(written, str | Mapping):
        return part.from_dict(registry, axis, written)
    known = ", ".join(f"{kind.__name__} ({name!r})" for name, kind in registry.items())
    raise UnknownName(f"{axis}={written!r} is not a {axis}. Known: {known}")
