"""`qkv generate`: continuations of prompts, from the command line or from a file."""

import sys
from pathlib import Path
from typing import Any

from qkv.cli.commands.generate_pictures import fill_picture, generate_samples
from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.errors import BadRun
from qkv.progress import show_progress
from qkv.task.fill.filler import Filler
from qkv.task.fill_pictures.filler import PictureFiller
from qkv.task.generate.generator import Generator
from qkv.task.generate_pictures.generator import PictureGenerator
from qkv.task.run_directory import load_for_command

MAX_TRACED = 20


def generate_text(  # noqa: PLR0913 -- one for each option
    run: Path,
    prompts: list[str],
    file: Path | None,
    output: Path | None,
    trace: Path | None,
    stop: list[str],
    quiet: bool,
    *,
    device: str = "cpu",
    count: int = 64,
    **options: Any,
) -> None:
    """Sample a continuation of every prompt; write each prompt with its continuation.

    A run on pictures writes a sheet of `count` pictures.

    A single prompt is written as it is sampled. Several are separated by an empty line.
    """
    generator = load_for_command("generate", run, device)
    texts = [*prompts, *(read_input_lines(file) if file is not None else [])] or [""]
    if isinstance(generator, PictureGenerator):
        if texts != [""]:
            raise BadRun(f"{run} generates pictures from noise: leave out the prompt")
        generate_samples(generator, run, count, options.get("seed") or 0, output, trace)
        return
    if isinstance(generator, PictureFiller):
        raise BadRun(f"{run} fills pictures: use `qkv generate {run} --fill PICTURE --output filled.png`")
    if not isinstance(generator, Generator):
        raise BadRun(f"{run} fills blanks: use `qkv generate {run} --fill '... [MASK] ...'`")
    if trace is not None:
        limit_traced_lines(texts, MAX_TRACED)
    stop = [text.replace("\\n", "\n") for text in stop]
    generator.sample_config(**options)  # refuses bad options before the output is opened
    with open_output(output) as out:
        if len(texts) == 1:
            written = _stream(generator, texts[0], stop, out, options)
        else:
            written = _write_all(generator, texts, stop, out, quiet, options)
    if trace is not None:
        _save_trace(generator, written, trace)


def _save_trace(generator: Generator, texts: list[str], path: Path) -> None:
    """Trace what was written; a text may have become longer than the model can read at once."""
    trace = generator.trace(texts, cut=True)
    for example in trace.examples:
        if count := example.meta.get("left out"):
            note = f"{path}: text {example.meta['line']} without its first {count:,} tokens"
            print(f"{note}: the model reads at most {generator.context:,}", file=sys.stderr)
    trace.save(path)


def fill_text(
    run: Path, text: str, count: int, output: Path | None, trace: Path | None, *, device: str = "cpu"
) -> None:
    """Write the likeliest words for every blank of a text; a run on pictures fills a picture file."""
    filler = load_for_command("generate", run, device)
    if isinstance(filler, PictureFiller):
        if trace is not None:
            raise BadRun(f"{run} fills pictures, and has no trace of that: leave out --trace")
        fill_picture(filler, run, text, output)
        return
    if not isinstance(filler, Filler):
        action = "generates pictures" if isinstance(filler, PictureGenerator) else "continues text"
        raise BadRun(f"--fill needs a masked language model, a run of the task 'fill'; {run} {action}")
    blanks = filler.fill(text, count)
    with open_output(output) as out:
        for number, guesses in enumerate(blanks, start=1):
            words = "  ".join(f"{word} {probability:.3f}" for word, probability in guesses)
            out.write(f"blank {number}: {words}\n")
    if trace is not None:
        filler.trace(text).save(trace)


def _stream(generator: Any, prompt: str, stop: list[str], out: Any, options: dict[str, Any]) -> list[str]:
    """Write one continuation as it is sampled; returns the whole text."""
    parts: list[str] = []
    for piece in generator.stream([prompt], stop=stop, **options):
        parts.append(piece.text if parts else prompt + piece.text)  # a prompt that is refused is not written
        out.write(parts[-1])
        out.flush()
    out.write("\n" if parts else f"{prompt}\n")
    return ["".join(parts) or prompt]


def _write_all(
    generator: Any, prompts: list[str], stop: list[str], out: Any, quiet: bool, options: dict[str, Any]
) -> list[str]:
    texts = list(prompts)
    length = generator.sample_config(**options).length
    with show_progress("generate", len(prompts) * length, quiet=quiet) as report:
        for count, piece in enumerate(generator.stream(prompts, stop=stop, **options), start=1):
            texts[piece.prompt] += piece.text
            report.update(count)
    out.write("\n\n".join(texts) + "\n")
    return texts
