"""The search of a recipe with the beam and the number of answers that a user asks for."""

from pydantic import ValidationError

from qkv.decode import SearchConfig
from qkv.errors import BadRecipe
from qkv.strict import describe_errors


def change_search_config(config: SearchConfig, beam: int | None = None, n: int = 1) -> SearchConfig:
    """A search with another beam width and number of answers.

    Args:
        config: the search of a recipe.
        beam: the number of hypotheses that the search keeps; None takes the config's, or n if greater.
        n: the number of answers.

    Raises:
        BadRecipe: the beam is narrower than n, or not positive.
    """
    options = config.model_dump()
    options["beam"] = beam if beam is not None else max(options["beam"], n)
    options["n_best"] = n
    if n > options["beam"] > 0:
        raise BadRecipe(f"{n} answers need a beam of at least {n}, got {options['beam']}: raise the beam")
    try:
        return SearchConfig(**options)
    except ValidationError as error:
        raise BadRecipe(describe_errors(error, SearchConfig)) from None
