"""Shared by the tests of traces: examples and files."""

import json

import numpy as np

from qkv.trace import Example, Grid, WeightAxes
from tiny import translation_example

SOURCE = ("▁the", "▁tall", "▁house", "s", "</s>")
TARGET = ("▁die", "▁hohen", "</s>")


def rows(*shape, seed=0):
    weights = np.random.default_rng(seed).random(shape)
    return weights / weights.sum(-1, keepdims=True)


def causal(heads, length):
    weights = np.tril(rows(heads, length, length)) + 1e-9
    return np.tril(weights) / np.tril(weights).sum(-1, keepdims=True)


def example(**changes):
    fields = {
        "source": SOURCE,
        "target": TARGET,
        "weights": {"encoder.0": rows(2, 5, 5), "cross.0": rows(2, 3, 5), "decoder.1": causal(2, 3)},
        "log_probs": np.log([0.5, 0.25, 0.9]),
        "meta": {"score": -0.7},
    }
    return translation_example(**(fields | changes))


def write(path, header, **entries):
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    np.savez(path, header=np.frombuffer(header, np.uint8), **entries)
    return path


def headed(**changes):
    one = {"source": list(SOURCE), "target": list(TARGET)}
    return {"schema": "qkv-trace/1", "kind": "translation", "examples": [one]} | changes


def same_values(one, other):
    assert one.kind == other.kind
    for ours, theirs in zip(one.examples, other.examples, strict=True):
        assert ours.named_axes == theirs.named_axes
        assert ours.weight_axes == theirs.weight_axes
        assert (ours.log_probs_axis, ours.meta) == (theirs.log_probs_axis, theirs.meta)
        for name, weight in ours.weights.items():
            np.testing.assert_allclose(theirs.weights[name], weight, rtol=2**-11, atol=2**-24)


def captioned(**changes):
    fields = {
        "named_axes": {"text": ("▁a", "▁dog"), "image": Grid(2, 3, "dog.jpg")},
        "weights": {"cross.0": rows(2, 2, 6), "vision.attention": rows(1, 6, 6)},
        "weight_axes": {
            "cross.0": WeightAxes("text", "image"),
            "vision.attention": WeightAxes("image", "image"),
        },
        "log_probs": np.log([0.5, 0.25]),
        "log_probs_axis": "text",
    }
    return Example(**(fields | changes))
