"""From question sets in SQuAD's form and the contrast questions to plain records.

`data/README.md` names the files. A document and all its questions are in training or in dev, never
in both; the contrast questions are split by subject into train, dev and test.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from langchain_text_splitters import RecursiveCharacterTextSplitter

from helpers.judgements import read_jsonl
from helpers.profiles import DATA

FILES = {
    "squad": "squad_dev_v1.1.json",
    "new_wiki": "squadshifts_new_wiki.json",
    "reddit": "squadshifts_reddit.json",
    "amazon": "squadshifts_amazon_reviews.json",
}
NEAR_MISSES = "squad_v2_dev_part.json"
OWN_QUESTIONS = DATA / "training_questions.jsonl"
OWN_DOCUMENTS = DATA / "training_documents.jsonl"
CONTRAST = DATA / "contrast_questions.jsonl"
TEACHER = DATA / "teacher_scores.npz"
OWN = "own: "  # what the names of our own documents start with
DEV_SHARE = 7  # every seventh document is kept for dev
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
Spans = tuple[tuple[int, int], ...]


class Paragraph(NamedTuple):
    """A paragraph, what is asked of it, and its document.

    `questions` holds (question, kind, ((start, end), ...)), with no span where the paragraph only
    seems to answer; offsets are into `text`, the end excluded.
    """

    text: str
    questions: tuple[tuple[str, str, Spans], ...]
    document: str
    dev: bool

    def sentences(self) -> list[tuple[int, int]]:
        """Return where each sentence starts and ends."""
        ends = [match.end() for match in SENTENCE_END.finditer(self.text)]
        return list(pairwise([0, *ends, len(self.text)]))


class ChunkQuestion(NamedTuple):
    """A question, the chunks that answer it, and the same chunks without the sentences that do."""

    question: str
    kind: str
    positives: tuple[str, ...]
    without: tuple[str, ...]
    dev: bool


def read_paragraphs(folder: Path) -> list[Paragraph]:
    """Read `FILES` and our own documents with all that is asked of them.

    That is: the sets' own questions, ours over the same paragraphs, and SQuAD 2.0's near misses.
    """
    asked: dict[str, list[tuple[str, str, Spans]]] = defaultdict(list)
    for q in read_jsonl(OWN_QUESTIONS):
        for digest in dict.fromkeys(digest for digest, _, _ in q["answers"]):
            spans = tuple((a, b) for where, a, b in q["answers"] if where == digest)
            asked[digest].append((q["question"], q["kind"], spans))
    for _, paragraph in _squad(folder / NEAR_MISSES):
        misses = [q["question"].strip() for q in paragraph["qas"] if q["is_impossible"]]
        asked[_digest(paragraph["context"])[:10]] += [(q, "near miss", ()) for q in misses]
    found = []
    for name, file in FILES.items():
        for title, paragraph in _squad(folder / file):
            text, questions = paragraph["context"], []
            for q in paragraph["qas"]:
                start, answer = q["answers"][0]["answer_start"], q["answers"][0]["text"]
                spans = ((start, start + len(answer)),)
                questions.append((q["question"].strip(), "fact, SQuAD", spans))
            questions += asked[_digest(text)[:10]]
            # A file of forum posts is one article of texts without anything in common.
            document = _digest(text if name == "reddit" else title)
            dev = int(document, 16) % DEV_SHARE == 0
            found.append(Paragraph(text, tuple(questions), name + document, dev))
    for fields in read_jsonl(OWN_DOCUMENTS):
        for text in fields["text"].split("\n\n"):
            questions = []
            for q in fields["questions"]:
                quotes = [quote for quote in q["quotes"] if quote in text]
                spans = tuple((text.index(x), text.index(x) + len(x)) for x in quotes)
                questions += [(q["question"], q["kind"], spans)] if spans else []
            found.append(Paragraph(text, tuple(questions), OWN + fields["title"], dev=False))
    return found


def _squad(file: Path) -> Iterator[tuple[str, dict]]:
    """Yield the paragraphs of a file in SQuAD's form, each with its article's title."""
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        yield from ((article["title"], paragraph) for paragraph in article["paragraphs"])


def chunk(paragraphs: list[Paragraph]) -> tuple[list[ChunkQuestion], dict[bool, list[str]]]:
    """Chunk the documents as the tutorial chunks (500/100) and find who answers what.

    Returns:
        The questions that some chunk answers, and the chunks of training (False) and dev (True).
    """
    size = {"chunk_size": 500, "chunk_overlap": 100, "add_start_index": True}
    splitter = RecursiveCharacterTextSplitter(**size)
    documents: dict[str, list[Paragraph]] = defaultdict(list)
    for paragraph in paragraphs:
        documents[paragraph.document].append(paragraph)
    questions, chunks = [], {True: set(), False: set()}
    for parts in documents.values():
        pieces = splitter.create_documents(["\n\n".join(part.text for part in parts)])
        pieces = [(piece.metadata["start_index"], piece.page_content) for piece in pieces]
        chunks[parts[0].dev] |= {text for _, text in pieces}
        offset, asked = 0, defaultdict(lambda: ([], []))
        for part in parts:
            sentences = part.sentences()
            for question, kind, spans in part.questions:
                cut = [s for s in sentences if any(s[0] < b and a < s[1] for a, b in spans)]
                for places, moved in zip(asked[question, kind], (spans, cut), strict=True):
                    places += [(offset + a, offset + b) for a, b in moved]
            offset += len(part.text) + 2
        for (question, kind), (spans, cut) in asked.items():
            if held := [piece for piece in pieces if any(_holds(*piece, *span) for span in spans)]:
                without = tuple(_without(*piece, cut) for piece in held)
                texts = tuple(text for _, text in held)
                questions.append(ChunkQuestion(question, kind, texts, without, parts[0].dev))
    return questions, {dev: sorted(texts) for dev, texts in chunks.items()}


def _holds(start: int, text: str, left: int, right: int) -> bool:
    return 2 * (min(right, start + len(text)) - max(left, start)) >= right - left


def _without(start: int, text: str, sentences: list[tuple[int, int]]) -> str:
    for left, right in sorted(sentences, reverse=True):
        text = text[: max(0, left - start)] + text[max(0, right - start) :]
    return text.strip()


def both_ways(records: list[dict]) -> list[tuple[str, str, str, str, str]]:
    """Return (question, its passage, other question, its passage, kind) for decoys that answer."""
    return [
        (record["question"], record["answer"], decoy["answers"], decoy["text"], decoy["kind"])
        for record in records
        for decoy in record["decoys"]
        if "answers" in decoy
    ]


def fingerprint(text: str) -> int:
    """Return the first 64 bits of a text's SHA-1, by which `TEACHER` names it."""
    return int(_digest(text)[:16], 16)


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
