"""The loop: exact gradients of whole updates, what it keeps, when it stops, what it says."""

import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch.testing import assert_close

from qkv.errors import BadData, BadRecipe, QKVError
from qkv.progress import NoProgress
from qkv.train import engine, fit, load_weights
from qkv.train.loop_state import LoopState, is_better
from qkv.train.metrics import MetricSums
from qkv.train.planning import count_planned_updates
from qkv.train.update import SKIPPED_IN_A_ROW, Updater
from qkv.train.weights import average_weights, copy_weights_to_cpu
from test_train_toy import ToyBatches, ToyModel, collate, config_of, scores_of, toy


def updater_of(objective, **options) -> Updater:
    config = config_of(**options)
    return Updater(objective, config, engine.start_fabric(config), 20)


def lines_of(run, kind):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def scripted(scores):
    """A validation that gives these losses, one after the other."""
    remaining = iter(scores)
    return lambda: {"loss": next(remaining)}


def saved_weights(run):
    model = ToyModel()
    load_weights(model, run / "model.safetensors")
    return copy_weights_to_cpu(model)


class Poisoned(ToyBatches):
    """Batches without a real row to learn from: the gradient of the updates from `first` on is NaN."""

    def __init__(self, objective, first, last=10**6):
        super().__init__()
        self.objective, self.first, self.last, self.updates = objective, first, last, 0

    def window(self, epoch, index, rank, world):
        self.updates += 1
        self.objective.smoothing = math.nan if self.first <= self.updates <= self.last else 0.1
        return super().window(epoch, index, rank, world)


@pytest.mark.parametrize("micro", [1, 2, 3])
def test_accumulated_gradient_is_that_of_one_big_batch(micro):
    batches = ToyBatches(micro)
    updater = updater_of(toy(dtype=torch.float64))
    updater.compute_gradients_and_add_metrics(
        batches, LoopState(), batches.count(0, 0), MetricSums(), "adamw"
    )
    rows = [row for part in range(micro) for row in batches.rows(0, 0, part)]
    reference = toy(dtype=torch.float64)
    loss = reference(collate(rows))
    (loss.total / loss.count).backward()
    for (name, actual), expected in zip(
        updater.objective.named_parameters(), reference.parameters(), strict=True
    ):
        assert_close(actual.grad, expected.grad, msg=name)


@pytest.mark.parametrize("clip", [None, 0.01, 1e6])
def test_clips_the_gradient_of_the_whole_update(clip):
    updater = updater_of(toy(dtype=torch.float64), clip=clip)
    norms = []

    def record_norm(optimizer, *_):
        squares = [p.grad.square().sum() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack(squares).sum().sqrt().item())

    updater.optimizers["adamw"].optimizer.register_step_pre_hook(record_norm)
    updater.update(ToyBatches(), LoopState(), MetricSums())
    assert updater.gradient_norm > 0.02
    assert norms == [pytest.approx(min(updater.gradient_norm, clip or math.inf), rel=1e-4)]


def test_decays_matrices_only():
    updater = updater_of(toy(), weight_decay=0.1)
    decay = {
        p: group["weight_decay"]
        for group in updater.optimizers["adamw"].param_groups
        for p in group["params"]
    }
    assert {name: decay[p] for name, p in updater.objective.named_parameters()} == {
        "model.embedding.weight": 0.1,
        "model.inner.weight": 0.1,
        "model.inner.bias": 0.0,
        "model.output.bias": 0.0,
    }


def test_skips_what_is_not_finite(tmp_path):
    objective, clean = toy(), toy()
    result = fit(objective, Poisoned(objective, 3, 4), config_of(steps=4), run=tmp_path / "a", quiet=True)
    fit(clean, ToyBatches(), config_of(steps=2), run=tmp_path / "b", quiet=True)
    assert result.skipped == 2
    assert torch.equal(objective.model.inner.weight, clean.model.inner.weight)


def test_gives_up_when_nothing_is_finite_any_more(tmp_path):
    objective = toy()
    with pytest.raises(
        QKVError, match=rf"not finite in {SKIPPED_IN_A_ROW} updates up to 22\. Lower train.lr"
    ):
        fit(objective, Poisoned(objective, 3), config_of(steps=100), run=tmp_path, quiet=True)


