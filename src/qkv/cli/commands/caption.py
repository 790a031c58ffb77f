"""`qkv caption`: a caption, or several, for every picture."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qkv.cli.input_lines import limit_traced_lines
from qkv.cli.output_stream import open_output, print_notes
from qkv.progress import show_progress
from qkv.task.caption.captioner import Captioned
from qkv.task.caption.inputs import name_input
from qkv.task.caption.strips import draw_strips
from qkv.task.output_files import check_writable
from qkv.task.picture_inputs import select_usable
from qkv.task.run_directory import load_for_command
from qkv.wording import plural

MAX_TRACED = 20


def caption_pictures(  # noqa: PLR0913 -- one for each option
    run: Path,
    pictures: list[Path],
    output: Path | None,
    beam: int | None,
    n_best: int,
    trace: Path | None,
    quiet: bool,
    *,
    png: Path | None = None,
    device: str = "cpu",
) -> None:
    """Caption every picture, and write the captions, the trace and the film strips."""
    captioner = load_for_command("caption", run, device)
    if not captioner.reads_grids:
        pictures, notes = select_usable(pictures, captioner.recipe.data.size)
        print_notes(notes)
    needs_weights = trace is not None or png is not None
    check_writable(trace, png)
    if needs_weights:
        limit_traced_lines(pictures, MAX_TRACED, "pictures", "--png" if trace is None else "--trace")
    with show_progress("caption", len(pictures), quiet=quiet) as report:
        answers = captioner.n_best(
            pictures, beam=beam, n=n_best, capture=needs_weights, on_progress=report.update
        )
        if needs_weights:
            answers = list(answers)
        if trace is not None:
            captioner.build_trace(answers, beam=beam).save(trace)
        if png is not None:
            draw_strips(captioner, answers, png)
        with open_output(output) as out:
            empty = _write(out, answers, n_best)
    if empty:
        number = plural(empty, "caption is", "captions are")
        print_notes([f"{number} empty: the model wrote its end symbol at once"])
    print_notes(f"wrote {path}" for path in (trace, png) if path is not None and not quiet)


def _write(out: Any, answers: Iterable[list[Captioned]], n_best: int) -> int:
    """Write the captions; returns how many of the best ones are empty."""
    empty = 0
    for best in answers:
        empty += not best[0].text
        for one in best[:n_best]:
            score = f"\t{one.score:.4f}" if n_best > 1 else ""
            out.write(f"{one.text}{score}\t{name_input(one.picture)}\n")
    return empty
