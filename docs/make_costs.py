"""Writes docs/costs.md from docs/costs.json; with --check, only reports whether it is stale.

python docs/make_costs.py --compute            compute the table of published models anew (a minute)
python docs/make_costs.py --checks FILE        take the results of docs/cost_checks.py over
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from published_models import PUBLISHED, Published

from qkv.cost.estimate import estimate_cost

HERE = Path(__file__).parent
PAGE, DATA = HERE / "costs.md", HERE / "costs.json"
UTILISATION = 0.3
DAY = 86_400
LABELS = ("parameters", "operations", "saved")

INTRO = """\
# What a model costs

<!-- Written by `python docs/make_costs.py`; change that script, not this page. -->

`qkv cost RECIPE` (or a run) computes what a model costs before it is trained. Nothing is allocated and no
data is read: the model is built on torch's meta device.

    qkv cost demo-rfa
    qkv cost lm-shakespeare-rfa --set model.max_length=16384 --length 1k,4k,16k
    qkv cost multi30k-en-fr-tiny --beam 5 --memory 16GB --json cost.json

It prints

- **parameters** by component, each with a closed formula such as `6 × 4·(512² + 512)`. A weight that two
  components share counts in the first one;
- **operations** of a forward pass and of a training step by component. A multiplication and an addition are
  two operations. They are those of the matrix products and convolutions of torch's plain operators. Pairs
  that a causal mask hides count as well. Code beside every part of attention states the same as a formula:
  `qkv.AttentionSpec(512, heads=8).count_operations(1000, 1000)`;
- **memory** of a training step: weights, gradients, the two moments of Adam, the tensors that the forward
  pass stores for the backward pass, and the largest sum at any time;
- **memory of decoding** for each hypothesis, and what every further token adds;
- **crossovers**: from which length on an attention has fewer operations, or a smaller decode state, than
  softmax over all keys;
- with `--memory 16GB`, the largest batch and the largest length whose training step fits;
- with `--png FILE` and two or more lengths, a picture of the operations of a training step over the length,
  beside those of the same model with softmax over all keys.

## Which attention to choose

- Compare operations first. Below the crossover, softmax is cheaper, and torch's fused operator does it
  without storing weights. Above it, a feature map pays more with every further token.
- For long generation look at the decode state: a cache grows with every token and every hypothesis, the
  sums of a feature map do not.
- A window costs about its width for every query. It needs no features, but it does not look further.
- Operations are not seconds. `qkv bench sdpa rfa --lengths 512,2048,8192` measures seconds on your machine.
- If a step does not fit, the stored tensors are usually the largest part: halve the batch and double
  `batch.accumulate`.

## Runs side by side

`qkv compare RUN RUN...` puts trained runs of one task into one table: the scores on held-out data,
parameters, updates, seconds, speed, the memory of a training step, and the seconds until the monitored score
was as good as the best that all of them reached (or as `--reach SCORE`). Measures of attention that a
translator's validations record (entropy, diagonality, coverage) are means over the layers. `--markdown` and
`--json FILE` write the same, and `--png FILE` draws the learning curves.

With `--test`, translators and classifiers of texts also answer the test data of their recipes, which must be
the same. BLEU is compared by sacrebleu's paired bootstrap, accuracy by the same method: 95 % intervals, and
the p-value of the difference to the first run.

`qkv train` draws the learning curve of its run as `curve.png` where matplotlib is installed (`[plot]`): at
the end, and at validations, once a minute at the most. A failure to draw never ends a training.

`qkv sweep` trains a recipe with every combination of some values, each with several seeds, and prints mean ±
standard deviation:

    qkv sweep recall-rfa --vary model.attention.kernel=softmax,rfa,elu --seeds 3

Finished trainings are kept. After a kill the same command goes on, and the table is the same.

## What it leaves out