def test_keeps_the_best_and_stops_when_nothing_improves(tmp_path):
    validated_weights, scores = [], iter([3.0, 2.0, math.nan, 2.5, 9.9])
    objective = toy()

    def validate():
        validated_weights.append(copy_weights_to_cpu(objective.model))
        return {"loss": next(scores)}

    config = config_of(steps=1000, validate_every=3, patience=2)
    result = fit(objective, ToyBatches(), config, run=tmp_path, validate=validate, quiet=True)
    assert (result.stopped, result.steps, result.best) == ("patience", 12, 2.0)
    assert result.scores == {"loss": 2.0}
    assert [line["best"] for line in lines_of(tmp_path, "validation")] == [True, True, False, False]
    assert [line["step"] for line in lines_of(tmp_path, "validation")] == [3, 6, 9, 12]
    for name, value in saved_weights(tmp_path).items():
        assert torch.equal(value, validated_weights[1][name])


def test_of_equal_scores_the_later_weights_are_kept_but_patience_goes_on(tmp_path):
    validated_weights, scores = [], iter([0.25, 0.5, 0.5, 0.25])
    objective = toy()

    def validate():
        validated_weights.append(copy_weights_to_cpu(objective.model))
        return {"accuracy": next(scores)}

    config = config_of(steps=1000, validate_every=3, patience=2)
    result = fit(
        objective, ToyBatches(), config, run=tmp_path, validate=validate, monitor="accuracy", quiet=True
    )
    assert (result.stopped, result.steps, result.best) == ("patience", 12, 0.5)
    assert [line["best"] for line in lines_of(tmp_path, "validation")] == [True, True, True, False]
    for name, value in saved_weights(tmp_path).items():
        assert torch.equal(value, validated_weights[2][name])


def test_scores_other_than_losses_are_better_when_higher(tmp_path):
    scores = iter([0.5, 0.7, 0.6, 0.6])
    result = fit(
        toy(),
        ToyBatches(),
        config_of(validate_every=5),
        run=tmp_path,
        validate=lambda: {"loss": 1.0, "bleu": next(scores)},
        monitor="bleu",
        quiet=True,
    )
    assert result.best == 0.7
    assert is_better(1.0, None, True)
    assert not is_better(math.nan, None, True)
    assert is_better(1.0, math.nan, False)


@pytest.mark.parametrize(("mean_loss", "is_kept"), [(2.0, True), (2.1, False)])
def test_the_mean_of_the_last_weights_is_kept_where_no_worse(tmp_path, mean_loss, is_kept):
    validated_weights, scores = [], iter([2.0, 3.0, 4.0, 5.0, mean_loss])
    objective = toy()

    def validate():
        validated_weights.append(copy_weights_to_cpu(objective.model))
        return {"loss": next(scores)}

    config = config_of(validate_every=5, average=3)
    result = fit(objective, ToyBatches(), config, run=tmp_path, validate=validate, quiet=True)
    assert (result.best, result.averaged, result.scores) == (2.0, mean_loss, {"loss": 2.0})
    expected = average_weights(validated_weights[1:4]) if is_kept else validated_weights[0]
    for name, value in saved_weights(tmp_path).items():
        assert_close(value, expected[name], rtol=0, atol=0)
        assert_close(
            validated_weights[4][name], average_weights(validated_weights[1:4])[name], rtol=0, atol=0
        )
        assert torch.equal(copy_weights_to_cpu(objective.model)[name], validated_weights[3][name])
    assert lines_of(tmp_path, "average")[0]["best"] is is_kept


def test_validates_after_every_epoch_and_at_the_end(tmp_path):
    config = config_of(steps=12)
    fit(toy(), ToyBatches(length=5), config, run=tmp_path, validate=scripted([3.0, 2.0, 1.0]), quiet=True)
    assert [(line["step"], line["epoch"]) for line in lines_of(tmp_path, "validation")] == [
        (5, 1),
        (10, 2),
        (12, 2),
    ]


