"""Classifies IMDb reviews as bytes with softmax, RFA and window attention: accuracy, speed and memory.

    QKV_DATA=... python benchmarks/documents.py --out results --speed-only      # minutes
    QKV_DATA=... python benchmarks/documents.py --out results --steps 1500      # hours

The models are the recipes `classify-imdb-softmax`, `-rfa` and `-window`, which differ in their attention
only, at `batch.max_length` of 1,000, 2,000 and 4,000 bytes. Every row runs in a process of its own and
leaves a file in `--out`; rows whose file exists are skipped, and a training that was stopped is resumed. The
folder then holds `documents.md`, a table, and `documents.png`, the gain in speed over softmax by length.

Speed is that of the whole training loop on documents that all have the full length, in batches of equally
many tokens: the difference between two trainings of fewer and of more updates. With `--threads 1` it is CPU
time, so that other work on the machine does not count. The speed on the reviews as they are (median 979
bytes) stands beside the accuracy.

Operations per layer and token, forward, with M = 64, 2 heads of D = E = 32, an inner width of 128, and
R = 32, whose sine and cosine make 64 features per head:

    projections, feed-forward   8 M² + 4 M·128                           65,500
    softmax                     4 N M                                   262,000 at 1k, 524,000, 1,049,000
      and exponentials          2 N
    RFA                         2 (4 D R + 4·2R·E + 2·2R)                25,100
      and sines and cosines     256
    window of 129 keys          4·129 M                                  33,000

So a layer has 3.6, 6.5 and 12.3 times as many operations with softmax as with RFA at 1k, 2k and 4k. Neither
keeps its N² weights in memory: both move some 4 kB of activations per token and layer (residual stream, q, k,
v, hidden units, dropout), which RFA raises by 1 kB of features. These bytes, the norms and dropout take time
of their own in every model, and matrix products of softmax run nearer to the peak of the processor than the
narrow ones of RFA. So the ratio of the times should lie below that of the operations.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from markdown_tables import Table, format_markdown

MODELS = {"softmax": "softmax", "rfa": "RFA", "window": "Window(64)"}
FEW = 2  # updates of the shorter training


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--updates", type=int, default=4, help="updates that are timed")
    parser.add_argument("--rounds", type=int, default=3, help="processes that time each row, in turn")
    parser.add_argument("--speed-only", action="store_true", help="train nothing to the end")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--row", nargs=3, metavar=("KIND", "MODEL", "LENGTH"), help=argparse.SUPPRESS)
    return parser.parse_args()


def read_recipe(options, model, length, changes):
    from qkv.task.recipe import read_recipe as read

    fixed = [f"batch.max_length={length}", f"train.threads={options.threads}", f"train.seed={options.seed}"]
    return read(f"classify-imdb-{model}", [*fixed, *options.changes, *changes])


def write_full_documents(recipe, length, folder):
    """Reviews one after the other, cut into documents of this length: a file to train on, one to hold out."""
    from qkv.task.classify.documents import read_documents

    content = (
        " ".join(each.texts[0] for each in read_documents(recipe.data.train))
        .encode("ascii", "ignore")
        .decode()
    )
    count = 8 * (recipe.batch.batch_tokens // (length + 1))  # full batches, so that updates are alike
    rows = [
        {"text": content[start : start + length], "label": start // length % 2}
        for start in range(0, count * length, length)
    ]
    for name, some in (("train", rows), ("valid", rows[:2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def time_updates(options, model, length):
    """Seconds per update and documents per update on documents of the full length, and the peak of memory."""
    import qkv

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_full_documents(read_recipe(options, model, length, []), length, folder)
        files = [f"data.{name}={{file: {folder / name}.jsonl}}" for name in ("train", "valid")]
        seconds = []
        for name, steps in (("warm-up", 1), ("fewer", FEW), ("more", FEW + options.updates)):
            changes = [*files, f"train.steps={steps}", "train.warmup=1", f"train.validate_every={10**6}"]
            recipe = read_recipe(options, model, length, changes)
            clock = time.process_time if options.threads == 1 else time.perf_counter
            begin = clock()
            qkv.fit(recipe, folder / name, quiet=True)
            seconds.append(clock() - begin)
    per_update = (seconds[2] - seconds[1]) / options.updates
    return {
        "seconds": per_update,
        "documents": recipe.batch.batch_tokens // (length + 1),
        "peak": read_peak(),
    }


def train(options, model, length):
    """Accuracy on the test reviews after the whole training, its time and its speed."""
    import qkv

    run = options.out / f"{model}-{length}-seed{options.seed}"
    changes = [f"train.steps={options.steps}", f"train.log_every={min(50, options.steps)}"]
    recipe = read_recipe(options, model, length, changes)
    result = qkv.fit(recipe, run, resume=(run / "training" / "state.pt").exists())
    scores = qkv.load(run).evaluate()
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    speeds = [line["documents_per_second"] for line in lines if line["kind"] == "train"]
    return {
        "accuracy": scores["accuracy"],
        "nll": scores["nll"],
        "cut": scores["cut"],
        "seconds": result.seconds,
        "documents_per_second": statistics.median(speeds),
        "steps": result.steps,
        "peak": read_peak(),
    }


def read_peak():
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def find_file(options, kind, model, length):
    detail = f"{options.threads}threads" if kind == "speed" else f"seed{options.seed}-{options.steps}steps"
    return options.out / f"{kind}-{model}-{length}-{detail}.json"


def run_row(options, kind, model, length):
    """Measure one row in a process of its own, and add the result to its file."""
    file = find_file(options, kind, model, length)
    measured = json.loads(file.read_text()) if file.exists() else []
    print(f"{kind} {model} {length}", flush=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--row", kind, model, str(length)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured.append(json.loads(done.stdout.splitlines()[-1]))
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(measured, indent=1))
    draft.replace(file)
    write_report(options)


def read_row(options, kind, model, length):
    """The medians of what was measured; an empty dictionary where nothing was."""
    file = find_file(options, kind, model, length)
    measured = json.loads(file.read_text()) if file.exists() else []
    return {key: statistics.median(each[key] for each in measured) for key in (measured or [{}])[0]}


def compute_speed(options, model, length):
    row = read_row(options, "speed", model, length)
    return row["documents"] / row["seconds"] if row else None


def write_report(options):
    rows = []
    for length in options.lengths:
        baseline = compute_speed(options, "softmax", length)
        for model in options.models:
            speed, trained = compute_speed(options, model, length), read_row(options, "train", model, length)
            rows.append(
                [
                    f"{length:,}",
                    MODELS[model],
                    f"{trained['accuracy']:.1%}" if trained else "",
                    f"{speed:.2f}" if speed else "",
                    f"{speed / baseline:.2f}" if speed and baseline else "",
                    f"{read_row(options, 'speed', model, length)['peak']:,.0f}" if speed else "",
                    f"{trained['documents_per_second']:.1f}" if trained else "",
                    f"{trained['seconds'] / 60:.0f}" if trained else "",
                ]
            )
    columns = (
        *("bytes", "attention", "accuracy", "documents/s of this length", "× softmax"),
        *("peak memory, MiB", "reviews/s", "minutes"),
    )
    clock = "CPU time of one thread" if options.threads == 1 else "wall time of two threads"
    notes = [f"Documents/s in {clock}; accuracy after {options.steps:,} updates, seed {options.seed}."]
    lines = format_markdown(Table("IMDb reviews as bytes", columns, rows, notes))
    (options.out / "documents.md").write_text("\n".join(lines) + "\n")
    with contextlib.suppress(ImportError):  # the table needs no matplotlib
        draw_gain(options)


def draw_gain(options):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), dpi=200, layout="constrained")
    axes = figure.subplots()
    for model in options.models:
        speeds = [
            (n, compute_speed(options, model, n), compute_speed(options, "softmax", n))
            for n in options.lengths
        ]
        points = [(n, speed / baseline) for n, speed, baseline in speeds if speed and baseline]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=MODELS[model])
    axes.set(xscale="log", yscale="log", xlabel="bytes of a document", ylabel="training speed, softmax = 1")
    axes.set_xticks(options.lengths, [f"{n:,}" for n in options.lengths])
    ticks = [1, 2, 3, 4, 6, 8, 12]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(options.out / "documents.png")


def main():
    options = parse_options()
    if options.row:
        kind, model, length = options.row
        measure = {"speed": time_updates, "train": train}[kind]
        print(json.dumps(measure(options, model, int(length))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    measure_speeds(options)
    for length in options.lengths:
        for model in () if options.speed_only else options.models:
            if not find_file(options, "train", model, length).exists():
                run_row(options, "train", model, length)
    write_report(options)
    shutil.copyfileobj((options.out / "documents.md").open(), sys.stdout)


def measure_speeds(options):
    for length in options.lengths:
        for round_number in range(options.rounds):  # in turn, for the speed of a machine drifts
            for model in options.models:
                file = find_file(options, "speed", model, length)
                if len(json.loads(file.read_text()) if file.exists() else []) <= round_number:
                    run_row(options, "speed", model, length)


if __name__ == "__main__":
    main()
