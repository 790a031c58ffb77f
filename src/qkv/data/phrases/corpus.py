"""The corpus: distinct phrases in one language, each with the one phrase of another that says the same."""

from random import Random
from typing import NamedTuple

from pydantic import Field

from qkv.data.phrases.kinds import KINDS, Kind
from qkv.data.phrases.language import Language, find_language
from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.strict import Strict

Pair = tuple[str, str]

# After so many draws in a row that gave nothing new, a kind is taken to be used up.
_PATIENCE = 200


class PhraseData(Strict):
    """The recipe section of a generated phrase corpus.

    source, target: two different languages, as Babel's locale identifiers ("en", "pt_BR", "zh_Hant").
    size: the number of phrases in all, with those that are held out.
    dev, test: how many of them are held out.
    kinds: names from KINDS; all of them when empty.
    seed: the same seed gives the same phrases, on every machine with the same version of Babel.
    """

    source: str = "en"
    target: str = "fr"
    size: int = Field(default=20_000, ge=1, le=1_000_000)
    dev: int = Field(default=500, ge=0)
    test: int = Field(default=500, ge=0)
    kinds: tuple[str, ...] = ()
    seed: int = 0


class Split(NamedTuple):
    """Pairs to train on, to choose a model by and to measure it with; no source phrase is in two of them."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]


def generate(data: PhraseData) -> list[Pair]:
    """`data.size` pairs (source phrase, target phrase) in random order, no source phrase twice.

    Both phrases are written from one drawn value (a day, an amount, a territory); where CLDR has no words for
    it in either language, another is drawn.  If two values have the same source phrase, the first one keeps
    it: the target is a function of the source.

    Raises UnknownName for a language or kind that does not exist; BadData for a language with itself, for two
    languages that CLDR has no phrases in, and for a size beyond the phrases that there are.
    """
    source, target = find_language(data.source), find_language(data.target)
    if source.locale == target.locale:
        raise BadData(f"source and target are both {data.source!r}: choose two different languages")
    kinds = _chosen(data.kinds)
    rng = Random(data.seed)
    pairs: dict[str, str] = {}
    while len(pairs) < data.size:
        if not kinds:
            raise BadData(_too_few(data, len(pairs)))
        name = rng.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
        if not _add(pairs, kinds[name], (source, target), rng):
            del kinds[name]
    shuffled = list(pairs.items())
    rng.shuffle(shuffled)
    return shuffled


def split(pairs: list[Pair], dev: int, test: int) -> Split:
    """Hold out the first `dev` and the next `test` of the pairs, which `generate` gives in random order.

    Raises BadData where nothing would be left to train on, or a source phrase is there twice.
    """
    if dev < 0 or test < 0 or dev + test >= len(pairs):
        raise BadData(
            f"dev={dev} and test={test} leave nothing of {len(pairs)} pairs to train on: hold out fewer"
        )
    seen: set[str] = set()
    for source, _ in pairs:
        if source in seen:
            raise BadData(f"the source phrase {source!r} is there twice: held-out phrases must be unseen")
        seen.add(source)
    held_out = dev + test
    return Split(train=pairs[held_out:], dev=pairs[:dev], test=pairs[dev:held_out])


def _add(pairs: dict[str, str], kind: Kind, languages: tuple[Language, Language], rng: Random) -> bool:
    """Add a new pair of this kind; False if none is found."""
    for _ in range(_PATIENCE):
        value = kind.draw(rng)
        source, target = (kind.write(language, *value) for language in languages)
        if source and target and source not in pairs:
            pairs[source] = target
            return True
    return False


def _chosen(names: tuple[str, ...]) -> dict[str, Kind]:
    for name in names:
        if name not in KINDS:
            raise UnknownName(f"unknown kind of phrases: {name!r}. {did_you_mean(name, KINDS)}")
    return {name: kind for name, kind in KINDS.items() if name in names or not names}


def _too_few(data: PhraseData, found: int) -> str:
    kinds = f" of the kinds {', '.join(data.kinds)}" if data.kinds else ""
    between = f"from {data.source!r} to {data.target!r}"
    if not found:
        return f"CLDR has no phrases{kinds} {between}: choose other languages or kinds"
    return f"size={data.size}: only about {found} different phrases{kinds} exist {between}: lower the size"
