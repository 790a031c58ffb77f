"""Word alignments as sets of links: text in Pharaoh format, symmetrisation, and the alignment error rate."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qkv.errors import BadData

Link = tuple[int, int]
Links = frozenset[Link]

_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))


class Gold(NamedTuple):
    """The gold alignment of a pair.

    Args:
        sure: links that an alignment must have.
        possible: links that it may have, the sure ones included.
    """

    sure: Links
    possible: Links


class AlignmentScore(NamedTuple):
    """How well alignments agree with gold ones, over all pairs.

    Args:
        error_rate: 1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|).  Och and Ney 2003, section 6.
        precision: |A ∩ P| / |A|.
        recall: |A ∩ S| / |S|.
    """

    error_rate: float
    precision: float
    recall: float


def format_links(links: Links) -> str:
    """The links of a pair in Pharaoh format: "0-0 1-2", source word and target word from 0."""
    return " ".join(f"{i}-{j}" for i, j in sorted(links))


def read_gold(line: str, label: str) -> Gold:
    """Read a line of gold links: "0-0" for sure ones, "1?2" for possible ones.

    Args:
        line: the line.
        label: names the line in messages.

    Raises:
        BadData: it has another form.
    """
    sure, possible = set(), set()
    for text in line.split():
        i, mark, j = text.partition("-") if "-" in text else text.partition("?")
        if not (mark and i.isdecimal() and j.isdecimal()) or len(text) > 20:
            raise BadData(
                f"{label}: {text[:40]!r} is not a link: write source word, - or ?, target word, as 0-0"
            )
        (sure if mark == "-" else possible).add((int(i), int(j)))
    return Gold(frozenset(sure), frozenset(sure | possible))


def score_links(alignments: Sequence[Links], gold: Sequence[Gold]) -> AlignmentScore:
    """Score alignments against gold ones.

    Args:
        alignments: one for every pair.
        gold: one for every pair.
    """
    pairs = list(zip(alignments, gold, strict=True))
    proposed = sum(len(links) for links in alignments)
    sure = sum(len(each.sure) for each in gold)
    sure_hits = sum(len(links & each.sure) for links, each in pairs)
    possible_hits = sum(len(links & each.possible) for links, each in pairs)
    total = proposed + sure
    return AlignmentScore(
        1 - (sure_hits + possible_hits) / total if total else 0.0,
        possible_hits / proposed if proposed else 1.0,
        sure_hits / sure if sure else 1.0,
    )


def symmetrise(forward: Links, backward: Links) -> Links:
    """Combine the alignments of both directions by grow-diag-final-and.  Koehn et al. 2003, section 4.4.

    The common links; then, repeatedly, links of one direction beside a link, of which a word has no link yet;
    at last, links of one direction of which neither word has a link.

    Args:
        forward: links (source word, target word) of the translator from source to target.
        backward: links (source word, target word) of the other one.
    """
    union, links = forward | backward, set(forward & backward)
    is_growing = True
    while is_growing:
        is_growing = False
        for link in sorted(links):
            for neighbour in _list_neighbours(link):
                if neighbour in union and neighbour not in links and _count_free(neighbour, links) > 0:
                    links.add(neighbour)
                    is_growing = True
    for direction in (forward, backward):
        for link in sorted(direction):
            if _count_free(link, links) == 2:
                links.add(link)
    return frozenset(links)


def _list_neighbours(link: Link) -> Iterator[Link]:
    return ((link[0] + down, link[1] + right) for down, right in _NEIGHBOURS)


def _count_free(link: Link, links: Iterable[Link]) -> int:
    """How many of the two words of a link have none in `links`."""
    is_source_taken = any(i == link[0] for i, _ in links)
    is_target_taken = any(j == link[1] for _, j in links)
    return 2 - is_source_taken - is_target_taken
