"""Measures a translation model on the held-out pairs while it is trained."""

import math
from typing import Any

from torch import nn

from qkv.data import TokenizerPair, find_usable_pairs, iterate_by_length, make_pair_dataset
from qkv.decode import SearchConfig
from qkv.errors import BadData, BadRecipe
from qkv.progress import Progress
from qkv.task.translate.attention_measures import measure_attention
from qkv.task.translate.decoding import decode_ids
from qkv.task.translate.metric_choice import build_scorer
from qkv.task.translate.pair_lengths import find_fitting_pairs
from qkv.task.translate.pairs import Encoded, Lines, encode_pairs
from qkv.task.translate.recipe import TranslationRecipe

TRANSLATION_SCORES = ("bleu", "chrf", "exact")


class Validator:
    """Computes nll, accuracy, BLEU, chrF and exact match on the held-out pairs.

    Args:
        objective: the objective, with the model.
        tokens: the tokenizers of both sides.
        pairs: the held-out pairs.
        recipe: the complete recipe.
        report: where translations are printed, and how many pairs are left out.

    Raises:
        BadRecipe: the recipe monitors a score of translations, but translates nothing.
        BadData: no held-out pair can be used.
    """

    def __init__(
        self,
        objective: nn.Module,
        tokens: TokenizerPair,
        pairs: Lines,
        recipe: TranslationRecipe,
        report: Progress,
    ) -> None:
        _check_monitor(recipe)
        self.scorer = build_scorer(recipe, tokens.target, [target for _, target in pairs])
        encoded = encode_pairs(pairs, tokens, recipe.batch.max_length)
        rows = _select_usable_rows(encoded, recipe, report)
        self.encoded = Encoded([encoded.source[i] for i in rows], [encoded.target[i] for i in rows])
        self.dataset = make_pair_dataset(*self.encoded)
        self.pairs = [pairs[i] for i in rows]
        self.objective, self.tokens, self.recipe, self.report = objective, tokens, recipe, report
        if recipe.validation.decode:
            report.print_line(f"held-out scores: {self.scorer.description}")

    def __call__(self) -> dict[str, float]:
        """The scores of the model with its present weights."""
        scores = self._compute_likelihood() | self._measure_attention()
        count = min(self.recipe.validation.decode, len(self.pairs))
        if not count:
            return scores
        if not math.isfinite(scores["nll"]):  # there is no best continuation to search for
            return {**scores, **dict.fromkeys(TRANSLATION_SCORES, math.nan)}
        return {**scores, **self._score_translations(count)}

    def _compute_likelihood(self) -> dict[str, float]:
        total, count = {"nll": 0.0, "accuracy": 0.0}, 0
        device = next(self.objective.parameters()).device
        for _, batch in iterate_by_length(self.dataset, self.recipe.batch.batch_tokens):
            loss = self.objective(type(batch)(*(part.to(device) for part in batch)))
            count += loss.count
            for name in total:
                total[name] += float(loss.metrics[name])
        return {name: value / count for name, value in total.items()}

    def _measure_attention(self) -> dict[str, float]:
        count = self.recipe.validation.attention
        source, target = (side[:count] for side in self.encoded)
        return measure_attention(self.objective.model, source, target)

    def _score_translations(self, count: int) -> dict[str, float]:
        model: Any = self.objective.model
        answers = decode_ids(model, self.encoded.source[:count], SearchConfig(beam=1, length_penalty=0.0))
        translations = [self.tokens.target.decode(best[0].tokens) for best in answers]
        samples = list(zip(self.pairs, translations, strict=False))[: self.recipe.validation.samples]
        for (source, target), text in samples:
            self.report.print_line(f"    {source}\n  → {text}\n  = {target}")
        references = [target for _, target in self.pairs[:count]]
        return self.scorer.compute_scores(translations, references, ter=False)


def _check_monitor(recipe: TranslationRecipe) -> None:
    if recipe.validation.monitor in TRANSLATION_SCORES and not recipe.validation.decode:
        raise BadRecipe(
            f"validation.monitor is '{recipe.validation.monitor}', which needs translations, but "
            "validation.decode is 0: set it to a number of sentences, or monitor 'nll'"
        )


def _select_usable_rows(encoded: Encoded, recipe: TranslationRecipe, report: Progress) -> list[int]:
    """The numbers of the held-out pairs that can be measured; reports how many cannot, and why."""
    try:
        rows, dropped = find_usable_pairs(encoded.source, encoded.target, recipe.batch.max_length)
    except BadData as error:
        raise BadData(f"the held-out pairs: {error}") from None
    if dropped.first is not None:
        report.print_line(f"held-out: {dropped}")
    fitting = find_fitting_pairs(recipe.model.length_limits, *encoded, rows)
    if len(fitting) < len(rows):
        count = len(rows) - len(fitting)
        report.print_line(
            f"held-out: left out {count:,} of {len(rows):,} pairs, longer than the model can hold"
        )
    if not fitting:
        raise BadData(
            "every held-out pair is longer than the model can hold: name shorter ones in data.valid"
        )
    return fitting
