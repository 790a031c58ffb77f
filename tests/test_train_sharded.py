"""Sharded training where it cannot be right."""

import pytest
import torch

from qkv.errors import BadRecipe
from qkv.train import sharded


def test_versions_of_torch_whose_gradients_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    with pytest.raises(BadRecipe, match=r"wrong gradients on CPUs with torch 2\.8\.0.*=ddp"):
        sharded.refuse_wrong_gradients(torch.device("cpu"))
    sharded.refuse_wrong_gradients(torch.device("cuda"))
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    sharded.refuse_wrong_gradients(torch.device("cpu"))
