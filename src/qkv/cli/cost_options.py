"""The options of `qkv cost`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.options import JsonFile


class Precision(StrEnum):
    """Number formats of matrix products."""

    fp32 = "32"
    bf16 = "bf16"
    fp16 = "16"


def cost(  # noqa: PLR0913, PLR0917 -- one for each option
    subject: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="a recipe, a built-in one by its name, or a run")
    ],
    length: Annotated[
        str | None,
        typer.Option(metavar="N,N...", help="tokens of a row: 512 or 1k,4k,16k", show_default="the recipe's"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="rows of a step", show_default="the recipe's")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, help="hypotheses of the search, for its memory")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="find the largest batch and length that fit: 16GB")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="also time the attention here, to find where it is faster")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="train for a while here, to estimate the time of the training")
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change the recipe, as qkv train does"),
    ] = None,
    json: JsonFile = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="also draw the components (.png or .svg)")
    ] = None,
) -> None:
    """Compute what a model costs: parameters, operations and memory, without data and without allocating it.

    Example: qkv cost lm-shakespeare-rfa --length 1k,4k,16k --memory 16GB
    """
    from qkv.cli.commands.cost import CostOptions, report_cost

    options = CostOptions(length, batch, beam, memory, measure, probe, tuple(change or ()), json, png)
    report_cost(subject, options)
