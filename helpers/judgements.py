"""From questions to judged chunks: a file of questions and the text come in, qrels go out.

Judgements are kept as character spans of the text, so that they hold for any way of chunking it.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from langchain_core.documents import Document
from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import ValidationError, from_json

from helpers.index import read_text


def _said(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("expected words, without NUL characters")
    return text


Text = Annotated[str, AfterValidator(_said)]


class JudgementError(ValueError):
    """Judgements that cannot be used; the message names the file, the line and the fault."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Question:
    """A question and the spans of the text that answer it (grade 2) or help (grade 1).

    `spans` holds (start, end, grade) with offsets into the decoded text, end excluded. It is empty
    for a question that the text does not answer.
    """

    id: Text
    question: Text
    spans: tuple[tuple[NonNegativeInt, NonNegativeInt, Annotated[int, Field(ge=1, le=2)]], ...]
    kind: str = ""
    split: str = ""


def read_jsonl(
    path: str | Path, split: str | None = None, parse: Callable[[str], Any] | None = None
) -> list[Any]:
    """Read a UTF-8 file of JSON objects, one a line; with `split`, those of that split alone.

    Raises:
        JudgementError: A line is no JSON object, or `parse` refuses it.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            if not isinstance(row := from_json(line), dict):
                raise ValueError(f"expected a JSON object, got {line.strip()[:60]}")
            rows.append(parse(line) if parse else row)
        except ValueError as error:
            fault = f"{error}"
            if "hex escape" in fault:
                fault += ": a lone surrogate is no character"
            if isinstance(error, ValidationError):  # the first of its many lines
                first = error.errors(include_url=False)[0]
                where, got = ".".join(map(str, first["loc"])), repr(first["input"])[:60]
                fault = f"{where}: {first['msg'].removeprefix('Value error, ')}, got {got}"
            raise JudgementError(f"{path}, line {number}: {fault}") from error
    return [row for row in rows if split is None or row.get("split") == split]


def load_judgements(path: str | Path, text: str, split: str | None = None) -> list[Question]:
    """Read judged questions, one JSON object a line, and check them against `text`.

    A line is `{"id": ..., "question": ..., "spans": [[start, end, grade], ...]}`, perhaps with a
    `kind` and a `split`. With `split`, questions of another split are left out.

    Raises:
        JudgementError: A line is malformed, an id comes twice, or a span is not in the text.
    """
    seen: set[str] = set()

    def parse(line: str) -> Question:
        question = TypeAdapter(Question).validate_json(line)
        if question.id in seen:
            raise ValueError(f"id {question.id!r} comes twice")
        seen.add(question.id)
        for start, end, _ in question.spans:
            if not start < end <= len(text):
                raise ValueError(f"span [{start}, {end}] is not in the text: 0 to {len(text)}")
        return question

    found = read_jsonl(path, parse=parse)
    if not (chosen := [q for q in found if split is None or q.split in ("", split)]):
        raise JudgementError(f"{path} holds no question" + (f" of split {split}" if split else ""))
    return chosen


def chunk_id(document: Document) -> str:
    """Return the identity of a chunk in judgements and runs, as `index.number_chunks` gave it."""
    if "chunk_id" not in document.metadata:
        raise JudgementError(
            'a document has no metadata["chunk_id"]: take chunks from helpers.index.split_text, or '
            "give yours to number_chunks before they are indexed"
        )
    return document.metadata["chunk_id"]


def to_qrels(questions: Iterable[Question], chunks: Sequence[Document]) -> pd.DataFrame:
    """Turn span judgements into chunk judgements (`query_id`, `doc_id`, `relevance`).

    A chunk is relevant to a question when it holds at least half of the characters of one of its
    spans, or, for a span too long to fit, when at least half of the chunk lies in the span. Its
    grade is the highest grade of such a span. A question with spans that no chunk holds cannot be
    measured: a warning names it.
    """
    rows, lost = [], []
    for question in questions:
        before = len(rows)
        for chunk in chunks:
            start = chunk.metadata["start_index"]
            end = start + len(chunk.page_content)
            grades = [
                grade
                for left, right, grade in question.spans
                if 2 * (min(right, end) - max(left, start)) >= min(right - left, end - start)
            ]
            if grades:
                rows.append((question.id, chunk_id(chunk), max(grades)))
        if question.spans and len(rows) == before:
            lost.append(question.id)
    if lost:
        said = f"{len(lost)} questions are not measured, for no chunk holds their spans: "
        warnings.warn(said + ", ".join(lost[:10]) + ", ..." * (len(lost) > 10), stacklevel=2)
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])
