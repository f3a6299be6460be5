"""From an answer and the passages that it was given to what it cites, and what is wrong with that.

A citation is a quotation in double quotes and the number of its passage: `"Dogs travel free" [2]`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_core.documents import Document

NOTHING_FOUND = "The documents do not answer that."
# From the first quotation mark to the one before a number: others in between belong to the quote.
CITATION = re.compile(r'"(.*?)"(?: \([^()"]*\))?((?:[ ,.(]*\[\d+\]\)?)+)[.!?;:)]*', re.DOTALL)
MANY = re.compile(r"\[(\d+(?:, ?\d+)+)\]")  # [1, 2]
# Quotation marks and dashes of print as those of a keyboard; a soft hyphen is none.
MARKS = dict.fromkeys(map(ord, "\u201c\u201d\u201e\u00ab\u00bb"), '"')
MARKS |= dict.fromkeys(map(ord, "\u2018\u2019\u201a"), "'") | {0xAD: None, 0xA0: " "}
MARKS |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014"), "-")
FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
SHORTEST = 3  # words: any text holds a shorter one by chance


@dataclass(frozen=True)
class Citation:
    """What an answer quotes, and where it stands: file, page (from 1; None where there is none)."""

    quote: str
    number: int
    source: str
    page: int | None

    def __str__(self) -> str:
        return f"[{self.number}] {self.source}" + (f", page {self.page}" if self.page else "")


def check_citations(answer: str, docs: Sequence[Document]) -> tuple[list[Citation], list[str]]:
    """Return what `answer` cites of `docs`, numbered from 1, and every fault that was found.

    Faults: nothing is cited; a number without a passage; a number without a quotation, and the
    reverse; a quotation that is not in the passage (letter case, white space and the kind of quotes
    and dashes do not count) or has fewer than three words; words after the last citation; a figure
    in the answer's own words that no passage cited beside it has, in its text or among its facts.
    `NOTHING_FOUND` needs no citation. Not checked: what the own words say besides, and whether a
    quotation leaves out the word that turns its sense.
    """
    text = MANY.sub(lambda many: f"[{many[1].replace(',', '][').replace(' ', '')}]", answer)
    text = text.translate(MARKS).replace("*", "").strip()
    if text.strip('". ') == NOTHING_FOUND.strip("."):
        return [], []
    citations, faults, end = [], [], 0
    for found in CITATION.finditer(text):
        said, quote, end = text[end : found.start()], found[1], found.end()
        numbers = [int(number) for number in re.findall(r"\d+", found[2])]
        cited = {number: docs[number - 1] for number in numbers if 0 < number <= len(docs)}
        for number in numbers:
            if number not in cited:
                faults.append(f"cites passage {number}, but has passages 1 to {len(docs)}")
        if len(quote.split()) < SHORTEST:
            faults.append(f'quotes "{quote}": expected {SHORTEST} words or more')
        for number, doc in cited.items():
            if not says(doc.page_content, quote):
                faults.append(f'passage {number} does not say "{quote}"')
                continue
            place = doc.metadata.get("source", ""), doc.metadata.get("page")
            citations.append(Citation(quote, number, *place))
        faults += _own_words(said, cited.values())
    rest = text[end:].strip()
    if not end:
        faults.append("cites nothing: expected quotations, each with the number of its passage")
    elif rest:
        faults.append(f"ends without a citation: {rest[:80]}")
    faults += _own_words(rest, [])
    return citations, faults


def _own_words(said: str, cited: Iterable[Document]) -> list[str]:
    """Faults of what stands between two citations."""
    facts = [
        [doc.page_content, *map(doc.metadata.get, ("source", "title", "page"))] for doc in cited
    ]
    for _, source, *_ in facts:
        said = said.replace(source or "", "")  # whose name is no claim
    known = {figure for fact in facts for figure in FIGURE.findall(f"{fact}")}
    faults = [f"cites {number} without a quotation" for number in re.findall(r"\[\d+\]", said)]
    quotes = re.findall(r"""(?m)"[^"]*"|(?<!\w)'\w[^']* [^']* [^']*'(?!\w)|^>.*""", said)
    faults += [f"quotes {quote} without a number" for quote in quotes]
    figures = FIGURE.findall(re.sub(r"(?m)\[\d+\]|^ *\d+\. ", "", said))  # a list has numbers
    return faults + [f"no passage cited beside it has {f}" for f in figures if f not in known]


def says(passage: str, quote: str) -> bool:
    """Whether the words stand in the passage, whole: not 5 of 15, 1 of 1.50, 14 of E-14 or -14."""
    words = re.escape(_plain(quote).rstrip(".,;:!?"))
    before = r"(?<!\w)(?<!\w-)(?<!\d[.,:])" + r"(?<!-)" * words[:1].isdigit()
    return bool(re.search(rf"{before}{words}(?!-?\w)(?![.,:]\d)", _plain(passage)))


def _plain(text: str) -> str:
    return " ".join(text.translate(MARKS).replace('"', "'").replace("*", "").split()).casefold()
