"""The corpus: distinct phrases in one language, each with its one translation into another language."""

from random import Random
from typing import Any, NamedTuple

from pydantic import Field

from qkv.data.generated.phrases.gold import ALIGNED_KINDS, GoldPair, align_date
from qkv.data.generated.phrases.kinds import KINDS, Kind
from qkv.data.generated.phrases.language import Language, find_language
from qkv.errors import BadData, UnknownName, did_you_mean
from qkv.strict import Strict

Pair = tuple[str, str]

# A kind counts as exhausted after this many draws in a row without a new phrase.
_MAX_FAILED_DRAWS = 200


class PhraseData(Strict):
    """The recipe section of a generated phrase corpus.

    Args:
        source: the language of the source phrases, a locale identifier of Babel ("en", "pt_BR", "zh_Hant").
        target: the language of the target phrases, a different one.
        size: total number of phrases, held-out ones included.
        dev: phrases held out for choosing a model.
        test: phrases held out for measuring it.
        kinds: kinds of phrases, such as dates, measures or money; all of them when empty.
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
    """Pairs in three parts without a common source phrase.

    Args:
        train: pairs to train on.
        dev: pairs to choose a model by.
        test: pairs to measure a model with.
    """

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]


class Drawn(NamedTuple):
    """A pair with the value that both phrases describe.

    Args:
        source: the source phrase.
        target: the target phrase.
        kind: the name of its kind.
        value: the arguments of the kind's `write`.
    """

    source: str
    target: str
    kind: str
    value: tuple[Any, ...]


def generate_phrases(data: PhraseData) -> list[Pair]:
    """Generate `data.size` pairs (source phrase, target phrase) in random order, no source phrase twice.

    Both phrases of a pair describe one random value (a day, an amount, a territory). If CLDR has no words for
    it in one of the languages, another value is drawn. If two values have the same source phrase, only the
    first one is used, so the target is a function of the source.

    Args:
        data: the languages, the size and the seed.

    Raises:
        UnknownName: a language or kind does not exist.
        BadData: both languages are the same, CLDR has no phrases in them, or fewer than `data.size`.
    """
    return [(drawn.source, drawn.target) for drawn in _draw_phrases(data)]


def generate_gold_pairs(data: PhraseData) -> list[GoldPair | None]:
    """The pairs of `generate_phrases` with exact word alignments; None for kinds without.

    Args:
        data: as for `generate_phrases`.

    Raises:
        UnknownName: a language or kind does not exist.
        BadData: as for `generate_phrases`.
    """
    source, target = find_language(data.source), find_language(data.target)
    return [
        GoldPair(drawn.source, drawn.target, align_date(source, target, *drawn.value))
        if drawn.kind in ALIGNED_KINDS
        else None
        for drawn in _draw_phrases(data)
    ]


def _draw_phrases(data: PhraseData) -> list[Drawn]:
    """The phrases with the values that they describe, in random order."""
    source, target = find_language(data.source), find_language(data.target)
    if source.locale == target.locale:
        raise BadData(f"source and target are both {data.source!r}: choose two different languages")
    kinds = _select_kinds(data.kinds)
    rng = Random(data.seed)
    pairs: dict[str, Drawn] = {}
    while len(pairs) < data.size:
        if not kinds:
            raise BadData(_explain_shortage(data, len(pairs)))
        name = rng.choices(list(kinds), [kind.weight for kind in kinds.values()])[0]
        if not _add_pair(pairs, (name, kinds[name]), (source, target), rng):
            del kinds[name]
    shuffled = list(pairs.values())
    rng.shuffle(shuffled)
    return shuffled


def split_phrases(pairs: list[Pair], dev: int, test: int) -> Split:
    """Hold out the first `dev` and the next `test` pairs.

    Args:
        pairs: pairs in random order, as `generate_phrases` returns them.
        dev: number of pairs to choose a model by.
        test: number of pairs to measure a model with.

    Raises:
        BadData: no pair would be left to train on, or a source phrase occurs twice.
    """
    if dev < 0 or test < 0 or dev + test >= len(pairs):
        raise BadData(
            f"dev={dev} and test={test} leave no pair to train on out of {len(pairs)}: hold out fewer"
        )
    sources: set[str] = set()
    for source, _ in pairs:
        if source in sources:
            raise BadData(f"the source phrase {source!r} occurs twice: pass each source phrase once")
        sources.add(source)
    held_out = dev + test
    return Split(train=pairs[held_out:], dev=pairs[:dev], test=pairs[dev:held_out])


def _add_pair(
    pairs: dict[str, Drawn], named_kind: tuple[str, Kind], languages: tuple[Language, Language], rng: Random
) -> bool:
    """Add a new pair of this kind and return True; False if no new one is found."""
    name, kind = named_kind
    for _ in range(_MAX_FAILED_DRAWS):
        value = kind.draw(rng)
        source, target = (kind.write(language, *value) for language in languages)
        if source and target and source not in pairs:
            pairs[source] = Drawn(source, target, name, value)
            return True
    return False


def _select_kinds(names: tuple[str, ...]) -> dict[str, Kind]:
    """The kinds of these names, all kinds without names; raises UnknownName."""
    for name in names:
        if name not in KINDS:
            raise UnknownName(f"unknown kind of phrases: {name!r}. {did_you_mean(name, KINDS)}")
    return {name: kind for name, kind in KINDS.items() if name in names or not names}


def _explain_shortage(data: PhraseData, count: int) -> str:
    """The error message where only `count` phrases could be generated."""
    kinds = f" of the kinds {', '.join(data.kinds)}" if data.kinds else ""
    between = f"from {data.source!r} to {data.target!r}"
    if not count:
        return f"CLDR has no phrases{kinds} {between}: choose other languages or kinds"
    return f"size={data.size}: only about {count} different phrases{kinds} exist {between}: lower the size"
