"""What `qkv cost` computes the cost of: the model and the sizes of a recipe or a run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cost.workload import Sizes
from qkv.data.byte_tokens import ByteTokenizer
from qkv.errors import BadRecipe
from qkv.files import expand_home
from qkv.task.recipe import read_recipe
from qkv.task.registry import find_task
from qkv.task.run_directory import RECIPE, read_run_files, read_run_recipe
from qkv.train import AttentionTerms

TRANSLATION_LENGTH = 32  # tokens of a sentence, where nothing says how long they are
CAPTION_LENGTH = 20
MOST_TEXT = 512  # tokens of a document, where the recipe allows longer ones
CLASSES = 10  # of a recipe, whose data are not read


class Subject(NamedTuple):
    """A model whose cost is asked for.

    Args:
        name: what the user called it.
        recipe: its recipe.
        sizes: the sizes of a training step.
        notes: what was assumed.
    """

    name: str
    recipe: Any
    sizes: Sizes
    notes: tuple[str, ...] = ()

    @property
    def reads_text(self) -> bool:
        """Whether the rows of a step have tokens, and so a length."""
        return not self.recipe.task.endswith("-pictures")


class _Known(NamedTuple):
    """What the files of a run know; all None for a recipe."""

    vocabularies: tuple[int, int] | None = None
    classes: int | None = None
    texts: int | None = None


def read_subject(
    name: str | Path,
    changes: Sequence[str] = (),
    length: int | None = None,
    batch: int | None = None,
    precision: str | None = None,
) -> Subject:
    """Read a recipe or a run, without its data.

    Args:
        name: a run directory, the path of a recipe, or the name of a built-in one.
        changes: changes of a recipe that is read, such as "model.width=256".
        length: tokens of a row; None takes those of the recipe.
        batch: rows of a step; None takes as many as the recipe's batches have.
        precision: "32", "bf16" or "16"; None takes that of the recipe, where auto counts as 32.

    Returns:
        The model and its sizes.

    Raises:
        BadRecipe: there is no such recipe, or it cannot be used.
        BadRun: the run is damaged.
    """
    run = expand_home(name)
    is_run = (run / RECIPE).is_file()
    if is_run and changes:
        raise BadRecipe(f"--set changes a recipe, and {run} is a run: pass {run / RECIPE} instead")
    recipe = read_run_recipe(run) if is_run else read_recipe(name, changes)
    measure = _MEASURES.get(recipe.task)
    if measure is None:
        raise BadRecipe(
            f"qkv cost knows no training step of the task {recipe.task!r}, only of {', '.join(_MEASURES)}"
        )
    known = _read_known_sizes(run, recipe) if is_run else _Known()
    sizes, notes = measure(recipe, known, length)
    precision = precision or recipe.train.precision
    sizes = sizes._replace(
        smoothing=getattr(recipe.objective, "smoothing", 0.0),
        precision="32" if precision == "auto" else precision,
    )
    if isinstance(recipe.objective, AttentionTerms):
        sizes = sizes._replace(terms=recipe.objective)
    notes = [*notes, *([] if is_run else _list_keys_from_data(recipe))]
    return Subject(str(name), recipe, sizes if batch is None else sizes._replace(batch=batch), tuple(notes))


Measured = tuple[Sizes, list[str]]


def _measure_translation(recipe: Any, known: _Known, length: int | None) -> Measured:
    vocabularies, notes = known.vocabularies, []
    if vocabularies is None:
        vocabularies = (recipe.tokens.vocab,) * 2
        notes.append(_describe_vocabulary(recipe.tokens.vocab))
    tokens: int = length or min(TRANSLATION_LENGTH, recipe.batch.max_length)
    if length is None:
        notes.append(f"sentences of {tokens} tokens on both sides: pass --length for others")
    source, target = vocabularies
    return Sizes(max(1, recipe.batch.batch_tokens // tokens), tokens, source, target), notes


def _measure_stream(recipe: Any, known: _Known, length: int | None) -> Measured:
    vocabularies, notes = _find_vocabulary(recipe, known)
    rows = recipe.batch.streams
    if recipe.task == "fill" and known.vocabularies is None:
        vocabularies = (vocabularies[0] + 1,) * 2  # the symbol of hidden tokens
    predicted = getattr(recipe.objective, "rate", Sizes().predicted)
    if getattr(recipe.model, "clusters", ()):
        notes.append("model.clusters: an upper bound, as if every token needed the scores of all clusters")
    tokens: int = recipe.batch.length if length is None else length
    source, target = vocabularies
    return Sizes(rows, tokens, source, target, predicted=predicted), notes


def _measure_documents(recipe: Any, known: _Known, length: int | None) -> Measured:
    vocabularies, notes = _find_vocabulary(recipe, known)
    if known.classes is None:
        notes.append(f"{CLASSES} classes, until the data are read")
    tokens: int = length or min(recipe.batch.max_length, MOST_TEXT)
    if length is None:
        notes.append(f"documents of {tokens} tokens: pass --length for others")
    rows = max(1, recipe.batch.batch_tokens // tokens)
    source, target = vocabularies
    sizes = Sizes(rows, tokens, source, target, classes=known.classes or CLASSES, texts=known.texts or 1)
    return sizes, notes


def _measure_pictures(recipe: Any, known: _Known, length: int | None) -> Measured:
    if length is not None:
        raise BadRecipe("--length counts tokens, and this model reads pictures: set data.pictures.size")
    return Sizes(recipe.batch.pictures, 1, picture=recipe.data.size), []


def _measure_labelled_pictures(recipe: Any, known: _Known, length: int | None) -> Measured:
    sizes, _ = _measure_pictures(recipe, known, length)
    notes = [] if known.classes else [f"{CLASSES} classes, until the data are read"]
    return sizes._replace(classes=known.classes or CLASSES), notes


def _measure_captions(recipe: Any, known: _Known, length: int | None) -> Measured:
    vocabularies, notes = _find_vocabulary(recipe, known)
    tokens: int = length or min(CAPTION_LENGTH, recipe.batch.max_length)
    if length is None:
        notes.append(f"captions of {tokens} tokens: pass --length for others")
    source, target = vocabularies
    return Sizes(recipe.batch.pictures, tokens, source, target, picture=recipe.data.size), notes


_MEASURES: dict[str, Callable[[Any, _Known, int | None], Measured]] = {
    "translate": _measure_translation,
    "generate": _measure_stream,
    "fill": _measure_stream,
    "classify": _measure_documents,
    "classify-pictures": _measure_labelled_pictures,
    "fill-pictures": _measure_pictures,
    "generate-pictures": _measure_pictures,
    "caption": _measure_captions,
}


def _find_vocabulary(recipe: Any, known: _Known) -> tuple[tuple[int, int], list[str]]:
    if known.vocabularies is not None:
        return known.vocabularies, []
    if recipe.tokens.kind == "byte":
        return (ByteTokenizer.size, ByteTokenizer.size), []
    return (recipe.tokens.vocab, recipe.tokens.vocab), [_describe_vocabulary(recipe.tokens.vocab)]


def _describe_vocabulary(size: int) -> str:
    return f"a vocabulary of {size:,} tokens (tokens.vocab), the largest that the data can give"


def _read_known_sizes(run: Path, recipe: Any) -> _Known:
    task = find_task(recipe.task)
    parsed: Any = task.parse_files(read_run_files(run, task), run)
    if recipe.task == "translate":
        return _Known((parsed.source.size, parsed.target.size))
    if recipe.task in ("generate", "fill"):
        size = parsed.size + (recipe.task == "fill")
        return _Known((size, size))
    tokenizer, classes = getattr(parsed, "tokenizer", None), getattr(parsed, "classes", None)
    return _Known(
        None if tokenizer is None else (tokenizer.size, tokenizer.size),
        None if classes is None else len(classes),
        getattr(parsed, "texts", None),
    )


def _list_keys_from_data(recipe: Any) -> list[str]:
    """The keys of the model that the recipe leaves to the data, with the values assumed here."""
    open_keys = []
    for key in find_task(recipe.task).keys_from_data:
        section, _, name = key.partition(".")
        is_set = section in recipe.model_fields_set and name in getattr(recipe, section).model_fields_set
        if section == "model" and not is_set and hasattr(recipe.model, name):
            open_keys.append(f"{key}={getattr(recipe.model, name)}")
    return [f"{', '.join(open_keys)}: defaults, which training may change to suit the data"] * bool(open_keys)
