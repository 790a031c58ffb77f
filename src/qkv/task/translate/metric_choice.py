"""Chooses the scorer of a run: its tokenizer's normal form, and BLEU's tokeniser by the writing system."""

import re
from collections.abc import Callable, Sequence

from qkv.data import Tokenizer
from qkv.data.tokens import NO_BREAK_SPACES
from qkv.errors import BadRecipe
from qkv.task.translate.metrics import Scorer, check_tokenize
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.writing_system import WritingSystem, find_writing_system

AUTO = "auto"


def build_scorer(
    recipe: TranslationRecipe, tokenizer: Tokenizer, references: Sequence[str], tokenize: str | None = None
) -> Scorer:
    """The scorer of text that this tokenizer writes, against these references.

    Args:
        recipe: the recipe of the run.
        tokenizer: the tokenizer of the target side.
        references: the right translations, from which `auto` finds the writing system.
        tokenize: the name of a tokeniser of sacrebleu, in place of the recipe's.

    Raises:
        BadRecipe: sacrebleu has no such tokeniser, or cannot use it here.
    """
    system = find_writing_system(references)
    tokenize = tokenize or recipe.validation.tokenize
    name, reason = choose_tokenize(system) if tokenize == AUTO else (tokenize, "as asked for")
    lowercase = recipe.validation.lowercase or recipe.tokens.lowercase
    plain_spaces = recipe.validation.plain_spaces or recipe.tokens.plain_spaces
    steps = ["Unicode NFC", "runs of spaces as one", "no space at the ends"]
    steps += ["no-break spaces as plain ones"] * plain_spaces + ["lower case"] * lowercase
    description = (
        f"BLEU by sacrebleu's tokeniser {name} ({reason}); translations and references compared in "
        f"{', '.join(steps)}"
    )
    normalise = _build_normaliser(tokenizer, lowercase, plain_spaces)
    return Scorer(name, normalise, description, lowercase, system.is_asian)


def choose_tokenize(system: WritingSystem) -> tuple[str, str]:
    """The best of sacrebleu's tokenisers for a writing system that works here, and the reason."""
    best, *fallbacks = system.tokenizers
    reason = f"for {system.language}"
    if not fallbacks or _is_installed(best):
        return best, reason
    return fallbacks[0], f"{reason}; {best} needs pip install 'sacrebleu[{system.extra}]'"


def _is_installed(name: str) -> bool:
    try:
        check_tokenize(name)
    except BadRecipe:
        return False
    return True


def _build_normaliser(tokenizer: Tokenizer, lowercase: bool, plain_spaces: bool) -> Callable[[str], str]:
    def normalise(text: str) -> str:
        text = tokenizer.normalise(text)
        text = re.sub(f"[{NO_BREAK_SPACES}]", " ", text) if plain_spaces else text
        text = text.lower() if lowercase else text
        return re.sub(" +", " ", text).strip()

    return normalise
