"""Shows which attentions learn a generated task within a small budget, one row per attention.

    python benchmarks/learnability.py [--rows 'rnn-*,transformer-elu'] [--updates 600] [--json FILE]

The task is reversal: the source is 4 to 12 symbols of 10, and the target is the source backwards. Every model
of a kind is trained with the same updates, batches and learning rate on one thread, and decoded greedily on
500 sequences that were left out of the training.

exact: fraction of sequences decoded without an error. tokens: accuracy of the next symbol after a correct
prefix. seconds: CPU time of the training. The exit status is 1 if a row that should solve the task stays
below its threshold. Rows are independent: patterns in --rows distribute them over processes.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from qkv.data import Pairs, collate_pairs, iterate_by_length, make_pair_dataset
from qkv.decode import SearchConfig
from qkv.errors import QKVError
from qkv.kernel import RFA, Elu, Favor
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.progress import show_progress
from qkv.scope import Predictive, Window
from qkv.score import Additive, Cosine, Dot, General, Location, ScaledDot
from qkv.select import Entmax, Hard, Sparsemax, TopK
from qkv.spec import AttentionSpec
from qkv.symbols import EOS
from qkv.task.translate.decoding import decode_ids
from qkv.train import AttentionTerms, TrainConfig, Translation, fit

SYMBOLS, FIRST, SHORTEST, LONGEST = 10, EOS + 1, 4, 12
VOCAB = FIRST + SYMBOLS
BATCH, HELD_OUT, SEED = 64, 500, 1


class Budget(NamedTuple):
    """The number of updates and the learning rate of every row of a kind of model."""

    updates: int
    lr: float


BUDGETS = {"rnn": Budget(updates=700, lr=4e-3), "transformer": Budget(updates=700, lr=2e-3)}


@dataclass(frozen=True)
class Row:
    """An attention in a model.

    Args:
        cannot: why the attention cannot look up the symbol that the model needs; None if it can.
        slow: why the budget is too small for it; None if it is not.
        at_least: the fraction of exact answers that the row must reach if `cannot` and `slow` are None.
    """

    name: str
    model: RNNConfig | TransformerConfig
    cannot: str | None = None
    slow: str | None = None
    at_least: float = 0.95


@dataclass(frozen=True)
class Outcome:
    """The result of a row; only `refused` and `parameters` if the library refused the task."""

    name: str
    parameters: int
    exact: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    refused: str | None = None


def rnn(attention: AttentionSpec | None, **options: Any) -> RNNConfig:
    return RNNConfig(attention=attention, **{"embedding": 32, "hidden": 64, "dropout": 0.0, **options})


def luong(attention: AttentionSpec, **options: Any) -> RNNConfig:
    return rnn(attention, decoder="luong", **options)


def transformer(**places: Any) -> TransformerConfig:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "width": 64, "heads": 2, "feedforward": 128}
    return TransformerConfig(**sizes, dropout=0.0, **places)


def linear_decoder(kernel: Any) -> TransformerConfig:
    return transformer(decoder=AttentionSpec(kernel=kernel), cross=AttentionSpec(kernel=kernel))


ADDITIVE, GENERAL = AttentionSpec(score=Additive()), AttentionSpec(score=General())
MIRRORED = "the mirrored position is out of its sight"
NOISY = "an estimate from 64 features is noisy in training, and sharp attention takes longer to learn from it"
ROWS = (
    Row("rnn-none", rnn(None), cannot="the whole source passes through one vector"),
    Row("rnn-additive", rnn(ADDITIVE), at_least=0.99),
    Row("rnn-additive-lstm", rnn(ADDITIVE, cell="lstm")),
    Row("rnn-general", rnn(GENERAL)),
    Row("rnn-scaled-dot-2-heads", rnn(AttentionSpec(score=ScaledDot(), heads=2))),
    Row("rnn-cosine", rnn(AttentionSpec(score=Cosine(strength=10.0)))),
    # The longest source has twelve symbols and its end.
    Row("rnn-location", rnn(AttentionSpec(score=Location(LONGEST + 1)))),
    Row("rnn-location-short", rnn(AttentionSpec(score=Location(8))), cannot="sources are longer"),
    Row("rnn-reinforce", rnn(AttentionSpec(score=Additive(), select=Hard()))),
    Row("rnn-straight-through", rnn(AttentionSpec(score=Additive(), select=Hard("straight_through")))),
    Row("rnn-gumbel", rnn(AttentionSpec(score=Additive(), select=Hard("gumbel")))),
    Row("rnn-sparsemax", rnn(AttentionSpec(score=Additive(), select=Sparsemax()))),
    Row("rnn-entmax", rnn(AttentionSpec(score=Additive(), select=Entmax()))),
    Row("rnn-topk", rnn(AttentionSpec(score=Additive(), select=TopK(2)))),
    Row("rnn-rfa", rnn(AttentionSpec(kernel=RFA()))),
    Row("rnn-rfa-arccos", rnn(AttentionSpec(kernel=RFA(kernel="arccos")))),
    Row("rnn-favor", rnn(AttentionSpec(kernel=Favor())), slow=NOISY),
    Row("rnn-elu", rnn(AttentionSpec(kernel=Elu()))),
    Row("luong-dot", luong(AttentionSpec(score=Dot()), bidirectional=False)),
    Row("luong-general", luong(GENERAL)),
    Row("luong-general-fed", luong(GENERAL, input_feeding=True)),
    Row("luong-concat", luong(ADDITIVE)),
    Row("luong-location", luong(AttentionSpec(score=Location(LONGEST + 1)))),
    Row("luong-local-m", luong(AttentionSpec(score=General(), scope=Window(2))), cannot=MIRRORED),
    Row("luong-local-p", luong(AttentionSpec(score=General(), scope=Predictive()))),
    Row("luong-local-p-fed", luong(AttentionSpec(score=General(), scope=Predictive()), input_feeding=True)),
    Row("transformer-softmax", transformer()),
    Row("transformer-rfa", linear_decoder(RFA()), slow=NOISY),
    Row("transformer-rfa-gate", transformer(decoder=AttentionSpec(kernel=RFA(gate=True), causal=True))),
    Row("transformer-rfa-arccos", linear_decoder(RFA(kernel="arccos")), slow=NOISY),
    Row("transformer-favor", linear_decoder(Favor()), slow=NOISY),
    Row("transformer-elu", linear_decoder(Elu())),
    Row("transformer-window", transformer(decoder=AttentionSpec(scope=Window(4)))),
    Row("transformer-cross-additive", transformer(cross=ADDITIVE)),
    Row("transformer-cross-entmax", transformer(cross=AttentionSpec(select=Entmax()))),
    Row("transformer-cross-gumbel", transformer(cross=AttentionSpec(select=Hard("gumbel")))),
)


def sequences(seed: int) -> Iterator[tuple[int, ...]]:
    """An endless stream of sources; all lengths are equally frequent."""
    draw = random.Random(seed)
    while True:
        length = draw.randint(SHORTEST, LONGEST)
        yield tuple(draw.randrange(FIRST, VOCAB) for _ in range(length))


def held_out() -> list[tuple[int, ...]]:
    """Distinct sources for the evaluation, which training leaves out."""
    return list(islice(dict.fromkeys(islice(sequences(0), 2 * HELD_OUT)), HELD_OUT))


class Reversals:
    """An endless sequence of training batches, each a pure function of its number."""

    def __init__(self, updates: int) -> None:
        self.updates, self.held_out = updates, frozenset(held_out())

    def steps(self, epoch: int) -> int:
        return self.updates

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Pairs]:
        rows = self.rows(epoch, index)[rank::world]
        return [collate_pairs(rows, [row[::-1] for row in rows])]

    def count(self, epoch: int, index: int) -> int:
        return sum(len(row) + 1 for row in self.rows(epoch, index))

    def rows(self, epoch: int, index: int) -> list[tuple[int, ...]]:
        stream = sequences(1 + epoch * self.updates + index)
        return list(islice((row for row in stream if row not in self.held_out), BATCH))


def measure(row: Row, updates: int | None = None) -> Outcome:
    """Train the model of a row and evaluate it."""
    torch.manual_seed(SEED)
    kind = RNNTranslator if row.model.kind == "rnn" else Transformer
    model: Any = kind(row.model, VOCAB, VOCAB)  # pyright: ignore[reportArgumentType]
    objective = Translation(model, 0.0, AttentionTerms())
    parameters = sum(weight.numel() for weight in model.parameters())
    start = time.process_time()
    try:
        train(objective, BUDGETS[row.model.kind], updates)
    except QKVError as error:
        return Outcome(row.name, parameters, refused=str(error))
    seconds = time.process_time() - start
    exact, tokens = evaluate(objective.eval())
    return Outcome(row.name, parameters, exact, tokens, seconds)


def train(objective: Translation, budget: Budget, updates: int | None) -> None:
    steps = updates or budget.updates
    config = TrainConfig(
        steps=steps,
        lr=budget.lr,
        schedule="cosine",
        warmup=min(50, steps // 2),
        precision="32",
        device="cpu",
        seed=SEED,
    )
    with tempfile.TemporaryDirectory() as run:
        fit(objective, Reversals(steps), config, run=Path(run), quiet=True)


@torch.no_grad()
def evaluate(objective: Translation) -> tuple[float, float]:
    """The fraction of exact answers, and the accuracy of single symbols."""
    sources = [list(row) for row in held_out()]
    targets = [row[::-1] for row in sources]
    answers = decode_ids(objective.model, sources, SearchConfig(beam=1, length_penalty=0.0))
    exact = sum(best[0].tokens == target for best, target in zip(answers, targets, strict=True))
    losses = [objective(batch) for _, batch in iterate_by_length(make_pair_dataset(sources, targets), 4096)]
    correct = sum(float(loss.metrics["accuracy"]) for loss in losses)
    return exact / len(sources), correct / sum(loss.count for loss in losses)


def is_failure(row: Row, outcome: Outcome) -> bool:
    """Whether a row that should solve the task did not."""
    expected = row.cannot is None and row.slow is None
    return expected and (outcome.exact is None or outcome.exact < row.at_least)


def describe_outcome(row: Row, outcome: Outcome) -> str:
    """The meaning of a result in words."""
    if outcome.refused is not None:
        message = outcome.refused.splitlines()[0]
        return f"FAILED: {message}" if is_failure(row, outcome) else f"refused: {message}"
    if is_failure(row, outcome):
        return f"FAILED: below {row.at_least:.0%}"
    if (outcome.exact or 0.0) >= row.at_least:
        return "solved"
    return f"cannot: {row.cannot}" if row.cannot else f"slow to learn: {row.slow}"


def format_markdown(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    lines = ["| attention | parameters | exact | tokens | seconds | |", "|---|--:|--:|--:|--:|---|"]
    for row, outcome in zip(rows, outcomes, strict=True):
        scores = ("–" if score is None else f"{score:.1%}" for score in (outcome.exact, outcome.tokens))
        seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.0f}"
        cells = (row.name, f"{outcome.parameters:,}", *scores, seconds, describe_outcome(row, outcome))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def select_rows(patterns: str) -> list[Row]:
    """The rows whose names match a pattern; ValueError for a pattern that matches none."""
    stripped = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in stripped:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            names = ", ".join(row.name for row in ROWS)
            raise ValueError(f"--rows: no row is named {pattern!r}. Rows: {names}")
    return [row for row in ROWS if any(fnmatchcase(row.name, pattern) for pattern in stripped)]


def parse_arguments(arguments: Sequence[str] | None) -> tuple[list[Row], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--updates", type=int, help="instead of every kind's own number")
    parser.add_argument("--json", type=Path, help="write the results here, after every row")
    options = parser.parse_args(arguments)
    if options.updates is not None and options.updates < 1:
        parser.error(f"--updates must be at least 1, got {options.updates}")
    try:
        return select_rows(options.rows), options
    except ValueError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    rows, options = parse_arguments(arguments)
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with show_progress("rows", len(rows)) as report:
        for row in rows:
            report.update(len(outcomes), row.name)
            outcomes.append(measure(row, options.updates))
            if options.json:
                options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    print(format_markdown(rows, outcomes))
    return int(any(is_failure(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
