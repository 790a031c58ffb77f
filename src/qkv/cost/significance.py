"""Whether runs differ on the same test data: paired bootstrap over the examples.

BLEU is resampled by sacrebleu; the share of right answers here, in the same way.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from qkv.cost.report import format_table
from qkv.errors import BadRun
from qkv.task.evaluation import Answers, AnswersTestData, EvaluateOptions
from qkv.task.registry import find_task
from qkv.task.run_directory import load

SAMPLES, SEED = 1000, 12345


class SampledScore(NamedTuple):
    """The score of one run on the test data.

    Args:
        score: the score, in percent.
        mean: its mean over the samples.
        margin: half of the interval that holds 95 % of the samples.
        p: the p-value of the difference to the first run; None for the first run.
    """

    score: float
    mean: float
    margin: float
    p: float | None


class Comparison(NamedTuple):
    """The scores of several runs on the same test data.

    Args:
        title: the name of the score.
        examples: how many examples the test data have.
        scores: one for each run.
    """

    title: str
    examples: int
    scores: list[SampledScore]


def compare_on_test_data(names: Sequence[str], task_name: str, device: str = "cpu") -> Comparison:
    """Let every run answer the test data of its recipe, and compare the answers.

    Args:
        names: the run directories.
        task_name: the task of all of them.
        device: where to compute.

    Returns:
        The scores.

    Raises:
        BadData: a recipe names no test data.
        BadRun: the runs have different test data, or runs of this task cannot be compared.
    """
    task = find_task(task_name)
    if not isinstance(task, AnswersTestData):
        raise BadRun(
            "--test compares the answers of translators and of classifiers of texts, and these are runs of "
            f"the task {task_name!r}: leave it out, and use qkv evaluate"
        )
    answers: list[Answers] = []
    for name in names:
        runner = load(name, device=device)
        answers.append(task.answer_test_data(runner, task.read_test_data(runner.recipe, EvaluateOptions())))
        first, last = answers[0], answers[-1]
        if (first.inputs, first.expected) != (last.inputs, last.expected):
            raise BadRun(
                f"{names[0]} and {name} have different test data ({len(first.inputs):,} and "
                f"{len(last.inputs):,} examples): compare runs whose recipes name the same, or leave out "
                "--test"
            )
    return compare_answers(answers)


def compare_answers(answers: Sequence[Answers]) -> Comparison:
    """The scores of several sets of answers to the same examples.

    Args:
        answers: the answers of each run; the first one is the baseline.

    Returns:
        The scores.
    """
    expected, scorer = answers[0].expected, answers[0].scorer
    if scorer is None:
        correct = [np.equal(each.answers, expected) for each in answers]
        return Comparison("accuracy", len(expected), _resample(correct))
    results = scorer.resample_bleu([each.answers for each in answers], expected, SAMPLES)
    return Comparison("BLEU", len(expected), [SampledScore(*result) for result in results])


def format_test_scores(names: Sequence[str], comparison: Comparison) -> Iterator[str]:
    """The lines that `qkv compare --test` prints.

    Args:
        names: what the runs are called.
        comparison: their scores.

    Yields:
        The lines.
    """
    yield (
        f"test data: {comparison.examples:,} examples, paired bootstrap with {SAMPLES:,} samples; p against "
        f"{names[0]}"
    )
    rows: list[tuple[str, ...]] = [("run", comparison.title, "95 % interval", "p")]
    for name, each in zip(names, comparison.scores, strict=True):
        interval = f"{each.mean - each.margin:.2f} to {each.mean + each.margin:.2f}"
        rows.append((name, f"{each.score:.2f}", interval, "" if each.p is None else f"{each.p:.4f}"))
    yield from format_table(rows)


def _resample(correct: Sequence[Any]) -> list[SampledScore]:
    """Percentages of right answers, with the p-value as sacrebleu computes it."""
    count = len(correct[0])
    rows = np.random.default_rng(SEED).choice(count, size=(SAMPLES, count))
    scores = []
    baseline = 100 * correct[0][rows].mean(1)
    for number, each in enumerate(correct):
        samples, score = 100 * each[rows].mean(1), 100 * float(each.mean())
        low, high = np.quantile(samples, (0.025, 0.975))
        differences = np.abs(samples - baseline)
        real = abs(score - 100 * float(correct[0].mean()))
        extreme = int((differences - differences.mean() >= real).sum())
        p = (extreme + 1) / (SAMPLES + 1) if number else None
        scores.append(SampledScore(score, float(samples.mean()), float(high - low) / 2, p))
    return scores
