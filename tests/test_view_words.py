"""Labels of tokens, and the words that pieces make up."""

import pytest

from qkv.view.words import Side, format_token, group_words, label_tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["▁a", "b", "▁c"], [[0, 1], [2]]),
        (["a", "b", "▁c"], [[0, 1], [2]]),
        (["<s>", "▁a", "</s>"], [[0], [1], [2]]),
        (["<unk>", "b", "</s>", "▁"], [[0], [1], [2], [3]]),
        (["a", "b", "</s>"], [[0], [1], [2]]),
        (["▁20", "28", "年", "7", "月", "4", "日"], [[0, 1], [2], [3], [4], [5], [6]]),
        (["▁我", "喜欢", "Py", "thon", "。"], [[0], [1], [2, 3], [4]]),
        (
            ["▁コ", "ンピ", "ュ", "ータ", "を", "買", "っ", "た", "・", "ア"],
            [[0, 1, 2, 3], [4], [5, 6], [7], [8], [9]],
        ),
        (["▁เธอ", "ไป", "โ", "รง", "เ", "ร", "ียน", "น้", "ำ"], [[0], [1], [2, 3], [4, 5, 6], [7, 8]]),
        (["▁한", "국어", "▁책"], [[0, 1], [2]]),
        (["▁", "日", "本"], [[0, 1], [2]]),
        (["▁និង", "\u00a0", "ម", "េ", "\u200bក", "ប្", "ត"], [[0], [1, 2, 3], [4], [5, 6]]),
        (["▁20", "16", "\u2009–", "\u2009Feb", "\u202f%"], [[0, 1], [2], [3], [4]]),
        ([], []),
    ],
)
def test_words_begin_at_marks_around_special_tokens_and_in_unspaced_scripts(tokens, expected):
    assert group_words(tokens) == expected


def test_word_starts_are_marked_only_where_words_have_pieces():
    assert label_tokens(["▁the", "▁house"], "source") == Side(("the", "house"), "source")
    assert label_tokens(["▁the", "▁hou", "se", "▁"]) == Side(("␣the", "␣hou", "se", "␣"), "", (0, 1, 3))
    assert label_tokens(["the", "house"]).starts == ()


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("▁Haus", "Haus"),
        ("ung", "ung"),
        ("</s>", "⟨end⟩"),
        ("<s>", "⟨start⟩"),
        ("▁", "␣"),
        ("", "␣"),
        ("a\tb\n", "a␣b␣"),
        ("\u2009–", "–"),
        ("\u00a0", "␣"),
        ("▁New▁York", "New York"),
        ("x" * 40, "x" * 27 + "…"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_labels_are_what_people_read(token, expected):
    assert format_token(token) == expected
