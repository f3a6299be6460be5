"""From a file in SQuAD's form to a text and judged questions, as `make evaluate` reads them.

SQuAD (https://rajpurkar.github.io/SQuAD-explorer/) and, in other languages, XQuAD, JaQuAD and more:
`{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...", "answers":
[{"text": "...", "answer_start": 0}]}]}]}]}`. No answers: the text leaves the question open.
"""

import json
from pathlib import Path

from helpers.index import read_text
from helpers.judgements import JudgementError


def lay_out(path: Path, folder: Path) -> tuple[Path, Path]:
    """Write all paragraphs as one text, and the questions with their answers' spans, grade 2.

    Returns:
        The text, each paragraph in it once, between blank lines; and the questions, as JSONL.

    Raises:
        JudgementError: The file is not of this form, or an answer does not stand where it says.
    """
    parts: dict[str, int] = {}  # each paragraph's start
    lines, ids, end = [], set(), 0
    try:
        for part in (
            part
            for article in json.loads(read_text(path))["data"]
            for part in article["paragraphs"]
        ):
            context = part["context"].replace("\r", " ")  # which reading a file would drop
            if context not in parts:
                parts[context], end = end, end + len(context) + 2
            for qa in part["qas"]:
                if qa["id"] in ids or not qa["question"].strip():
                    raise ValueError(f"{qa['id']} comes twice, or asks nothing")
                ids.add(qa["id"])
                spans = set()
                for answer in qa["answers"]:
                    start, text = answer["answer_start"], answer["text"].replace("\r", " ")
                    if not text or context[start : start + len(text)] != text:
                        raise ValueError(
                            f"{qa['id']}: {text[:40]!r} is not at {start} of its paragraph"
                        )
                    spans.add((parts[context] + start, parts[context] + start + len(text), 2))
                row = {"id": qa["id"], "question": qa["question"], "spans": sorted(spans)}
                lines.append(json.dumps(row, ensure_ascii=False))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"lacks {error}" if isinstance(error, KeyError) else error
        raise JudgementError(f"{path} is not in SQuAD's form: {fault}") from error
    corpus, questions = folder / "corpus.txt", folder / "questions.jsonl"
    # With a mark, since one that a paragraph starts with would be taken for it.
    corpus.write_text("\n\n".join(parts), encoding="utf-8-sig", newline="")
    questions.write_text("\n".join(lines), encoding="utf-8", newline="")
    return corpus, questions