def test_validation_sees_no_dropout_and_no_gradient(tmp_path):
    objective = toy(dropout=0.5)

    def validate():
        assert not objective.training
        assert not torch.is_grad_enabled()
        first, second = scores_of(objective), scores_of(objective)
        assert first == second
        return first

    fit(objective, ToyBatches(), config_of(), run=tmp_path, validate=validate, quiet=True)
    assert objective.training


def test_ends_after_whole_epochs_or_steps_whichever_is_first(tmp_path):
    result = fit(toy(), ToyBatches(length=5), config_of(steps=None, epochs=2), run=tmp_path, quiet=True)
    assert (result.stopped, result.steps, result.epochs) == ("epochs", 10, 2)
    assert count_planned_updates(ToyBatches(length=5), config_of(steps=7, epochs=2)) == 7
    assert count_planned_updates(ToyBatches(length=5), config_of(steps=70, epochs=2)) == 10
    assert count_planned_updates(ToyBatches(length=5), config_of(steps=None, epochs=60)) == 300
    with pytest.raises(BadData, match="no batch"):
        count_planned_updates(ToyBatches(length=0), config_of(epochs=2))


def test_a_million_epochs_are_not_planned_one_by_one() -> None:
    planned: list[int] = []

    class Counted(ToyBatches):
        def steps(self, epoch: int) -> int:
            planned.append(epoch)
            return 5

    assert count_planned_updates(Counted(length=5), config_of(steps=None, epochs=1_000_000)) == 5_000_000
    assert count_planned_updates(Counted(length=5), config_of(epochs=2**62, steps=7)) == 7
    assert len(planned) <= 60


def test_metrics_are_means_per_token(tmp_path):
    batches = ToyBatches(length=5)
    fit(toy(), batches, config_of(steps=10, lr=1e-12, log_every=5), run=tmp_path, quiet=True)
    first, second = lines_of(tmp_path, "train")
    assert (first["step"], second["step"], second["epoch"]) == (5, 10, 2)
    objective = toy()
    losses = [objective(batch) for index in range(5) for batch in batches.window(0, index, 0, 1)]
    count = sum(loss.count for loss in losses)
    assert first["loss"] == pytest.approx(sum(loss.total.item() for loss in losses) / count, rel=1e-5)
    assert first["ppl"] == pytest.approx(math.exp(first["nll"]))
    assert first["accuracy"] == sum(loss.metrics["accuracy"].item() for loss in losses) / count
    assert first["tokens_per_second"] > 0
    assert first["lr"] == pytest.approx(1e-12)


def test_a_wrong_token_count_is_noticed(tmp_path):
    class Lying(ToyBatches):
        def count(self, epoch, index):
            return super().count(epoch, index) + 1

    with pytest.raises(ValueError, match=r"promised \d+ tokens, the objective counted \d+"):
        fit(toy(), Lying(), config_of(), run=tmp_path, quiet=True)


def test_a_score_that_validation_does_not_give(tmp_path):
    with pytest.raises(
        BadRecipe,
        match=r"no score 'blue' to monitor: name one that it gives. Did you mean 'bleu'\? Known: bleu, loss",
    ):
        fit(
            toy(),
            ToyBatches(),
            config_of(),
            run=tmp_path,
            validate=lambda: {"loss": 1.0, "bleu": 2.0},
            monitor="blue",
            quiet=True,
        )


def test_progress_shows_the_latest_mean_of_the_metrics(tmp_path, monkeypatch):
    notes = []

    class Recorder(NoProgress):
        def update(self, completed, note=""):
            notes.append(note)

    monkeypatch.setattr("qkv.train.training.show_progress", lambda *_, **__: nullcontext(Recorder()))
    fit(toy(), ToyBatches(), config_of(steps=9, log_every=4), run=tmp_path, quiet=True)
    losses = [f"loss {line['loss']:.4g}, " for line in lines_of(tmp_path, "train")]
    assert not notes[2].startswith("loss")
    assert [note.startswith(losses[0]) for note in notes[3:7]] == [True] * 4
    assert notes[8].startswith(losses[1])
    assert notes[8].endswith(" tokens/s")
