"""Where sentences end: a plain rule that needs no model of the language."""

import re

CLOSING = "\"'”’»)\\]"  # quotes and brackets that belong to the sentence before them
# A lookbehind lets a match start at the first mark of a run only, so that long runs take linear time.
BOUNDARY = re.compile(
    rf"(?<![.!?…])(?P<marks>[.!?…]++[{CLOSING}]*+)\s+"
    r"|(?P<wide>[。！？]++[」』”’]*+)\s*"
    r"|[\n\r]+|<br\s*/?>"
)


def split_sentences(text: str) -> list[str]:
    r"""Split a text into sentences.

    A sentence ends
    - behind `.`, `!`, `?` or `…`, with the closing quotes and brackets that follow, before white space;
    - behind the full-width marks of Chinese and Japanese, with closing quotes;
    - at a line end or an HTML line break, which is left out.

    So "Mr. Smith" is split, as in many corpora.  White space around sentences is left out, and so are empty
    sentences.

    Args:
        text: any text.

    Returns:
        The sentences in their order; none for a text of white space.

    Example:
        >>> split_sentences('He said: "Go!" I went.<br />Then 3.5 km... home')
        ['He said: "Go!"', 'I went.', 'Then 3.5 km...', 'home']
    """
    sentences, start = [], 0
    for match in BOUNDARY.finditer(text):
        marks = match["marks"] or match["wide"] or ""
        sentences.append(text[start : match.start() + len(marks)].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]
