"""What is measured on the held-out pairs while training."""

import math
from typing import Any

from torch import nn

from qkv.data import TokenizerPair, find_usable_pairs, iterate_by_length, make_pair_dataset
from qkv.decode import SearchConfig
from qkv.errors import BadData, BadRecipe
from qkv.progress import Progress
from qkv.task.translate.capacity import fitting_pairs
from qkv.task.translate.decoding import decode_ids
from qkv.task.translate.metric_choice import build_scorer
from qkv.task.translate.pairs import Encoded, Lines, encode
from qkv.task.translate.recipe import TranslationRecipe

TRANSLATED = ("bleu", "chrf", "exact")  # scores of translations


class Validator:
    """What is measured on the held-out pairs while training: nll, accuracy, BLEU and exact match."""

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
        encoded = encode(pairs, tokens, recipe.batch.max_length)
        kept = _usable(encoded, recipe, report)
        self.encoded = Encoded([encoded.source[i] for i in kept], [encoded.target[i] for i in kept])
        self.dataset = make_pair_dataset(*self.encoded)
        self.pairs = [pairs[i] for i in kept]
        self.objective, self.tokens, self.recipe, self.report = objective, tokens, recipe, report
        if recipe.validation.decode:
            report.print_line(f"held-out scores: {self.scorer.description}")

    def __call__(self) -> dict[str, float]:
        """The scores of the model as it is now."""
        scores = self._likelihood()
        count = min(self.recipe.validation.decode, len(self.pairs))
        if not count:
            return scores
        if not math.isfinite(scores["nll"]):  # there is no best continuation to search for
            return {**scores, **dict.fromkeys(TRANSLATED, math.nan)}
        return {**scores, **self._translated(count)}

    def _likelihood(self) -> dict[str, float]:
        total, count = {"nll": 0.0, "accuracy": 0.0}, 0
        device = next(self.objective.parameters()).device
        for _, batch in iterate_by_length(self.dataset, self.recipe.batch.batch_tokens):
            loss = self.objective(type(batch)(*(part.to(device) for part in batch)))
            count += loss.count
            for name in total:
                total[name] += float(loss.metrics[name])
        return {name: value / count for name, value in total.items()}

    def _translated(self, count: int) -> dict[str, float]:
        model: Any = self.objective.model
        found = decode_ids(model, self.encoded.source[:count], SearchConfig(beam=1, length_penalty=0.0))
        said = [self.tokens.target.decode(answer[0].tokens) for answer in found]
        for (source, target), text in list(zip(self.pairs, said, strict=False))[
            : self.recipe.validation.samples
        ]:
            self.report.print_line(f"    {source}\n  → {text}\n  = {target}")
        references = [target for _, target in self.pairs[:count]]
        return self.scorer.compute_scores(said, references, ter=False)


def _check_monitor(recipe: TranslationRecipe) -> None:
    if recipe.validation.monitor in TRANSLATED and not recipe.validation.decode:
        raise BadRecipe(
            f"validation.monitor is '{recipe.validation.monitor}', which needs translations, but "
            "validation.decode is 0: set it to a number of sentences, or monitor 'nll'"
        )


def _usable(encoded: Encoded, recipe: TranslationRecipe, report: Progress) -> list[int]:
    """The numbers of the held-out pairs that can be measured; says which are left out, and why."""
    try:
        kept, dropped = find_usable_pairs(encoded.source, encoded.target, recipe.batch.max_length)
    except BadData as error:
        raise BadData(f"the held-out pairs: {error}") from None
    if dropped.first is not None:
        report.print_line(f"held-out: {dropped}")
    fitting = fitting_pairs(recipe.model.length_limits, *encoded, kept)
    if len(fitting) < len(kept):
        count = len(kept) - len(fitting)
        report.print_line(
            f"held-out: left out {count:,} of {len(kept):,} pairs, longer than the model can hold"
        )
    if not fitting:
        raise BadData(
            "every held-out pair is longer than the model can hold: name shorter ones in data.valid"
        )
    return fitting
