"""`qkv classify`: a label and its probability for every line of text, or for every picture."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.data.lines import LONGEST_DOCUMENT
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
    traced = None if trace is None else classifier.trace(inputs)  # first, for its errors
    cut = 0
    with open_output(output) as out, show_progress("classify", len(inputs), quiet=quiet) as report:
        for first in range(0, len(inputs), INPUTS_AT_ONCE):
            labels = classifier.classify(inputs[first : first + INPUTS_AT_ONCE])
            for label, name in zip(labels, names[first:], strict=False):
                out.write(f"{label.label}\t{label.probability:.4f}{name}\n")
            cut += sum(label.is_cut for label in labels)
            report.update(min(first + INPUTS_AT_ONCE, len(inputs)))
    if cut:
        limits = classifier.describe_limits()
        print(f"qkv: {cut:,} of {len(inputs):,} texts were cut after {limits}", file=sys.stderr, flush=True)
    if traced is not None and trace is not None:
        traced.save(trace)


def _read_inputs(classifier: Any, run: Path, files: Sequence[Path]) -> tuple[list[Any], list[str], str]:
    """What to label, what is printed behind each label, and what the inputs are called."""
    if classifier.reads_pictures:
        if not files:
            raise BadData(f"{run} labels pictures: name the files behind it")
        return list(files), [f"\t{file}" for file in files], "pictures"
    if len(files) > 1:
        raise BadData(f"{run} labels the lines of one file, got {len(files):,} files: join them")
    file = files[0] if files else None
    lines = read_input_lines(file, longest=LONGEST_DOCUMENT)
    texts = classifier.parse_lines(lines, "stdin" if file is None else str(file))
    return texts, [""] * len(texts), "lines"
