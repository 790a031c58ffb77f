"""The options of `qkv bench`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Pass(StrEnum):
    """What can be timed."""

    forward = "forward"
    backward = "backward"
    decode = "decode"
    all = "all"


class Dtype(StrEnum):
    """The number format."""

    fp32 = "fp32"
    bf16 = "bf16"


def bench(  # noqa: PLR0913, PLR0917 -- one for each option
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="sdpa (torch's own softmax), the name of a part (`qkv parts` lists them), or "
            "'{kernel: {name: rfa, features: 32}}'; put NAME= in front of one to name its column",
        ),
    ],
    lengths: Annotated[
        list[str],
        typer.Option("--lengths", "--length", metavar="N,N...", help="numbers of tokens: 512 or 1k,4k,16k"),
    ] = ["512,1024,2048,4096"],  # noqa: B006 -- typer copies it
    what: Annotated[
        list[Pass], typer.Option(help="what to time; may be repeated; backward includes forward")
    ] = [Pass.forward],  # noqa: B006
    width: Annotated[int, typer.Option(min=1, help="width of the layer")] = 512,
    heads: Annotated[int, typer.Option(min=1, help="heads of specs that do not set them")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="sequences in a batch")] = 1,
    causal: Annotated[
        bool, typer.Option("--causal/--no-causal", help="causal or not, for specs that do not set it")
    ] = True,
    layer: Annotated[
        bool,
        typer.Option(
            "--layer/--core", help="time the layer with its projections, or attention on q, k and v alone"
        ),
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="number format of inputs and weights")] = Dtype.fp32,
    device: Annotated[str, typer.Option(help="where to compute: cpu, cuda or cuda:1")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of torch", show_default="torch's")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="measurements; the table shows their median")] = 5,
    memory: Annotated[
        bool, typer.Option("--memory", help="also measure peak memory, each in a new process")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="also write the result as JSON")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", "--png", metavar="FILE", help="also draw the result (.png, .svg or .pdf)"),
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="draw for a dark page")] = False,
    seed: Annotated[int, typer.Option(help="seed of inputs and weights")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")] = False,
) -> None:
    """Compare the speed of attentions over lengths: forward, backward, or decoding.

    Example: qkv bench sdpa rfa 'local={scope: {name: window, half_width: 128}}' --lengths 512,2048,8192

    Ctrl-C stops it, and prints what was measured until then.
    """
    from qkv.bench import Setting
    from qkv.cli.commands.bench import Output, run_bench

    setting = Setting(
        width=width,
        heads=heads,
        batch=batch,
        causal=causal,
        layer=layer,
        dtype=dtype.value,
        device=device,
        repeats=repeats,
        seed=seed,
    )
    timed = Pass if Pass.all in what else dict.fromkeys(what)
    passes = [one.value for one in timed if one is not Pass.all]
    run_bench(specs, lengths, passes, setting, threads, Output(json, plot, dark, memory, quiet))
