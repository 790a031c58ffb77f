"""`qkv classify`: a label and its probability for every line."""

from pathlib import Path

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.progress import show_progress
from qkv.task.run_directory import load_for_command

MAX_TRACED = 20
TEXTS_AT_ONCE = 1024


def classify_lines(
    run: Path, file: Path | None, output: Path | None, trace: Path | None, quiet: bool, *, device: str = "cpu"
) -> None:
    """Write label<tab>probability for every line; a line with a tab is a pair of texts."""
    classifier = load_for_command("classify", run, device)
    lines = list(read_input_lines(file))
    if trace is not None:
        limit_traced_lines(lines, MAX_TRACED)
    texts = [tuple(line.split("\t")) if "\t" in line and classifier.reads_pairs else line for line in lines]
    with open_output(output) as out, show_progress("classify", len(texts), quiet=quiet) as report:
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            for label in classifier.classify(texts[first : first + TEXTS_AT_ONCE]):
                out.write(f"{label.label}\t{label.probability:.4f}\n")
            report.update(min(first + TEXTS_AT_ONCE, len(texts)))
    if trace is not None:
        classifier.trace(texts).save(trace)
