"""`qkv align`: word alignments in Pharaoh format, and their error rate."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from qkv.cli.output_stream import open_output
from qkv.data import ParallelData, read_pairs
from qkv.data.generated.phrases import generate_gold_pairs
from qkv.data.lines import read_lines
from qkv.errors import BadData
from qkv.task.run_directory import load_for_command
from qkv.task.translate.aligner import AlignOptions, align_pairs
from qkv.task.translate.links import Gold, Links, format_links, read_gold, score_links, symmetrise
from qkv.task.translate.translator import Translator
from qkv.wording import plural

Pair = tuple[str, str]


class AlignFiles(NamedTuple):
    """The files of `qkv align`.

    Args:
        source: source lines; None takes the generated dates among the test phrases of the recipe.
        target: their translations.
        gold: gold alignments of the lines.
        reverse: a run from target to source.
        output: where the alignments go; None is stdout.
    """

    source: Path | None
    target: Path | None
    gold: Path | None
    reverse: Path | None
    output: Path | None


def align_files(run: Path, files: AlignFiles, options: AlignOptions, tune: int, device: str) -> None:
    """Align all pairs, write the links, and print the error rate if there are gold links."""
    if files.reverse is not None and files.reverse.resolve() == run.resolve():
        raise BadData(f"--reverse takes a run from target to source, got {run} itself: name another one")
    translator = load_for_command("translate", run, device)
    pairs, gold = _read_pairs(translator, files)
    if tune and (gold is None or tune >= len(pairs)):
        raise BadData(
            f"--tune {tune} chooses the layer on the first pairs and scores the others: it needs --gold and "
            f"more than {tune} pairs, got {len(pairs)}"
        )
    known_gold = gold[:tune] if gold is not None else []
    reading, links = align_pairs(translator, pairs, options, known_gold)
    print(f"read from {reading}", file=sys.stderr)
    if files.reverse is not None:
        links = _symmetrise(links, pairs, load_for_command("translate", files.reverse, device), options)
    with open_output(files.output) as out:
        out.writelines(f"{format_links(each)}\n" for each in links)
    if gold is not None:
        score = score_links(links[tune:], gold[tune:])
        print(
            f"alignment error rate {100 * score.error_rate:.1f} % (precision {100 * score.precision:.1f} %, "
            f"recall {100 * score.recall:.1f} %, {len(links) - tune} pairs)",
            file=sys.stderr,
        )


def _read_pairs(translator: Translator, files: AlignFiles) -> tuple[list[Pair], list[Gold] | None]:
    if (files.source is None) != (files.target is None):
        raise BadData("--source and --target belong together: pass both, or neither for generated dates")
    if files.source is None or files.target is None:
        return _read_generated(translator, files.gold)
    pairs = read_pairs(ParallelData(source=str(files.source), target=str(files.target)))
    if files.gold is None:
        return pairs, None
    lines = list(read_lines(files.gold))
    if len(lines) != len(pairs):
        raise BadData(
            f"{files.gold} has {plural(len(lines), 'line')} for "
            f"{plural(len(pairs), 'pair')}: write one for each pair"
        )
    return pairs, [read_gold(line, f"{files.gold}, line {n}") for n, line in enumerate(lines, start=1)]


def _read_generated(translator: Translator, gold_file: Path | None) -> tuple[list[Pair], list[Gold]]:
    """The dates among the test phrases of the run's recipe, with exact gold links."""
    phrases = translator.recipe.data.phrases
    if phrases is None or gold_file is not None:
        raise BadData(
            "without --source and --target, generated dates are aligned, which have gold links of their own: "
            "the run must be trained on generated phrases, and --gold left out"
        )
    test = generate_gold_pairs(phrases)[phrases.dev : phrases.dev + phrases.test]
    dates = [pair for pair in test if pair is not None]
    if not dates:
        raise BadData(
            "no test phrase of the recipe is a date: raise data.phrases.test, or pass --source and --target"
        )
    return [pair[:2] for pair in dates], [Gold(pair.links, pair.links) for pair in dates]


def _symmetrise(
    links: Sequence[Links], pairs: Sequence[Pair], reverse: Translator, options: AlignOptions
) -> list[Links]:
    swapped = align_pairs(reverse, [(target, source) for source, target in pairs], options).links
    backward = [frozenset((i, j) for j, i in each) for each in swapped]
    return [symmetrise(*both) for both in zip(links, backward, strict=True)]
