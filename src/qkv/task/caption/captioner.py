"""A trained captioner: pictures in, captions out, with n-best lists, scores and traces."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from qkv.decode import Hypothesis, SearchConfig, search
from qkv.errors import BadData
from qkv.model.captioner_encoder import GridConfig
from qkv.task.attention_measures import measure_examples
from qkv.task.caption.examples import CaptionedExamples, read_test_examples, stack_inputs
from qkv.task.caption.grounding import measure_pointing
from qkv.task.caption.inputs import Input, list_inputs, name_input, read_input
from qkv.task.caption.metrics import CaptionScores, score_captions
from qkv.task.caption.recipe import CaptionRecipe
from qkv.task.caption.traces import build_example
from qkv.task.evaluation import EvaluateOptions
from qkv.task.picture_inputs import Picture
from qkv.task.search_options import change_search_config
from qkv.task.texts import AnyTokenizer
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Example, Trace

OnProgress = Callable[[int], None]
GREEDY = SearchConfig(beam=1, length_penalty=0.0)


class Captioned(NamedTuple):
    """One caption of a picture.

    Args:
        text: the caption.
        score: its log-probability over the length penalty.
        hypothesis: its tokens, probabilities and captured weights.
        picture: what was captioned.
    """

    text: str
    score: float
    hypothesis: Hypothesis
    picture: Any


class Captioner:
    """A model with its tokenizer and its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        tokenizer: the vocabulary of the run.
        model: the captioner, in evaluation mode.
    """

    commands: ClassVar[tuple[str, ...]] = ("caption",)

    def __init__(self, recipe: CaptionRecipe, tokenizer: AnyTokenizer, model: Any) -> None:
        self.recipe, self.tokenizer, self.model = recipe, tokenizer, model

    @property
    def reads_grids(self) -> bool:
        """Whether its inputs are grids of vectors that another model computed."""
        return isinstance(self.recipe.model.encoder, GridConfig)

    def caption(self, pictures: Picture | Iterable[Picture], *, beam: int | None = None) -> str | list[str]:
        """The caption of a picture, or of every picture.

        Args:
            pictures: the path of a picture file, or pixels uint8 [S,S,3]; or several of them.  A file is
                resized like those of the training; pixels must have their size.  Where the encoder reads
                grids: the path of a file of them, or a grid [Y,X,C]; or several.
            beam: the number of hypotheses that the search keeps; 1 is greedy, None takes the recipe's.

        Returns:
            A caption for one picture, otherwise a list of them.

        Raises:
            BadData: a file cannot be read or is not a picture, or pixels have another type or size.
        """
        inputs = list_inputs(pictures, self.recipe)
        captions = [best[0].text for best in self._search_all(inputs, self.build_search_config(beam))]
        return captions[0] if len(inputs) == 1 and inputs[0] is pictures else captions

    def n_best(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        beam: int | None = None,
        n: int = 1,
        capture: bool = False,
        on_progress: OnProgress = lambda count: None,
    ) -> Iterator[list[Captioned]]:
        """For each picture its n best captions, best first.

        Args:
            pictures: what `caption` takes.
            beam: the number of hypotheses that the search keeps; None takes the recipe's, or n if greater.
            n: the number of captions of a picture.
            capture: keep the attention weights, for `build_trace`.
            on_progress: is called with the number of pictures that are finished.

        Raises:
            BadRecipe: the beam is narrower than n.
            BadData: a picture cannot be used.
        """
        config, inputs = self.build_search_config(beam, n), list_inputs(pictures, self.recipe)
        return self._search_all(inputs, config, capture, on_progress)

    def search(self, inputs: Tensor, config: SearchConfig, capture: bool = False) -> list[list[Hypothesis]]:
        """The best hypotheses of every picture of a batch.

        Args:
            inputs: pictures [B,3,S,S], or grids [B,Y,X,C].
            config: how to search.
            capture: keep the attention weights.
        """
        limit = self.recipe.batch.max_length + 1
        if self.model.length_limits.target is not None:
            limit = min(limit, self.model.length_limits.target.positions)
        device = next(self.model.parameters()).device
        return search(self.model, inputs.to(device), max_length=limit, config=config, capture=capture)

    def trace(self, pictures: Picture | Iterable[Picture], *, beam: int | None = None) -> Trace:
        """Caption pictures, and keep tokens, probabilities and where every attention goes.

        Args:
            pictures: what `caption` takes.
            beam: the number of hypotheses that the search keeps; None takes the recipe's.

        Raises:
            BadData: there is no picture, a picture cannot be used, or the model has no attention.
        """
        return self.build_trace(self.n_best(pictures, beam=beam, capture=True), beam=beam)

    def build_trace(self, answers: Iterable[list[Captioned]], *, beam: int | None = None) -> Trace:
        """The trace of the best captions.

        Args:
            answers: what `n_best(capture=True)` returns for each picture.
            beam: the beam of that search, for the trace's meta.

        Raises:
            BadData: there is no picture, or the model has no attention.
        """
        if not self.model.attention_layers():
            raise BadData("this model has no attention to trace: train one with model.attention")
        examples = []
        for number, (best, *_) in enumerate(answers, start=1):
            inputs, name = stack_inputs([read_input(best.picture, self.recipe)]), name_input(best.picture)
            examples.append(build_example(self.model, self.tokenizer, inputs, best.hypothesis, name, number))
        if not examples:
            raise BadData("there is no picture to trace")
        meta = {"model": self.recipe.model.kind, "beam": self.build_search_config(beam).beam}
        return Trace(tuple(examples), "captioning", unnormalised=find_unnormalised(self.model), meta=meta)

    def evaluate(
        self,
        examples: CaptionedExamples | None = None,
        *,
        beam: int | None = None,
        on_progress: OnProgress = lambda count: None,
    ) -> dict[str, float]:
        """BLEU-1 to 4, CIDEr-D and ROUGE-L; for generated shapes also exact match and pointing.

        Args:
            examples: pictures with their captions; None takes the recipe's test data, or its held-out data.
            beam: the number of hypotheses that the search keeps; None takes the recipe's.
            on_progress: is called with the number of pictures that are finished.
        """
        return self.score(examples, beam=beam, on_progress=on_progress).scores

    def score(
        self,
        examples: CaptionedExamples | None = None,
        *,
        beam: int | None = None,
        on_progress: OnProgress = lambda count: None,
    ) -> CaptionScores:
        """`evaluate` with sacrebleu's signature.

        Args:
            examples: pictures with their captions; None takes the recipe's test data, or its held-out data.
            beam: the number of hypotheses that the search keeps; None takes the recipe's.
            on_progress: is called with the number of pictures that are finished.
        """
        if examples is None:
            examples = read_test_examples(self.recipe, EvaluateOptions())
        captions = self.caption_examples(examples, self.build_search_config(beam), on_progress)
        references = [examples.get_captions(place) for place in range(len(examples))]
        scores, signature = score_captions(captions, references)
        if examples.drawn is None:
            return CaptionScores({k: v for k, v in scores.items() if k != "exact"}, signature)
        pointing = measure_pointing(self.model, examples, self.tokenizer, self.recipe.batch.pictures)
        return CaptionScores({**scores, **pointing}, signature)

    def caption_examples(
        self, examples: CaptionedExamples, config: SearchConfig, on_progress: OnProgress = lambda count: None
    ) -> list[str]:
        """The best caption of every picture of a data set.

        Args:
            examples: the pictures.
            config: how to search.
            on_progress: is called with the number of pictures that are finished.
        """
        captions: list[str] = []
        while len(captions) < len(examples):
            places = range(len(captions), min(len(captions) + self.recipe.batch.pictures, len(examples)))
            results = self.search(stack_inputs([examples.get_pixels(place) for place in places]), config)
            captions += [self.tokenizer.decode(best[0].tokens) for best in results]
            on_progress(len(captions))
        return captions

    def measure_attention(self, examples: CaptionedExamples) -> dict[str, float]:
        """Measures of every attention while pictures are captioned greedily; see `measure_examples`.

        Args:
            examples: the pictures.
        """
        if not self.model.attention_layers():
            return {}
        return measure_examples(self._trace_greedily(examples, place) for place in range(len(examples)))

    def build_search_config(self, beam: int | None = None, n: int = 1) -> SearchConfig:
        """The recipe's search with another beam width and number of captions.

        Args:
            beam: the number of hypotheses that the search keeps; None takes the recipe's, or n if greater.
            n: the number of captions of a picture.

        Raises:
            BadRecipe: the beam is narrower than n, or not positive.
        """
        return change_search_config(self.recipe.decode, beam, n)

    def _trace_greedily(self, examples: CaptionedExamples, place: int) -> Example:
        inputs = stack_inputs([examples.get_pixels(place)])
        [[caption]] = self.search(inputs, GREEDY, capture=True)
        return build_example(self.model, self.tokenizer, inputs, caption, None, place + 1)

    def _search_all(
        self,
        inputs: Sequence[Input],
        config: SearchConfig,
        capture: bool = False,
        on_progress: OnProgress = lambda count: None,
    ) -> Iterator[list[Captioned]]:
        """The captions of every picture; the files are read batch by batch."""
        size = self.recipe.batch.pictures
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            batch = stack_inputs([read_input(each, self.recipe) for each in part])
            for each, hypotheses in zip(part, self.search(batch, config, capture), strict=True):
                yield [Captioned(self.tokenizer.decode(h.tokens), h.score, h, each) for h in hypotheses]
            on_progress(start + len(part))
