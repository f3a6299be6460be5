"""Questions to judged chunks: what is read, what is refused, and what the data must hold."""

import json
import re
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
from langchain_core.documents import Document

from helpers.index import split_text
from helpers.judgements import JudgementError, Question, load_judgements, read_jsonl, to_qrels

DATA = Path(__file__).resolve().parents[1] / "data"
TEXT = "Prices fall. Wages rise. The harbour opens in May, and the orchard is replanted."


def chunk(start, length):
    return Document("x" * length, metadata={"start_index": start, "chunk_id": str(start)})


def grades(chunks, *spans):
    """The grade of each chunk for a question with these spans, 0 where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        qrels = to_qrels([Question("q", "Why?", spans)], chunks)
    by_id = dict(zip(qrels["doc_id"], qrels["relevance"], strict=True))
    return [by_id.get(c.metadata["chunk_id"], 0) for c in chunks]


def line(**changes):
    fields = {"id": "q1", "question": "What falls?", "spans": [[0, 12, 2]]} | changes
    fields = {key: value for key, value in fields.items() if value is not None}
    return json.dumps(fields, ensure_ascii=False)


def write(tmp_path, *lines, encoding="utf-8"):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


# Reading judgements


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_readers_own_file_needs_neither_kind_nor_split(tmp_path, encoding):
    spans = [[0, 12, 2], [0, len(TEXT), 1]]
    asked = "What\u2028falls\x85in 経済?"  # characters at which no line of JSON ends
    other = line(id="q2", question=asked, spans=[])
    path = write(tmp_path, line(spans=spans), other, encoding=encoding)
    expected = [Question("q1", "What falls?", ((0, 12, 2), (0, len(TEXT), 1)))]
    expected += [Question("q2", asked, ())]
    assert load_judgements(path, TEXT) == load_judgements(path, TEXT, "dev") == expected


def test_the_split_chooses(tmp_path):
    rows = line(split="dev", kind="fact"), line(id="q2", split="test"), line(id="q3")
    path = write(tmp_path, *rows)
    assert [q.id for q in load_judgements(path, TEXT)] == ["q1", "q2", "q3"]
    assert [q.id for q in load_judgements(path, TEXT, "dev")] == ["q1", "q3"]
    assert [q.id for q in load_judgements(path, TEXT, "test")] == ["q2", "q3"]
    assert load_judgements(path, TEXT, "dev")[0].kind == "fact"
    with pytest.raises(JudgementError, match="mine.jsonl holds no question of split tset"):
        load_judgements(write(tmp_path, rows[0]), TEXT, "tset")
    # Rows of any kind, by themselves: there, a row without a split belongs to none.
    assert read_jsonl(write(tmp_path, *rows), "dev") == [json.loads(rows[0])]
    assert read_jsonl(path) == [json.loads(row) for row in rows]


MALFORMED = {
    "not JSON": ('{"id": "q2", ', "EOF while parsing"),
    "not an object": ('["q2", "Why?", []]', 'expected a JSON object, got ["q2", "Why?", []]'),
    "no id": (line(id=None), "id: Field required"),
    "empty question": (line(id="q2", question="  "), "question: expected words, without NUL"),
    "surrogate in a question": (
        '{"id": "q2", "question": "\\ud800", "spans": []}',
        "lone surrogate",
    ),
    "NUL in an id": (line(id="q\0a"), "id: expected words, without NUL"),
    "number for an id": (line(id=2), "id: Input should be a valid string, got 2"),
    "unknown key": (line(id="q2", grade=2), "grade: Unexpected keyword argument, got 2"),
    "one span not in a list": (line(id="q2", spans=[0, 12, 2]), "spans.0: Input should be"),
    "two numbers": (line(id="q2", spans=[[0, 12]]), "spans.0.2: Field required, got [0, 12]"),
    "before the start": (line(id="q2", spans=[[-1, 12, 2]]), "spans.0.0: Input should be greater"),
    "past the end": (line(id="q2", spans=[[0, len(TEXT) + 1, 2]]), f"span [0, {len(TEXT) + 1}] is"),
    "empty": (line(id="q2", spans=[[5, 5, 2]]), "span [5, 5] is not in the text: 0 to 80"),
    "backwards": (line(id="q2", spans=[[12, 0, 2]]), "span [12, 0] is not in the text"),
    "grade 3": (line(id="q2", spans=[[0, 12, 3]]), "spans.0.2: Input should be"),
    "grade 0": (line(id="q2", spans=[[0, 12, 0]]), "spans.0.2: Input should be"),
    "grade true": (line(id="q2", spans=[[0, 12, True]]), "spans.0.2: Input should be"),
    "start false": (line(id="q2", spans=[[False, 12, 2]]), "spans.0.0: Input should be"),
    "a fraction": (line(id="q2", spans=[[0, 12.0, 2]]), "spans.0.1: Input should be"),
    "an id twice": (line(question="Again?"), "id 'q1' comes twice"),
}


@pytest.mark.parametrize(("bad", "fault"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_line_is_refused_by_number(tmp_path, bad, fault):
    # An empty line is no question, but it counts as a line; a line of another split is read too.
    path = write(tmp_path, line(split="dev"), "", bad, line(id="q4", split="dev"))
    with pytest.raises(JudgementError, match=r"mine\.jsonl, line 3: ") as caught:
        load_judgements(path, TEXT, "dev")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_questions_or_in_another_encoding_is_named(tmp_path):
    for lines in ([], ["", "  "]):
        with pytest.raises(JudgementError, match=r"mine\.jsonl holds no question"):
            load_judgements(write(tmp_path, *lines), TEXT)
    for encoding in ("utf-16", "cp1252"):
        with pytest.raises(ValueError, match=r"mine\.jsonl is not UTF-8 text"):
            load_judgements(write(tmp_path, '{"id": "é"}', encoding=encoding), TEXT)


# Spans to chunks

ROW = [chunk(start, 100) for start in range(0, 500, 100)]


@pytest.mark.parametrize(
    ("chunks", "spans", "expected"),
    [
        (ROW[:2], [(0, 100, 2)], [2, 0]),  # all of it
        (ROW[:2], [(50, 150, 2)], [2, 2]),  # half in each
        (ROW[:2], [(49, 149, 2)], [2, 0]),  # 51 characters in the first, 49 in the second
        (ROW[:2], [(80, 119, 2)], [2, 0]),  # 20 of 39 in the first, 19 in the second
        (ROW[:2], [(100, 101, 2)], [0, 2]),
        (ROW[:2], [(200, 210, 2)], [0, 0]),  # after both
        ([chunk(0, 100), chunk(60, 100)], [(65, 95, 1)], [1, 1]),  # both of two that overlap
        (ROW, [(50, 350, 2)], [2, 2, 2, 2, 0]),  # longer than a chunk: half of the chunk
        (ROW, [(51, 349, 2)], [0, 2, 2, 0, 0]),
        (ROW[:1], [(0, 50, 1), (50, 100, 2)], [2]),  # the highest grade wins
        ([chunk(100, 100)], [(41, 140, 2), (161, 260, 2)], [0]),  # spans are not added up
    ],
)
def test_a_chunk_that_holds_half_of_a_span_is_relevant(chunks, spans, expected):
    assert grades(chunks, *spans) == expected


def test_a_question_whose_spans_no_chunk_holds_and_a_chunk_without_identity_are_named():
    asked = [Question("q0", "?", ()), Question("q1", "?", ((0, 9, 2),))]
    lost = [Question(f"lost{n}", "?", ((200, 210, 2),)) for n in range(12)]
    with pytest.warns(UserWarning) as caught:
        qrels = to_qrels(asked + lost[:2], ROW[:1])
    (said,) = [str(warning.message) for warning in caught]
    assert said.startswith("2 questions are not measured") and said.endswith(": lost0, lost1")
    assert qrels.to_dict("records") == [{"query_id": "q1", "doc_id": "0", "relevance": 2}]
    with pytest.warns(UserWarning, match="12 questions .* lost9, ...$"):
        to_qrels(lost, ROW[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = to_qrels(asked[:1], ROW)
    assert list(empty.columns) == ["query_id", "doc_id", "relevance"] and len(empty) == 0
    with pytest.raises(JudgementError, match="no metadata.*chunk_id.*split_text, or .* number_ch"):
        to_qrels(asked, [Document("Prices fall.", id="x", metadata={"start_index": 0})])


# The data


@pytest.fixture(scope="module")
def address():
    return (DATA / "address.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def judged(address):
    return load_judgements(DATA / "judgements.jsonl", address)


def test_there_are_enough_questions_of_every_sort(address, judged):
    assert len(address.split()) >= 6_500
    assert len({question.question for question in judged}) == len(judged) >= 120
    assert {question.split for question in judged} == {"dev", "test"}
    for split in ("dev", "test"):
        kinds = [q.kind for q in judged if q.split == split and q.spans]
        assert len(kinds) >= 30 and {"broad", "fact", "paraphrase"} <= {*kinds}
    assert sum(not question.spans for question in judged) >= 10


def test_spans_begin_and_end_with_a_word_and_answer(address, judged):
    """Grade 1 helps; without a grade 2 beside it there would be nothing to help with."""
    for question in judged:
        places = [(start, end) for start, end, _ in question.spans]
        assert len(places) == len(set(places)), question.id
        assert not places or 2 in {grade for _, _, grade in question.spans}, question.id
        for start, end in places:
            assert address[start:end] == address[start:end].strip() != "", question.id
            for edge in (start, end):  # no word lies across it
                assert not re.fullmatch(r"\w\w", address[max(edge - 1, 0) : edge + 1]), question.id


def test_no_paragraph_answers_questions_of_both_splits(address, judged):
    paragraphs = [match.span() for match in re.finditer(r"(?:(?!\n\s*\n).)+", address, re.DOTALL)]
    splits = defaultdict(set)
    for question in judged:
        for start, end, grade in question.spans:
            for number, (left, right) in enumerate(paragraphs):
                if grade == 2 and start < right and left < end:
                    splits[number].add(question.split)
    shared = [address[slice(*paragraphs[n])][:60] for n, found in splits.items() if len(found) > 1]
    assert shared == []
    assert len(splits) > 20


def test_every_answered_question_has_a_relevant_chunk(judged):
    answered = [question for question in judged if question.spans]
    qrels = to_qrels(answered, split_text(DATA / "address.txt"))
    best = qrels.groupby("query_id")["relevance"].max()
    assert set(best.index) == {question.id for question in answered}
    assert (best == 2).all()


def test_the_judgements_of_the_2022_speech_are_well_formed():
    # The speech itself is downloaded; its published length bounds the spans.
    questions = load_judgements(DATA / "judgements_state_of_the_union_2022.jsonl", "x" * 39_000)
    assert len(questions) >= 30
    assert any(question.spans for question in questions)
