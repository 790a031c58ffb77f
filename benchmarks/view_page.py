"""The page of a large trace in headless Chromium: size, time to the first view, time to follow the pointer.

python benchmarks/view_page.py [--size 512] [--layers 6] [--heads 8]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from qkv.trace import Example, Trace, WeightAxes
from qkv.view import NamedTrace, write_html

HOVER = """async () => {
  const canvas = document.getElementById("map");
  const box = canvas.getBoundingClientRect();
  const times = [];
  for (let i = 0; i < 60; i++) {
    const [across, down] = [0.3 + i / 100, 0.9 - i / 100];
    const place = {clientX: box.left + box.width * across, clientY: box.top + box.height * down};
    const start = performance.now();
    canvas.dispatchEvent(new PointerEvent("pointermove", {...place, bubbles: true}));
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - start);
  }
  return times;
}"""


def make_trace(layers: int, heads: int, size: int) -> Trace:
    """Softmax weights of random scores."""
    generator = np.random.default_rng(0)
    weights = {}
    for layer in range(layers):
        powers = np.exp(2 * generator.normal(size=(heads, size, size)).astype(np.float32))
        weights[f"layer.{layer}"] = powers / powers.sum(-1, keepdims=True)
    axes = {"text": tuple(f"▁w{position}" for position in range(size))}
    pairs = dict.fromkeys(weights, WeightAxes("text", "text"))
    return Trace((Example(axes, weights, pairs),), "language model")


def measure(browser: Any, path: Path, state: str) -> tuple[float, list[float]]:
    """Seconds until a view is drawn, and the milliseconds of every move of the pointer."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    page.goto(f"file://{path}#{state}")
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    page.evaluate("() => new Promise(requestAnimationFrame)")
    seconds = time.perf_counter() - start
    times = page.evaluate(HOVER) if not state else []
    page.close()
    return seconds, times


def main() -> None:
    """Write a page, open it several times, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 6), ("heads", 8), ("size", 512), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    path = Path(tempfile.mkdtemp()) / "page.html"
    start = time.perf_counter()
    write_html([NamedTrace("random", make_trace(options.layers, options.heads, options.size))], path)
    print(f"written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.2f} MB")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for state in ("", "view=wall"):
            runs = [measure(browser, path, state) for _ in range(options.repeats)]
            seconds = [run[0] for run in runs]
            print(f"{state or 'matrix'}: drawn after {statistics.median(seconds):.2f} s (median; {seconds})")
            moves = sorted(each for run in runs for each in run[1])
            if moves:
                slow = moves[int(0.95 * len(moves))]
                print(f"pointer: {statistics.median(moves):.1f} ms (median), {slow:.1f} ms (95 %)")
        browser.close()


if __name__ == "__main__":
    main()
