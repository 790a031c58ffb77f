"""How good are translations?  BLEU, chrF and TER by sacrebleu, exact match, and BLEU by source length.

A model writes text as its tokenizer normalises it, so references are normalised the same way before anything
is compared: otherwise another Unicode form or a trailing space would count against a right translation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qkv.errors import BadRecipe, did_you_mean
from qkv.task.translate.script import script_of

BUCKETS = {"words": (5, 10, 15, 20, 30), "characters": (10, 20, 30, 40, 60)}
Lines = Sequence[str]


class Report(NamedTuple):
    """scores: name -> value in percent.  signatures: how sacrebleu computed them.  buckets: one per source
    length, which is counted in `unit`, words or characters.  comparison: how BLEU was tokenised, and what was
    done to translations and references before they were compared.
    truncated, empty: numbers of the source lines that were cut, and of those left without a translation.
    """

    scores: dict[str, float]
    signatures: dict[str, str]
    buckets: list[dict[str, Any]]
    comparison: str
    unit: str = "words"
    truncated: Sequence[int] = ()
    empty: Sequence[int] = ()


def check_tokenize(name: str) -> None:
    """Raise BadRecipe where sacrebleu has no tokeniser of that name, or lacks what it needs."""
    from sacrebleu.metrics.bleu import BLEU

    if name not in BLEU.TOKENIZERS:
        known = [*BLEU.TOKENIZERS, "auto"]
        raise BadRecipe(f"sacrebleu has no tokeniser {name!r}. {did_you_mean(name, known)}")
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipe(f"sacrebleu's tokeniser {name!r} cannot be used here: {reason}") from None


@dataclass(frozen=True)
class Scoring:
    """How translations are compared with references; `scoring_for` makes one for a run.

    tokenize: sacrebleu's tokeniser for BLEU.  normalise: what is done to both sides first.  description: both
    in words.  lowercase: whether letter case is ignored.  asian: whether TER cuts East Asian text into
    characters.  Raises BadRecipe where sacrebleu cannot use the tokeniser here.
    """

    tokenize: str
    normalise: Callable[[str], str]
    description: str
    lowercase: bool = False
    asian: bool = False

    def __post_init__(self) -> None:
        check_tokenize(self.tokenize)

    def is_match(self, translation: str, reference: str) -> bool:
        """Whether the two are the same text once both are normalised."""
        return self.normalise(translation) == self.normalise(reference)

    def scores(self, translations: Lines, references: Lines, *, ter: bool = True) -> dict[str, float]:
        """BLEU, chrF, TER (lower is better) and the share of exact matches, all in percent."""
        return self._scored(*self._normalised(translations, references), ter=ter)[0]

    def report(self, translations: Lines, references: Lines, sources: Lines) -> Report:
        """All scores with sacrebleu's signatures, and BLEU by the number of words in the source, or of
        characters where its script has no spaces.
        """
        translations, references = self._normalised(translations, references)
        scores, signatures = self._scored(translations, references, ter=True)
        unit = "words" if script_of(sources).spaced else "characters"
        buckets = self._by_length(translations, references, sources, unit)
        return Report(scores, signatures, buckets, self.description, unit)

    def _normalised(self, *sides: Lines) -> list[list[str]]:
        return [[self.normalise(line) for line in side] for side in sides]

    def _scored(
        self, translations: Lines, references: Lines, *, ter: bool
    ) -> tuple[dict[str, float], dict[str, str]]:
        scores, signatures = {}, {}
        for name, metric in self._metrics(ter).items():
            scores[name] = metric.corpus_score(translations, [references]).score
            signatures[name] = str(metric.get_signature())
        exact = sum(a == b for a, b in zip(translations, references, strict=True))
        return {**scores, "exact": 100 * exact / max(len(translations), 1)}, signatures

    def _metrics(self, ter: bool) -> dict[str, Any]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER

        bleu = BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=True)
        metrics: dict[str, Any] = {"bleu": bleu, "chrf": CHRF(lowercase=self.lowercase)}
        return {**metrics, "ter": TER(normalized=self.asian, asian_support=self.asian)} if ter else metrics

    def _by_length(
        self, translations: Lines, references: Lines, sources: Lines, unit: str
    ) -> list[dict[str, Any]]:
        lengths = [len(source.split() if unit == "words" else "".join(source.split())) for source in sources]
        buckets, shortest = [], 1
        for longest in (*BUCKETS[unit], None):
            rows = [i for i, n in enumerate(lengths) if n >= shortest and (longest is None or n <= longest)]
            if rows:
                sides = [[side[i] for i in rows] for side in (translations, references)]
                span = f"{shortest}–{longest}" if longest else f"{shortest}+"
                buckets.append({unit: span, "sentences": len(rows), **self._scored(*sides, ter=False)[0]})
            shortest = (longest or 0) + 1
        return buckets
