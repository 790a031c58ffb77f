"""Settings that follow from the size of the training data, wherever the recipe does not set them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qkv.model.seq2seq import RNNConfig
from qkv.task.translate.recipe import TranslationRecipe

FEW_UPDATES = 2000  # a training with fewer updates seldom learns to translate
FEW_PAIRS, MANY_PAIRS = 6_000, 100_000
UPDATES_PER_EPOCH = 300  # at least, where batches can be that small
MOST_EPOCHS = 200
VALIDATIONS = 12
KEYS = (
    "tokens.vocab",
    "model.width",
    "model.encoder_layers",
    "model.decoder_layers",
    "model.feedforward",
    "model.dropout",
    "batch.batch_tokens",
    "train.epochs",
    "train.schedule",
    "train.lr",
    "train.warmup",
    "train.validate_every",
    "train.precision",
    "train.threads",
)
TOKENS_PER_THREAD = 1024
UNSPACED = 12  # characters a word, above which a script is taken to write no spaces


class DataSize(NamedTuple):
    """The number of training pairs; characters, words and different characters of both sides together."""

    pairs: int
    characters: int
    words: int
    alphabet: int


class Machine(NamedTuple):
    """Where the training runs: "cpu", "cuda" or "mps", its CPU threads, whether it multiplies bfloat16."""

    device: str
    threads: int
    bfloat16: bool


class Default(NamedTuple):
    """A key that the recipe leaves out, as `section.key`, the value that it gets, and why."""

    key: str
    value: Any
    reason: str

    @property
    def setting(self) -> str:
        """`section.key=value`, as `--set` takes it."""
        return f"{self.key}={self.value}"


def measure(pairs: Sequence[tuple[str, str]]) -> DataSize:
    """The size of training text; a word ends at white space."""
    characters = sum(len(source) + len(target) for source, target in pairs)
    words = sum(len(source.split()) + len(target.split()) for source, target in pairs)
    alphabet: set[str] = set()
    for pair in pairs:
        alphabet.update(*pair)
    return DataSize(len(pairs), characters, words, len(alphabet))


def fill_defaults(
    recipe: TranslationRecipe, size: DataSize, machine: Machine
) -> tuple[TranslationRecipe, list[Default]]:
    """The recipe with the keys that it leaves out set for data of this size, and those keys.

    A key that the recipe sets is never changed, so the complete recipe of a run comes back as it is.
    """
    defaults: list[Default] = []
    for rule in (
        _vocabulary,
        _model,
        _feedforward,
        _batch,
        _length,
        _rate,
        _warmup,
        _validation,
        _arithmetic,
    ):
        new = [default for default in rule(recipe, size, machine) if not is_set(recipe, default.key)]
        recipe = _with_values(recipe, {default.key: default.value for default in new})
        defaults += new
    return recipe, defaults


def take_defaults(recipe: TranslationRecipe, complete: TranslationRecipe) -> TranslationRecipe:
    """The recipe with every key that `fill_defaults` might set, and that it leaves out, as in `complete`."""
    if "model" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"model": complete.model})
    pairs = [(key, *key.split(".")) for key in KEYS if not is_set(recipe, key)]
    return _with_values(
        recipe,
        {
            key: getattr(getattr(complete, section), name)
            for key, section, name in pairs
            if hasattr(getattr(recipe, section), name) and hasattr(getattr(complete, section), name)
        },
    )


def is_set(recipe: TranslationRecipe, key: str) -> bool:
    """Whether the recipe itself sets `section.key`."""
    section, _, name = key.partition(".")
    return section in recipe.model_fields_set and name in getattr(recipe, section).model_fields_set


def planned_updates(recipe: TranslationRecipe, size: DataSize) -> int:
    """About how many updates the training makes, estimated before the text is tokenised."""
    steps = recipe.train.steps or math.inf
    epochs = recipe.train.epochs or math.inf
    return max(1, round(min(steps, epochs * _updates_per_epoch(recipe, size))))


def _vocabulary(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if recipe.tokens.kind == "bpe":
        vocab = min(8000, max(1000, 2 * size.alphabet, size.characters // 25_000 * 100))
        reason = "one entry for 250, so that each is seen often, and at least two for a letter"
        yield Default(
            "tokens.vocab", vocab, f"{size.characters:,} characters, {size.alphabet:,} letters: {reason}"
        )


def _model(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    pairs = f"{size.pairs:,} pairs"
    few, many = size.pairs < FEW_PAIRS, size.pairs >= MANY_PAIRS
    if isinstance(recipe.model, RNNConfig):
        yield Default("model.dropout", 0.2 if many else 0.3, f"{pairs}: less where there is more text")
        return
    # twice the width learns less in the same CPU time (docs/results.md)
    wide = many and machine.device != "cpu"
    yield Default("model.width", 256 if wide else 128, f"{pairs} on {machine.device}: quick to train")
    for key in ("model.encoder_layers", "model.decoder_layers"):
        yield Default(key, 4 if many else 2, f"{pairs}: a deeper model wants at least {MANY_PAIRS:,}")
    yield Default("model.dropout", 0.2 if few else 0.1, f"{pairs}: less where there is more text")


def _feedforward(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if not isinstance(recipe.model, RNNConfig):
        yield Default("model.feedforward", 2 * recipe.model.width, "twice the width")


def _batch(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    positions = size.pairs * _positions_per_pair(recipe, size)
    fitting = 2 ** int(math.log2(max(positions / UPDATES_PER_EPOCH, 1)))
    longest = recipe.batch.max_length + 2  # BOS and EOS: a pair of the greatest length must fit
    tokens = max(min(fitting, 2048), 512, longest)
    yield Default(
        "batch.batch_tokens",
        tokens,
        f"about {positions:,.0f} tokens a side: a pass should make at least {UPDATES_PER_EPOCH} updates",
    )


def _length(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if recipe.train.steps is not None:
        return
    updates = _updates_per_epoch(recipe, size)
    epochs = max(5, 2000 / math.sqrt(size.pairs), 1.5 * FEW_UPDATES / updates)
    epochs = min(MOST_EPOCHS, round(epochs))
    yield Default("train.epochs", epochs, f"{size.pairs:,} pairs: about {epochs * updates:,} updates")


def _rate(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    yield Default("train.schedule", "cosine", "the end of the training is known, and the rate is 0 there")
    model = recipe.model
    if isinstance(model, RNNConfig):
        lr, reason = 0.002 * min(1, 256 / model.hidden), f"hidden {model.hidden}"
    else:
        lr, reason = 0.003 * min(1, 128 / model.width), f"width {model.width}"
        if model.norm == "post":
            lr, reason = lr / 3, f"{reason}, norm: post"
    yield Default("train.lr", float(f"{lr:.2g}"), f"{reason}: wider models need a lower rate")


def _warmup(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    updates = planned_updates(recipe, size)
    yield Default("train.warmup", min(2000, updates // 10), f"a tenth of about {updates:,} updates")


def _validation(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    updates = planned_updates(recipe, size)
    # patience and average count validations: whoever sets them knows what an epoch is
    counted = is_set(recipe, "train.patience") or is_set(recipe, "train.average")
    if not counted and updates > VALIDATIONS * _updates_per_epoch(recipe, size):
        every = math.ceil(updates / VALIDATIONS)
        yield Default(
            "train.validate_every", every, f"{VALIDATIONS} validations; one an epoch would take longer"
        )


def _arithmetic(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if machine.bfloat16:
        yield Default("train.precision", "bf16", f"this {machine.device} multiplies bfloat16 in hardware")
    else:
        yield Default(
            "train.precision", "32", f"this {machine.device} does not multiply bfloat16 in hardware"
        )
    if machine.device == "cpu":
        threads = max(1, min(machine.threads, recipe.batch.batch_tokens // TOKENS_PER_THREAD))
        yield Default(
            "train.threads",
            threads,
            f"one for {TOKENS_PER_THREAD:,} tokens of a batch: more gain little",
        )


def _positions_per_pair(recipe: TranslationRecipe, size: DataSize) -> float:
    """What a pair takes in a batch, from the usual length of a token: its longer side, BOS and EOS."""
    if recipe.tokens.kind == "word":
        tokens = size.words
    elif recipe.tokens.kind == "char":
        tokens = size.characters
    elif size.characters > UNSPACED * size.words:
        tokens = size.characters / 1.5
    else:
        tokens = size.characters / (2.5 + 0.45 * math.log2(max(recipe.tokens.vocab, 1000) / 1000))
    return 1.1 * tokens / (2 * size.pairs) + 2


def _updates_per_epoch(recipe: TranslationRecipe, size: DataSize) -> int:
    positions = size.pairs * _positions_per_pair(recipe, size)
    return max(1, round(positions / (0.96 * recipe.batch.batch_tokens * recipe.batch.accumulate)))


def _with_values(recipe: TranslationRecipe, values: Mapping[str, Any]) -> TranslationRecipe:
    """The recipe with these `section.key` values, which count as set from then on."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    filled = {name: getattr(recipe, name).model_copy(update=update) for name, update in sections.items()}
    return recipe.model_copy(update=filled)
