"""The options of `qkv generate` and `qkv classify`."""

from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.options import Device, Quiet, Run


def generate(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="prompts, a line each; - is stdin", show_default="none"),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="a text to continue; may be repeated")] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|PICTURE",
            help="a text with [MASK] where words are to be guessed; or a picture, cells of which are hidden",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 takes the best token", show_default="the recipe's")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="sample from the k best tokens", show_default="all")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", min=0, max=1, help="sample from the best tokens of this probability"),
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="most tokens to write", show_default="the recipe's")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of the samples, texts or pictures")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help='text that ends a continuation, such as "\\\\n"; may be repeated')
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention of every layer, for `qkv view`")
    ] = None,
    n_best: Annotated[
        int | None, typer.Option("--n-best", min=1, help="--fill: words shown for a blank", show_default="5")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="pictures to generate, on one sheet", show_default="64"),
    ] = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Continue a text, fill the blanks of a text or of a picture, or generate pictures.

    qkv generate runs/lm --prompt "ROMEO:" --temperature 0.8

    qkv generate runs/mlm --fill "what [MASK] is attention"

    qkv generate runs/mim --fill photo.png --output filled.png

    qkv generate runs/gan --count 64 --output samples.png

    The last two write a picture, so that they need --output. An option that has no meaning for the run is
    refused.
    """
    from qkv.cli.commands.generate import GenerateOptions
    from qkv.cli.commands.generate import generate as generate_with_run

    options = GenerateOptions(
        file=file,
        prompt=tuple(prompt or ()),
        fill=fill,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        length=length,
        seed=seed,
        stop=tuple(stop or ()),
        n_best=n_best,
        count=count,
        output=output,
        trace=trace,
    )
    generate_with_run(run, options, quiet, device=device)


def classify(
    run: Run,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="a file of texts, one on a line (- is stdin); or picture files",
            show_default="stdin",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention of every layer, for `qkv view`")
    ] = None,
    occlude: Annotated[
        bool, typer.Option("--occlude", help="add to the trace what leaving out each word of a text changes")
    ] = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Label texts or pictures.

    qkv classify runs/nli texts.txt prints label<tab>probability for a line; a tab separates a pair of texts.

    qkv classify runs/cifar a.png b.png prints label<tab>probability<tab>file for each picture.
    """
    from qkv.cli.commands.classify import classify_files

    classify_files(run, files or [], output, trace, quiet, occlude=occlude, device=device)
