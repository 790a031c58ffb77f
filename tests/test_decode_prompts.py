"""Search from any source, with prompts, a minimum length and limits that the caller sets."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from qkv.decode import SearchConfig, search
from qkv.errors import BadData, BadRecipe
from qkv.model.stepper import PromptReader, Step, Stepper
from qkv.symbols import BOS, EOS, PAD, UNK
from test_decode_search import (
    WORDS,
    Toy,
    batch_of,
    log_probs_of,
    logits_after,
    penalty,
    search_sources,
    sentences,
)


def score_all(source, prompt, alpha, longest, shortest=0):
    """(not finished, -score, tokens, log-probabilities) of all continuations, by teacher forcing."""
    continuations = [
        [*words, EOS]
        for length in range(shortest, longest)
        for words in itertools.product(WORDS, repeat=length)
    ]
    continuations += map(list, itertools.product(WORDS, repeat=longest))
    scored = []
    for tokens in continuations:
        log_probs = log_probs_of([*prompt, *tokens], source)[len(prompt) :]
        score = sum(log_probs) / penalty(len(tokens), alpha)
        scored.append((tokens[-1] != EOS, -score, [t for t in tokens if t != EOS], log_probs))
    return sorted(scored)


def assert_enumerated(hypotheses, expected):
    assert [(not h.finished, h.tokens) for h in hypotheses] == [
        (cut, tokens) for cut, _, tokens, _ in expected
    ]
    assert_close([-h.score for h in hypotheses], [cost for _, cost, _, _ in expected], rtol=1e-5, atol=1e-5)
    for hypothesis, (_, _, _, log_probs) in zip(hypotheses, expected, strict=True):
        assert_close(hypothesis.log_probs, log_probs, rtol=1e-4, atol=1e-5)


SOURCES = [[3, 4], [8, 9, 10], [11], [12, 13]]
RAGGED = [[5, 6, 4], [], [4], [6, 6]]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("prompts", [RAGGED, [[5, 4], [6, 6], [4, 4], [4, 5]]])
def test_a_wide_beam_finds_what_enumeration_after_the_prompt_finds(prompts, alpha):
    config = SearchConfig(beam=60, n_best=25, length_penalty=alpha, max_length=3)
    results = search_sources(Toy(), *batch_of(*SOURCES), config=config, prompts=prompts)
    for source, prompt, hypotheses in zip(SOURCES, prompts, results, strict=True):
        assert_enumerated(hypotheses, score_all(source, prompt, alpha, 3)[:25])


def test_a_prompted_entry_is_decoded_as_if_it_were_alone():
    sources = sentences(9, seed=1)
    prompts = [WORDS[: number % 4] * (number % 3) for number in range(9)]
    config = SearchConfig(beam=4, n_best=3)
    together = search_sources(Toy(), *batch_of(*sources), config=config, prompts=prompts)
    for source, prompt, hypotheses in zip(sources, prompts, together, strict=True):
        [alone] = search_sources(Toy(), *batch_of(source), config=config, prompts=[prompt])
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        assert_close([h.score for h in alone], [h.score for h in hypotheses])


def test_empty_prompts_change_nothing():
    arguments = batch_of(*sentences(5))
    assert search_sources(Toy(), *arguments, prompts=[[]] * 5) == search_sources(Toy(), *arguments)


def test_weights_are_those_of_emitted_symbols_after_the_prompt():
    results = search_sources(
        Toy(), *batch_of(*SOURCES), config=SearchConfig(beam=3, n_best=3), prompts=RAGGED, capture=True
    )
    for prompt, hypotheses in zip(RAGGED, results, strict=True):
        for hypothesis in hypotheses:
            emitted = hypothesis.tokens + [EOS] * hypothesis.finished
            weights = [read.tolist() for read in hypothesis.weights["decoder.0"]]
            assert weights == [[[BOS, *prompt, *emitted[:place]]] for place in range(len(emitted))]


def test_a_prompt_may_hold_symbols_that_are_never_emitted():
    prompts = [[5, EOS, UNK], [4]]
    config = SearchConfig(beam=60, n_best=20, max_length=3)
    results = search_sources(Toy(), *batch_of([3, 4], [8]), config=config, prompts=prompts)
    for source, prompt, hypotheses in zip([[3, 4], [8]], prompts, results, strict=True):
        assert_enumerated(hypotheses, score_all(source, prompt, 1.0, 3)[:20])


class Reader(Toy):
    """A model that reads several tokens at once, and remembers how many."""

    def __init__(self):
        super().__init__()
        self.read_widths = []

    def read(self, tokens, state, *, capture=False):
        self.read_widths.append(tokens.shape[1])
        for column in tokens[:, :-1].unbind(1):
            state = super().step(column, state).state
        self.rows.clear()
        return super().step(tokens[:, -1], state, capture=capture)


@pytest.mark.parametrize(("prompts", "width"), [([[5, 6, 4]] * 4, 4), ([[5], [4, 4], [6], [5, 6]], 2)])
def test_a_model_that_can_reads_what_prompts_share_at_once(prompts, width):
    model, config = Reader(), SearchConfig(beam=3, n_best=2)
    assert isinstance(model, PromptReader)
    assert not isinstance(Toy(), PromptReader)
    results = search_sources(model, *batch_of(*SOURCES), config=config, prompts=prompts)
    assert results == search_sources(Toy(), *batch_of(*SOURCES), config=config, prompts=prompts)
    assert model.read_widths == [width]
    assert model.rows[0] == 4


@pytest.mark.parametrize("shortest", [1, 2])
@pytest.mark.parametrize("prompts", [None, RAGGED])
def test_no_end_before_the_minimum_length(shortest, prompts):
    config = SearchConfig(beam=60, n_best=20, max_length=3, min_length=shortest)
    results = search_sources(Toy(bias=0.0), *batch_of(*SOURCES), config=config, prompts=prompts)
    for source, prompt, hypotheses in zip(SOURCES, prompts or [[]] * 4, results, strict=True):
        assert_enumerated(hypotheses, score_all(source, prompt, 1.0, 3, shortest)[:20])


def test_a_minimum_length_makes_room_for_the_best_word():
    eager = Toy(bias=60.0)
    for shortest in (0, 3):
        config = SearchConfig(beam=2, min_length=shortest)
        results = search_sources(eager, *batch_of(*SOURCES), config=config)
        assert [(len(best.tokens), best.finished) for [best] in results] == [(shortest, True)] * 4


def test_limits_are_those_of_the_caller():
    never = Toy(bias=-60.0)
    limits = torch.tensor([2, 7, 1, 4])
    for config, expected in (
        (SearchConfig(beam=2), [2, 7, 1, 4]),
        (SearchConfig(beam=2, max_length=3), [2, 3, 1, 3]),
    ):
        results = search(never, *batch_of(*SOURCES), max_length=limits, config=config, prompts=RAGGED)
        assert [len(best.tokens) for [best] in results] == expected
    assert [
        len(best.tokens)
        for [best] in search(never, *batch_of(*SOURCES), max_length=5, config=SearchConfig(beam=2))
    ] == [5] * 4


class Unconditional:
    """A language model without a source; its state holds no tensor at first."""

    def start(self, *, batch, capture=False):
        self.batch = batch
        return {"history": None}

    def step(self, tokens, state, *, capture=False):
        read = (
            tokens[:, None] if state["history"] is None else torch.cat([state["history"], tokens[:, None]], 1)
        )
        return Step(logits_after(read, torch.zeros(len(tokens))), {"history": read}, {})


class Captioner(Toy):
    """Describes the sum of a picture's values."""

    def start(self, picture, *, capture=False):
        return {"history": torch.zeros(len(picture), 0, dtype=torch.long), "source": picture.sum((1, 2, 3))}

    def step(self, tokens, state, *, capture=False):
        history = torch.cat([state["history"], tokens[:, None]], 1)
        return Step(
            logits_after(history, state["source"]), {"history": history, "source": state["source"]}, {}
        )


