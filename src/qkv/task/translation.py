"""Translation wired together: pairs to batches, a model of either kind, its objective, training and
validation.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from qkv.data import (
    BatchPlan,
    TokenizerPair,
    clean_pairs,
    decoding_batches,
    evaluation_batches,
    read_pairs,
    train_tokenizers,
)
from qkv.data.phrases import PhraseData, Split, generate, split
from qkv.decode.search import Hypothesis, SearchConfig, search
from qkv.errors import BadData, BadRun
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer
from qkv.progress import Progress
from qkv.task.recipe import DataConfig, ModelConfig, Recipe

RECIPE, TOKENIZER = "recipe.yaml", "tokenizer.json"
Lines = list[tuple[str, str]]


class Splits(NamedTuple):
    """Training and held-out pairs of text."""

    train: Lines
    valid: Lines


def phrase_splits(data: PhraseData) -> Split:
    """Generated phrases to train on, to choose by and to measure with; generated once per process."""
    return _phrase_splits(data.model_dump_json())


@cache
def _phrase_splits(told: str) -> Split:
    data = PhraseData.model_validate_json(told)
    return split(generate(data), data.dev, data.test)


def read_splits(data: DataConfig, seed: int) -> Splits:
    """The training and held-out pairs that a recipe names; without held-out files some training pairs are set
    aside.
    """
    if data.phrases is not None:
        phrases = phrase_splits(data.phrases)
        return Splits(phrases.train, phrases.dev)
    assert data.train is not None
    train = read_pairs(data.train)
    if data.valid is not None:
        return Splits(train, read_pairs(data.valid))
    count = min(data.holdout, len(train) // 20)
    if count == 0:
        raise BadData(f"{len(train)} pairs are too few to hold any out: name held-out files as data.valid")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    aside = set(order[:count])
    return Splits([p for i, p in enumerate(train) if i not in aside], [train[i] for i in sorted(aside)])


def test_pairs(data: DataConfig) -> Lines:
    """The pairs that `evaluate` takes by default.  Raises BadData where the recipe names none."""
    if data.phrases is not None:
        return phrase_splits(data.phrases).test
    named = data.test or data.valid
    if named is None:
        raise BadData("the recipe names no data.test: pass --source and --target")
    return read_pairs(named)


def build_model(config: ModelConfig, tokens: TokenizerPair) -> nn.Module:
    """The model of a recipe for these vocabularies."""
    kind = RNNTranslator if isinstance(config, RNNConfig) else Transformer
    return kind(config, tokens.source.size, tokens.target.size)  # pyright: ignore[reportArgumentType]


class Encoded(NamedTuple):
    """Pairs as token ids, without BOS and EOS."""

    source: list[list[int]]
    target: list[list[int]]


def encode(pairs: Lines, tokens: TokenizerPair) -> Encoded:
    """Both sides of the pairs as token ids."""
    return Encoded(tokens.source.encode([s for s, _ in pairs]), tokens.target.encode([t for _, t in pairs]))


def prepare(run: Path, recipe: Recipe, splits: Splits, resume: bool) -> TokenizerPair:
    """The run's directory with its recipe and tokenizer: written by a new run, read by a resumed one."""
    from qkv.task.files import write_text

    if resume and (run / TOKENIZER).exists():
        return TokenizerPair.load(run / TOKENIZER)
    tokens = train_tokenizers(splits.train, recipe.tokens)
    run.mkdir(parents=True, exist_ok=True)
    tokens.save(run / TOKENIZER)
    write_text(run / RECIPE, recipe.to_yaml())
    return tokens


def batches_of(pairs: Lines, tokens: TokenizerPair, recipe: Recipe, report: Progress) -> BatchPlan:
    """The training batches; says what had to be left out."""
    encoded = encode(pairs, tokens)
    kept, dropped = clean_pairs(encoded.source, encoded.target, recipe.batch.max_length)
    if dropped.first is not None:
        report.say(str(dropped))
    return BatchPlan(
        [encoded.source[i] for i in kept], [encoded.target[i] for i in kept], recipe.batch, recipe.train.seed
    )


def decode_ids(
    model: Any,
    source: Sequence[list[int]],
    config: SearchConfig,
    *,
    batch_tokens: int = 4096,
    capture: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> list[list[Hypothesis]]:
    """Search every source (ids without EOS), in batches of like length; the answers in the order of the
    sources.
    """
    found: list[list[Hypothesis]] = [[] for _ in source]
    device = next(model.parameters()).device
    finished = 0
    for rows, ids, keep in decoding_batches(source, max(1, batch_tokens // config.beam)):
        answers = search(model, ids.to(device), keep.to(device), config=config, capture=capture)
        for row, answer in zip(rows, answers, strict=True):
            found[row] = answer
        finished += len(rows)
        done(finished)
    return found


class Validator:
    """What is measured on the held-out pairs while training: nll, accuracy, BLEU and exact match."""

    def __init__(
        self, objective: nn.Module, tokens: TokenizerPair, pairs: Lines, recipe: Recipe, report: Progress
    ) -> None:
        encoded = encode(pairs, tokens)
        kept, _ = clean_pairs(encoded.source, encoded.target, recipe.batch.max_length)
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
        from qkv.task.score import corpus_scores

        model: Any = self.objective.model
        found = decode_ids(model, self.encoded.source[:count], SearchConfig(beam=1, length_penalty=0.0))
        said = [self.tokens.target.decode(answer[0].tokens) for answer in found]
        for (source, target), text in list(zip(self.pairs, said, strict=False))[
            : self.recipe.validation.samples
        ]:
            self.report.say(f"    {source}\n  → {text}\n  = {target}")
        references = [target for _, target in self.pairs[:count]]
        return corpus_scores(said, references, self.recipe.validation.tokenize, ter=False)


def check_recipe_of(run: Path, recipe: Recipe, resume: bool) -> None:
    """Refuse to resume a run with a recipe that would build another model or read other data."""
    from qkv.task.runs import recipe_of

    if not resume or not (run / RECIPE).exists():
        return
    old, new = recipe_of(run).model_dump(mode="json"), recipe.model_dump(mode="json")
    changed = [key for key in ("data", "tokens", "batch", "model") if old[key] != new[key]]
    if changed:
        raise BadRun(
            f"{run} was trained with another {' and '.join(changed)}: resume it with its own recipe, "
            f"{run / RECIPE}, or train into another directory"
        )
