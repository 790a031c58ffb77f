"""`qkv generate` with runs that make pictures."""

from pathlib import Path
from typing import Any

from qkv.errors import BadData
from qkv.task.output_files import check_writable, write_picture
from qkv.view.sheet import draw_sheet


def fill_picture(filler: Any, run: Path, options: Any, quiet: bool) -> None:
    """Write a sheet of a picture, of what the model sees of it, and of it with predicted cells."""
    path = check_picture_output(run, options.output)
    filled = filler.fill(options.fill)
    write_picture(path, draw_sheet([filled.original, filled.painted, filled.filled], columns=3))


def check_picture_output(run: Path, output: Path | None) -> Path:
    """The PNG file to write.

    Raises:
        BadData: no file is named, or it has another suffix or cannot be written.
    """
    if output is None or output.suffix.lower() != ".png":
        raise BadData(f"{run} writes a picture, got --output {output}: name a .png file with --output")
    check_writable(output)
    return output


def generate_samples(generator: Any, run: Path, options: Any, quiet: bool) -> None:
    """Write a sheet of generated pictures, and the attention of five cells while the first one was made."""
    path, trace = check_picture_output(run, options.output), options.trace
    count, seed = 64 if options.count is None else options.count, options.seed or 0
    pictures = generator.generate(count, seed)
    check_writable(trace)
    if trace is not None:
        first = trace.with_name(f"{trace.stem}-picture.png")
        points = generator.trace_points(seed=seed, picture=str(first))  # first, for its errors
        write_picture(first, draw_sheet([pictures[0]], columns=1))
        points.save(trace)
    write_picture(path, draw_sheet(list(pictures), columns=max(1, round(count**0.5))))
