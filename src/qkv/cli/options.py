"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory that `qkv train` wrote")]
Beam = Annotated[
    int | None,
    typer.Option(
        min=1, help="hypotheses that the search keeps; 1 is greedy search", show_default="the recipe's"
    ),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="stop at a line that is too long, or in which the model knows no token"),
]
Device = Annotated[str, typer.Option(help="where to compute: cpu, cuda, cuda:1, mps or auto")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="also write the result as JSON")
]
Features = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="generated pictures: a classifier of pictures whose features are compared",
        show_default="the recipe's",
    ),
]
