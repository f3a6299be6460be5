"""From question sets in SQuAD's form and the contrast questions to plain records.

`data/README.md` names the files. A document and all its questions are in training or in dev, never
in both; the contrast questions are split by subject into train, dev and test.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from langchain_text_splitters import RecursiveCharacterTextSplitter

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


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, what is asked of it, and its document.

    `questions` holds (question, kind, ((start, end), ...)), with no span where the paragraph only
    seems to answer; offsets are into `text`, the end excluded.
    """

    text: str
    questions: tuple[tuple[str, str, tuple[tuple[int, int], ...]], ...]
    document: str
    dev: bool

    def sentences(self) -> list[tuple[int, int]]:
        """Return where each sentence starts and ends."""
        starts = [0] + [match.end() for match in SENTENCE_END.finditer(self.text)]
        return list(zip(starts, [*starts[1:], len(self.text)], strict=True))


@dataclass(frozen=True)
class ChunkQuestion:
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
    own: dict[str, list[dict]] = {}
    for line in OWN_QUESTIONS.read_text(encoding="utf-8").rstrip().split("\n"):
        fields = json.loads(line)
        for digest in {where for where, _, _ in fields["answers"]}:
            own.setdefault(digest, []).append(fields)
    misses: dict[str, list[str]] = {}
    for article in json.loads((folder / NEAR_MISSES).read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            misses[paragraph["context"]] = [
                q["question"].strip() for q in paragraph["qas"] if q["is_impossible"]
            ]
    found = []
    for name, file in FILES.items():
        for article in json.loads((folder / file).read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                text = paragraph["context"]
                # A file of forum posts is one article of texts without anything in common.
                document = name + _digest(text if name == "reddit" else article["title"])
                questions = []
                for q in paragraph["qas"]:
                    start = q["answers"][0]["answer_start"]
                    span = (start, start + len(q["answers"][0]["text"]))
                    questions.append((q["question"].strip(), "fact, SQuAD", (span,)))
                digest = _digest(text)[:10]
                for q in own.get(digest, []):
                    spans = tuple((a, b) for where, a, b in q["answers"] if where == digest)
                    questions.append((q["question"], q["kind"], spans))
                questions += [(q, "near miss", ()) for q in misses.get(text, [])]
                dev = int(document[len(name) :], 16) % DEV_SHARE == 0
                found.append(Paragraph(text, tuple(questions), document, dev))
    return found + _own_documents()


def _own_documents() -> list[Paragraph]:
    found = []
    for line in OWN_DOCUMENTS.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        for text in fields["text"].split("\n\n"):
            questions = []
            for q in fields["questions"]:
                spans = tuple(
                    (text.index(x), text.index(x) + len(x)) for x in q["quotes"] if x in text
                )
                if spans:
                    questions.append((q["question"], q["kind"], spans))
            found.append(Paragraph(text, tuple(questions), OWN + fields["title"], dev=False))
    return found


def chunk(paragraphs: list[Paragraph]) -> tuple[list[ChunkQuestion], dict[bool, list[str]]]:
    """Chunk the documents as the tutorial chunks (500/100) and find who answers what.

    Returns:
        The questions that some chunk answers, and the chunks of training (False) and dev (True).
    """
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=500, chunk_overlap=100, add_start_index=True
    )
    documents: dict[str, list[Paragraph]] = {}
    for paragraph in paragraphs:
        documents.setdefault(paragraph.document, []).append(paragraph)
    questions, chunks = [], {True: [], False: []}
    for parts in documents.values():
        pieces = splitter.create_documents(["\n\n".join(part.text for part in parts)])
        chunks[parts[0].dev] += [piece.page_content for piece in pieces]
        offset, asked = 0, {}
        for part in parts:
            sentences = [(offset + a, offset + b) for a, b in part.sentences()]
            for question, kind, spans in part.questions:
                moved = [(offset + a, offset + b) for a, b in spans]
                cut = [s for s in sentences if any(s[0] < b and a < s[1] for a, b in moved)]
                entry = asked.setdefault((question, kind), ([], []))
                entry[0].extend(moved)
                entry[1].extend(cut)
            offset += len(part.text) + 2
        for (question, kind), (spans, cut) in asked.items():
            held = [p for p in pieces if any(_holds(p, a, b) for a, b in spans)]
            if held:
                without = tuple(_without(piece, cut) for piece in held)
                texts = tuple(piece.page_content for piece in held)
                questions.append(ChunkQuestion(question, kind, texts, without, parts[0].dev))
    return questions, {dev: sorted(set(texts)) for dev, texts in chunks.items()}


def read_contrast(split: str, path: Path = CONTRAST) -> list[dict]:
    """Read the contrast questions of `split`: train, dev or test."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["split"] == split]


def both_ways(records: list[dict]) -> list[tuple[str, str, str, str, str]]:
    """Return the pairs of passages that each answer a question of their own.

    Returns:
        (question, its passage, other question, its passage, kind) for every decoy that answers.
    """
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


def _holds(piece, left: int, right: int) -> bool:
    start = piece.metadata["start_index"]
    return 2 * (min(right, start + len(piece.page_content)) - max(left, start)) >= right - left


def _without(piece, sentences: list[tuple[int, int]]) -> str:
    start, text = piece.metadata["start_index"], piece.page_content
    for left, right in sorted(sentences, reverse=True):
        left, right = max(0, left - start), max(0, right - start)
        text = text[:left] + text[right:]
    return text.strip()
