"""The options of `qkv caption`."""

from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.options import Beam, Device, Quiet, Run


def caption(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    pictures: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="picture files")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    beam: Beam = None,
    n_best: Annotated[
        int,
        typer.Option("--n-best", min=1, help="captions of a picture, printed as caption<tab>score<tab>file"),
    ] = 1,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention weights, for `qkv view`")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="also draw where every word looks: a film strip per picture (.png, .svg or .pdf)"),
    ] = None,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Describe pictures in words: caption<tab>file for every picture."""
    from qkv.cli.commands.caption import caption_pictures

    caption_pictures(run, pictures, output, beam, n_best, trace, quiet, png=png, device=device)
