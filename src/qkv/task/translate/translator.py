"""A trained translator: lines in, lines out, with n-best lists, scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, overload

from pydantic import ValidationError

from qkv.data import TokenizerPair
from qkv.decode import Hypothesis, SearchConfig
from qkv.errors import BadData, BadRecipe
from qkv.strict import describe_errors
from qkv.task.translate.capacity import source_limit
from qkv.task.translate.pairs import Lines, read_test_pairs
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.score import Report, Scoring
from qkv.task.translate.scoring import scoring_for
from qkv.task.translate.sources import OnProblem, Problem, as_lines, encode_line, lines_of, refuse, warn
from qkv.task.translate.tracing import example_of, unnormalised
from qkv.task.translate.translation import decode_ids
from qkv.trace import Trace

# Sorted by length within this many lines, so that batches pad little and memory stays bounded.
BLOCK = 1024


class Translated(NamedTuple):
    """One translation: its text, its score (log-probability over length penalty), its hypothesis, and the ids
    of the source it was made from.  A line without ids has no hypothesis.
    """

    text: str
    score: float
    hypothesis: Hypothesis | None
    source: Sequence[int] = ()


NOTHING = Translated("", 0.0, None)


class Translator:
    """A model with its tokenizers and its recipe.  `qkv.load(run)` makes one.

    A line that is too long is cut, and one of which the model knows nothing has an empty translation; each
    gives a LineWarning.  With `strict=True` either raises BadData.  A string is one line everywhere.
    """

    def __init__(self, recipe: TranslationRecipe, tokens: TokenizerPair, model: Any) -> None:
        self.recipe, self.tokens, self.model = recipe, tokens, model

    @overload
    def translate(self, lines: str, *, beam: int | None = None, strict: bool = False) -> str: ...
    @overload
    def translate(
        self, lines: Iterable[str], *, beam: int | None = None, strict: bool = False
    ) -> list[str]: ...
    def translate(
        self, lines: str | Iterable[str], *, beam: int | None = None, strict: bool = False
    ) -> str | list[str]:
        """The translation of a line, or of every line; an empty line stays empty.  beam=1 is greedy.

        Raises BadData, where `strict`, for a line that is too long or has nothing the model knows.
        """
        texts = [
            best[0].text for best in self.n_best(lines, beam=beam, on_problem=refuse if strict else warn)
        ]
        return texts[0] if isinstance(lines, str) else texts

    def n_best(
        self,
        lines: str | Iterable[str],
        *,
        beam: int | None = None,
        n: int = 1,
        capture: bool = False,
        block: int = BLOCK,
        done: Callable[[int], None] = lambda count: None,
        on_problem: OnProblem = warn,
    ) -> Iterator[list[Translated]]:
        """For each line its n best translations, best first; reads `block` lines at a time.

        capture: keep where the model looked, for `trace`.  done: told how many lines are finished.
        on_problem: is passed every line that cannot be translated as it stands; `refuse` raises BadData.
        """
        config = self.search_config(beam, n)
        limit = source_limit(self.model.length_limits, self.recipe.batch.max_length)
        remaining, first = iter(as_lines(lines)), 1
        while some := list(islice(remaining, block)):
            ids = []
            for number, line in enumerate(some, start=first):
                known, problems = encode_line(self.tokens.source, line, number, limit)
                ids.append(known)
                for problem in problems:
                    on_problem(problem)
            count_before = first - 1
            yield from self._answers(
                ids, config, capture, lambda count, before=count_before: done(before + count)
            )
            first += len(some)
            done(first - 1)

    def trace(self, lines: str | Iterable[str], *, beam: int | None = None, strict: bool = False) -> Trace:
        """Translate the lines and keep where the model looked: tokens, probabilities, weights per layer and
        head.  Every example's meta has the number of its `line`; lines without translation have no example.

        Raises BadData where no line has one.
        """
        on_problem = refuse if strict else warn
        return self.trace_of(self.n_best(lines, beam=beam, capture=True, on_problem=on_problem), beam=beam)

    def trace_of(self, answers: Iterable[list[Translated]], *, beam: int | None = None) -> Trace:
        """The trace of what `n_best(capture=True)` gave for each line: of the best translations."""
        examples = [
            example_of(self.model, self.tokens, best[0].source, best[0].hypothesis, number)
            for number, best in enumerate(answers, start=1)
            if best[0].hypothesis is not None
        ]
        if not examples:
            raise BadData("no line was translated, and a trace holds at least one example")
        meta = {"model": self.recipe.model.kind, "beam": self.search_config(beam).beam}
        return Trace(tuple(examples), "translation", unnormalised=unnormalised(self.model), meta=meta)

    def evaluate(
        self,
        pairs: Lines | None = None,
        *,
        beam: int | None = None,
        tokenize: str | None = None,
        strict: bool = False,
        done: Callable[[int], None] = lambda count: None,
        on_problem: OnProblem = warn,
    ) -> Report:
        """BLEU, chrF, TER and exact match on pairs (by default the recipe's test data), and BLEU by source
        length.  A line that cannot be translated as it stands counts with what was made of it, and the report
        names it; where `strict`, it raises BadData.
        """
        pairs = read_test_pairs(self.recipe.data) if pairs is None else pairs
        references = [target for _, target in pairs]
        scoring = self.scoring(references, tokenize)
        sources = [source for source, _ in pairs]
        problems: list[Problem] = []

        def note(problem: Problem) -> None:
            problems.append(problem)
            (refuse if strict else on_problem)(problem)

        said = [best[0].text for best in self.n_best(sources, beam=beam, done=done, on_problem=note)]
        report = scoring.report(said, references, sources)
        return report._replace(truncated=lines_of(problems, "too long"), empty=lines_of(problems, "unknown"))

    def scoring(self, references: Sequence[str], tokenize: str | None = None) -> Scoring:
        """How this run's translations are compared with references: with the recipe's tokeniser, or another.

        Raises BadRecipe for a tokeniser that sacrebleu does not have or cannot use here.
        """
        return scoring_for(self.recipe, self.tokens.target, references, tokenize)

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
            raise BadRecipe(describe_errors(error, SearchConfig)) from None

    def _answers(
        self, ids: list[list[int]], config: SearchConfig, capture: bool, done: Callable[[int], None]
    ) -> Iterator[list[Translated]]:
        rows = [row for row, line in enumerate(ids) if line]
        hypotheses = decode_ids(self.model, [ids[row] for row in rows], config, capture=capture, done=done)
        answers = dict(zip(rows, hypotheses, strict=True))
        for row, line in enumerate(ids):
            best = [
                Translated(self.tokens.target.decode(h.tokens), h.score, h, line)
                for h in answers.get(row, [])
            ]
            yield best or [NOTHING]
