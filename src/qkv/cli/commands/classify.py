"""`qkv classify`: a label and its probability for every line of text, or for every picture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output, print_notes
from qkv.data.lines import LONGEST_DOCUMENT
from qkv.data.pictures.sources import SUFFIXES
from qkv.errors import BadData
from qkv.progress import show_progress
from qkv.task.output_files import check_writable
from qkv.task.picture_inputs import select_usable
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
    occlude: bool = False,
    device: str = "cpu",
) -> None:
    """Label the lines of one file, or the pictures in the files, as the run says."""
    classifier = load_for_command("classify", run, device)
    inputs, names, unit = _read_inputs(classifier, run, files)
    if trace is not None:
        limit_traced_lines(inputs, MAX_TRACED, unit)
    if occlude and (trace is None or classifier.reads_pictures):
        raise BadData("--occlude adds the effect of every word to a trace of texts: pass --trace FILE too")
    check_writable(trace)
    options = {"occlude": True} if occlude else {}
    traced = None if trace is None else classifier.trace(inputs, **options)  # first, for its errors
    counts: Counter[str] = Counter()
    with open_output(output) as out, show_progress("classify", len(inputs), quiet=quiet) as report:
        for first in range(0, len(inputs), INPUTS_AT_ONCE):
            labels = classifier.classify(inputs[first : first + INPUTS_AT_ONCE])
            for label, name in zip(labels, names[first:], strict=False):
                out.write(f"{label.label}\t{label.probability:.4f}{name}\n")
            counts.update(cut=sum(label.is_cut for label in labels))
            counts.update(split=sum(label.pieces > 1 for label in labels))
            counts.update(unknown=sum(label.is_unknown for label in labels))
            report.update(min(first + INPUTS_AT_ONCE, len(inputs)))
    print_notes(_describe(counts, len(inputs), classifier))
    if traced is not None and trace is not None:
        traced.save(trace)


def _describe(counts: Counter[str], total: int, classifier: Any) -> Iterator[str]:
    """Lines about texts that were not read whole, or say nothing."""
    if counts["cut"]:
        yield f"{counts['cut']:,} of {total:,} texts were cut after {classifier.describe_limits()}"
    if counts["split"]:
        length = classifier.recipe.batch.max_length
        yield f"{counts['split']:,} of {total:,} texts were read in pieces of {length:,} tokens"
    if counts["unknown"]:
        yield (
            f"{counts['unknown']:,} of {total:,} texts are empty, or none of their tokens is known: "
            "their labels say nothing about them"
        )


def _read_inputs(classifier: Any, run: Path, files: Sequence[Path]) -> tuple[list[Any], list[str], str]:
    """What to label, what is printed behind each label, and what the inputs are called."""
    if classifier.reads_pictures:
        if not files:
            raise BadData(f"{run} labels pictures: name the files behind it")
        usable, notes = select_usable(files, classifier.recipe.data.size)
        print_notes(notes)
        return list(usable), [f"\t{file}" for file in usable], "pictures"
    if len(files) > 1:
        raise BadData(f"{run} labels the lines of one file, got {len(files):,} files: join them")
    file = files[0] if files else None
    if file is not None and file.suffix.lower() in SUFFIXES:
        raise BadData(f"{file} is a picture by its name, and {run} labels lines of text: name a text file")
    lines = read_input_lines(file, longest=LONGEST_DOCUMENT)
    texts = classifier.parse_lines(lines, "stdin" if file is None else str(file))
    return texts, [""] * len(texts), "lines"
