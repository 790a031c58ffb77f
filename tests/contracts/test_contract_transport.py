"""Specs and weights survive storage; layers survive copying, compilation and export."""

import copy
import io
import json
from dataclasses import replace

import pytest
import torch
import yaml
from cases import CASES, HOME, USUAL, Case, build, close, inputs
from torch._dynamo.exc import Unsupported

from qkv.spec import AttentionSpec

every_case = pytest.mark.parametrize("case", CASES, ids=str)
home = pytest.mark.parametrize("case", HOME, ids=str)
usual = pytest.mark.parametrize("case", USUAL, ids=str)

# Combinations that torch.compile(fullgraph=True) or torch.export cannot take, as str(case).
NOT_COMPILED: set[str] = set()
NOT_EXPORTED: set[str] = set()


@every_case
def test_spec_round_trips_through_a_dict_yaml_and_json(case: Case) -> None:
    spec = build(case).spec
    assert AttentionSpec.from_dict(spec.to_dict()) == spec
    assert AttentionSpec.from_dict(yaml.safe_load(yaml.safe_dump(spec.to_dict()))) == spec
    assert AttentionSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(replace(spec)) == hash(spec)
    assert spec.build().spec == spec


@home
def test_weights_round_trip_through_a_checkpoint_without_pickled_classes(case: Case) -> None:
    attention, (x, memory) = build(case), inputs(case)
    file = io.BytesIO()
    torch.save(attention.state_dict(), file)
    file.seek(0)
    twin = AttentionSpec.from_dict(attention.spec.to_dict()).build().double().eval()
    assert (twin(x, memory) - attention(x, memory)).abs().max() > 1e-3
    twin.load_state_dict(torch.load(file, weights_only=True))
    close(twin(x, memory), attention(x, memory), 0)
    close(copy.deepcopy(attention)(x, memory), attention(x, memory), 0)


@every_case
def test_every_parameter_is_used(case: Case) -> None:
    attention, (x, memory) = build(case).train(), inputs(case)
    shown = attention.attend(x.requires_grad_(), memory)
    sampled = 0 if shown.log_prob is None else shown.log_prob.sum()
    (shown.out.square().sum() + sampled).backward()
    idle = [name for name, p in attention.named_parameters() if p.grad is None]
    assert idle == []


@usual
def test_compiles_as_one_graph(case: Case, unchecked: None) -> None:
    attention, (x, memory) = build(case), inputs(case)
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    if str(case) in NOT_COMPILED:
        with pytest.raises(Unsupported):
            compiled(x, memory)
        return
    keep = torch.ones((x if memory is None else memory).shape[:2], dtype=torch.bool)
    keep[:, 1] = False
    close(compiled(x, memory, keep=keep), attention(x, memory, keep=keep))


@usual
def test_exports(case: Case, unchecked: None) -> None:
    attention, (x, memory) = build(case), inputs(case)
    given = (x,) if memory is None else (x, memory)
    if str(case) in NOT_EXPORTED:
        with pytest.raises(Exception, match="export"):
            torch.export.export(attention, given)
        return
    close(torch.export.export(attention, given).module()(*given), attention(*given))
