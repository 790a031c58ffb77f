"""How good are translations?  BLEU, chrF and TER by sacrebleu, exact match, and BLEU by source length."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from qkv.errors import BadRecipe, did_you_mean

BUCKETS = (5, 10, 15, 20, 30)


class Report(NamedTuple):
    """scores: name -> value in percent.  signatures: how sacrebleu computed them.  buckets: one per source
    length.
    """

    scores: dict[str, float]
    signatures: dict[str, str]
    buckets: list[dict[str, Any]]


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


def corpus_scores(
    said: Sequence[str], references: Sequence[str], tokenize: str, *, ter: bool = True
) -> dict[str, float]:
    """BLEU, chrF, TER (lower is better) and the share of exact matches, all in percent."""
    scores = {
        name: metric.corpus_score(said, [references]).score
        for name, metric in _metrics(tokenize, ter).items()
    }
    exact = sum(a == b for a, b in zip(said, references, strict=True))
    return {**scores, "exact": 100 * exact / max(len(said), 1)}


def full_report(
    said: Sequence[str], references: Sequence[str], sources: Sequence[str], tokenize: str
) -> Report:
    """All scores with sacrebleu's signatures, and BLEU by the number of words in the source."""
    scores, signatures = {}, {}
    for name, metric in _metrics(tokenize, ter=True).items():
        scores[name] = metric.corpus_score(said, [references]).score
        signatures[name] = str(metric.get_signature())
    scores["exact"] = 100 * sum(a == b for a, b in zip(said, references, strict=True)) / max(len(said), 1)
    return Report(scores, signatures, _by_length(said, references, sources, tokenize))


def _metrics(tokenize: str, ter: bool) -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    found: dict[str, Any] = {"bleu": BLEU(tokenize=tokenize, force=True), "chrf": CHRF()}
    return {**found, "ter": TER()} if ter else found


def _by_length(
    said: Sequence[str], references: Sequence[str], sources: Sequence[str], tokenize: str
) -> list[dict[str, Any]]:
    lengths = [len(source.split()) for source in sources]
    buckets, shortest = [], 1
    for longest in (*BUCKETS, None):
        rows = [i for i, n in enumerate(lengths) if n >= shortest and (longest is None or n <= longest)]
        if rows:
            scores = corpus_scores(
                [said[i] for i in rows], [references[i] for i in rows], tokenize, ter=False
            )
            words = f"{shortest}–{longest}" if longest else f"{shortest}+"
            buckets.append({"words": words, "sentences": len(rows), **scores})
        shortest = (longest or 0) + 1
    return buckets
