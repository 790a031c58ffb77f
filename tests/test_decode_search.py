import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from qkv.decode import SearchConfig, search
from qkv.errors import BadRun
from qkv.model.seq2seq import RNNConfig, RNNTranslator
from qkv.model.stepper import AttentiveEncoder, Step, Stepper
from qkv.model.transformer import Transformer, TransformerConfig
from qkv.symbols import BOS, EOS, PAD, UNK

DEFAULT = SearchConfig()
VOCABULARY = 7  # PAD UNK BOS EOS and three words
WORDS = [4, 5, 6]


def logits_after(history, code):
    """[N,V] from every row's whole history [N,t] (BOS first) and source code [N]: no two prefixes agree."""
    places = torch.arange(1, history.shape[1] + 1, dtype=torch.float64)
    mix = (history.double() * (0.7 * places + 0.31)).sum(1) + code
    return (3.0 * torch.sin(mix[:, None] * (1.0 + 0.37 * torch.arange(VOCABULARY)))).float()


class Toy:
    """A language model whose only memory is its state: the symbols it read, and a number from the source."""

    def __init__(self, bias=0.0):
        self.bias, self.rows = bias, []

    def start(self, source, keep, *, capture=False):
        return {"history": source[:, :0], "source": ((source * keep).double().sin().sum(1), source * keep)}

    def step(self, tokens, state, *, capture=False):
        self.rows.append(len(tokens))
        code, source = state["source"]
        history = torch.cat([state["history"], tokens[:, None]], 1)
        logits = logits_after(history, code)
        logits[:, EOS] += self.bias
        weights = {"decoder.0": history[:, None].double(), "cross.0": source[:, None].float()}
        return Step(logits, {"history": history, "source": (code, source)}, weights if capture else {})


def search_sources(model, source, keep, *, config=DEFAULT, **options):
    """Search with a limit on the length that follows from the source, unless the config sets one."""
    limits = config.max_length or 2 * keep.sum(1) + 10
    return search(model, source, keep, max_length=limits, config=config, **options)


def batch_of(*sources):
    source = torch.zeros(len(sources), max(map(len, sources)), dtype=torch.long)
    for row, words in enumerate(sources):
        source[row, : len(words)] = torch.tensor(words)
    return source, source != PAD


def sentences(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (count,), generator=generator).tolist()
    return [torch.randint(3, 90, (length,), generator=generator).tolist() for length in lengths]


def log_probs_of(tokens, source, bias=0.0):
    """The model's log-probability of every symbol of `tokens`, one prefix at a time."""
    code = torch.tensor(source).double().sin().sum()[None]
    log_probs = []
    for place, token in enumerate(tokens):
        logits = logits_after(torch.tensor([[BOS, *tokens[:place]]]), code)
        logits[:, EOS] += bias
        log_probs.append(logits.log_softmax(-1)[0, token].item())
    return log_probs


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def everything(source, alpha, longest):
    """Every sequence there is, best first: the finished ones, then those that the limit cuts off."""
    scored = []
    for length in range(1, longest + 1):
        for words in itertools.product(WORDS, repeat=length - 1):
            scored.append(
                (False, -sum(log_probs_of([*words, EOS], source)) / penalty(length, alpha), list(words))
            )
    for words in itertools.product(WORDS, repeat=longest):
        scored.append((True, -sum(log_probs_of(words, source)) / penalty(longest, alpha), list(words)))
    return sorted(scored)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_that_holds_everything_finds_what_enumeration_finds(alpha):
    sources = [[3, 4], [8, 9, 10]]
    config = SearchConfig(beam=150, n_best=60, length_penalty=alpha, max_length=4)
    for source, hypotheses in zip(
        sources, search_sources(Toy(), *batch_of(*sources), config=config), strict=True
    ):
        expected = everything(source, alpha, 4)
        assert [(not h.finished, h.tokens) for h in hypotheses] == [
            (cut, words) for cut, _, words in expected[:60]
        ]
        assert_close(
            [h.score for h in hypotheses], [-cost for _, cost, _ in expected[:60]], rtol=1e-5, atol=1e-5
        )
        assert sum(h.finished for h in hypotheses) == 1 + 3 + 9 + 27


