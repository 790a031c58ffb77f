"""A trained translator: lines in, lines out, with n-best lists, scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, overload

from pydantic import ValidationError

from qkv.data import TokenizerPair
from qkv.decode.search import Hypothesis, SearchConfig
from qkv.errors import BadData, BadRecipe
from qkv.strict import explain
from qkv.task.pairs import Lines, test_pairs
from qkv.task.recipe import Recipe
from qkv.task.score import Report, Scoring
from qkv.task.tracing import example_of, unnormalised
from qkv.task.translation import decode_ids
from qkv.trace import Trace

# Sorted by length within this many lines, so that batches pad little and memory stays bounded.
BLOCK = 1024


class Translated(NamedTuple):
    """One translation: its text, its score (log-probability over length penalty), its hypothesis."""

    text: str
    score: float
    hypothesis: Hypothesis | None


class Translator:
    """A model with its tokenizers and its recipe.  `qkv.load(run)` makes one."""

    def __init__(self, recipe: Recipe, tokens: TokenizerPair, model: Any) -> None:
        self.recipe, self.tokens, self.model = recipe, tokens, model

    @overload
    def translate(self, lines: str, *, beam: int | None = None) -> str: ...
    @overload
    def translate(self, lines: Sequence[str], *, beam: int | None = None) -> list[str]: ...
    def translate(self, lines: str | Sequence[str], *, beam: int | None = None) -> str | list[str]:
        """The translation of a line, or of every line; an empty line stays empty.  beam=1 is greedy.

        Raises BadData for a line that is too long or has no character the model knows.
        """
        if isinstance(lines, str):
            return self.translate([lines], beam=beam)[0]
        return [best[0].text for best in self.n_best(lines, beam=beam)]

    def n_best(
        self,
        lines: Iterable[str],
        *,
        beam: int | None = None,
        n: int = 1,
        capture: bool = False,
        block: int = BLOCK,
        done: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Translated]]:
        """For each line its n best translations, best first; reads `block` lines at a time.

        capture: keep where the model looked, for `trace`.  done: told how many lines are finished.
        """
        config = self.search_config(beam, n)
        remaining, first = iter(lines), 1
        while some := list(islice(remaining, block)):
            ids = [self._encode(line, first + i) for i, line in enumerate(some)]
            spoken = [i for i, line in enumerate(ids) if line]
            done_before = first - 1
            found = decode_ids(
                self.model,
                [ids[i] for i in spoken],
                config,
                capture=capture,
                done=lambda count, before=done_before: done(before + count),
            )
            answers = dict(zip(spoken, found, strict=True))
            yield from (self._told(answers.get(i)) for i in range(len(some)))
            first += len(some)
            done(first - 1)

    def trace(self, lines: Sequence[str], *, beam: int | None = None) -> Trace:
        """Translate the lines and keep where the model looked: tokens, probabilities, weights per layer and
        head.
        """
        examples = []
        for line, found in zip(lines, self.n_best(lines, beam=beam, capture=True), strict=True):
            if found[0].hypothesis is not None:
                examples.append(example_of(self.model, self.tokens, line, found[0].hypothesis))
        meta = {"model": self.recipe.model.kind, "beam": self.search_config(beam).beam}
        return Trace(tuple(examples), unnormalised=unnormalised(self.model), meta=meta)

    def evaluate(
        self,
        pairs: Lines | None = None,
        *,
        beam: int | None = None,
        tokenize: str | None = None,
        done: Callable[[int], None] = lambda count: None,
    ) -> Report:
        """BLEU, chrF, TER and exact match on pairs (by default the recipe's test data), and BLEU by source
        length.
        """
        scoring = self.scoring(tokenize)
        pairs = test_pairs(self.recipe.data) if pairs is None else pairs
        sources = [source for source, _ in pairs]
        said = [best[0].text for best in self.n_best(sources, beam=beam, done=done)]
        return scoring.report(said, [target for _, target in pairs], sources)

    def scoring(self, tokenize: str | None = None) -> Scoring:
        """How this run's translations are compared with references; by the recipe's tokeniser, or another."""
        tokenize = tokenize or self.recipe.validation.tokenize
        return Scoring.like(self.tokens.target, self.recipe.tokens, tokenize)

    def search_config(self, beam: int | None = None, n: int = 1) -> SearchConfig:
        """The recipe's search with another beam width and number of answers."""
        told = self.recipe.decode.model_dump()
        told["beam"] = beam if beam is not None else max(told["beam"], n)
        told["n_best"] = n
        if n > told["beam"] > 0:
            raise BadRecipe(f"{n} answers need a beam of at least {n}, got {told['beam']}: raise the beam")
        try:
            return SearchConfig(**told)
        except ValidationError as error:
            raise BadRecipe(explain(error, SearchConfig)) from None

    def _encode(self, line: str, number: int) -> list[int]:
        ids = self.tokens.source.encode([line])[0] if line.strip() else []
        limit = self.recipe.batch.max_length
        if len(ids) > limit:
            raise BadData(
                f"line {number} has {len(ids):,} tokens, more than the {limit:,} this model was trained for "
                "(batch.max_length): split it into sentences"
            )
        if ids and self.tokens.source.unknown(ids):
            raise BadData(
                f"line {number} holds nothing this model knows: {line[:40]!r} is in words or a script that "
                "it was not trained on"
            )
        return ids

    def _told(self, found: list[Hypothesis] | None) -> list[Translated]:
        if found is None:
            return [Translated("", 0.0, None)]
        return [Translated(self.tokens.target.decode(h.tokens), h.score, h) for h in found]
