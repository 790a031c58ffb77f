"""The cost of a model: its components, the memory of a step and of decoding."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from qkv.cost.components import RECOMPUTED
from qkv.cost.decoding import DecodeState, measure_decode_state
from qkv.cost.parameters import ParameterCount, count_parameters
from qkv.cost.precision import HALF_TYPES
from qkv.cost.step_counts import Memory, count_operations, measure_memory_of_step
from qkv.cost.workload import Sizes, build_workload
from qkv.model.captioner_config import RecurrentCaptionerConfig
from qkv.model.encoder import EncoderConfig
from qkv.model.hierarchical import HierarchicalConfig
from qkv.model.language import LanguageModelConfig
from qkv.model.layer_attention import get_specs_by_layer
from qkv.model.seq2seq import RNNConfig
from qkv.model.spec_fields import PLACES
from qkv.model.transformer import TransformerConfig

# Deeper stacks of equal layers are traced with few layers, and longer sequences of a recurrence with few
# steps; the rest follows exactly, because operations and stored bytes are polynomials in these numbers.
TRACED_LAYERS = 3
TRACED_STEPS = (16, 24, 32)

Quantities = dict[tuple[str, str], Fraction]


@dataclass(frozen=True)
class ComponentCost:
    """What one component of a model costs.

    Args:
        name: its name.
        parameters: how many it has; shared ones count in the first component that has them.
        formula: the same as a closed formula.
        is_tied: whether it shares weights with an earlier component.
        forward: operations of a forward pass.
        training: operations of a forward and backward pass.
    """

    name: str
    parameters: int
    formula: str
    is_tied: bool
    forward: int
    training: int


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Args:
        sizes: the sizes of the step.
        components: its components, in the order of the model.
        memory: the memory of a training step, in bytes.
        decode: the state of decoding; None for a model that does not decode.
        counted: what a step counts.
        unit: the name of that, in the plural.
    """

    sizes: Sizes
    components: tuple[ComponentCost, ...]
    memory: Memory
    decode: DecodeState | None
    counted: int
    unit: str

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(component.parameters for component in self.components)

    @property
    def forward(self) -> int:
        """The operations of a forward pass."""
        return sum(component.forward for component in self.components)

    @property
    def training(self) -> int:
        """The operations of a forward and backward pass."""
        return sum(component.training for component in self.components)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        sizes = {**self.sizes._asdict(), "terms": self.sizes.terms.model_dump()}
        return {
            "sizes": sizes,
            "counted": {self.unit: self.counted},
            "parameters": self.parameters,
            "operations": {"forward": self.forward, "training": self.training},
            "components": [asdict(component) for component in self.components],
            "memory": self.memory._asdict(),
            "decode": None if self.decode is None else self.decode._asdict(),
        }


def estimate_cost(config: Any, sizes: Sizes) -> Cost:
    """Compute what a model costs, without allocating it.

    Args:
        config: the config of a model: any section `model` of a recipe.
        sizes: batch, length, vocabularies and what else the config does not set.

    Returns:
        The cost.

    Raises:
        BadRecipe: the length is more than the model can read.
    """
    workload = build_workload(config, sizes)
    quantities = _trace_or_extrapolate(config, sizes)
    memory = Memory(**{field: int(quantities["memory", field]) for field in Memory._fields})
    components = _combine(count_parameters(workload.model), quantities)
    decode = measure_decode_state(workload, sizes)
    return Cost(sizes, components, memory, decode, workload.counted, workload.unit)


def _combine(parameters: Mapping[str, ParameterCount], quantities: Quantities) -> tuple[ComponentCost, ...]:
    """The components with parameters, those with operations only, and what is computed again at the end."""
    names = dict.fromkeys([*parameters, *(name for kind, name in quantities if kind == "training")])
    ordered = sorted(names, key=lambda name: name == RECOMPUTED)
    return tuple(
        ComponentCost(
            name,
            *parameters.get(name, ParameterCount(0, "", False)),
            int(quantities.get(("forward", name), 0)),
            int(quantities.get(("training", name), 0)),
        )
        for name in ordered
    )


def _trace_or_extrapolate(config: Any, sizes: Sizes) -> Quantities:
    """The operations and the memory of a step, from smaller steps where these determine them."""
    if is_recurrent(config) and sizes.length > TRACED_STEPS[-1]:
        traces = [_trace(config, sizes._replace(length=length)) for length in TRACED_STEPS]
        weights = _compute_lagrange_weights(TRACED_STEPS, sizes.length)
        return _add_multiples(zip(weights, traces, strict=True))
    keys = [key for key in _list_layer_keys(config) if getattr(config, key) > TRACED_LAYERS]
    if not keys:
        return _trace(config, sizes)
    small = config.model_copy(update=dict.fromkeys(keys, TRACED_LAYERS - 1))
    base, terms = _trace(small, sizes), []
    for key in keys:
        more = _trace(small.model_copy(update={key: TRACED_LAYERS}), sizes)
        layers = getattr(config, key) - TRACED_LAYERS + 1
        terms += [(Fraction(layers), more), (Fraction(-layers), base)]
    return _add_multiples([(Fraction(1), base), *terms])


def is_recurrent(config: Any) -> bool:
    """Whether a model computes its positions one after the other.

    Args:
        config: the config of the model.
    """
    if isinstance(config, LanguageModelConfig):
        return config.mixer in ("gru", "lstm")
    return isinstance(config, RNNConfig | RecurrentCaptionerConfig)


def _list_layer_keys(config: Any) -> tuple[str, ...]:
    """The keys of numbers of layers that are all alike."""
    if any(get_specs_by_layer(config, place) for place in ("attention", *PLACES)):
        return ()
    if isinstance(config, TransformerConfig):
        return ("encoder_layers", "decoder_layers")
    if isinstance(config, LanguageModelConfig):
        return ("layers",) if config.mixer == "attention" and not config.convolution_layers else ()
    is_encoder = isinstance(config, EncoderConfig) and not isinstance(config, HierarchicalConfig)
    return ("layers",) if is_encoder else ()


def _trace(config: Any, sizes: Sizes) -> Quantities:
    workload = build_workload(config, sizes)
    operations = count_operations(workload)
    memory = measure_memory_of_step(workload, HALF_TYPES.get(sizes.precision))
    kinds = {**operations._asdict(), "memory": memory._asdict()}
    return {(kind, name): Fraction(value) for kind, values in kinds.items() for name, value in values.items()}


def _compute_lagrange_weights(points: tuple[int, ...], x: int) -> list[Fraction]:
    """The weights of values at these points in the value at x of the polynomial through them."""
    weights = []
    for point in points:
        weight = Fraction(1)
        for other in points:
            weight *= Fraction(x - other, point - other) if other != point else 1
        weights.append(weight)
    return weights


def _add_multiples(terms: Any) -> Quantities:
    total: Quantities = {}
    for weight, quantities in terms:
        for key, value in quantities.items():
            total[key] = total.get(key, Fraction(0)) + weight * value
    return total
