"""The scoring that fits a run: its tokenizer's normal form, and BLEU's tokens by the script."""

import re
from collections.abc import Callable, Sequence

from qkv.data import Tokenizer
from qkv.data.tokens import NO_BREAK_SPACES
from qkv.errors import BadRecipe
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.score import Scoring, check_tokenize
from qkv.task.translate.script import Script, script_of

AUTO = "auto"


def scoring_for(
    recipe: TranslationRecipe, tokenizer: Tokenizer, references: Sequence[str], tokenize: str | None = None
) -> Scoring:
    """The scoring of text that this tokenizer writes, against these references.

    tokenize: sacrebleu's tokeniser, in place of the recipe's.  Raises BadRecipe for one that is not there.
    """
    script = script_of(references)
    tokenize = tokenize or recipe.validation.tokenize
    name, reason = choose_tokenize(script) if tokenize == AUTO else (tokenize, "as asked for")
    lowercase = recipe.validation.lowercase or recipe.tokens.lowercase
    plain_spaces = recipe.validation.plain_spaces or recipe.tokens.plain_spaces
    steps = ["Unicode NFC", "runs of spaces as one", "no space at the ends"]
    steps += ["no-break spaces as plain ones"] * plain_spaces + ["lower case"] * lowercase
    description = (
        f"BLEU by sacrebleu's tokeniser {name} ({reason}); translations and references compared in "
        f"{', '.join(steps)}"
    )
    normalise = _normaliser(tokenizer, lowercase, plain_spaces)
    return Scoring(name, normalise, description, lowercase, script.asian)


def choose_tokenize(script: Script) -> tuple[str, str]:
    """The best of sacrebleu's tokenisers for a script that works here, and why."""
    best, *others = script.tokenize
    reason = f"for {script.language}"
    if not others or _works(best):
        return best, reason
    return others[0], f"{reason}; {best} needs pip install 'sacrebleu[{script.needs}]'"


def _works(name: str) -> bool:
    try:
        check_tokenize(name)
    except BadRecipe:
        return False
    return True


def _normaliser(tokenizer: Tokenizer, lowercase: bool, plain_spaces: bool) -> Callable[[str], str]:
    def normalise(text: str) -> str:
        text = tokenizer.normalise(text)
        text = re.sub(f"[{NO_BREAK_SPACES}]", " ", text) if plain_spaces else text
        text = text.lower() if lowercase else text
        return re.sub(" +", " ", text).strip()

    return normalise
