"""Small translators without training, of English numbers, which tests of what reads a translator share."""

from typing import Any

import torch

import tiny
from qkv.data import TokenizerConfig, train_tokenizers
from qkv.task.translate.model_building import build_model
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.translator import Translator

MODELS: dict[str, dict[str, Any]] = {
    "rnn": {"kind": "rnn", "embedding": 16, "hidden": 16},
    "transformer": {"kind": "transformer", "width": 16, "heads": 2, "feedforward": 32},
}


def build_translator(kind: str, **sections: Any) -> Translator:
    """A translator with random weights, always the same, that knows the words of `tiny.pairs_of`."""
    torch.manual_seed(0)
    sections = {"model": MODELS[kind], "data": {"train": {"file": "none"}}, **sections}
    recipe = TranslationRecipe(tokens=TokenizerConfig(kind="word"), **sections)
    tokens = train_tokenizers(tiny.pairs_of(60, seed=0), recipe.tokens)
    return Translator(recipe, tokens, build_model(recipe.model, tokens).eval())