- Memory is that of tensors on a CPU in float32. Autocast, the allocator's own overhead and temporary memory
  inside an operator are not in it. A process takes more: see [below](#computed-against-measured), and leave a
  margin when you use `--memory`.
- `nn.LSTM` on a CPU runs in oneDNN, which stores a workspace of its own. The stored bytes here are those of
  plain operators, and too small by that workspace.
- With `model.clusters` every token counts as if it needed the scores of all clusters: an upper bound.
- A recipe does not know the vocabulary and the classes before its data are read; the first lines say what
  is assumed. A run knows them.

"""

SCALING = """\
## Published models

Each is a configuration of a model of this library; parameters and operations are computed. `6·N·tokens` is
the usual estimate with all N parameters. Device-days are the exact operations divided by {utilisation:.0%}
of what the device is stated to do in matrix products
({devices}), next to what the papers report. These
30 % are an assumption for all models; a published number that is larger says that the training used less.
BERT's paper does not name the version of its TPUs; v2 is assumed here, and that is not verified.

"""

MEGATRON_NOTE = """
Tokens: Transformer 25,000 target tokens a step for 100,000 and 300,000 steps, counted in sentences of 32
tokens; BERT 1,000,000 steps of 256 rows, of 128 tokens in 90 % of the steps and of 512 in the others;
Megatron-LM 300,000 steps of 512 × 1,024; GPT-3 300 billion. For GPT-2 and Turing-NLG no source that was
found states tokens or training time. GPT-3's paper reports 3.14e23 operations, 6 for each parameter and
token, without attention's products of pairs. Megatron-LM's paper reports 2.10 days on 512 devices for each
epoch of 68,507 of its steps; all devices for all steps are computed from that. Its own measurement is
39·10¹²/s on one V100, which it calls 30 % of the peak.
"""

DEVICES = """\
The 125·10¹²/s of a V100 (half precision, tensor cores) and the 45·10¹²/s of a chip of TPU v2 (180·10¹²/s for
a card of four) were compared with public tables of devices, not with the vendors' data sheets.
"""

CHECKS = """\
Ten configurations of every family (`python docs/cost_checks.py`): parameters against those of the model,
operations of a training step against torch's `FlopCounterMode`, and stored bytes against those of a real
step. The last column divides the computed peak of tensors by the memory that a process took for a real step
with AdamW: {smallest:.0f} to {largest:.0f} MB, one thread, on 2 cores of an AMD EPYC CPU that other work
shared, 2026-11-30. The process takes {least:.1f} to {most:.1f} times as much as its tensors hold, most where
there are convolutions; why was not examined.
"""


def compute_row(model: Published) -> dict[str, Any]:
    """What is computed of a published model.

    Args:
        model: the model.

    Returns:
        Its parameters, and the operations of the whole training; None where its tokens are unknown.
    """
    cost = estimate_cost(model.config, model.sizes)
    operations = None
    if model.tokens is not None:
        lengths = {length: model.sizes._replace(length=length) for length in model.tokens}
        costs = {length: estimate_cost(model.config, sizes) for length, sizes in lengths.items()}
        operations = sum(
            tokens * costs[length].training / costs[length].counted for length, tokens in model.tokens.items()
        )
    return {"parameters": cost.parameters, "operations": operations}


def render(data: dict[str, Any]) -> str:
    """The page.

    Args:
        data: the content of docs/costs.json.

    Returns:
        Markdown.
    """
    return (
        INTRO
        + "\n".join([*_render_scaling(data["published"]), *_render_checks(data.get("checks", []))])
        + "\n"
    )


def _render_scaling(rows: dict[str, Any]) -> Iterator[str]:
    devices = {model.device for model in PUBLISHED if model.device}
    stated = ", ".join(f"{device.name} {device.operations / 1e12:g}·10¹²/s" for device in sorted(devices))
    yield SCALING.format(utilisation=UTILISATION, devices=stated).rstrip() + "\n"
    yield (
        "| model | layers | width | heads | parameters | published | 6·N·tokens | operations | device-days "
        "| published |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for model in PUBLISHED:
        yield _format_row(model, rows[model.name])
    yield MEGATRON_NOTE
    yield "Why computed and published parameters differ:\n"
    for why in dict.fromkeys(model.deviation for model in PUBLISHED if model.deviation):
        names = ", ".join(model.name for model in PUBLISHED if model.deviation == why)
        yield f"- {names}: {why}."
    yield "\nSources, and what was compared with them on 2026-11-30:\n"
    for verified in dict.fromkeys(model.verified for model in PUBLISHED):
        models = [model for model in PUBLISHED if model.verified == verified]
        yield f"- {', '.join(model.name for model in models)} ({models[0].source}): {verified}."
    yield "\n" + DEVICES


def _format_row(model: Published, row: dict[str, Any]) -> str:
    config, exact = model.config, row["operations"]
    tokens = sum(model.tokens.values()) if model.tokens else 0
    layers = getattr(config, "layers", None) or f"{config.encoder_layers}+{config.decoder_layers}"
    estimate = f"{6 * row['parameters'] * tokens:.3g}" if tokens else ""
    days = f"{exact / (UTILISATION * model.device.operations * DAY):,.0f}" if exact and model.device else ""
    published = f"{model.device_days:,.0f} {model.device.name}" if model.device_days and model.device else ""
    cells = [
        *(model.name, str(layers), f"{config.width:,}", str(config.heads)),
        *(f"{row['parameters']:,}", f"{model.parameters:,.0f}"),
        *(estimate, f"{exact:.3g}" if exact else "", days, published),
    ]
    return f"| {' | '.join(cells)} |"


def _render_checks(checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not checks:
        return
    yield "## Computed against measured\n"
    measured = [check["peak"][1] / 1e6 for check in checks]
    factors = [check["peak"][1] / check["peak"][0] for check in checks]
    yield CHECKS.format(smallest=min(measured), largest=max(measured), least=min(factors), most=max(factors))
    yield (
        "| family | configurations | equal parameters | equal operations | equal stored bytes "
        "| peak: computed / measured |"
    )
    yield "|---|--:|--:|--:|--:|--:|"
    for family in dict.fromkeys(check["family"] for check in checks):
        members = [check for check in checks if check["family"] == family]
        equal = (str(sum(check[label][0] == check[label][1] for check in members)) for label in LABELS)
        ratios = sorted(check["peak"][0] / check["peak"][1] for check in members)
        yield f"| {family} | {len(members)} | {' | '.join(equal)} | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
    unequal = [check for check in checks if check["saved"][0] != check["saved"][1]]
    if unequal:
        worst = min(check["saved"][0] / check["saved"][1] for check in unequal)
        yield f"\nStored bytes differ where an LSTM runs in oneDNN; the smallest ratio is {worst:.2f}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page or check it; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    parser.add_argument("--compute", action="store_true", help="compute the published models anew")
    parser.add_argument("--checks", type=Path, help="the results of docs/cost_checks.py")
    options = parser.parse_args(arguments)
    data = json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {}
    if options.compute:
        data["published"] = {model.name: compute_row(model) for model in PUBLISHED}
    if options.checks:
        data["checks"] = json.loads(options.checks.read_text(encoding="utf-8"))
    if options.compute or options.checks:
        DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = render(data)
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE} is stale: run python docs/make_costs.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
