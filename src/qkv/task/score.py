"""How good are translations?  BLEU, chrF and TER by sacrebleu, exact match, and BLEU by source length.

A model writes text as its tokenizer normalises it, so references are normalised the same way before anything
is compared: otherwise another Unicode form or a trailing space would count against a right translation.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qkv.data import Tokenizer, TokenizerConfig
from qkv.errors import BadRecipe, did_you_mean

BUCKETS = (5, 10, 15, 20, 30)
Lines = Sequence[str]


class Report(NamedTuple):
    """scores: name -> value in percent.  signatures: how sacrebleu computed them.  buckets: one per source
    length.  normalised: what was done to translations and references before they were compared.
    """

    scores: dict[str, float]
    signatures: dict[str, str]
    buckets: list[dict[str, Any]]
    normalised: str


def check_tokenize(name: str) -> None:
    """Raise BadRecipe where sacrebleu has no tokeniser of that name, or lacks what it needs."""
    from sacrebleu.metrics.bleu import BLEU

    if name not in BLEU.TOKENIZERS:
        raise BadRecipe(f"sacrebleu has no tokeniser {name!r}. {did_you_mean(name, BLEU.TOKENIZERS)}")
    try:
        BLEU(tokenize=name)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BadRecipe(f"sacrebleu's tokeniser {name!r} cannot be used here: {reason}") from None


@dataclass(frozen=True)
class Scoring:
    """How translations are compared with references.

    tokenize: sacrebleu's tokeniser for BLEU.  normalise: what is done to both sides first, which
    `description` says in words.  lowercase: whether letter case is ignored.
    Raises BadRecipe where sacrebleu cannot use the tokeniser here.
    """

    tokenize: str
    normalise: Callable[[str], str]
    description: str
    lowercase: bool = False

    def __post_init__(self) -> None:
        check_tokenize(self.tokenize)

    @classmethod
    def like(cls, tokenizer: Tokenizer, config: TokenizerConfig, tokenize: str) -> "Scoring":
        """The scoring of text that this tokenizer, made with this config, writes."""

        def normalise(text: str) -> str:
            return re.sub(" +", " ", tokenizer.normalise(text)).strip()

        steps = ["Unicode NFC", "runs of spaces as one", "no space at the ends"]
        steps += ["lower case"] * config.lowercase
        return cls(tokenize, normalise, ", ".join(steps), config.lowercase)

    def is_match(self, translation: str, reference: str) -> bool:
        """Whether the two are the same text once both are normalised."""
        return self.normalise(translation) == self.normalise(reference)

    def scores(self, translations: Lines, references: Lines, *, ter: bool = True) -> dict[str, float]:
        """BLEU, chrF, TER (lower is better) and the share of exact matches, all in percent."""
        return self._scored(*self._normalised(translations, references), ter=ter)[0]

    def report(self, translations: Lines, references: Lines, sources: Lines) -> Report:
        """All scores with sacrebleu's signatures, and BLEU by the number of words in the source."""
        translations, references = self._normalised(translations, references)
        scores, signatures = self._scored(translations, references, ter=True)
        buckets = self._by_length(translations, references, sources)
        return Report(scores, signatures, buckets, self.description)

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
        return {**metrics, "ter": TER()} if ter else metrics

    def _by_length(self, translations: Lines, references: Lines, sources: Lines) -> list[dict[str, Any]]:
        lengths = [len(source.split()) for source in sources]
        buckets, shortest = [], 1
        for longest in (*BUCKETS, None):
            rows = [i for i, n in enumerate(lengths) if n >= shortest and (longest is None or n <= longest)]
            if rows:
                sides = [[side[i] for i in rows] for side in (translations, references)]
                words = f"{shortest}–{longest}" if longest else f"{shortest}+"
                buckets.append({"words": words, "sentences": len(rows), **self._scored(*sides, ter=False)[0]})
            shortest = (longest or 0) + 1
        return buckets
