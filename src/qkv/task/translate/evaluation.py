"""`qkv evaluate` for translators: reads the test pairs, and reports scores in the form of all tasks."""

from collections.abc import Iterator, Sequence

from qkv.data import ParallelData, read_pairs
from qkv.errors import BadData
from qkv.progress import show_progress
from qkv.task.evaluation import EvaluateOptions, Evaluation
from qkv.task.line_problems import ProblemReporter
from qkv.task.translate.metrics import Report
from qkv.task.translate.pairs import Lines, read_test_pairs
from qkv.task.translate.recipe import DataConfig
from qkv.task.translate.translator import Translator

MAX_LISTED = 10  # line numbers
TITLES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)", "exact": "exact match"}


def choose_test_pairs(config: DataConfig, options: EvaluateOptions) -> Lines:
    """The pairs of the files that the options name, or else the recipe's test data.

    Raises:
        BadData: the options name only one side, or both aligned files and a file of pairs; or a file
            cannot be read as pairs.
    """
    if (options.source is None) != (options.target is None):
        raise BadData(
            "--source and --target go together: name both files, or neither for the recipe's test data"
        )
    if options.data is not None and options.source is not None:
        raise BadData("both --data and --source are set: name one file of pairs, or two aligned files")
    if options.data is not None:
        return read_pairs(ParallelData(file=str(options.data)))
    if options.source is not None:
        return read_pairs(ParallelData(source=str(options.source), target=str(options.target)))
    return read_test_pairs(config)


def evaluate_translator(
    translator: Translator, pairs: Lines, options: EvaluateOptions, quiet: bool
) -> Evaluation:
    """Translate the source lines and score the translations, with a progress bar unless `quiet`."""
    with show_progress("evaluate", len(pairs), quiet=quiet) as bar:
        problems = ProblemReporter(bar, options.strict, "translated")
        report = translator.evaluate(
            pairs, beam=options.beam, tokenize=options.tokenize, on_progress=bar.update, on_problem=problems
        )
        problems.print_summary(len(pairs))
    return Evaluation(
        scores=report.scores,
        examples=len(pairs),
        unit="sentences",
        titles=TITLES,
        remarks=report.signatures,
        notes=tuple(_describe(report)),
        details={"sentences": len(pairs), **report._asdict()},
    )


def _describe(report: Report) -> Iterator[str]:
    """The lines below the scores: lines with problems, how texts are compared, scores by source length."""
    for lines, action in ((report.truncated, "cut"), (report.empty, "left empty")):
        if lines:
            yield f"source lines that were {action}: {len(lines):,} ({_list_numbers(lines)})"
    yield report.comparison
    yield f"by {report.unit} in the source"
    for row in report.buckets:
        length = f"{row[report.unit]:>6} {report.unit}"
        scores = f"BLEU {row['bleu']:6.2f}   exact {row['exact']:6.2f}"
        yield f"  {length} {row['sentences']:>6} sentences   {scores}"


def _list_numbers(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:MAX_LISTED]))
    return listed if len(numbers) <= MAX_LISTED else f"{listed} …"
