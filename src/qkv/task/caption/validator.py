"""Measures a captioner on the held-out pictures while it is trained."""

import math
from typing import Any

from torch import nn

from qkv.data.batching import iterate_by_length
from qkv.progress import Progress
from qkv.task.caption.batches import encode_captions, make_dataset
from qkv.task.caption.captioner import GREEDY, Captioner
from qkv.task.caption.examples import CaptionedExamples
from qkv.task.caption.grounding import measure_pointing
from qkv.task.caption.metrics import score_captions

CAPTION_SCORES = ("bleu4", "cider", "exact")


class Validator:
    """Computes nll and accuracy of the held-out captions, and scores of captions that are decoded greedily.

    Those are BLEU-4, CIDEr-D and exact match; for generated shapes also the pointing accuracy.

    Args:
        objective: the objective, with the model.
        captioner: the captioner with this model.
        examples: the held-out pictures.
        report: where captions are printed, and how many are left out.

    Raises:
        BadData: no held-out caption can be used.
    """

    def __init__(
        self, objective: nn.Module, captioner: Captioner, examples: CaptionedExamples, report: Progress
    ) -> None:
        recipe = captioner.recipe
        captions = encode_captions(examples, captioner.tokenizer, recipe.batch.max_length)
        for note in captions.notes:
            report.print_line(f"held-out: {note}")
        self.dataset = make_dataset(examples, captions)
        self.decoded = examples.select(range(min(recipe.validation.decode, len(examples))))
        self.traced = examples.select(range(min(recipe.validation.attention, len(examples))))
        self.objective, self.captioner, self.report = objective, captioner, report

    def __call__(self) -> dict[str, float]:
        """The scores of the model with its present weights."""
        scores = self._compute_likelihood()
        if not math.isfinite(scores["nll"]):  # there is no best continuation to search for
            names = CAPTION_SCORES if len(self.decoded) else ()
            return scores | dict.fromkeys(names, math.nan)
        return scores | self._score_captions() | self.captioner.measure_attention(self.traced)

    def _compute_likelihood(self) -> dict[str, float]:
        total, count = {"nll": 0.0, "accuracy": 0.0}, 0
        device = next(self.objective.parameters()).device
        for _, batch in iterate_by_length(self.dataset, self.captioner.recipe.batch.pictures):
            loss = self.objective(batch.to(device))
            count += loss.count
            for name in total:
                total[name] += float(loss.metrics[name])
        return {name: value / count for name, value in total.items()}

    def _score_captions(self) -> dict[str, float]:
        captioner, examples = self.captioner, self.decoded
        if not len(examples):
            return {}
        captions = captioner.caption_examples(examples, GREEDY)
        references = [examples.get_captions(place) for place in range(len(examples))]
        samples = captioner.recipe.validation.samples
        for text, right in list(zip(captions, references, strict=True))[:samples]:
            self.report.print_line(f"    {text}\n  = {right[0]}")
        scores: dict[str, Any] = score_captions(captions, references).scores
        selected = {name: scores[name] for name in CAPTION_SCORES}
        if examples.drawn is None:
            return selected
        pointing = measure_pointing(
            captioner.model, examples, captioner.tokenizer, captioner.recipe.batch.pictures
        )
        return selected | {name: value for name, value in pointing.items() if name == "pointing"}