def greedy(source, longest):
    tokens = []
    while len(tokens) < longest and EOS not in tokens:
        code = torch.tensor(source).double().sin().sum()[None]
        logits = logits_after(torch.tensor([[BOS, *tokens]]), code)
        logits[:, [PAD, UNK, BOS]] = -math.inf
        tokens.append(int(logits.argmax()))
    return tokens


def test_a_beam_of_one_takes_the_best_symbol_at_every_step():
    sources = sentences(12)
    results = search_sources(Toy(), *batch_of(*sources), config=SearchConfig(beam=1, max_length=9))
    endings = set()
    for source, [best] in zip(sources, results, strict=True):
        emitted = greedy(source, 9)
        assert [*best.tokens, EOS][: len(emitted)] == emitted
        assert best.finished == (emitted[-1] == EOS)
        endings.add(best.finished)
    assert endings == {True, False}


@pytest.mark.parametrize(
    "config", [SearchConfig(beam=3, n_best=3), SearchConfig(beam=4, n_best=2, length_penalty=0.0)]
)
def test_scores_are_those_of_the_returned_sequences(config):
    sources = sentences(6)
    for source, hypotheses in zip(
        sources, search_sources(Toy(), *batch_of(*sources), config=config), strict=True
    ):
        for best in hypotheses:
            emitted = best.tokens + [EOS] * best.finished
            assert_close(best.log_probs, log_probs_of(emitted, source), rtol=1e-4, atol=1e-5)
            expected = sum(best.log_probs) / penalty(len(emitted), config.length_penalty)
            assert best.score == pytest.approx(expected, rel=1e-5)


def test_the_n_best_are_sorted_distinct_and_begin_with_the_best():
    sources = sentences(8)
    several = search_sources(Toy(), *batch_of(*sources), config=SearchConfig(beam=6, n_best=5, max_length=8))
    for hypotheses in several:
        ranks = [(not h.finished, -h.score) for h in hypotheses]
        assert ranks == sorted(ranks)
        assert len({(*h.tokens, h.finished) for h in hypotheses}) == len(hypotheses) == 5


def test_a_sentence_is_decoded_as_if_it_were_alone():
    sources = sentences(9, seed=1)
    config = SearchConfig(beam=4, n_best=3)
    together = search_sources(Toy(), *batch_of(*sources), config=config)
    for source, hypotheses in zip(sources, together, strict=True):
        [alone] = search_sources(Toy(), *batch_of(source), config=config)
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        assert_close([h.score for h in alone], [h.score for h in hypotheses])


def test_junk_under_the_padding_changes_nothing():
    source, keep = batch_of([4, 5], [9, 8, 7, 6])
    config = SearchConfig(beam=3, n_best=3)
    expected = search_sources(Toy(), source, keep, config=config)
    results = search_sources(Toy(), source.masked_fill(~keep, 77), keep, config=config)
    wider = torch.nn.functional.pad(source, (0, 5)), torch.nn.functional.pad(keep, (0, 5))
    assert expected == results == search_sources(Toy(), *wider, config=config)


def test_state_and_weights_belong_to_the_returned_hypothesis():
    sources = sentences(7, seed=2)
    results = search_sources(
        Toy(), *batch_of(*sources), config=SearchConfig(beam=5, n_best=5, max_length=8), capture=True
    )
    jumps = 0
    for source, beams in zip(sources, results, strict=True):
        for best in beams:
            emitted = best.tokens + [EOS] * best.finished
            assert len(best.weights["decoder.0"]) == len(best.weights["cross.0"]) == len(emitted)
            for place, read in enumerate(best.weights["decoder.0"]):
                assert read.dtype == torch.float32
                assert read.tolist() == [[BOS, *emitted[:place]]]
            for weights in best.weights["cross.0"]:
                assert weights[0, : len(source)].tolist() == source
            jumps += best.tokens != beams[0].tokens[: len(best.tokens)]
    assert jumps > 7  # otherwise no beam was ever reordered


