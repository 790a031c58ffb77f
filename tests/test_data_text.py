"""Reading parallel text: what is read, and what is said when it cannot be."""

import gzip
import re

import pytest
from pydantic import ValidationError

from qkv.data import ParallelData, expand_path, find_usable_pairs, read_lines, read_pairs
from qkv.errors import BadData


@pytest.fixture
def write(tmp_path):
    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return _write


def aligned(write, source, target):
    return ParallelData(source=write("a.en", source), target=write("a.fr", target))


def test_two_aligned_files(write):
    assert read_pairs(aligned(write, "one\ntwo\n", "un\ndeux")) == [("one", "un"), ("two", "deux")]


def test_only_a_line_feed_ends_a_line(write):
    odd = "a\u2028b\u0085c\x0bd\x0c\x1ce\rf"
    path = write("odd", f"{odd}\r\nnext\r\r\n\nlast")
    assert list(read_lines(path)) == [odd, "next\r", "", "last"]


def test_byte_order_mark_is_dropped_at_the_start_only(write):
    assert list(read_lines(write("bom", "\ufeffone\n\ufefftwo\n"))) == ["one", "\ufefftwo"]


def test_gzip_is_recognised_by_content_not_by_name(write):
    packed, plain = write("packed.txt", gzip.compress(b"one\n")), write("plain.gz", "one\n")
    assert list(read_lines(packed)) == list(read_lines(plain)) == ["one"]


@pytest.mark.parametrize("name", ["rows.tsv", "rows.tsv.gz", "rows"])
def test_tab_separated_rows_ignore_further_columns(write, name):
    text = b"one\tun\ttatoeba #1\n{\tdeux\n"
    content = gzip.compress(text) if name.endswith("gz") else text
    assert read_pairs(ParallelData(file=write(name, content))) == [("one", "un"), ("{", "deux")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.JSONL", "rows.ndjson", "rows"])
def test_json_rows(write, name):
    path = write(name, '{"source": "one", "target": "un"}\n {"source": "t\\two", "target": ""}\n')
    assert read_pairs(ParallelData(file=path)) == [("one", "un"), ("t\two", "")]


def test_format_overrides_the_name(write):
    path = write("rows.jsonl", "one\tun\n")
    assert read_pairs(ParallelData(file=path, format="tsv")) == [("one", "un")]


def test_dotted_key_reaches_into_a_nested_object_but_a_literal_key_wins(write):
    path = write("rows.jsonl", '{"translation": {"en": "one"}, "a.b": "un", "a": {"b": "no"}}\n')
    data = ParallelData(file=path, source_key="translation.en", target_key="a.b")
    assert read_pairs(data) == [("one", "un")]


def test_variables_and_home_in_paths(write, tmp_path, monkeypatch):
    write("x.txt", "one\n")
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("$SOME_DATA/x.txt", "${SOME_DATA}/x.txt", "~/x.txt"):
        assert expand_path(path) == tmp_path / "x.txt"
        assert list(read_lines(path)) == ["one"]


@pytest.mark.parametrize("path", ["${SOME_DATA}/x", "$SOME_DATA/x"])
@pytest.mark.parametrize("value", [None, ""])
def test_unset_variable_is_named_with_the_cure(monkeypatch, path, value):
    monkeypatch.delenv("SOME_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_DATA", value)
    with pytest.raises(BadData, match=r"variable SOME_DATA is not set; .*export SOME_DATA="):
        list(read_lines(path))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"source": "a"},
        {"target": "a"},
        {"source": "a", "target": "b", "file": "c"},
        {"source": "a", "file": "c"},
    ],
)
def test_data_is_named_in_exactly_one_way(given):
    with pytest.raises(ValidationError, match="either both 'source' and 'target', or 'file' alone"):
        ParallelData(**given)


def test_missing_file(tmp_path):
    with pytest.raises(BadData, match=r"nowhere\.en: no such file"):
        list(read_lines(tmp_path / "nowhere.en"))


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(BadData, match=r"cannot be read \(Is a directory\)"):
        list(read_lines(tmp_path))


def test_line_counts_that_differ_are_both_told(write):
    with pytest.raises(BadData, match=r"a\.en has 3 lines but .*a\.fr has 2: line i of one"):
        read_pairs(aligned(write, "1\n2\n3\n", "1\n2\n"))


@pytest.mark.parametrize(("source", "target", "name"), [("", "a", "a.en"), ("a", "", "a.fr")])
def test_empty_file(write, source, target, name):
    with pytest.raises(BadData, match=rf"{re.escape(name)} is empty"):
        read_pairs(aligned(write, source, target))


