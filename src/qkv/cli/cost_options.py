"""The options of `qkv cost`, `qkv compare` and `qkv sweep`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.options import JsonFile


class Precision(StrEnum):
    """The values of `--precision`."""

    SINGLE = "32"
    BFLOAT16 = "bf16"
    HALF = "16"


def cost(  # noqa: PLR0913, PLR0917 -- the options of the command
    subject: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="a recipe, a built-in one by its name, or a run")
    ],
    length: Annotated[
        str | None,
        typer.Option(
            "--length",
            "--lengths",
            metavar="N,N...",
            help="tokens of a row: 512 or 1k,4k,16k",
            show_default="the recipe's",
        ),
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
    precision: Annotated[
        Precision | None,
        typer.Option(help="number format of matrix products", show_default="the recipe's; auto counts as 32"),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="also time attention against softmax over lengths, here")
    ] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="also train here for a minute on made-up data, to tell the whole time"),
    ] = False,
    png: Annotated[
        Path | None,
        typer.Option(help="also draw the operations over --length, beside softmax (.png, .svg or .pdf)"),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Compute what a model costs: parameters, operations and memory, without data and without allocating it.

    Example: qkv cost lm-shakespeare-rfa --set model.max_length=16384 --length 1k,4k,16k
    """
    from qkv.cli.commands.cost import CostOptions, report_cost

    options = CostOptions(
        length=length,
        batch=batch,
        beam=beam,
        memory=memory,
        changes=tuple(change or ()),
        precision=None if precision is None else precision.value,
        measure=measure,
        probe=probe,
        png=png,
        json=json,
    )
    report_cost(subject, options)


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="runs of one task")],
    reach: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="state the seconds until the monitored score was as good as this",
            show_default="the best that all runs reached",
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="print a table in Markdown")] = False,
    test: Annotated[
        bool,
        typer.Option(
            "--test",
            help="translators and classifiers of texts: also score the recipes' test data, with p-values of "
            "a paired bootstrap against the first run",
        ),
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="also draw the learning curves (.png, .svg or .pdf)")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Compare runs of one task: held-out scores, parameters, speed, memory and time.

    Memory is that of a training step as `qkv cost` computes it. The rest is from the runs' metrics.jsonl, and
    measures of attention are means over the layers.
    """
    from qkv.cli.commands.compare import CompareOptions, compare_runs

    compare_runs(runs, CompareOptions(reach, markdown, test, png, json))


def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe, or a built-in one by its name")],
    vary: Annotated[
        list[str],
        typer.Option(metavar="KEY=A,B", help="a key and its values; may be repeated for all combinations"),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each combination")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="the folder of the runs", show_default="runs/RECIPE-sweep")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change the recipe of all trainings"),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="trainings at the same time, each with its share of the CPU threads")
    ] = 1,
    json: JsonFile = None,
) -> None:
    """Train a recipe with every combination of some values, and print mean ± standard deviation.

    Example: qkv sweep recall-rfa --vary model.attention.kernel=softmax,rfa,elu --seeds 3

    The same command goes on after a kill: finished trainings are kept, an interrupted one is resumed.
    """
    from qkv.cli.commands.sweep import print_sweep
    from qkv.cost.sweep import Sweep, parse_variations

    folder = out or Path("runs") / f"{Path(recipe).stem}-sweep"
    print_sweep(Sweep(recipe, tuple(change or ()), parse_variations(vary), seeds), folder, processes, json)
