"""`qkv classify`: a label and its probability for every line."""

import sys
from pathlib import Path

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.data.lines import LONGEST_DOCUMENT
from qkv.progress import show_progress
from qkv.task.run_directory import load_for_command

MAX_TRACED = 20
TEXTS_AT_ONCE = 1024


def classify_lines(
    run: Path, file: Path | None, output: Path | None, trace: Path | None, quiet: bool, *, device: str = "cpu"
) -> None:
    """Write label<tab>probability for every line: a text, or a pair of texts with a tab between them."""
    classifier = load_for_command("classify", run, device)
    lines = list(read_input_lines(file, longest=LONGEST_DOCUMENT))
    if trace is not None:
        limit_traced_lines(lines, MAX_TRACED)
    texts = classifier.parse_lines(lines, "stdin" if file is None else str(file))
    traced = None if trace is None else classifier.trace(texts)  # first, for its errors
    cut = 0
    with open_output(output) as out, show_progress("classify", len(texts), quiet=quiet) as report:
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            labels = classifier.classify(texts[first : first + TEXTS_AT_ONCE])
            for label in labels:
                out.write(f"{label.label}\t{label.probability:.4f}\n")
            cut += sum(label.is_cut for label in labels)
            report.update(min(first + TEXTS_AT_ONCE, len(texts)))
    if cut:
        limits = classifier.describe_limits()
        print(f"qkv: {cut:,} of {len(texts):,} texts were cut after {limits}", file=sys.stderr, flush=True)
    if traced is not None and trace is not None:
        traced.save(trace)