@pytest.mark.parametrize("name", ["e.tsv", "e.jsonl"])
def test_empty_file_of_rows(write, name):
    with pytest.raises(BadData, match=rf"{re.escape(name)} is empty"):
        read_pairs(ParallelData(file=write(name, "")))


def test_bytes_that_are_not_utf8_give_the_line(write):
    path = write("latin", b"one\ndeux\ncaf\xe9\n")
    with pytest.raises(BadData, match=r"latin, line 3: 0xe9 at position 3 is not UTF-8"):
        list(read_lines(path))


def test_truncated_gzip(write):
    packed = gzip.compress(bytes(range(256)) * 50)
    with pytest.raises(BadData, match=r"cut\.gz: the gzip file is truncated or damaged"):
        list(read_lines(write("cut.gz", packed[: len(packed) // 2])))


def test_damaged_gzip(write):
    packed = bytearray(gzip.compress(b"one two three\n" * 50))
    packed[-6] ^= 0xFF
    with pytest.raises(BadData, match=r"bad\.gz: the gzip file is truncated or damaged .*CRC"):
        list(read_lines(write("bad.gz", bytes(packed))))


@pytest.mark.parametrize(("row", "shown"), [("deux", "'deux'"), ("", "''"), ("x" * 99, "x" * 56 + r"\.\.\.")])
def test_row_without_a_tab(write, row, shown):
    with pytest.raises(BadData, match=rf"rows\.tsv, line 2: no tab in '?{shown}; a row is source<tab>target"):
        read_pairs(ParallelData(file=write("rows.tsv", f"one\tun\n{row}\n")))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"source": "a", ', r"line 2: .* is not JSON \("),
        ("", r"line 2: '' is not JSON \("),
        ("[" * 100_000, r"line 2: .* is not JSON \("),
        ('["a", "b"]', r"line 2: .* is not a JSON object; a row looks like"),
        (
            '{"source": "a", "cible": "b"}',
            r"line 2: no key 'target' \(keys here: source, cible\); set source_key",
        ),
        ('{"source": "a", "target": 3}', r"line 2: 'target' is 3, expected a string without line breaks"),
        (
            '{"source": "a", "target": null}',
            r"line 2: 'target' is None, expected a string without line breaks",
        ),
        (
            r'{"source": "a", "target": "b\nc"}',
            r"line 2: 'target' is 'b\\nc', expected a string without line breaks",
        ),
        (r'{"source": "a", "target": "\ud800"}', r"line 2: 'target' contains half of a surrogate pair"),
    ],
)
def test_bad_json_row(write, row, message):
    path = write("rows.jsonl", '{"source": "one", "target": "un"}\n' + row + "\n")
    with pytest.raises(BadData, match=r"rows\.jsonl, " + message) as caught:
        read_pairs(ParallelData(file=path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "known"), [("t.fr", "en"), ("t.en.x", "none")])
def test_missing_nested_key(write, key, known):
    path = write("rows.jsonl", '{"source": "one", "t": {"en": "one"}}\n')
    with pytest.raises(BadData, match=rf"line 1: no key '{key}' \(keys here: {known}\)"):
        read_pairs(ParallelData(file=path, target_key=key))


def test_cleaning_counts_what_it_drops():
    source = [[5], [], [5] * 3, [5] * 4, [5], [5] * 9]
    target = [[6], [6], [6] * 3, [6], [6] * 4, []]
    keep, dropped = find_usable_pairs(source, target, max_length=3)
    assert keep == [0, 2]
    assert dropped == (6, 2, 2, 3, 2)
    assert str(dropped) == (
        "dropped 4 of 6 pairs: 2 with an empty side, 2 longer than 3 tokens (first: line 2)"
    )


def test_cleaning_tells_only_the_reasons_there_are():
    assert str(find_usable_pairs([[5]], [[6]], 1)[1]) == "dropped 0 of 1 pair"
    assert str(find_usable_pairs([[5]] * 1234, [[6]] * 1233 + [[6, 6]], 1)[1]) == (
        "dropped 1 of 1,234 pairs: 1 longer than 1 tokens (first: line 1234)"
    )


def test_nothing_left_after_cleaning():
    with pytest.raises(BadData, match=r"no pair is left .*dropped 2 of 2 pairs.* or raise max_length"):
        find_usable_pairs([[], [5, 5]], [[6], [6]], max_length=1)
