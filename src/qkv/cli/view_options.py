"""The options of `qkv view` and `qkv align`.  Bodies import what they use: `qkv --help` must be instant."""

from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.options import Device, Run


def view(  # noqa: PLR0913, PLR0917 -- one for each option
    traces: Annotated[
        list[Path], typer.Argument(metavar="TRACE.npz", help="files that an option --trace wrote")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="write one interactive page (.html) that needs no network"),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="the picture to draw (.png, .svg or .pdf)", show_default="TRACE.png")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="a picture to draw as SVG")] = None,
    pdf: Annotated[Path | None, typer.Option(help="a picture to draw as PDF")] = None,
    example: Annotated[
        int | None,
        typer.Option(min=1, help="the number of the example in the trace", show_default="1; all in a page"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="layers by their name or its first part: cross, cross.0, layer.2, pool",
            show_default="all in a page; in a picture the last cross-attention, else the last layer",
        ),
    ] = None,
    heads: Annotated[
        str, typer.Option(help="of a picture: mean, all, or the number of one head from 0")
    ] = "mean",
    merge: Annotated[bool, typer.Option("--merge", help="of a picture: join word pieces into words")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="of a picture: draw for a dark page")] = False,
) -> None:
    """Look at the attention weights of traces: a page to explore them, or pictures.

    Several traces stand on one page, and can be shown side by side or as a difference.
    """
    from qkv.cli.commands.view import ViewOptions, view_traces

    pictures = [picture for picture in (png, svg, pdf) if picture is not None]
    view_traces(traces, ViewOptions(output, pictures, example, layers, heads, merge, dark))


def align(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    source: Annotated[
        Path | None, typer.Option(help="source lines", show_default="the generated dates of the test phrases")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="their translations, line by line")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write to this file instead of stdout")
    ] = None,
    reverse: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="a run from target to source, to combine both (grow-diag-final-and)"
        ),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(help="gold links (0-0 sure, 0?1 possible): prints the alignment error rate")
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="the layer to read, as cross.1", show_default="the best; see below"),
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=0, help="the head to read", show_default="the mean of all")
    ] = None,
    tune: Annotated[
        int, typer.Option(min=0, help="choose the layer on the first pairs with gold links, score the others")
    ] = 0,
    shift: Annotated[
        bool | None,
        typer.Option(
            "--shift/--no-shift",
            help="align a word by the step that reads it, or by the one that writes it",
            show_default="the better one for Transformers, else --no-shift",
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Align the words of known translations by the attention of a translator.

    Writes a line for each pair, as 0-0 1-2: the numbers of a source and a target word, from 0. The layer and
    the step are those whose links join words that occur in the same pairs most often, or with --tune those
    with the lowest error rate on the first pairs.
    """
    from qkv.cli.commands.align import AlignFiles, align_files
    from qkv.task.translate.aligner import AlignOptions

    files = AlignFiles(source, target, gold, reverse, output)
    align_files(run, files, AlignOptions(layer, head, shift), tune, device)