CONFIG = SearchConfig(beam=60, n_best=25, max_length=3)


@pytest.mark.parametrize("source", [(), (None,)])
def test_a_model_without_a_source(source):
    model = Unconditional()
    assert isinstance(model, Stepper)
    results = search(model, *source, batch=2, config=CONFIG)
    assert model.batch == 2
    assert results[0] == results[1]
    assert_enumerated(results[0], score_all([0], [], 1.0, 3)[:25])
    for prompt, hypotheses in zip(RAGGED, search(model, prompts=RAGGED, config=CONFIG), strict=True):
        assert_enumerated(hypotheses, score_all([0], prompt, 1.0, 3)[:25])


def test_without_a_begin_symbol_the_prompt_comes_first():
    [results] = search(Unconditional(), prompts=[[4, 5]], bos=None, config=SearchConfig(beam=1, max_length=1))
    scores = logits_after(torch.tensor([[4, 5]]), torch.zeros(1)).log_softmax(-1)[0]
    scores[[PAD, UNK]] = -math.inf
    assert_close(results[0].score, float(scores.max()))
    with pytest.raises(BadData, match="entry 2 has no prompt, and there is no begin symbol"):
        search(Unconditional(), prompts=[[4], []], bos=None, config=CONFIG)


def test_a_picture_as_source():
    pictures = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    codes = pictures.sum((1, 2, 3))
    results = search(
        Captioner(), pictures, prompts=[[4], [], [5, 5]], config=SearchConfig(beam=1, max_length=4)
    )
    for code, prompt, [best] in zip(codes, [[4], [], [5, 5]], results, strict=True):
        history = [BOS, *prompt]
        for token in best.tokens + [EOS] * best.finished:
            logits = logits_after(torch.tensor([history]), code[None])[0]
            logits[[PAD, UNK, BOS]] = -math.inf
            assert token == int(logits.argmax())
            history.append(token)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompts": [[4]]}, BadData, "1 prompts for a batch of 4: give one prompt per entry"),
        ({"max_length": None}, BadRecipe, "no limit on the length: pass max_length"),
        ({"max_length": torch.tensor([3, 0, 2, 2])}, BadData, "at least 1 for every entry, got 0"),
        (
            {"max_length": torch.tensor([3, 2])},
            BadData,
            r"max_length has the shape \[2\], but there are 4 entries",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        search(Toy(), *batch_of(*SOURCES), **{"max_length": 5, **options})


def test_an_unknown_batch_size_is_refused():
    with pytest.raises(BadData, match="pass a source, prompts or batch"):
        search(Unconditional(), config=CONFIG)


def test_a_minimum_beyond_the_maximum_is_refused():
    with pytest.raises(
        ValueError, match="min_length=3 leaves no room for the end symbol within max_length=3"
    ):
        SearchConfig(min_length=3, max_length=3)
