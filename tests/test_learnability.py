"""Every attention learns to reverse a sequence, except those that cannot by nature; the table says so."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.catalogue import build_example
from qkv.rules import AXES
from qkv.symbols import EOS

FILE = Path(__file__).parent.parent / "benchmarks" / "learnability.py"


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("learnability", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


learnability = _loaded()


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _row(name: str) -> Any:
    return next(row for row in learnability.ROWS if row.name == name)


def test_a_row_that_should_solve_the_task_and_does_not_is_told(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "rows.json"
    status = learnability.main(
        ["--rows", "rnn-additive,rnn-location-short", "--updates", "2", "--json", str(file)]
    )
    assert status == 1
    trained, refused = json.loads(file.read_text())
    assert trained["exact"] < 0.5
    assert 0 < trained["tokens"] < 0.9
    assert trained["seconds"] > 0
    assert trained["refused"] is None
    assert "scores at most 8 keys, got 13" in refused["refused"]
    assert refused["exact"] is None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| rnn-additive", "| rnn-location-short"]
    assert "FAILED: below 99%" in lines[2]
    assert "| refused: " in lines[3]


def test_a_refusal_that_is_expected_ends_well() -> None:
    assert learnability.main(["--rows", "rnn-location-short", "--updates", "1"]) == 0


@pytest.mark.parametrize(
    ("name", "exact", "refused", "said"),
    [
        ("rnn-general", 0.95, None, "solved"),
        ("rnn-general", 0.94, None, "FAILED: below 95%"),
        ("rnn-additive", 0.98, None, "FAILED: below 99%"),
        ("rnn-general", None, "too long\nby far", "FAILED: too long"),
        ("rnn-none", 0.1, None, "cannot: the whole source passes through one vector"),
        ("rnn-none", 1.0, None, "solved"),
        ("rnn-location-short", None, "too long", "refused: too long"),
    ],
)
def test_verdicts(name: str, exact: float | None, refused: str | None, said: str) -> None:
    outcome = learnability.Outcome(name, 1, exact=exact, refused=refused)
    assert learnability.describe_outcome(_row(name), outcome) == said
    assert learnability.is_failure(_row(name), outcome) == said.startswith("FAILED")


def test_the_task_is_reversal_of_sequences_that_are_the_same_each_time() -> None:
    batches = learnability.Reversals(3)
    (batch,) = batches.window(0, 1, 0, 1)
    for source, keep, target in zip(batch.source, batch.source_keep, batch.target, strict=True):
        real = source[keep].tolist()
        assert real[-1] == EOS
        assert 4 <= len(real) - 1 <= 12
        assert target[1 : len(real)].tolist() == real[-2::-1]
    assert batches.count(0, 1) == int(batch.target_keep[:, 1:].sum())
    assert torch.equal(batch.source, learnability.Reversals(3).window(0, 1, 0, 1)[0].source)
    assert batches.rows(0, 0) != batches.rows(0, 1)
    assert len(batches.rows(0, 0)) == 64


def test_training_leaves_out_what_is_held_out() -> None:
    held_out = learnability.held_out()
    assert len(set(held_out)) == 500
    batches = learnability.Reversals(1)
    plain = batches.rows(0, 0)
    batches.held_out = frozenset([plain[5]])
    assert plain[5] not in batches.rows(0, 0)
    assert batches.rows(0, 0)[:5] == plain[:5]
    assert learnability.Reversals(1).held_out == frozenset(held_out)


def test_every_part_for_sequences_has_a_row() -> None:
    specs = []
    for row in learnability.ROWS:
        model = row.model
        specs += [model.attention] if model.kind == "rnn" else [model.encoder, model.decoder, model.cross]
    used = {getattr(spec, axis).__class__ for spec in specs if spec is not None for axis in AXES}
    parts = {part for registry in AXES.values() for part in registry.values()}
    assert {part for part in parts if build_example(part).grid is None} <= used
    assert len({row.name for row in learnability.ROWS}) == len(learnability.ROWS) >= 30


def test_rows_are_chosen_by_name_and_pattern(capsys: Any) -> None:
    names = [row.name for row in learnability.select_rows("luong-local-*, rnn-elu")]
    assert names == ["rnn-elu", "luong-local-m", "luong-local-p", "luong-local-p-fed"]
    with pytest.raises(SystemExit):
        learnability.main(["--rows", "rnn-elo"])
    assert "no row is named 'rnn-elo'. Rows: rnn-none, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        learnability.main(["--updates", "0"])
    assert "at least 1, got 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", learnability.ROWS, ids=lambda row: row.name)
def test_it_learns(row: Any) -> None:
    torch.set_num_threads(1)
    outcome = learnability.measure(row)
    assert not learnability.is_failure(row, outcome), learnability.describe_outcome(row, outcome)
    assert (outcome.refused is not None) == (row.name == "rnn-location-short")
