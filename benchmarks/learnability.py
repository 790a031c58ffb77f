"""Does every attention learn?  One generated task, one small budget, one row per attention.

    python benchmarks/learnability.py [--rows 'rnn-*,transformer-elu'] [--updates 600] [--json FILE]

The task is reversal: the source is 4 to 12 symbols of 10, the target is the source backwards.  Every model of
a kind is trained with the same updates, batches and learning rate on one thread, and searched greedily on 500
sequences that it was not trained on.

exact: share of sequences answered without an error.  tokens: share of symbols right, given the right ones
before.  seconds: CPU time of the training.  The exit status is 1 when a row that should solve the task stays
below its threshold.  Rows are independent: patterns in --rows split them over processes.
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

from qkv.data import Pairs, batches_by_length, collate_pairs, pair_dataset
from qkv.decode import SearchConfig
from qkv.errors import QKVError
from qkv.kernel import RFA, Elu, Favor
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.progress import progress
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
    """What every row of a kind of model gets."""

    updates: int
    lr: float


BUDGETS = {"rnn": Budget(updates=700, lr=4e-3), "transformer": Budget(updates=700, lr=2e-3)}


@dataclass(frozen=True)
class Row:
    """An attention in a model.

    cannot: why it cannot look up the symbol it needs; what the encoder's last state carries may still answer
    in part.  slow: why this budget is too small for it.
    at_least: the share of exact answers that it must reach where neither is said.
    """

    name: str
    model: RNNConfig | TransformerConfig
    cannot: str | None = None
    slow: str | None = None
    at_least: float = 0.95


@dataclass(frozen=True)
class Outcome:
    """What came of a row; only `refused` and `parameters` where the library refused the task."""

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


def decoding(kernel: Any) -> TransformerConfig:
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
    Row("transformer-rfa", decoding(RFA()), slow=NOISY),
    Row("transformer-rfa-gate", transformer(decoder=AttentionSpec(kernel=RFA(gate=True), causal=True))),
    Row("transformer-rfa-arccos", decoding(RFA(kernel="arccos")), slow=NOISY),
    Row("transformer-favor", decoding(Favor()), slow=NOISY),
    Row("transformer-elu", decoding(Elu())),
    Row("transformer-window", transformer(decoder=AttentionSpec(scope=Window(4)))),
    Row("transformer-cross-additive", transformer(cross=ADDITIVE)),
    Row("transformer-cross-entmax", transformer(cross=AttentionSpec(select=Entmax()))),
    Row("transformer-cross-gumbel", transformer(cross=AttentionSpec(select=Hard("gumbel")))),
)


def sequences(seed: int) -> Iterator[tuple[int, ...]]:
    """Sources without end, of every length alike."""
    draw = random.Random(seed)
    while True:
        length = draw.randint(SHORTEST, LONGEST)
        yield tuple(draw.randrange(FIRST, VOCAB) for _ in range(length))


def held_out() -> list[tuple[int, ...]]:
    """Different sources to be judged by; training leaves them out."""
    return list(islice(dict.fromkeys(islice(sequences(0), 2 * HELD_OUT)), HELD_OUT))


class Reversals:
    """Training batches without end, each a function of its number."""

    def __init__(self, updates: int) -> None:
        self.updates, self.unseen = updates, frozenset(held_out())

    def steps(self, epoch: int) -> int:
        return self.updates

    def window(self, epoch: int, index: int, rank: int, world: int) -> list[Pairs]:
        rows = self.rows(epoch, index)[rank::world]
        return [collate_pairs(rows, [row[::-1] for row in rows])]

    def count(self, epoch: int, index: int) -> int:
        return sum(len(row) + 1 for row in self.rows(epoch, index))

    def rows(self, epoch: int, index: int) -> list[tuple[int, ...]]:
        drawn = sequences(1 + epoch * self.updates + index)
        return list(islice((row for row in drawn if row not in self.unseen), BATCH))


def measure(row: Row, updates: int | None = None) -> Outcome:
    """Train the row's model and judge it."""
    torch.manual_seed(SEED)
    kind = RNNTranslator if row.model.kind == "rnn" else Transformer
    model: Any = kind(row.model, VOCAB, VOCAB)  # pyright: ignore[reportArgumentType]
    objective = Translation(model, 0.0, AttentionTerms())
    parameters = sum(weight.numel() for weight in model.parameters())
    began = time.process_time()
    try:
        train(objective, BUDGETS[row.model.kind], updates)
    except QKVError as error:
        return Outcome(row.name, parameters, refused=str(error))
    seconds = time.process_time() - began
    exact, tokens = judge(objective.eval())
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
def judge(objective: Translation) -> tuple[float, float]:
    """The shares of exact answers and of right symbols."""
    sources = [list(row) for row in held_out()]
    mirrored = [row[::-1] for row in sources]
    answers = decode_ids(objective.model, sources, SearchConfig(beam=1, length_penalty=0.0))
    exact = sum(found[0].tokens == wanted for found, wanted in zip(answers, mirrored, strict=True))
    losses = [objective(batch) for _, batch in batches_by_length(pair_dataset(sources, mirrored), 4096)]
    right = sum(float(loss.metrics["accuracy"]) for loss in losses)
    return exact / len(sources), right / sum(loss.count for loss in losses)


