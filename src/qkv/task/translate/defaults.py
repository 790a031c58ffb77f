"""Defaults that follow from the size of the training data, for keys that the recipe leaves out."""

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
UNSPACED = 12  # characters a word, above which a script is assumed to have no spaces


class DataSize(NamedTuple):
    """The size of the training data.

    Args:
        pairs: number of training pairs.
        characters: number of characters on both sides together.
        words: number of words on both sides together.
        alphabet: number of different characters on both sides together.
    """

    pairs: int
    characters: int
    words: int
    alphabet: int


class Machine(NamedTuple):
    """Where the training runs.

    Args:
        device: "cpu", "cuda" or "mps".
        threads: number of CPU threads.
        bfloat16: whether the device multiplies bfloat16 in hardware.
    """

    device: str
    threads: int
    bfloat16: bool


class Default(NamedTuple):
    """The default of a key that the recipe leaves out.

    Args:
        key: the key, as `section.key`.
        value: its value.
        reason: why it has this value.
    """

    key: str
    value: Any
    reason: str

    @property
    def setting(self) -> str:
        """`section.key=value`, as `--set` takes it."""
        return f"{self.key}={self.value}"


def measure_size(pairs: Sequence[tuple[str, str]]) -> DataSize:
    """The size of the training data; words are separated by white space."""
    characters = sum(len(source) + len(target) for source, target in pairs)
    words = sum(len(source.split()) + len(target.split()) for source, target in pairs)
    alphabet: set[str] = set()
    for pair in pairs:
        alphabet.update(*pair)
    return DataSize(len(pairs), characters, words, len(alphabet))


def fill_defaults(
    recipe: TranslationRecipe, size: DataSize, machine: Machine
) -> tuple[TranslationRecipe, list[Default]]:
    """Set the keys that a recipe leaves out to values for data of this size.

    A key that the recipe sets is never changed, so the complete recipe of a run comes back as it is.

    Args:
        recipe: the recipe.
        size: the size of the training data.
        machine: where the training runs.

    Returns:
        The complete recipe, and the defaults that were set.
    """
    defaults: list[Default] = []
    for rule in (
        _choose_vocabulary,
        _choose_model,
        _choose_feedforward,
        _choose_batch,
        _choose_epochs,
        _choose_rate,
        _choose_warmup,
        _choose_validation,
        _choose_arithmetic,
    ):
        new = [default for default in rule(recipe, size, machine) if not is_set(recipe, default.key)]
        recipe = _with_values(recipe, {default.key: default.value for default in new})
        defaults += new
    return recipe, defaults


def take_defaults(recipe: TranslationRecipe, complete: TranslationRecipe) -> TranslationRecipe:
    """Take the keys that a recipe leaves out, and that `fill_defaults` may set, from another recipe.

    Args:
        recipe: the recipe.
        complete: the complete recipe to take the values from.
    """
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


def estimate_updates(recipe: TranslationRecipe, size: DataSize) -> int:
    """The number of updates that the training makes, estimated before the text is tokenised.

    Args:
        recipe: the recipe.
        size: the size of the training data.
    """
    steps = recipe.train.steps or math.inf
    epochs = recipe.train.epochs or math.inf
    return max(1, round(min(steps, epochs * _estimate_updates_per_epoch(recipe, size))))


