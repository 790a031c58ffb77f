"""A trained masked language model: texts with blanks in, the likeliest words out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.data.byte_tokens import ByteTokenizer
from qkv.data.masking import MaskedPlan
from qkv.data.streams import StreamPlan
from qkv.data.tokens import CONTROL, Tokenizer
from qkv.errors import BadData
from qkv.symbols import EOS, UNK
from qkv.task.fill.recipe import FillRecipe
from qkv.task.texts import AnyTokenizer, encode_text, read_test_text
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Example, Trace, WeightAxes
from qkv.train.objective.masked import MaskedLanguageModeling

MASK = "[MASK]"
EVALUATION_SEED = 0


class Guess(NamedTuple):
    """A word for a blank, and its probability given all other words."""

    word: str
    probability: float


class TokenLikelihood(NamedTuple):
    """A token of a text, and its log-probability given all others."""

    token: str
    log_prob: float


class Filler:
    """A masked language model with its tokenizer and its recipe.  `qkv.load(run)` makes one.

    Args:
        recipe: the complete recipe of the run.
        tokenizer: the vocabulary of the run, without [MASK], whose id is the tokenizer's size.
        model: the trained model, in evaluation mode.
    """

    def __init__(self, recipe: FillRecipe, tokenizer: AnyTokenizer, model: Any) -> None:
        self.recipe, self.tokenizer, self.model, self.mask = recipe, tokenizer, model, tokenizer.size

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands for a masked language model; `qkv generate RUN --fill`."""
        return ("generate",)

    def fill(self, text: str, n: int = 5) -> list[list[Guess]]:
        """The n likeliest words for every [MASK] of a text, best first; blanks are guessed independently.

        Raises:
            BadData: there is no [MASK] in the text, or the text is longer than the model can read.
        """
        ids = self._encode(text)
        blanks = [position for position, token in enumerate(ids) if token == self.mask]
        if not blanks:
            raise BadData(f"there is no {MASK} in the text: write {MASK} where a word is to be guessed")
        probabilities = self._compute_log_probs(torch.tensor([ids]))[0, blanks].exp()
        best, tokens = probabilities.topk(min(n, probabilities.shape[1]), dim=1)
        return [
            [Guess(self._format_word(token), p) for token, p in zip(*row, strict=True)]
            for row in zip(tokens.tolist(), best.tolist(), strict=True)
        ]

    def likelihood(self, text: str) -> list[TokenLikelihood]:
        """log p(token | all others) of every token of a text, each hidden in turn.

        Their sum is the pseudo-log-likelihood of Salazar et al. 2020 (arXiv:1910.14659), eq. 1.
        """
        ids = torch.tensor(self._encode(text))
        if not len(ids):
            raise BadData("there is no token in the text")
        hidden = ids.repeat(len(ids), 1).fill_diagonal_(self.mask)  # row i hides token i
        rows = torch.cat(
            [
                self._compute_log_probs(part).diagonal(offset=first, dim1=0, dim2=1).T
                for first, part in zip(range(0, len(ids), 64), hidden.split(64), strict=True)
            ]
        )
        log_probs = rows.gather(1, ids[:, None])[:, 0].tolist()
        pieces = self._format_pieces(ids.tolist())
        return [TokenLikelihood(*pair) for pair in zip(pieces, log_probs, strict=True)]

    def evaluate(
        self,
        lines: Sequence[str] | None = None,
        *,
        on_progress: Callable[[int], None] = lambda count: None,
    ) -> dict[str, float]:
        """nll and accuracy of hidden tokens, which are chosen by a fixed seed.

        Args:
            lines: the text; None takes the recipe's test text.
            on_progress: called with the number of tokens that were read.
        """
        lines = read_test_text(self.recipe.data) if lines is None else lines
        return score_masked(self.recipe, self.tokenizer, self.model, lines, on_progress)

    @torch.inference_mode()
    def trace(self, texts: str | Iterable[str]) -> Trace:
        """Where every layer attends in each text, blanks included."""
        several = [texts] if isinstance(texts, str) else list(texts)
        if not several:
            raise BadData("there is no text to trace")
        unnormalised = find_unnormalised(self.model)
        examples = tuple(
            self.trace_tokens(self._encode(text), {"line": number, "text": text})
            for number, text in enumerate(several, start=1)
        )
        return Trace(examples, "masked language model", unnormalised=unnormalised)

    @torch.inference_mode()
    def trace_tokens(self, ids: Sequence[int], meta: dict[str, Any] | None = None) -> Example:
        """Where every layer attends in a text.

        Args:
            ids: its tokens.
            meta: what else the example says.
        """
        tokens = torch.tensor([ids], device=next(self.model.parameters()).device)
        _, attended = self.model.forward_with_weights(tokens, torch.ones_like(tokens, dtype=torch.bool))
        weights = {
            name: each.weights[0].float().cpu().numpy()
            for name, each in attended.items()
            if each.weights is not None
        }
        return Example(
            named_axes={"text": tuple(self._format_pieces(ids))},
            weights=weights,
            weight_axes={name: WeightAxes("text", "text") for name in weights},
            meta=meta or {},
        )

    @torch.inference_mode()
    def _compute_log_probs(self, tokens: Int[Tensor, "B N"]) -> Float[Tensor, "B N V"]:
        """log-probabilities of all real words at every position; control symbols have none."""
        tokens = tokens.to(next(self.model.parameters()).device)
        hidden = self.model(tokens, torch.ones_like(tokens, dtype=torch.bool))
        scores = self.model.output(hidden).float()
        scores[..., [token for token in range(len(CONTROL)) if token not in (EOS, UNK)]] = -torch.inf
        scores[..., self.mask] = -torch.inf
        return scores.log_softmax(-1).cpu()

    def _encode(self, text: str) -> list[int]:
        parts = text.split(MASK)
        ids: list[int] = []
        for number, part in enumerate(parts):
            ids += [self.mask] if number else []
            ids += self._encode_part(part, follows_blank=number > 0)
        limit = self.model.length_limits.source
        if limit is not None and len(ids) > limit.positions:
            raise BadData(
                f"the text has {len(ids):,} tokens, but the model reads at most {limit.positions:,}: "
                "shorten it"
            )
        return ids

    def _encode_part(self, part: str, follows_blank: bool) -> list[int]:
        """The ids of the text between two blanks; what follows a blank without a space joins it."""
        if isinstance(self.tokenizer, ByteTokenizer) or self.tokenizer.kind == "char":
            return self.tokenizer.encode([part])[0]
        part = part.rstrip(" ")
        if not part.strip():
            return []
        ids = self.tokenizer.encode([part])[0]
        joins_blank = self.tokenizer.kind == "bpe" and follows_blank and part[0] != " "
        return _remove_space(ids, self.tokenizer) if joins_blank else ids

    def _format_word(self, token: int) -> str:
        return "</s>" if token == EOS else self._format_pieces([token])[0].removeprefix("▁")

    def _format_pieces(self, ids: Sequence[int]) -> list[str]:
        return [MASK if token == self.mask else self.tokenizer.pieces([token])[0] for token in ids]


