"""The section of a recipe that says how to train."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from qkv.strict import Strict
from qkv.train.schedule import ScheduleName


def _convert_int_to_text(value: Any) -> Any:
    """The text of a number, for YAML reads `precision: 32` as one; any other value as it is."""
    return str(value) if type(value) is int else value


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Strict):
    """How to train: AdamW with a warm-up and a schedule, for `steps` updates or `epochs` passes (set one).

    Args:
        lr: peak learning rate of AdamW.
        schedule: shape of the learning rate after the warm-up.
        warmup: updates of linear warm-up.
        steps: updates to train for; with `epochs` too, whichever comes first.
        epochs: passes over the training data.
        betas: decay of AdamW's two moments.
        weight_decay: decoupled decay of matrices; vectors are not decayed.
        no_decay: names of matrices that are not decayed either, such as '*embedding*'.
        eps: AdamW's epsilon, added to the root of the second moment.
        rates: peak learning rates by name, such as {'encoder.*': 1e-4}; other parameters have `lr`.
        layer_decay: factor of the learning rate from a layer to the one below: the top layer has `lr` times
            it, the next one `lr` times its square, and the embeddings, below all layers, the lowest rate;
            what stands above the layers has `lr`, and names in `rates` keep theirs.
        freeze: names of parameters that are not trained, such as 'encoder.*'.
        clip: largest L2 norm of the gradient per token; null does not clip.
        precision: number format of matrix products; auto is bf16 if the device is good at it, else 32.
        device: where to train; auto is a GPU if there is one.
        strategy: with several processes: ddp keeps all weights in each of them, fsdp a shard.
        threads: CPU threads; null is torch's own choice, which OMP_NUM_THREADS sets.
        validate_every: validate after this many updates, or after every epoch.
        patience: stop after this many validations without improvement; null never stops.
        average: try the mean of the weights at this many last validations; 0 does not.
        seed: seed of dropout and sampling; each update draws from (seed, step, rank).
        save_every_seconds: the longest work, in seconds, that a crash can cost.
        log_every: updates per line of metrics.jsonl.
        tensorboard: write the numbers of metrics.jsonl as TensorBoard events too.
    """

    lr: float = Field(default=1e-3, gt=0)
    schedule: ScheduleName = Field(default="inverse_sqrt")
    warmup: int = Field(default=400, ge=0)
    steps: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.98))
    weight_decay: float = Field(default=0.0, ge=0)
    no_decay: tuple[str, ...] = Field(default=())
    eps: float = Field(default=1e-9, gt=0)
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    freeze: tuple[str, ...] = Field(default=())
    clip: float | None = Field(default=1.0, gt=0)
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(_convert_int_to_text)] = Field(
        default="auto",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto")
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
    )
    threads: Annotated[int, Field(ge=1)] | None = Field(default=None)
    validate_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(default="epoch")
    patience: Annotated[int, Field(ge=1)] | None = Field(default=None)
    average: int = Field(default=0, ge=0)
    seed: int = Field(default=1, ge=0)
    save_every_seconds: float = Field(default=300.0, ge=0)
    log_every: int = Field(default=50, ge=1)
    tensorboard: bool = Field(default=False)

    @model_validator(mode="after")
    def _check_has_steps_or_epochs(self) -> "TrainConfig":
        if self.steps is None and self.epochs is None:
            raise ValueError(
                "training needs an end: set `steps` (updates), `epochs` (passes over the data), or both"
            )
        return self


MAY_CHANGE = frozenset(
    {
        "steps",
        "epochs",
        "patience",
        "save_every_seconds",
        "log_every",
        "device",
        "threads",
        "strategy",
        "tensorboard",
    }
)
MOVED_KEYS = frozenset({"smoothing"})  # keys of version 0.1 that are now in another section of the recipe


def list_changed_keys_that_resuming_forbids(config: TrainConfig, saved: dict[str, object]) -> list[str]:
    """The keys that differ from the configuration of a saved training, apart from those in `MAY_CHANGE`.

    Args:
        config: the present configuration.
        saved: the configuration of the training to resume, as plain values.  A key that it lacks had its
            default value.

    Returns:
        The keys in alphabetical order.
    """
    present = config.model_dump(mode="json")
    saved = {**TrainConfig(steps=1).model_dump(mode="json"), **saved}
    keys = {*present, *saved} - MAY_CHANGE - MOVED_KEYS
    return sorted(key for key in keys if present.get(key) != saved.get(key))
