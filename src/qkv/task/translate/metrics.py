"""Metrics of translations: BLEU, chrF and TER by sacrebleu, exact match, and BLEU by source length.

A model writes text as its tokenizer normalises it.  References are normalised in the same way before they are
compared; otherwise another Unicode form or a trailing space would make a right translation count as wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qkv.errors import BadRecipe, did_you_mean
from qkv.task.translate.writing_system import find_writing_system

# The longest source of every bucket but the last one.
BUCKET_LIMITS = {"words": (5, 10, 15, 20, 30), "characters": (10, 20, 30, 40, 60)}
Lines = Sequence[str]


class Report(NamedTuple):
    """Scores of translations.

    Args:
        scores: name -> value in percent.
        signatures: name of a score -> how sacrebleu computed it.
        buckets: scores by source length, shortest first.
        comparison: how BLEU splits text into tokens, and how both sides are normalised, in words.
        unit: what source length is counted in, "words" or "characters".
        truncated: numbers of the source lines that were cut.
        empty: numbers of the source lines that were left without a translation.
    """

    scores: dict[str, float]
    signatures: dict[str, str]
    buckets: list[dict[str, Any]]
    comparison: str
    unit: str = "words"
    truncated: Sequence[int] = ()
    empty: Sequence[int] = ()


def check_tokenize(name: str) -> None:
    """Raise BadRecipe if sacrebleu has no tokeniser of that name, or lacks a package that it needs."""
    from sacrebleu.metrics.bleu import BLEU

    if name not in BLEU.TOKENIZERS:
        names = [*BLEU.TOKENIZERS, "auto"]
        raise BadRecipe(f"sacrebleu has no tokeniser {name!r}. {did_you_mean(name, names)}")
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipe(
            f"sacrebleu's tokeniser {name!r} cannot be used here: {reason}; choose another"
        ) from None


@dataclass(frozen=True)
class Scorer:
    """Compares translations with references; `build_scorer` makes one for a run.

    Args:
        tokenize: sacrebleu's tokeniser for BLEU.
        normalise: maps a text to the form that is compared.
        description: both of them in words.
        lowercase: whether letter case is ignored.
        asian: whether TER splits East Asian text into characters.

    Raises:
        BadRecipe: sacrebleu cannot use the tokeniser here.
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

    def compute_scores(self, translations: Lines, references: Lines, *, ter: bool = True) -> dict[str, float]:
        """BLEU, chrF, TER (lower is better) and the share of exact matches, all in percent."""
        return self._score(*self._normalise_all(translations, references), ter=ter)[0]

    def report(self, translations: Lines, references: Lines, sources: Lines) -> Report:
        """All scores with sacrebleu's signatures, in total and by source length.

        The length is the number of words, or of characters if the writing system has no spaces.
        """
        translations, references = self._normalise_all(translations, references)
        scores, signatures = self._score(translations, references, ter=True)
        unit = "words" if find_writing_system(sources).is_spaced else "characters"
        buckets = self._score_by_length(translations, references, sources, unit)
        return Report(scores, signatures, buckets, self.description, unit)

    def resample_bleu(
        self, systems: Sequence[Lines], references: Lines, samples: int
    ) -> list[tuple[float, float, float, float | None]]:
        """BLEU of several systems, by sacrebleu's paired bootstrap.

        Args:
            systems: the translations of each system; the first one is the baseline.
            references: the right translations.
            samples: how often the lines are drawn.

        Returns:
            Score, mean and half of the 95 % interval over the samples, and the p-value, for each system.
        """
        from sacrebleu.significance import PairedTest

        *normal_systems, normal_references = self._normalise_all(*systems, references)
        named: list[Any] = [(str(number), lines) for number, lines in enumerate(normal_systems)]
        metrics = {"BLEU": self._build_metrics(ter=False)["bleu"]}
        _, results = PairedTest(named, metrics, [normal_references], "bs", samples)()
        scores: list[Any] = results["BLEU"]
        # sacrebleu finds a system significantly different from itself: none of its differences is above 0
        p_values = [
            1.0 if number and lines == normal_systems[0] else each.p_value
            for number, (lines, each) in enumerate(zip(normal_systems, scores, strict=True))
        ]
        return [(each.score, each.mean, each.ci, p) for each, p in zip(scores, p_values, strict=True)]

    def _normalise_all(self, *sides: Lines) -> list[list[str]]:
        return [[self.normalise(line) for line in side] for side in sides]

    def _score(
        self, translations: Lines, references: Lines, *, ter: bool
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The scores and the signatures of normalised lines."""
        scores, signatures = {}, {}
        for name, metric in self._build_metrics(ter).items():
            scores[name] = metric.corpus_score(translations, [references]).score
            signatures[name] = str(metric.get_signature())
        exact = sum(a == b for a, b in zip(translations, references, strict=True))
        return {**scores, "exact": 100 * exact / max(len(translations), 1)}, signatures

    def _build_metrics(self, ter: bool) -> dict[str, Any]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER

        bleu = BLEU(tokenize=self.tokenize, lowercase=self.lowercase, force=True)
        metrics: dict[str, Any] = {"bleu": bleu, "chrf": CHRF(lowercase=self.lowercase)}
        return {**metrics, "ter": TER(normalized=self.asian, asian_support=self.asian)} if ter else metrics

    def _score_by_length(
        self, translations: Lines, references: Lines, sources: Lines, unit: str
    ) -> list[dict[str, Any]]:
        """The scores of every bucket that has lines."""
        lengths = [len(source.split() if unit == "words" else "".join(source.split())) for source in sources]
        buckets, shortest = [], 1
        for longest in (*BUCKET_LIMITS[unit], None):
            rows = [i for i, n in enumerate(lengths) if n >= shortest and (longest is None or n <= longest)]
            if rows:
                sides = [[side[i] for i in rows] for side in (translations, references)]
                span = f"{shortest}–{longest}" if longest else f"{shortest}+"
                buckets.append({unit: span, "sentences": len(rows), **self._score(*sides, ter=False)[0]})
            shortest = (longest or 0) + 1
        return buckets