def _remove_space(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids without the space that the tokenizer puts before a text; the same ids where that cannot be.

    The first token becomes the longest ones of the vocabulary that have its text without the space.
    """
    text, joined = tokenizer.pieces(ids[:1])[0].removeprefix("▁"), []
    while text:
        ends = (end for end in range(len(text), 0, -1) if tokenizer.find_token(text[:end]) is not None)
        if (end := next(ends, None)) is None:
            return ids
        joined.append(tokenizer.find_token(text[:end]))
        text = text[end:]
    return [*joined, *ids[1:]]


@torch.inference_mode()
def score_masked(
    recipe: FillRecipe,
    tokenizer: AnyTokenizer,
    model: Any,
    lines: Sequence[str],
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """nll and accuracy of the hidden tokens of a text; the same tokens are hidden at every call."""
    ids = encode_text(lines, tokenizer).ids
    plan = masked_plan(StreamPlan(ids, recipe.batch, EVALUATION_SEED), recipe, tokenizer, EVALUATION_SEED)
    objective = MaskedLanguageModeling(model)
    device = next(model.parameters()).device
    count, metrics = 0, {"nll": 0.0, "accuracy": 0.0}
    for index in range(plan.steps(0)):
        (batch,) = plan.window(0, index, 0, 1)
        loss = objective(type(batch)(*(part.to(device) for part in batch)))
        count += loss.count
        for name in metrics:
            metrics[name] += float(loss.metrics[name])
        on_progress(index + 1)
    return {name: value / count for name, value in metrics.items()}


def masked_plan(plan: StreamPlan, recipe: FillRecipe, tokenizer: AnyTokenizer, seed: int) -> MaskedPlan:
    """The masked segments of a recipe."""
    starts_word = None
    if recipe.objective.whole_words:
        pieces = tokenizer.pieces(range(tokenizer.size))
        starts_word = torch.tensor([piece.startswith(("▁", "<")) for piece in pieces])
    return MaskedPlan(plan, tokenizer.size, recipe.objective.rate, starts_word, seed)
