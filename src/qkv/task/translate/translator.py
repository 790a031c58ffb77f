"""A trained translator: lines in, lines out, with n-best lists, scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple, overload

from qkv.data import TokenizerPair
from qkv.decode import Hypothesis, SearchConfig
from qkv.errors import BadData
from qkv.task.line_problems import LineProblem, OnProblem, raise_problem, select_lines, warn_of_problem
from qkv.task.search_options import change_search_config
from qkv.task.translate.decoding import decode_ids
from qkv.task.translate.metric_choice import build_scorer
from qkv.task.translate.metrics import Report, Scorer
from qkv.task.translate.pair_lengths import find_source_limit
from qkv.task.translate.pairs import Lines, read_test_pairs
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.source_lines import TOO_LONG, UNKNOWN, as_lines, encode_line
from qkv.task.translate.trace_examples import OCCLUSION, build_example
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Trace

BLOCK = 1024  # lines that are sorted by length together: batches pad little, and memory stays bounded
OnProgress = Callable[[int], None]


class Translated(NamedTuple):
    """One translation.

    Args:
        text: the translation.
        score: its log-probability over the length penalty.
        hypothesis: its tokens, probabilities and captured weights; None for a line without token ids.
        source: the token ids of the source.
    """

    text: str
    score: float
    hypothesis: Hypothesis | None
    source: Sequence[int] = ()


EMPTY_TRANSLATION = Translated("", 0.0, None)


class Translator:
    """A model with its tokenizers and its recipe.  `qkv.load(run)` makes one.

    A line that is too long is cut; a line in which the model knows no token has an empty translation.  Each
    of them issues a LineWarning, or with `strict=True` raises BadData.  A string is one line everywhere.

    Args:
        recipe: the recipe of the run.
        tokens: the tokenizers of both sides.
        model: the translation model, in eval mode.
    """

    commands: ClassVar[tuple[str, ...]] = ("translate",)

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
        """The translation of a line, or of every line; an empty line stays empty.

        Args:
            lines: a line, or any number of lines.
            beam: the number of hypotheses that the search keeps; 1 is greedy, None takes the recipe's.
            strict: raise an error for a line that cannot be translated as it is.

        Raises:
            BadData: `strict`, and a line is too long or holds nothing that the model knows.
        """
        on_problem = raise_problem if strict else warn_of_problem
        texts = [best[0].text for best in self.n_best(lines, beam=beam, on_problem=on_problem)]
        return texts[0] if isinstance(lines, str) else texts

    def n_best(
        self,
        lines: str | Iterable[str],
        *,
        beam: int | None = None,
        n: int = 1,
        capture: bool = False,
        block: int = BLOCK,
        on_progress: OnProgress = lambda count: None,
        on_problem: OnProblem = warn_of_problem,
    ) -> Iterator[list[Translated]]:
        """For each line its n best translations, best first.

        Args:
            lines: a line, or any number of lines.
            beam: the number of hypotheses that the search keeps; None takes the recipe's, or n if greater.
            n: the number of translations of a line.
            capture: keep the attention weights, for `build_trace`.
            block: how many lines are read at a time.
            on_progress: is called with the number of lines that are finished.
            on_problem: is called with every line that cannot be translated as it is.

        Raises:
            BadRecipe: the beam is narrower than n.
        """
        config = self.build_search_config(beam, n)
        limit = find_source_limit(self.model.length_limits, self.recipe.batch.max_length)
        remaining, first = iter(as_lines(lines)), 1
        while block_lines := list(islice(remaining, block)):
            ids = []
            for number, line in enumerate(block_lines, start=first):
                line_ids, problems = encode_line(self.tokens.source, line, number, limit)
                ids.append(line_ids)
                for problem in problems:
                    on_problem(problem)
            count_before = first - 1
            yield from self._translate_ids(
                ids, config, capture, lambda count, before=count_before: on_progress(before + count)
            )
            first += len(block_lines)
            on_progress(first - 1)

    def trace(
        self,
        lines: str | Iterable[str],
        *,
        beam: int | None = None,
        strict: bool = False,
        occlude: bool = False,
    ) -> Trace:
        """Translate the lines and keep tokens, probabilities and the weights of every layer and head.

        Every example's meta has the number of its `line`; lines without translation have no example.

        Args:
            lines: a line, or any number of lines.
            beam: the number of hypotheses that the search keeps; None takes the recipe's.
            strict: raise an error for a line that cannot be translated as it is.
            occlude: add how much the log-probability of every target token falls when a source word is left
                out, as the weights "occlusion.source".

        Raises:
            BadData: no line has a translation; or `strict`, and a line cannot be translated as it is.
        """
        on_problem = raise_problem if strict else warn_of_problem
        answers = self.n_best(lines, beam=beam, capture=True, on_problem=on_problem)
        return self.build_trace(answers, beam=beam, occlude=occlude)

    def build_trace(
        self, answers: Iterable[list[Translated]], *, beam: int | None = None, occlude: bool = False
    ) -> Trace:
        """The trace of the best translations.

        Args:
            answers: what `n_best(capture=True)` returns for each line.
            beam: the beam of that search, for the trace's meta.
            occlude: as in `trace`.

        Raises:
            BadData: no line has a translation.
        """
        examples = [
            build_example(
                self.model, self.tokens, best[0].source, best[0].hypothesis, number, occlude=occlude
            )
            for number, best in enumerate(answers, start=1)
            if best[0].hypothesis is not None
        ]
        if not examples:
            raise BadData(
                "no line could be translated, so there is nothing to trace: pass a line that is not empty"
            )
        meta = {"model": self.recipe.model.kind, "beam": self.build_search_config(beam).beam}
        unnormalised = (*find_unnormalised(self.model), *([OCCLUSION] if occlude else []))
        return Trace(tuple(examples), "translation", unnormalised=unnormalised, meta=meta)

    def evaluate(
        self,
        pairs: Lines | None = None,
        *,
        beam: int | None = None,
        tokenize: str | None = None,
        strict: bool = False,
        on_progress: OnProgress = lambda count: None,
        on_problem: OnProblem = warn_of_problem,
    ) -> Report:
        """BLEU, chrF, TER and exact match, in total and by source length.

        A line that cannot be translated as it is counts with its cut or empty translation, and the report
        lists it.

        Args:
            pairs: source and target lines; None takes the recipe's test data.
            beam: the number of hypotheses that the search keeps; None takes the recipe's.
            tokenize: the name of a tokeniser of sacrebleu; None takes the recipe's.
            strict: raise an error for a line that cannot be translated as it is.
            on_progress: is called with the number of lines that are finished.
            on_problem: is called with every line that cannot be translated as it is.

        Raises:
            BadData: the recipe names no test data; or `strict`, and a line cannot be translated as it is.
            BadRecipe: sacrebleu has no such tokeniser, or cannot use it here.
        """
        pairs = read_test_pairs(self.recipe.data) if pairs is None else pairs
        references = [target for _, target in pairs]
        scorer = self.build_scorer(references, tokenize)
        sources = [source for source, _ in pairs]
        problems: list[LineProblem] = []

        def collect(problem: LineProblem) -> None:
            problems.append(problem)
            (raise_problem if strict else on_problem)(problem)

        answers = self.n_best(sources, beam=beam, on_progress=on_progress, on_problem=collect)
        report = scorer.report([best[0].text for best in answers], references, sources)
        truncated, empty = (select_lines(problems, kind) for kind in (TOO_LONG, UNKNOWN))
        return report._replace(truncated=truncated, empty=empty)

    def build_scorer(self, references: Sequence[str], tokenize: str | None = None) -> Scorer:
        """The scorer that compares this run's translations with references.

        Args:
            references: the right translations.
            tokenize: the name of a tokeniser of sacrebleu; None takes the recipe's.

        Raises:
            BadRecipe: sacrebleu has no such tokeniser, or cannot use it here.
        """
        return build_scorer(self.recipe, self.tokens.target, references, tokenize)

    def build_search_config(self, beam: int | None = None, n: int = 1) -> SearchConfig:
        """The recipe's search with another beam width and number of translations.

        Args:
            beam: the number of hypotheses that the search keeps; None takes the recipe's, or n if greater.
            n: the number of translations of a line.

        Raises:
            BadRecipe: the beam is narrower than n, or not positive.
        """
        return change_search_config(self.recipe.decode, beam, n)

    def _translate_ids(
        self, ids: list[list[int]], config: SearchConfig, capture: bool, on_progress: OnProgress
    ) -> Iterator[list[Translated]]:
        """The translations of every line of a block; a line without token ids has an empty one."""
        rows = [row for row, line in enumerate(ids) if line]
        hypotheses = decode_ids(
            self.model, [ids[row] for row in rows], config, capture=capture, on_progress=on_progress
        )
        answers = dict(zip(rows, hypotheses, strict=True))
        for row, line in enumerate(ids):
            best = [
                Translated(self.tokens.target.decode(h.tokens), h.score, h, line)
                for h in answers.get(row, [])
            ]
            yield best or [EMPTY_TRANSLATION]