def test_capture_changes_no_result_and_is_off_by_default():
    arguments = batch_of(*sentences(5))
    plain = search_sources(Toy(), *arguments)
    captured = search_sources(Toy(), *arguments, capture=True)
    assert [[h._replace(weights={}) for h in beams] for beams in captured] == plain


def test_the_length_limit_cuts_off_and_says_so():
    source, keep = batch_of([4], [5, 6, 7])
    for config, limits in (
        (SearchConfig(beam=2, n_best=2, max_length=6), [6, 6]),
        (SearchConfig(beam=2), [12, 16]),
    ):
        results = search_sources(Toy(bias=-60.0), source, keep, config=config)
        assert [{len(h.tokens) for h in beams} for beams in results] == [{limit} for limit in limits]
        assert not any(h.finished for beams in results for h in beams)
        assert [len(beams) for beams in results] == [config.n_best] * 2


def test_rows_of_finished_sentences_are_dropped():
    model, sources = Toy(), sentences(10, seed=3)
    results = search_sources(model, *batch_of(*sources), config=SearchConfig(beam=2, n_best=2))
    assert model.rows[0] == 10
    assert model.rows[1:] == sorted(model.rows[1:], reverse=True)
    assert 0 < model.rows[-1] < model.rows[1] == 20
    assert all(results)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.3])
def test_stopping_early_changes_no_result(alpha, monkeypatch):
    sources = sentences(40, seed=4)
    config = SearchConfig(beam=8, n_best=2, length_penalty=alpha, max_length=10)
    early, late = Toy(bias=-1.5), Toy(bias=-1.5)
    results = search_sources(early, *batch_of(*sources), config=config)
    monkeypatch.setattr(
        "qkv.decode.hypotheses.bound_scores", lambda totals, penalties: torch.full_like(totals, math.inf)
    )
    assert search_sources(late, *batch_of(*sources), config=config) == results
    assert sum(early.rows) < sum(late.rows)


class Written(Toy):
    """Probabilities from a table: what follows 4 and what follows 5, whatever came before."""

    def __init__(self, first, after4, after5):
        super().__init__()
        table = torch.zeros(VOCABULARY, VOCABULARY)
        for row, probabilities in ((BOS, first), (4, after4), (5, after5)):
            table[row, [EOS, 4, 5]] = torch.tensor(probabilities)
        self.table = table.log()
        self.table[6] = self.table[EOS] = self.table[PAD] = self.table[BOS]

    def step(self, tokens, state, *, capture=False):
        return Step(self.table[tokens], state, {})


