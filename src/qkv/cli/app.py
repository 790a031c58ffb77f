"""The commands.  Their bodies import what they use, so that `qkv --help` is instant."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from qkv import __version__
from qkv.cli.bench import bench
from qkv.cli.doctor import doctor

app = typer.Typer(
    name="qkv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Attention, every kind of it: train, translate, and see where a model looks.\n\n"
    "Start with `qkv demo`; then `qkv recipes`, and `qkv train RECIPE --out runs/mine`.",
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory that `qkv train` made")]
Beam = Annotated[
    int | None,
    typer.Option(min=1, help="hypotheses kept alive; 1 is greedy", show_default="the recipe's"),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="stop at a line that is too long, or of which the model knows nothing"),
]
Device = Annotated[str, typer.Option(help="where to compute: cpu, cuda, cuda:1, mps or auto")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        print(f"qkv {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where runs and pictures go")] = Path("demo"),
    source: Annotated[str, typer.Option(help="language to translate from, as Babel names it")] = "en",
    target: Annotated[str, typer.Option(help="language to translate into")] = "fr",
) -> None:
    """Train two translators on generated phrases, test them on unseen ones, and draw where they look."""
    from qkv.task.demo import run_demo

    run_demo(out, source, target)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a YAML file, or a name that `qkv recipes` lists")
    ],
    out: Annotated[Path | None, typer.Option(help="the run directory", show_default="runs/RECIPE")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change the recipe: --set train.epochs=3"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on where an interrupted training stopped")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe into a run directory.

    Ctrl-C saves and stops; the same command with --resume goes on, and ends with the same weights.
    """
    from qkv.files import expand_home
    from qkv.task.registry import find_task
    from qkv.task.runs import leads, recipe_of
    from qkv.task.training import fit
    from qkv.train import STATE

    run = out or Path("runs") / Path(recipe).stem
    changes = change or []
    again = shlex.join(["qkv", "train", recipe, *(f"--set={c}" for c in changes), f"--out={run}", "--resume"])
    try:
        result = fit(recipe, run, changes=changes, resume=resume, quiet=quiet)
    except KeyboardInterrupt:
        saved = (run / STATE).exists()
        told = f"all is saved. Go on with: {again}" if saved else "nothing was saved yet"
        print(f"stopped; {told}", file=sys.stderr)
        raise typer.Exit(130) from None
    if not leads():
        return
    best = ", ".join(f"{name} {value:.4g}" for name, value in result.scores.items())
    print(f"trained {result.steps:,} updates in {result.seconds:,.0f} s; held-out: {best}")
    print(f"next: {find_task(recipe_of(expand_home(run)).task).next_commands(run)}")


@app.command()
def translate(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="text, a line each; - is stdin", show_default="stdin"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write here instead of to stdout")
    ] = None,
    beam: Beam = None,
    n_best: Annotated[
        int, typer.Option("--n-best", min=1, help="answers a line: number ||| text ||| score")
    ] = 1,
    trace: Annotated[
        Path | None, typer.Option(help="also write where the model looked, for `qkv view`")
    ] = None,
    strict: Strict = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Translate text: a line in, a line out; an empty line stays empty.

    A line that is too long is cut, and one of which the model knows nothing stays empty; each is reported.
    """
    from qkv.cli.translating import translate_lines

    translate_lines(run, file, output, beam, n_best, trace, quiet, strict=strict, device=device)


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    source: Annotated[
        Path | None, typer.Option(help="source lines", show_default="the recipe's test data")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="their translations")] = None,
    beam: Beam = None,
    tokenize: Annotated[
        str | None,
        typer.Option(
            help="sacrebleu's tokeniser: auto, 13a, intl, zh, char, none …", show_default="the recipe's"
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the scores as JSON")
    ] = None,
    strict: Strict = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Score a run: BLEU, chrF, TER with signatures, exact match, and BLEU by source length."""
    from qkv.cli.evaluating import evaluate_run

    evaluate_run(run, source, target, beam, tokenize, json, quiet, strict=strict, device=device)


@app.command()
def view(
    trace: Annotated[Path, typer.Argument(metavar="TRACE.npz", help="what `qkv translate --trace` wrote")],
    png: Annotated[
        Path | None, typer.Option(help="the picture to draw (.png, .svg or .pdf)", show_default="TRACE.png")
    ] = None,
    example: Annotated[int, typer.Option(min=1, help="which of the traced lines")] = 1,
    layers: Annotated[
        str | None,
        typer.Option(help="cross, encoder or decoder, or one layer as cross.0", show_default="last cross"),
    ] = None,
    heads: Annotated[str, typer.Option(help="mean, all, or the number of one head")] = "mean",
    merge: Annotated[bool, typer.Option("--merge", help="join word pieces into words")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="for dark pages")] = False,
) -> None:
    """Draw the attention of a trace."""
    from qkv.cli.viewing import view_trace

    view_trace(trace, png, example, layers, heads, merge, dark)


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="a recipe to print, to copy and change", show_default="all"),
    ] = None,
) -> None:
    """List the recipes that ship with qkv, or print one of them: qkv recipes NAME > mine.yaml."""
    from qkv.cli.listing import list_recipes

    list_recipes(name)


@app.command()
def parts(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="one part in detail", show_default="all")
    ] = None,
) -> None:
    """List the parts that attention is made of, and which go together."""
    from qkv.cli.listing import list_parts

    list_parts(name)


app.command()(bench)
app.command()(doctor)
