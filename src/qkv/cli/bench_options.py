"""`qkv bench`: its options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class What(StrEnum):
    """What can be timed."""

    forward = "forward"
    backward = "backward"
    decode = "decode"
    all = "all"


class Dtype(StrEnum):
    """What the numbers are."""

    fp32 = "fp32"
    bf16 = "bf16"


def bench(  # noqa: PLR0913, PLR0917 -- one for each option
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...",
            help="sdpa (torch's own softmax), the name of a part (`qkv parts` lists them), or "
            "'{kernel: {name: rfa, features: 32}}'; each with NAME= in front to call it so",
        ),
    ],
    lengths: Annotated[
        list[str], typer.Option(metavar="N,N...", help="tokens; with commas, or given several times")
    ] = ["512,1024,2048,4096"],  # noqa: B006 -- typer copies it
    what: Annotated[
        list[What], typer.Option(help="what to time; can be given several times; backward includes forward")
    ] = [What.forward],  # noqa: B006
    width: Annotated[int, typer.Option(min=1, help="of the layer")] = 512,
    heads: Annotated[int, typer.Option(min=1, help="for specs that do not say")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="sequences at a time")] = 1,
    causal: Annotated[bool, typer.Option("--causal/--no-causal", help="for specs that do not say")] = True,
    layer: Annotated[
        bool, typer.Option("--layer/--core", help="with projections, or attention alone on q, k, v")
    ] = False,
    dtype: Annotated[Dtype, typer.Option(help="of inputs and weights")] = Dtype.fp32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="of torch", show_default="torch's")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="the median of so many")] = 5,
    memory: Annotated[
        bool, typer.Option("--memory", help="also peak memory, each in a fresh process")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="also write it as JSON")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it (.png, .svg or .pdf)")] = None,
    dark: Annotated[bool, typer.Option("--dark", help="draw for dark pages")] = False,
    seed: Annotated[int, typer.Option(help="of inputs and weights")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Time attentions side by side: over lengths, forward, backward, or decoding.

    Example: qkv bench sdpa rfa 'local={scope: {name: window, half_width: 128}}' --lengths 512,2048,8192

    Ctrl-C ends it, and prints what was measured by then.
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
    whats = [one.value for one in (What if What.all in what else dict.fromkeys(what)) if one is not What.all]
    run_bench(specs, lengths, whats, setting, threads, Output(json, plot, dark, memory, quiet))