def missed(row: Row, outcome: Outcome) -> bool:
    """Whether the row should solve the task and did not."""
    expected = row.cannot is None and row.slow is None
    return expected and (outcome.exact is None or outcome.exact < row.at_least)


def verdict(row: Row, outcome: Outcome) -> str:
    """What the result means, in words."""
    if outcome.refused is not None:
        said = outcome.refused.splitlines()[0]
        return f"FAILED: {said}" if missed(row, outcome) else f"refused: {said}"
    if missed(row, outcome):
        return f"FAILED: below {row.at_least:.0%}"
    if (outcome.exact or 0.0) >= row.at_least:
        return "solved"
    return f"cannot: {row.cannot}" if row.cannot else f"slow to learn: {row.slow}"


def markdown(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> str:
    lines = ["| attention | parameters | exact | tokens | seconds | |", "|---|--:|--:|--:|--:|---|"]
    for row, outcome in zip(rows, outcomes, strict=True):
        shares = ("–" if share is None else f"{share:.1%}" for share in (outcome.exact, outcome.tokens))
        seconds = "–" if outcome.seconds is None else f"{outcome.seconds:.0f}"
        cells = (row.name, f"{outcome.parameters:,}", *shares, seconds, verdict(row, outcome))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chosen(patterns: str) -> list[Row]:
    """Rows whose name fits one of the patterns; a pattern that fits none is a ValueError."""
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            names = ", ".join(row.name for row in ROWS)
            raise ValueError(f"--rows: no row is named {pattern!r}. Rows: {names}")
    return [row for row in ROWS if any(fnmatchcase(row.name, pattern) for pattern in wanted)]


def parse(given: Sequence[str] | None) -> tuple[list[Row], argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="*", help="names or patterns, separated by commas")
    parser.add_argument("--updates", type=int, help="instead of every kind's own number")
    parser.add_argument("--json", type=Path, help="write the results here, after every row")
    options = parser.parse_args(given)
    if options.updates is not None and options.updates < 1:
        parser.error(f"--updates must be at least 1, got {options.updates}")
    try:
        return chosen(options.rows), options
    except ValueError as error:
        parser.error(str(error))


def main(given: Sequence[str] | None = None) -> int:
    rows, options = parse(given)
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with progress("rows", len(rows)) as report:
        for row in rows:
            report.update(len(outcomes), row.name)
            outcomes.append(measure(row, options.updates))
            if options.json:
                options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    print(markdown(rows, outcomes))
    return int(any(missed(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
