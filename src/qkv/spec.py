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
    """Everything that `Attention` is built from, as a frozen value.

    A part is an instance (`qkv.RFA(64)`), its name in recipes ("rfa"), or a mapping of its name and options
    ({"name": "rfa", "features": 64}).

    Args:
        d_model: M, the width of queries and output; None leaves it to the model that uses the spec.
        heads: Heads of the queries; None takes those of the model that uses the spec, or 1.
        score: Similarity of a query and a key; None takes ScaledDot for Softmax, no score for a feature map.
        scope: Which keys a query may attend to.
        select: How scores become weights.
        kernel: Softmax(), or a feature map.
        causal: Whether queries see no later keys; the last query is aligned with the last key.
        d_memory: Width of the memory; None takes `d_model`.
        kv_heads: Heads of keys and values, a divisor of `heads` (grouped queries); None takes `heads`.
        dropout: Probability with which weights are dropped in training.
        bias: Whether the projections have a bias.
        project: Whether there are projections.  Without them there is one head, and the memory is both keys
            and values (RNN decoders).

    Raises:
        IncompatibleParts: The parts clash; the message lists the single changes that fix it.
        UnknownName: A part or an option does not exist.
        BadRecipe: A value is out of range.
        BadShape: `heads` does not divide `d_model`, or `kv_heads` does not divide `heads`.

    References:
        Vaswani et al. 2017, section 3.2.2; grouped queries: Ainslie et al. 2023.

    Example:
        >>> spec = qkv.AttentionSpec(512, heads=8, kernel="rfa", causal=True)
        >>> spec.kernel.features
        64
        >>> qkv.AttentionSpec.from_dict(spec.to_dict()) == spec
        True
        >>> spec.build()(torch.randn(2, 10, 512)).shape
        torch.Size([2, 10, 512])
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
        """The parts and facts that the rules read."""
        return rules.Choice(self.score, self.scope, self.select, self.kernel, self.causal, self.dropout)

    @property
    def dims(self) -> Dims:
        """The number of heads, and the widths per head."""
        width = self.width
        if not self.project:
            return Dims(1, width, self.memory_width, self.memory_width)
        heads = self.heads or 1
        return Dims(heads, width // heads, width // heads, width // heads)

    @property
    def is_gated(self) -> bool:
        """Whether a gate, computed from the layer's input, lets earlier keys decay."""
        return self.kernel.is_gated

    @property
    def memory_width(self) -> int:
        """The width of keys and values before their projection: `d_memory`, or else `d_model`."""
        return self.d_memory or self.width

    @property
    def key_limit(self) -> tuple[int, str] | None:
        """The largest number of keys that all parts accept, and the option that sets it ("score.length");
        None where there is no limit.
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
        """M: `d_model`, which must be set.

        Raises:
            BadShape: `d_model` is None.
        """
        if self.d_model is None:
            raise BadShape("d_model of this spec is None: set it with dataclasses.replace(spec, d_model=512)")
        return self.d_model

    def to_dict(self) -> dict[str, Any]:
        """Convert the spec to plain data for YAML or JSON.

        Returns:
            The values that differ from the defaults, parts with their options.
        """
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Part):
                values[field.name] = value.to_dict()
            elif value is not None and value != field.default:
                values[field.name] = value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AttentionSpec":
        """Read the output of `to_dict`, or a section of a recipe such as `{"kernel": "rfa"}`.

        Args:
            values: The arguments of the spec by name.

        Returns:
            The spec.

        Raises:
            UnknownName: There is no such argument, part or option; the message offers the nearest one.
            BadRecipe: A value is out of range.
            IncompatibleParts: The parts clash.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UnknownName(f"unknown key of an attention: {key!r}. {did_you_mean(key, known)}")
        return cls(**values)

    def count_operations(self, queries: int, keys: int) -> int:
        """Count the operations of a forward pass of the layer for one sequence, in its matrix products.

        A multiplication and an addition are two operations.  Pairs that a causal mask hides count as well.

        Args:
            queries: T.
            keys: S.

        Returns:
            The operations of the projections and of the attention itself.

        Example:
            >>> spec = qkv.AttentionSpec(512, heads=8)
            >>> spec.count_operations(1000, 1000) == 8 * 1000 * 512**2 + 4 * 1000**2 * 512
            True
        """
        dims, memory = self.dims, self.memory_width
        core = self.kernel.count_core_operations(dims, self.choice, queries, keys)
        gate = 2 * keys * memory * dims.heads * self.is_gated
        if not self.project:
            return core + gate
        of_queries = 2 * queries * self.width * dims.heads * (dims.query + dims.value)
        of_keys = 2 * keys * memory * (self.kv_heads or dims.heads) * (dims.key + dims.value)
        return core + gate + of_queries + of_keys

    def build(self) -> Any:
        """Build the `Attention` layer of this spec.

        Returns:
            The layer.

        Raises:
            BadShape: `d_model` is None.
        """
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
            raise BadShape(
                f"d_model={self.d_model} cannot be split into heads={heads} of equal width: use a multiple"
            )
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise BadShape(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}, so that every key head "
                "serves as many query heads"
            )
        if not self.project and (heads != 1 or self.kv_heads not in (None, 1)):
            raise BadShape(
                f"project=False has no projections to split into heads: set heads=1, got heads={heads}, "
                f"kv_heads={self.kv_heads}"
            )
        two_widths = self.score is not None and self.score.two_widths
        if not self.project and self.d_memory not in (None, self.d_model) and not two_widths:
            raise BadShape(
                f"project=False leaves queries of width {self.d_model} and keys of width {self.d_memory}, "
                f"but {self.score or self.kernel!r} needs equal widths: use General() or Additive(), or "
                "project=True"
            )


def read_part(axis: str, value: Any) -> Any:
    """Read a part of an axis.

    Args:
        axis: "score", "scope", "select" or "kernel".
        value: A part, its name, or a mapping of its name and options; None is no score.

    Returns:
        The part.

    Raises:
        UnknownName: `value` is not a part of this axis.
        BadRecipe: An option is missing or out of range.
    """
    is_part = isinstance(value, Part) and value.axis == axis
    if is_part or (value is None and axis == "score"):
        return value
    registry = rules.AXES[axis]
    if isinstance(value, str | Mapping):
        return part.from_dict(registry, axis, value)
    known = ", ".join(f"{part_class.__name__} ({name!r})" for name, part_class in registry.items())
    raise UnknownName(f"{axis}={value!r} is not a {axis}. Known: {known}")
