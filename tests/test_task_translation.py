"""Training, loading, translating, evaluating and tracing from Python, on a tiny translator."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import qkv
import tiny
from qkv.data import TokenizerConfig, collate_source, train_tokenizer, train_tokenizers
from qkv.decode import SearchConfig, search
from qkv.errors import BadData, BadRecipe, BadRun, UnknownName
from qkv.symbols import BOS
from qkv.task.line_problems import LineProblem, LineWarning
from qkv.task.output_bias import set_bias_to_frequencies
from qkv.task.recipe import read_recipe
from qkv.task.training import fit
from qkv.task.translate.model_building import build_model
from qkv.task.translate.recipe import TranslationRecipe
from qkv.task.translate.translator import Translator
from qkv.task.unnormalised import find_unnormalised
from qkv.trace import Trace, stack_steps

PAIRS = tiny.pairs_of(40, seed=3)
RFA = {"kernel": {"name": "rfa", "features": 16}}
SMALL = {
    "kind": "transformer",
    "encoder_layers": 1,
    "decoder_layers": 2,
    "width": 16,
    "heads": 2,
    "feedforward": 16,
}
MODELS: dict[str, dict[str, Any]] = {
    "rnn": {"kind": "rnn", "embedding": 16, "hidden": 16},
    "transformer": SMALL,
    "transformer with RFA": {**SMALL, "decoder": RFA, "cross": RFA},
}


@pytest.fixture(scope="module")
def run() -> Path:
    return tiny.trained()


@pytest.fixture(scope="module")
def translator(run: Path) -> Translator:
    return qkv.load(run)


def untrained(model: dict[str, Any]) -> Translator:
    """With random weights, every continuation is about as likely: the beams change places all the time."""
    told: dict[str, Any] = {"data": {"train": {"file": "none"}}, "tokens": {"kind": "word"}, "model": model}
    recipe = TranslationRecipe(**told, decode=SearchConfig(beam=4, max_length=9))
    tokens = train_tokenizers(PAIRS, TokenizerConfig(kind="word"))
    return Translator(recipe, tokens, build_model(recipe.model, tokens).eval())


# ---- the trained run ----


def test_it_has_learnt(translator: Translator) -> None:
    report = translator.evaluate()
    assert report.scores["exact"] > 60
    assert report.scores["bleu"] > 60


def test_a_line_gives_a_line_and_a_list_a_list(translator: Translator) -> None:
    assert translator.translate("one two") == "un deux"
    assert translator.translate(["one two", "", "three", " \t "]) == ["un deux", "", "trois", ""]
    assert translator.translate([]) == []


def test_the_answer_to_a_line_does_not_depend_on_its_company(translator: Translator) -> None:
    lines = [source for source, _ in PAIRS]
    alone = [translator.translate(line) for line in lines]
    assert translator.translate(lines) == alone
    blocks = [best[0].text for best in translator.n_best(iter(lines), block=7)]
    assert blocks == alone


def test_a_beam_of_one_is_greedy(translator: Translator) -> None:
    line = "seven five nine one"
    model: Any = translator.model
    source, keep = collate_source(translator.tokens.source.encode([line]))
    with torch.inference_mode():
        state, token, said = model.start(source, keep), BOS, []
        while len(said) < 20:
            step = model.step(torch.tensor([token]), state)
            token, state = int(step.logits[0, 3:].argmax()) + 3, step.state
            if token == 3:
                break
            said.append(token)
    assert translator.translate(line, beam=1) == translator.tokens.target.decode(said)


def test_n_best_are_sorted_and_begin_with_the_best(translator: Translator) -> None:
    (best,) = translator.n_best(["one two three"], beam=4, n=3)
    assert len({one.text for one in best}) == 3
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
    assert best[0].text == translator.translate("one two three", beam=4)


def test_done_counts_lines_of_all_blocks(translator: Translator) -> None:
    seen: list[int] = []
    list(translator.n_best(["one", "", "two", "three"], block=2, on_progress=seen.append))
    assert seen[-1] == 4
    assert seen == sorted(seen)


def test_mistakes_name_the_line(translator: Translator) -> None:
    with pytest.raises(BadData, match=r"line 2 has 13 tokens, more than the 12"):
        translator.translate(["one", " ".join(["two"] * 13)], strict=True)
    with pytest.raises(BadData, match="line 3 holds nothing this model knows: '你好'"):
        translator.translate(["one", "two", "你好"], strict=True)
    with pytest.raises(BadRecipe, match="3 answers need a beam of at least 3, got 2"):
        list(translator.n_best(["one"], beam=2, n=3))
    with pytest.raises(BadRecipe, match="'beam' is 0"):
        translator.translate("one", beam=0)
    with pytest.raises(BadRecipe, match=r"no tokeniser 'non'. Did you mean 'none'"):
        translator.evaluate(PAIRS, tokenize="non")


def test_evaluate_sees_what_translate_says(translator: Translator) -> None:
    said = translator.translate([source for source, _ in PAIRS])
    report = translator.evaluate(PAIRS)
    exact = [text == target for text, (_, target) in zip(said, PAIRS, strict=True)]
    assert report.scores["exact"] == pytest.approx(100 * np.mean(exact))
    assert sum(row["sentences"] for row in report.buckets) == len(PAIRS)
    assert set(report.signatures) == {"bleu", "chrf", "ter"}


def test_a_trace_shows_the_translation_and_survives_the_disk(translator: Translator, tmp_path: Path) -> None:
    trace = translator.trace(["one two three", "four", ""])
    assert [example.source for example in trace.examples] == [
        ("one", "two", "three", "</s>"),
        ("four", "</s>"),
    ]
    assert trace.examples[0].target == ("un", "deux", "trois", "</s>")
    assert trace.unnormalised == ()
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    weights = loaded.examples[0].weights["cross.0"]
    assert weights.shape == (1, 4, 4)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=2e-3)


# ---- the run directory ----


def test_the_run_holds_the_complete_recipe(run: Path) -> None:
    kept = (run / "recipe.yaml").read_text()
    assert kept == read_recipe(run.parent / "tiny.yaml").to_yaml()
    assert yaml.safe_load(kept)["train"]["clip"] == 1.0


def test_the_recipe_in_the_run_trains_it_again(run: Path, tmp_path: Path) -> None:
    fit(run / "recipe.yaml", tmp_path / "again", quiet=True)
    for name in ("recipe.yaml", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_the_weights_in_the_run_are_the_best_ones(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    nll = [line["nll"] for line in lines if line["kind"] == "validation"]
    pairs = tiny.pairs_of(20, seed=1)
    translator = qkv.load(run)
    rows = translator.tokens
    total = count = 0.0
    for source, target in pairs:
        ids, keep = collate_source(rows.source.encode([source]))
        wanted = torch.tensor([[*rows.target.encode([target])[0], 3]])
        read = torch.cat([torch.tensor([[BOS]]), wanted[:, :-1]], 1)
        with torch.inference_mode():
            logits = translator.model.output(translator.model(ids, keep, read))
        total += float(torch.nn.functional.cross_entropy(logits[0], wanted[0], reduction="sum"))
        count += wanted.numel()
    assert total / count == pytest.approx(min(nll), rel=1e-4)


def test_training_needs_another_directory_or_resume(run: Path) -> None:
    before = tiny.tree(run)
    with pytest.raises(BadRun, match=r"already holds a training.*--resume, or choose another --out"):
        fit(run.parent / "tiny.yaml", run, changes=["train.epochs=1"], quiet=True)
    assert tiny.tree(run) == before


def test_a_recipe_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    recipe = tiny.recipe_in(tmp_path).rename(tmp_path / "recipe.yaml")
    before = tiny.tree(tmp_path)
    with pytest.raises(BadRun, match="does not belong to a training, and would be overwritten"):
        fit(recipe, tmp_path, quiet=True)
    assert tiny.tree(tmp_path) == before


def test_resuming_may_lengthen_the_training_and_the_recipe_says_so(tmp_path: Path) -> None:
    recipe = tiny.recipe_in(tmp_path)
    out = tmp_path / "run"
    first = fit(recipe, out, changes=["train.epochs=1"], quiet=True)
    second = fit(recipe, out, changes=["train.epochs=2"], resume=True, quiet=True)
    assert second.steps == 2 * first.steps
    assert yaml.safe_load((out / "recipe.yaml").read_text())["train"]["epochs"] == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("model.hidden=16", "model"),
        ("batch.batch_tokens=200", "batch"),
        ("tokens.kind=char", "tokens"),
        ("data.holdout=3", "data.holdout"),
        ("train.lr=0.5", "train.lr"),
        ("validation.monitor=bleu", "validation.monitor"),
    ],
)
def test_resuming_with_another_recipe_is_refused(run: Path, change: str, named: str) -> None:
    before = tiny.tree(run)
    with pytest.raises(BadRun, match=f"was trained with another {named}: resume it with its own recipe"):
        fit(run.parent / "tiny.yaml", run, changes=[change], resume=True, quiet=True)
    assert tiny.tree(run) == before


# ---- where models look ----


@pytest.mark.parametrize("name", MODELS)
def test_captured_weights_are_those_of_the_returned_hypothesis(name: str) -> None:
    translator = untrained(MODELS[name])
    ids = translator.tokens.source.encode(["one two three four five", "six", "seven eight nine"])
    source, keep = collate_source(ids)
    config = SearchConfig(beam=4, n_best=4, max_length=9)
    model: Any = translator.model
    found = search(model, source, keep, config=config, capture=True)
    for row, best in enumerate(found):
        for hypothesis in best:
            read = torch.tensor([[BOS, *hypothesis.tokens][: len(hypothesis.log_probs)]])
            with torch.inference_mode():
                looks = model.forward_with_weights(source[row : row + 1], keep[row : row + 1], read)[1]
                wanted = {name: look.weights for name, look in looks.items()}
            wanted = {layer: seen for layer, seen in wanted.items() if not layer.startswith("encoder")}
            assert wanted.keys() == hypothesis.weights.keys()
            for layer, seen in wanted.items():
                captured = stack_steps([step.numpy() for step in hypothesis.weights[layer]])
                np.testing.assert_allclose(captured, seen[0].numpy(), atol=2e-5, err_msg=f"{row} {layer}")


@pytest.mark.parametrize("name", MODELS)
def test_a_trace_has_every_layer_of_either_model(name: str, tmp_path: Path) -> None:
    translator = untrained(MODELS[name])
    trace = translator.trace(["one two three four five", "six"], beam=4)
    trace.save(tmp_path / "t.npz")
    loaded = Trace.load(tmp_path / "t.npz")
    layers = {"cross.0"} if name == "rnn" else {"encoder.0", "decoder.0", "decoder.1", "cross.0", "cross.1"}
    for example in loaded.examples:
        assert set(example.weights) == layers
    implied = {layer for layer in layers if "RFA" in name and "encoder" not in layer}
    assert set(loaded.unnormalised) == implied
    assert set(find_unnormalised(translator.model)) == implied


def test_a_model_without_attention_translates_and_traces_nothing() -> None:
    translator = untrained({"kind": "rnn", "embedding": 16, "hidden": 16, "attention": None})
    (example,) = translator.trace(["one two"]).examples
    assert example.weights == {}


# ---- exact resume ----


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_file(tmp_path: Path) -> None:
    rfa = {"kernel": {"name": "rfa", "features": 8, "redraw": True}}
    model = {**SMALL, "dropout": 0.2, "decoder": rfa}
    train = {"epochs": 6, "lr": 0.01, "warmup": 5, "log_every": 1, "save_every_seconds": 0.1, "average": 2}
    recipe = tiny.recipe_in(tmp_path, model=model, train=train)

    def training(out: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            "from qkv.cli import main; main()",
            "train",
            recipe,
            "--out",
            out,
            "-q",
        ]
        return subprocess.Popen([*command, *more], env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert training(whole).wait() == 0
    more: list[str] = []
    for lines in (8, 40):
        process = training(killed, *more)
        metrics, deadline = killed / "metrics.jsonl", time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
                break
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
        more = ["--resume"]
    assert training(killed, "--resume").wait() == 0
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_bias_starts_at_the_frequencies_of_the_target() -> None:
    counts = np.array([0, 0, 0, 3, 5])
    output = nn.Linear(2, 5)
    set_bias_to_frequencies(output, counts)
    torch.testing.assert_close(output.bias.exp(), torch.tensor([1, 1, 1, 4, 6]) / 13)
    set_bias_to_frequencies(nn.Linear(2, 5, bias=False), counts)


# ---- lines that cannot be translated as they stand ----

BAD_LINES = ["one two", "你好", " ".join(["two"] * 13), "", "five"]


def test_a_bad_line_does_not_stop_the_others(translator: Translator) -> None:
    with pytest.warns(LineWarning) as caught:
        said = translator.translate(BAD_LINES)
    assert said[:2] == ["un deux", ""]
    assert said[2] == translator.translate(" ".join(["two"] * 12))
    assert said[3:] == ["", "cinq"]
    assert [str(one.message) for one in caught] == [
        "line 2 holds nothing this model knows, '你好': its translation is left empty",
        "line 3 has 13 tokens, more than the 12 tokens this model was trained for (batch.max_length): only "
        "the first 12 tokens are translated",
    ]


def test_bad_lines_are_numbered_through_all_blocks(translator: Translator) -> None:
    problems: list[LineProblem] = []
    lines = ["one", "你好", "two", "three", "你好"]
    answers = list(translator.n_best(lines, block=2, on_problem=problems.append))
    assert [best[0].text for best in answers] == ["un", "", "deux", "trois", ""]
    assert [(problem.line, problem.kind) for problem in problems] == [(2, "unknown"), (5, "unknown")]


def test_a_line_of_a_megabyte_is_cut_before_it_is_tokenised(translator: Translator) -> None:
    with pytest.warns(LineWarning, match="line 1 has 999,999 characters, too many for the 12 tokens"):
        assert translator.translate("one " * 250_000) == translator.translate(" ".join(["one"] * 12))


def test_spaces_do_not_make_a_line_too_long(translator: Translator) -> None:
    assert translator.translate(" " * 9000 + "one" + " " * 9000 + "two" + " " * 9000) == "un deux"


def test_a_source_longer_than_the_model_can_hold_is_cut() -> None:
    translator = untrained({**SMALL, "positions": "learned", "max_length": 6})
    message = r"has 7 tokens, more than the 5 tokens this model can hold \(model.max_length\)"
    with pytest.warns(LineWarning, match=message):
        cut = translator.translate("one two three four five six seven")
    assert cut == translator.translate("one two three four five")
    with pytest.raises(BadData, match=message):
        translator.translate("one two three four five six seven", strict=True)


def test_strict_stops_at_a_bad_line_everywhere(translator: Translator) -> None:
    pairs = [(line, "un") for line in BAD_LINES]
    for call in (translator.translate, translator.trace):
        with pytest.raises(BadData, match="line 2 holds nothing"):
            call(BAD_LINES, strict=True)
    with pytest.raises(BadData, match="line 2 holds nothing"):
        translator.evaluate(pairs, strict=True)


def test_evaluate_counts_bad_lines_and_names_them(translator: Translator) -> None:
    with pytest.warns(LineWarning):
        report = translator.evaluate([(line, "un deux") for line in BAD_LINES])
    assert (report.truncated, report.empty) == ([3], [2])
    assert report.scores["exact"] == 20


def test_a_trace_keeps_the_numbers_of_its_lines(translator: Translator, tmp_path: Path) -> None:
    with pytest.warns(LineWarning):
        translator.trace(BAD_LINES).save(tmp_path / "t.npz")
    examples = Trace.load(tmp_path / "t.npz").examples
    assert [example.meta["line"] for example in examples] == [1, 3, 5]
    assert examples[1].source == ("two",) * 12 + ("</s>",)
    with pytest.raises(BadData, match="no line could be translated"):
        translator.trace(["", " "])


def test_a_string_is_one_line_everywhere(translator: Translator) -> None:
    line = "one two"
    (example,) = translator.trace(line).examples
    assert example.source == ("one", "two", "</s>")
    [[best]] = translator.n_best(line)
    assert best.text == translator.translate(line) == "un deux"
    assert translator.tokens.source.encode(line) == translator.tokens.source.encode([line])
    assert train_tokenizers([("a b", "c")], TokenizerConfig()).source.size > 4
    assert train_tokenizer(line, TokenizerConfig(kind="word")).pieces([4, 5]) == ["one", "two"]


def test_a_string_is_one_change(run: Path) -> None:
    recipe = run.parent / "tiny.yaml"
    assert read_recipe(recipe, "train.epochs=3") == read_recipe(recipe, ["train.epochs=3"])


def test_lines_may_come_from_a_generator(translator: Translator) -> None:
    assert translator.translate(line for line in ("one", "two")) == ["un", "deux"]
    assert len(translator.trace(line for line in ("one", "two")).examples) == 2


# ---- devices ----


def test_a_run_is_loaded_onto_a_device(run: Path) -> None:
    for device in ("cpu", "auto", torch.device("cpu")):
        assert qkv.load(run, device=device).translate("one two") == "un deux"


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "no device 'gpu': use cpu, cuda"),
        ("", "no device ''"),
        (None, "no device None"),
        ("cpu:1", "finds no device 'cpu:1' on this machine"),
        ("cuda:99", "finds no device 'cuda:99' on this machine: use 'cpu' or 'auto'"),
        ("meta", "finds no device 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: Any, message: str, run: Path) -> None:
    with pytest.raises(UnknownName, match=message):
        qkv.load(run, device=device)


@pytest.mark.gpu
def test_a_gpu_translates_and_traces_like_the_cpu(run: Path) -> None:
    lines = [source for source, _ in PAIRS]
    here, there = qkv.load(run), qkv.load(run, device="cuda")
    assert there.translate(lines) == here.translate(lines)
    assert there.trace(lines[0]).examples[0].target == here.trace(lines[0]).examples[0].target
