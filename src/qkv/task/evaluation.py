"""How runs of every task are evaluated: the options of `qkv evaluate`, and the form of its result."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from qkv.errors import UnknownName

EMPTY: Mapping[str, Any] = MappingProxyType({})


class EvaluateOptions(NamedTuple):
    """The options of `qkv evaluate`; a task names those that it has in `Task.evaluate_options`.

    Args:
        source: a file of source lines; None scores the recipe's test data.
        target: a file of their translations, line by line.
        data: a file of test examples, where a task reads each example from one place.
        beam: the number of hypotheses that the search keeps; None takes the recipe's.
        tokenize: how a metric splits text into tokens; None takes the recipe's.
        strict: stop at an example that cannot be used as it is.
        mode: how a text is read: segments, sliding or carry; None takes the recipe's.
        stride: tokens that a sliding window moves by; None takes the recipe's.
        features: the run of a classifier by whose features pictures are compared; None takes the recipe's.
    """

    source: Path | None = None
    target: Path | None = None
    data: Path | None = None
    beam: int | None = None
    tokenize: str | None = None
    strict: bool = False
    mode: Any = None
    stride: int | None = None
    features: Path | None = None


class Evaluation(NamedTuple):
    """The scores of a run on test data, in the form that all tasks share.

    Args:
        scores: name -> value.
        examples: how many examples were scored.
        unit: what an example is, in the plural: "sentences", "documents", "images".
        titles: name of a score -> what is printed in its place.
        remarks: name of a score -> what is printed behind its value, such as how it was computed.
        notes: lines that are printed below the scores.
        details: further results by name, as plain JSON values.
        digits: decimal places of the printed scores.
    """

    scores: Mapping[str, float]
    examples: int
    unit: str
    titles: Mapping[str, str] = EMPTY
    remarks: Mapping[str, str] = EMPTY
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = EMPTY
    digits: int = 2

    def describe(self) -> Iterator[str]:
        """The lines that `qkv evaluate` prints."""
        yield f"{self.examples:,} {self.unit}"
        for name, value in self.scores.items():
            title, remark = self.titles.get(name, name), self.remarks.get(name, "")
            yield f"  {title:<22} {value:6.{self.digits}f}   {remark}".rstrip()
        yield from self.notes

    def to_dict(self) -> dict[str, Any]:
        """The number of examples, the scores and the details, as plain JSON values."""
        return {"examples": self.examples, "scores": dict(self.scores), **self.details}


class Answers(NamedTuple):
    """What a run answers to test data, for comparisons with other runs.

    Args:
        inputs: the examples.
        expected: the right answers.
        answers: the answers of the run.
        scorer: computes BLEU; None where an answer is right or wrong.
    """

    inputs: Sequence[Any]
    expected: Sequence[str]
    answers: Sequence[str]
    scorer: Any = None


class AnswersTestData(ABC):
    """A task whose runs can be compared by their answers to single examples."""

    @abstractmethod
    def answer_test_data(self, runner: Any, data: Any) -> Answers:
        """What a trained model answers to test data.

        Args:
            runner: what `Task.build_runner` returns.
            data: what `Task.read_test_data` returns.
        """


def refuse_unused_options(options: EvaluateOptions, task: str, used: Sequence[str]) -> None:
    """Check that every option that was passed means something to the task.

    Args:
        options: the options.
        task: the name of the task.
        used: the names of the options that the task has.

    Raises:
        UnknownName: an option was passed that the task does not have.
    """
    for name, default in EvaluateOptions()._asdict().items():
        if name not in used and getattr(options, name) != default:
            options_of_task = ", ".join(f"--{option}" for option in used) or "none"
            raise UnknownName(
                f"--{name} has no meaning for a run of the task {task!r}: leave it out. Options of this "
                f"task: {options_of_task}"
            )
