"""Sentences about scenes, in English or French, with the object that every word names."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from qkv.data.generated.shapes.scenes import SceneObject
from qkv.errors import UnknownName, did_you_mean


class Sentence(NamedTuple):
    """A sentence in words.

    Args:
        words: the words.
        named: for every word the number of the object that it names, by its size, colour or shape; None for
            articles and for words that state a place.
    """

    words: tuple[str, ...]
    named: tuple[int | None, ...]


def write_sentence(objects: Sequence[SceneObject], language: str) -> Sentence:
    """The sentence about a scene: "a small red circle above a blue square".

    Args:
        objects: the objects, the smallest first.
        language: one of LANGUAGES.

    Raises:
        UnknownName: there are no words in this language.
    """
    if language not in LANGUAGES:
        raise UnknownName(
            f"there are no sentences about shapes in {language!r}. {did_you_mean(language, LANGUAGES)}"
        )
    describe, place_phrases = LANGUAGES[language]
    words: list[str] = []
    named: list[int | None] = []
    for number, each in enumerate(objects):
        article, *naming = describe(each)
        relation = place_phrases[objects[number - 1].place].split() if number else []
        if relation and relation[-1].endswith("'"):
            article = relation.pop() + article
        words += [*relation, article, *naming]
        named += [None] * (len(relation) + 1) + [number] * len(naming)
    return Sentence(tuple(words), tuple(named))


def _describe_in_english(thing: SceneObject) -> list[str]:
    """The article and the words that name the object."""
    naming = [*([] if thing.size == "medium" else [thing.size]), thing.colour, thing.shape]
    return ["an" if naming[0][0] in "aeiou" else "a", *naming]


_ENGLISH_PLACES = {
    "above": "above",
    "below": "below",
    "left": "to the left of",
    "right": "to the right of",
}

_FRENCH_NOUNS = {
    "circle": ("cercle", "m"),
    "square": ("carré", "m"),
    "triangle": ("triangle", "m"),
    "star": ("étoile", "f"),
    "cross": ("croix", "f"),
    "heart": ("cœur", "m"),
}
_FRENCH_ADJECTIVES = {  # masculine, feminine; the name of the fruit does not agree
    "small": ("petit", "petite"),
    "large": ("grand", "grande"),
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "black": ("noir", "noire"),
}
_FRENCH_PLACES = {
    "above": "au-dessus d'",
    "below": "au-dessous d'",
    "left": "à gauche d'",
    "right": "à droite d'",
}


def _describe_in_french(thing: SceneObject) -> list[str]:
    """The article and the words that name the object: size before the noun, colour behind it."""
    noun, gender = _FRENCH_NOUNS[thing.shape]
    form = "mf".index(gender)
    size = [] if thing.size == "medium" else [_FRENCH_ADJECTIVES[thing.size][form]]
    return [("un", "une")[form], *size, noun, _FRENCH_ADJECTIVES[thing.colour][form]]


Describe = Callable[[SceneObject], list[str]]
LANGUAGES: dict[str, tuple[Describe, dict[str, str]]] = {
    "en": (_describe_in_english, _ENGLISH_PLACES),
    "fr": (_describe_in_french, _FRENCH_PLACES),
}
