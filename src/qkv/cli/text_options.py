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
            metavar="TEXT",
            help="a text with [MASK] where words are to be guessed; or a picture, for a run on pictures",
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
    seed: Annotated[int | None, typer.Option(min=0, help="seed of the samples")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help='text that ends a continuation, such as "\\\\n"; may be repeated')
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention of every layer, for `qkv view`")
    ] = None,
    n_best: Annotated[int, typer.Option("--n-best", min=1, help="--fill: words shown for a blank")] = 5,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="pictures to generate")] = 64,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Continue prompts with a language model, or fill blanks with a masked one.

    qkv generate runs/lm --prompt "ROMEO:" --temperature 0.8

    qkv generate runs/mlm --fill "what [MASK] is attention"

    A run on pictures writes a sheet of pictures: qkv generate runs/gan --count 64 --output samples.png
    """
    from qkv.cli.commands.generate import fill_text, generate_text

    if fill is not None:
        fill_text(run, fill, n_best, output, trace, device=device)
        return
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "length": length, "seed": seed}
    generate_text(
        run, prompt or [], file, output, trace, stop or [], quiet, device=device, count=count, **options
    )


def classify(
    run: Run,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help="a file of texts, a line each (- is stdin); or pictures",
            show_default="stdin",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention of every layer, for `qkv view`")
    ] = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Label texts: a line in, label<tab>probability out.  Pairs of texts are separated by a tab.

    A run that was trained on pictures labels picture files: label<tab>probability<tab>file.
    """
    from qkv.cli.commands.classify import classify_files

    classify_files(run, files or [], output, trace, quiet, device=device)
