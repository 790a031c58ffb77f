"""The commands and their options.  Bodies import what they use, so that `qkv --help` is instant."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from qkv import __version__
from qkv.cli.bench_options import bench
from qkv.cli.cost_options import compare, cost, sweep
from qkv.cli.doctor import doctor
from qkv.cli.options import Beam, Device, Features, JsonFile, Quiet, Run, Strict
from qkv.cli.picture_options import caption
from qkv.cli.text_options import classify, generate
from qkv.cli.view_options import align, view

app = typer.Typer(
    name="qkv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Attention, every kind of it, on texts and pictures: train a model, use it, see where it attends."
    "\n\nStart with `qkv demo`. `qkv recipes` lists what can be trained, `qkv keys` explains the keys of a "
    "recipe, and `qkv train RECIPE --out runs/mine` trains.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    if version:
        print(f"qkv {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="the folder for runs and pictures")] = Path("demo"),
    source: Annotated[
        str | None,
        typer.Option(help="the language to translate from, by its code: en, fr, de, …", show_default="en"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="the language to translate into, or to write", show_default="fr; en with --task generate"
        ),
    ] = None,
    task: Annotated[
        str, typer.Option(help="translate, or generate: a character language model")
    ] = "translate",
) -> None:
    """Train small text models on generated phrases, show what they do, and draw where they attend.

    By default two translators are trained, and tested on unseen phrases.
    """
    from qkv.task.demo import DemoOptions, run_demo

    run_demo(task, out, DemoOptions(source, target))


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="a YAML file, or a name that `qkv recipes` lists")
    ],
    out: Annotated[Path | None, typer.Option(help="the run directory", show_default="runs/RECIPE")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="change the recipe: --set train.epochs=3 (see `qkv keys`)"
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="start from the weights and the vocabulary of this run"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue where an interrupted training stopped")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe into a run directory.

    Ctrl-C saves and stops. The same command with --resume continues, and ends with the same weights.
    """
    from qkv.files import expand_home
    from qkv.task.learning_curve import draw_curve_if_possible
    from qkv.task.registry import find_task
    from qkv.task.run_directory import is_first_process, read_run_recipe
    from qkv.task.training import fit
    from qkv.train import STATE
    from qkv.train.loop_state import format_scores

    run = out or Path("runs") / Path(recipe).stem
    changes = change or []
    try:
        result = fit(recipe, run, changes=changes, initial=initial, resume=resume, quiet=quiet)
    except KeyboardInterrupt:
        settings = [f"--set={setting}" for setting in changes]
        command = shlex.join(["qkv", "train", recipe, *settings, f"--out={run}", "--resume"])
        is_saved = (run / STATE).exists()
        outcome = f"everything is saved. Continue with: {command}" if is_saved else "nothing was saved yet"
        print(f"stopped; {outcome}", file=sys.stderr)
        raise typer.Exit(130) from None
    if not is_first_process():
        return
    draw_curve_if_possible(expand_home(run))
    trained = read_run_recipe(expand_home(run))
    scores = format_scores(result.scores) + (f" ({trained.scoring})" if trained.scoring else "")
    print(f"trained {result.steps:,} updates in {result.seconds:,.0f} s; held-out: {scores}")
    print(f"next: {find_task(trained.task).suggest_commands(run)}")


@app.command()
def translate(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="text, one sentence on a line; - is stdin", show_default="stdin"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write to this file instead of stdout")
    ] = None,
    beam: Beam = None,
    n_best: Annotated[
        int,
        typer.Option("--n-best", min=1, help="translations of a line, printed as number ||| text ||| score"),
    ] = 1,
    trace: Annotated[
        Path | None, typer.Option(help="also write the attention weights, for `qkv view`")
    ] = None,
    occlude: Annotated[
        bool,
        typer.Option("--occlude", help="add to the trace what leaving out each source word changes"),
    ] = False,
    strict: Strict = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Translate text: a line in, a line out; an empty line stays empty.

    A line that is too long is cut. A line in which the model knows no token stays empty. Both are reported.
    """
    from qkv.cli.commands.translate import translate_lines

    options = {"occlude": occlude, "strict": strict, "device": device}
    translate_lines(run, file, output, beam, n_best, trace, quiet, **options)


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917 -- one for each option
    run: Run,
    source: Annotated[
        Path | None,
        typer.Option(
            help="a file of source lines; for captions a folder or zip file of pictures",
            show_default="the recipe's test data",
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="the file of their translations, or of their captions")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="a file of test examples; for translation one of pairs (.tsv or .jsonl)",
            show_default="the recipe's test data",
        ),
    ] = None,
    beam: Beam = None,
    tokenize: Annotated[
        str | None,
        typer.Option(
            help="how BLEU splits text, by sacrebleu's names: auto, 13a, intl, zh, char, none, …",
            show_default="the recipe's",
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="language models: how the text is read: segments, sliding or carry",
            show_default="the recipe's",
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="language models: tokens that a sliding window moves by")
    ] = None,
    features: Features = None,
    json: JsonFile = None,
    strict: Strict = False,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Score a run on test data with the metrics of its task.

    A translator gets BLEU, chrF and TER with sacrebleu's signatures, exact match, and BLEU by source length.
    A captioner gets BLEU-1 to 4, CIDEr-D and ROUGE-L; generated pictures the Fréchet distance (--features).

    An option that has no meaning for the task of the run is refused.
    """
    from qkv.cli.commands.evaluate import evaluate_run
    from qkv.task.evaluation import EvaluateOptions

    options = EvaluateOptions(source, target, data, beam, tokenize, strict, mode, stride, features)
    evaluate_run(run, options, json, quiet, device)


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="a recipe to print, to copy and change", show_default="all"),
    ] = None,
) -> None:
    """List the recipes that ship with qkv, or print one of them: qkv recipes NAME > mine.yaml."""
    from qkv.cli.commands.recipes import list_recipes

    list_recipes(name)


@app.command()
def keys(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION", help="a section or one key: train, data.phrases, train.lr", show_default="all"
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="the task whose recipes to explain", show_default="translate")
    ] = None,
) -> None:
    """Explain the keys of a recipe: their types, their defaults and what they set."""
    from qkv.cli.commands.keys import list_keys

    list_keys(section, task)


@app.command()
def parts(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="one part in detail", show_default="all")
    ] = None,
) -> None:
    """List the parts of attention, and which can be combined."""
    from qkv.cli.commands.parts import list_parts

    list_parts(name)


app.command()(view)
app.command()(align)
app.command()(generate)
app.command()(classify)
app.command()(caption)
app.command()(bench)
app.command()(cost)
app.command()(compare)
app.command()(sweep)
app.command()(doctor)