def test_greedy_search_ends_where_the_end_is_the_best_symbol():
    model = Written([0.51, 0.49, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    for beam, expected in ((1, []), (2, [4])):
        config = SearchConfig(beam=beam, length_penalty=1.0, max_length=5)
        assert search_sources(model, *batch_of([9]), config=config)[0][0].tokens == expected


def test_a_finished_hypothesis_gives_its_place_in_the_beam_to_the_next_one():
    model = Written([0.5, 0.3, 0.2], [0.1, 0.45, 0.45], [0.9, 0.05, 0.05])
    config = SearchConfig(beam=2, n_best=2, length_penalty=0.0, max_length=5)
    results = search_sources(model, *batch_of([9]), config=config)[0]
    assert [h.tokens for h in results] == [[], [5]]
    assert_close([h.score for h in results], [math.log(0.5), math.log(0.2 * 0.9)])


class Flat(Toy):
    """Every symbol is as likely as every other one."""

    size = VOCABULARY

    def step(self, tokens, state, *, capture=False):
        return Step(torch.zeros(len(tokens), self.size), state, {})


def test_equals_are_taken_in_the_order_of_beam_and_token():
    config = SearchConfig(beam=2, n_best=2, length_penalty=0.0, max_length=3)
    assert [h.tokens for h in search_sources(Flat(), *batch_of([9]), config=config)[0]] == [[], [4]]
    wide = Flat()
    wide.size = 5000  # far more equals than candidates
    longer = SearchConfig(beam=3, n_best=3, max_length=2, length_penalty=5.0)
    assert [h.tokens for h in search_sources(wide, *batch_of([9]), config=longer)[0]] == [[4], [], [4, 4]]
    broad = SearchConfig(beam=40, n_best=40, max_length=1)
    assert [h.tokens for h in search_sources(wide, *batch_of([9]), config=broad)[0]] == [
        [],
        *([t] for t in range(4, 43)),
    ]


class Reserved(Toy):
    """Likes nothing better than the reserved symbols."""

    def step(self, tokens, state, *, capture=False):
        result = super().step(tokens, state, capture=capture)
        result.logits[:, [PAD, BOS, UNK]] += 30.0
        return result


def test_reserved_symbols_are_never_emitted():
    arguments = batch_of(*sentences(4))
    config = SearchConfig(beam=3, n_best=3, max_length=5)
    assert {
        t for beams in search_sources(Reserved(), *arguments, config=config) for h in beams for t in h.tokens
    } <= {4, 5, 6}
    allowed = SearchConfig(beam=1, max_length=5, forbid_unknown=False)
    assert {t for [h] in search_sources(Reserved(), *arguments, config=allowed) for t in h.tokens} == {UNK}


def test_symbols_can_be_renamed():
    [[best]] = search_sources(
        Flat(), *batch_of([9]), config=SearchConfig(beam=1, max_length=4), bos=3, eos=6, pad=2
    )
    assert best.tokens == [0, 0, 0, 0]


class Broken(Toy):
    def step(self, tokens, state, *, capture=False):
        result = super().step(tokens, state, capture=capture)
        if len(self.rows) == 2:
            result.logits[0, 5] = math.nan
        return result


def test_scores_that_are_not_numbers_are_reported():
    with pytest.raises(
        BadRun, match=r"scores of symbol 2 are not numbers in 1 of 6 hypotheses.*earlier checkpoint"
    ):
        search_sources(Broken(bias=-60.0), *batch_of([4], [5]), config=SearchConfig(beam=3))


@pytest.mark.parametrize(
    "model",
    [
        Transformer(TransformerConfig(width=8, heads=2, feedforward=8), VOCABULARY, VOCABULARY),
        RNNTranslator(RNNConfig(embedding=4, hidden=4), VOCABULARY, VOCABULARY),
    ],
)
def test_translators_can_be_searched_and_show_their_encoders_attention(model):
    model.eval()
    assert isinstance(model, Stepper)
    assert isinstance(model, AttentiveEncoder)
    assert not isinstance(Toy(), AttentiveEncoder)
    results = search_sources(model, *batch_of([4, 5], [6]), config=SearchConfig(max_length=3))
    assert all(len(best.log_probs) <= 3 for [best] in results)


class Unasked(Toy):
    def start(self, source, keep, *, capture=False):
        raise AssertionError("nothing to encode")


def test_an_empty_batch_gives_an_empty_list_and_asks_no_model():
    assert (
        search_sources(Unasked(), torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, dtype=torch.bool))
        == []
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length_penalty": -0.1}, "length_penalty"),
        ({"length_penalty": math.inf}, "length_penalty"),
        ({"beam": 0}, "beam"),
        ({"max_length": 0}, "max_length"),
        ({"beam": 3, "n_best": 4}, "n_best=4 needs a beam at least as wide, but beam=3"),
        ({"beams": 3}, "beams"),
    ],
)
def test_impossible_settings_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        SearchConfig(**options)
