"""What is measured on the held-out pairs while training."""

from typing import Any

from torch import nn

from qkv.data import TokenizerPair, clean_pairs, evaluation_batches
from qkv.decode.search import SearchConfig
from qkv.errors import BadData
from qkv.progress import Progress
from qkv.task.pairs import Encoded, Lines, encode
from qkv.task.recipe import Recipe
from qkv.task.score import check_tokenize, corpus_scores
from qkv.task.translation import decode_ids


class Validator:
    """What is measured on the held-out pairs while training: nll, accuracy, BLEU and exact match."""

    def __init__(
        self, objective: nn.Module, tokens: TokenizerPair, pairs: Lines, recipe: Recipe, report: Progress
    ) -> None:
        check_tokenize(recipe.validation.tokenize)
        encoded = encode(pairs, tokens, recipe.batch.max_length)
        try:
            kept, _ = clean_pairs(encoded.source, encoded.target, recipe.batch.max_length)
        except BadData as error:
            raise BadData(f"the held-out pairs: {error}") from None
        self.encoded = Encoded([encoded.source[i] for i in kept], [encoded.target[i] for i in kept])
        self.pairs = [pairs[i] for i in kept]
        self.objective, self.tokens, self.recipe, self.report = objective, tokens, recipe, report

    def __call__(self) -> dict[str, float]:
        """The scores of the model as it is now."""
        scores = self._likelihood()
        count = min(self.recipe.validation.decode, len(self.pairs))
        return {**scores, **self._translated(count)} if count else scores

    def _likelihood(self) -> dict[str, float]:
        total, count = {"nll": 0.0, "accuracy": 0.0}, 0
        device = next(self.objective.parameters()).device
        for _, batch in evaluation_batches(*self.encoded, self.recipe.batch.batch_tokens):
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
            self.report.say(f"    {source}\n  → {text}\n  = {target}")
        references = [target for _, target in self.pairs[:count]]
        return corpus_scores(said, references, self.recipe.validation.tokenize, ter=False)
