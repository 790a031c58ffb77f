"""`qkv classify`: a label and its probability for every line of text, or for every picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.errors import BadData
from qkv.progress import show_progress
from qkv.task.run_directory import load_for_command

MAX_TRACED = 20
INPUTS_AT_ONCE = 1024


def classify_files(
    run: Path,
    files: Sequence[Path],
    output: Path | None,
    trace: Path | None,
    quiet: bool,
    *,
    device: str = "cpu",
) -> None:
    """Label the lines of one file, or the pictures in the files, as the run says."""
    classifier = load_for_command("classify", run, device)
    inputs, names, unit = _read_inputs(classifier, run, files)
    if trace is not None:
        limit_traced_lines(inputs, MAX_TRACED, unit)
    with open_output(output) as out, show_progress("classify", len(inputs), quiet=quiet) as report:
        for first in range(0, len(inputs), INPUTS_AT_ONCE):
            labels = classifier.classify(inputs[first : first + INPUTS_AT_ONCE])
            for label, name in zip(labels, names[first:], strict=False):
                out.write(f"{label.label}\t{label.probability:.4f}{name}\n")
            report.update(min(first + INPUTS_AT_ONCE, len(inputs)))
    if trace is not None:
        classifier.trace(inputs).save(trace)


def _read_inputs(classifier: Any, run: Path, files: Sequence[Path]) -> tuple[list[Any], list[str], str]:
    """What to label, what is printed behind each label, and what the inputs are called."""
    if classifier.reads_pictures:
        if not files:
            raise BadData(f"{run} labels pictures: name the files behind it")
        return list(files), [f"\t{file}" for file in files], "pictures"
    if len(files) > 1:
        raise BadData(f"{run} labels the lines of one file, got {len(files):,} files: join them")
    lines = list(read_input_lines(files[0] if files else None))
    texts = [tuple(x.split("\t")) if "\t" in x and classifier.reads_pairs else x for x in lines]
    return texts, [""] * len(texts), "lines"