def _choose_vocabulary(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if recipe.tokens.kind == "bpe":
        small = min(3500, size.characters // 5_000 * 100)
        vocab = min(8000, max(1000, small, 2 * size.alphabet, size.characters // 25_000 * 100))
        reason = (
            f"{size.characters:,} characters of text: one entry for every 50 up to 3,500 entries, then for "
            f"every 250; from 1,000 to 8,000, and at least two for each of the {size.alphabet:,} letters"
        )
        yield Default("tokens.vocab", vocab, reason)


def _choose_model(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    pairs = f"{size.pairs:,} pairs"
    is_small, is_large = size.pairs < FEW_PAIRS, size.pairs >= MANY_PAIRS
    if isinstance(recipe.model, RNNConfig):
        yield Default("model.dropout", 0.2 if is_large else 0.3, f"{pairs}: less where there is more text")
        return
    # twice the width learns less in the same CPU time (docs/results.md)
    is_wide = is_large and machine.device != "cpu"
    yield Default("model.width", 256 if is_wide else 128, f"{pairs} on {machine.device}: quick to train")
    for key in ("model.encoder_layers", "model.decoder_layers"):
        yield Default(key, 4 if is_large else 2, f"{pairs}: a deeper model needs at least {MANY_PAIRS:,}")
    yield Default("model.dropout", 0.2 if is_small else 0.1, f"{pairs}: less where there is more text")


def _choose_feedforward(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if not isinstance(recipe.model, RNNConfig):
        yield Default("model.feedforward", 2 * recipe.model.width, "twice the width")


def _choose_batch(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    positions = size.pairs * _estimate_positions_per_pair(recipe, size)
    fitting = 2 ** int(math.log2(max(positions / UPDATES_PER_EPOCH, 1)))
    longest = recipe.batch.max_length + 2  # BOS and EOS: a pair of the greatest length must fit
    tokens = max(min(fitting, 2048), 512, longest)
    yield Default(
        "batch.batch_tokens",
        tokens,
        f"about {positions:,.0f} tokens a side: a pass should make at least {UPDATES_PER_EPOCH} updates",
    )


def _choose_epochs(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    if recipe.train.steps is not None:
        return
    updates = _estimate_updates_per_epoch(recipe, size)
    epochs = max(5, 2000 / math.sqrt(size.pairs), 1.5 * FEW_UPDATES / updates)
    epochs = min(MOST_EPOCHS, round(epochs))
    yield Default("train.epochs", epochs, f"{size.pairs:,} pairs: about {epochs * updates:,} updates")


def _choose_rate(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    yield Default("train.schedule", "cosine", "the end of the training is known, and the rate is 0 there")
    model = recipe.model
    if isinstance(model, RNNConfig):
        lr, reason = 0.002 * min(1, 256 / model.hidden), f"hidden {model.hidden}"
    else:
        lr, reason = 0.003 * min(1, 128 / model.width), f"width {model.width}"
        if model.norm == "post":
            lr, reason = lr / 3, f"{reason}, norm: post"
    yield Default("train.lr", float(f"{lr:.2g}"), f"{reason}: wider models need a lower rate")


def _choose_warmup(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    updates = estimate_updates(recipe, size)
    yield Default("train.warmup", min(2000, updates // 10), f"a tenth of about {updates:,} updates")


def _choose_validation(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
    updates = estimate_updates(recipe, size)
    # patience and average count validations, so a recipe that sets them keeps one validation an epoch
    counts_validations = is_set(recipe, "train.patience") or is_set(recipe, "train.average")
    if not counts_validations and updates > VALIDATIONS * _estimate_updates_per_epoch(recipe, size):
        interval = math.ceil(updates / VALIDATIONS)
        yield Default(
            "train.validate_every", interval, f"{VALIDATIONS} validations; one an epoch would take longer"
        )


def _choose_arithmetic(recipe: TranslationRecipe, size: DataSize, machine: Machine) -> Iterator[Default]:
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
            f"one for {TOKENS_PER_THREAD:,} tokens of a batch: further threads gain little",
        )


def _estimate_positions_per_pair(recipe: TranslationRecipe, size: DataSize) -> float:
    """Estimated positions of a pair in a batch: the tokens of its longer side, BOS and EOS."""
    if recipe.tokens.kind == "word":
        tokens = size.words
    elif recipe.tokens.kind == "char":
        tokens = size.characters
    elif size.characters > UNSPACED * size.words:
        tokens = size.characters / 1.5
    else:
        tokens = size.characters / (2.5 + 0.45 * math.log2(max(recipe.tokens.vocab, 1000) / 1000))
    return 1.1 * tokens / (2 * size.pairs) + 2


def _estimate_updates_per_epoch(recipe: TranslationRecipe, size: DataSize) -> int:
    positions = size.pairs * _estimate_positions_per_pair(recipe, size)
    return max(1, round(positions / (0.96 * recipe.batch.batch_tokens * recipe.batch.accumulate)))


def _with_values(recipe: TranslationRecipe, values: Mapping[str, Any]) -> TranslationRecipe:
    """The recipe with these `section.key` values, which count as set from then on."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    filled = {name: getattr(recipe, name).model_copy(update=update) for name, update in sections.items()}
    return recipe.model_copy(update=filled)
