"""The options of `qkv cost`."""

from typing import Annotated

import typer

from qkv.cli.options import JsonFile


def cost(
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
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change the recipe, as qkv train does"),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Compute what a model costs: parameters, operations and memory, without data and without allocating it.

    Example: qkv cost lm-shakespeare-rfa --length 1k,4k,16k --memory 16GB
    """
    from qkv.cli.commands.cost import CostOptions, report_cost

    options = CostOptions(length, batch, beam, memory, tuple(change or ()), json)
    report_cost(subject, options)
