"""`qkv generate`: continues texts, fills blanks of texts and pictures, and generates pictures."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qkv.cli.commands.generate_pictures import fill_picture, generate_samples
from qkv.cli.input_lines import limit_traced_lines, read_input_lines
from qkv.cli.output_stream import open_output
from qkv.errors import BadRun
from qkv.progress import show_progress
from qkv.task.fill.filler import Filler
from qkv.task.fill_pictures.filler import PictureFiller
from qkv.task.generate.generator import Generator
from qkv.task.generate_pictures.generator import PictureGenerator
from qkv.task.output_files import check_writable
from qkv.task.run_directory import load_for_command

MAX_TRACED = 20
SAMPLING = ("temperature", "top_k", "top_p", "length", "seed")


class GenerateOptions(NamedTuple):
    """The options of `qkv generate`, as its help explains them; None or nothing where one is not given."""

    file: Path | None = None
    prompt: tuple[str, ...] = ()
    fill: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    length: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n_best: int | None = None
    count: int | None = None
    output: Path | None = None
    trace: Path | None = None

    def list_set_options(self) -> list[str]:
        """The names of the options that are set."""
        return [name for name, value in self._asdict().items() if value not in (None, ())]


class Action(NamedTuple):
    """What the command does with a kind of run.

    Args:
        verb: what such a run does, for messages.
        options: the options that have a meaning for it.
        write: called with the loaded run, its directory, the options, and whether to be quiet.
        needs_fill: how `--fill` is written where the run does nothing without it; None where it does.
    """

    verb: str
    options: tuple[str, ...]
    write: Callable[[Any, Path, GenerateOptions, bool], None]
    needs_fill: str | None = None


def generate(run: Path, options: GenerateOptions, quiet: bool, *, device: str = "cpu") -> None:
    """Do what the run is for.

    Raises:
        BadRun: an option has no meaning for the run, or it needs `--fill`.
    """
    runner = load_for_command("generate", run, device)
    action = ACTIONS[type(runner)]
    if unsupported := [name for name in options.list_set_options() if name not in action.options]:
        names = ", ".join("FILE" if name == "file" else f"--{name.replace('_', '-')}" for name in unsupported)
        raise BadRun(f"{names} has no meaning for {run}, which {action.verb}: leave it out")
    if action.needs_fill and options.fill is None:
        raise BadRun(f"{run} {action.verb}: use `qkv generate {run} --fill {action.needs_fill}`")
    action.write(runner, run, options, quiet)


def generate_text(generator: Generator, run: Path, options: GenerateOptions, quiet: bool) -> None:
    """Sample a continuation of every prompt; write each prompt with its continuation.

    A single prompt is written as it is sampled. Several are separated by an empty line.
    """
    lines = read_input_lines(options.file) if options.file is not None else []
    texts = [*options.prompt, *lines] or [""]
    check_writable(options.trace)
    if options.trace is not None:
        generator.check_traceable()
        limit_traced_lines(texts, MAX_TRACED)
    stop = [text.replace("\\n", "\n") for text in options.stop]
    sampling = {name: getattr(options, name) for name in SAMPLING}
    generator.sample_config(**sampling)  # refuses bad options before the output is opened
    with open_output(options.output) as out:
        if len(texts) == 1:
            written = _stream(generator, texts[0], stop, out, sampling)
        else:
            written = _write_all(generator, texts, stop, out, quiet, sampling)
    if options.trace is not None:
        _save_trace(generator, written, options.trace)


def _save_trace(generator: Generator, texts: list[str], path: Path) -> None:
    """Trace what was written; a text may have become longer than the model can read at once."""
    trace = generator.trace(texts, cut=True)
    for example in trace.examples:
        if count := example.meta.get("left out"):
            note = f"{path}: text {example.meta['line']} without its first {count:,} tokens"
            print(f"{note}: the model reads at most {generator.context:,}", file=sys.stderr)
    trace.save(path)


def fill_text(filler: Filler, run: Path, options: GenerateOptions, quiet: bool) -> None:
    """Write the likeliest words for every blank of a text."""
    assert options.fill is not None
    check_writable(options.trace)
    blanks = filler.fill(options.fill, 5 if options.n_best is None else options.n_best)
    with open_output(options.output) as out:
        for number, guesses in enumerate(blanks, start=1):
            words = "  ".join(f"{word} {probability:.3f}" for word, probability in guesses)
            out.write(f"blank {number}: {words}\n")
    if options.trace is not None:
        filler.trace(options.fill).save(options.trace)


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


OUTPUTS = ("output", "trace")
ACTIONS = {
    Generator: Action("continues text", ("file", "prompt", "stop", *SAMPLING, *OUTPUTS), generate_text),
    Filler: Action("fills blanks", ("fill", "n_best", *OUTPUTS), fill_text, "'... [MASK] ...'"),
    PictureFiller: Action("fills pictures", ("fill", "output"), fill_picture, "PICTURE --output filled.png"),
    PictureGenerator: Action("generates pictures from noise", ("count", "seed", *OUTPUTS), generate_samples),
}
