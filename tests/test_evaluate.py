"""Judgements and runs to metrics: by hand, against ir_measures, and what the data must hold."""

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from helpers.evaluate import (
    METRICS,
    JudgementError,
    Question,
    best_order,
    chunk_id,
    compare,
    load_judgements,
    mean_interval,
    per_question,
    to_qrels,
    to_run,
)
from helpers.report import Remembering, table

DATA = Path(__file__).resolve().parents[1] / "data"
TEXT = "Prices fall. Wages rise. The harbour opens in May, and the orchard is replanted."


def qrels_of(**judged):
    """`q1={"a": 2}` as a table."""
    rows = [(q, doc, grade) for q, docs in judged.items() for doc, grade in docs.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def run_of(**retrieved):
    """`q1="abc"` or a list of ids, best first, as a table."""
    rows = [(q, d, -float(r)) for q, docs in retrieved.items() for r, d in enumerate(docs, 1)]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]).astype({"score": float})


def chunk(start, length):
    return Document("x" * length, metadata={"start_index": start})


def grades(chunks, *spans):
    """The grade of each chunk for a question with these spans, 0 where there is none."""
    qrels = to_qrels([Question("q", "Why?", spans)], chunks)
    by_id = dict(zip(qrels["doc_id"], qrels["relevance"], strict=True))
    return [by_id.get(chunk_id(c), 0) for c in chunks]


# Metrics


def test_a_case_computed_by_hand():
    qrels = qrels_of(q1={"a": 2, "b": 1, "c": 1})
    values = per_question(qrels, run_of(q1="bxa")).loc["q1"]
    # Grades are gains: b at rank 1, a at rank 3; the ideal order is a, b, c.
    gained = 1 / math.log2(2) + 2 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert gained / ideal == pytest.approx(0.638788, abs=1e-6)
    assert values["nDCG@10"] == pytest.approx(gained / ideal, abs=1e-9)
    assert values["MRR@10"] == 1
    assert values["recall@20"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("rank", "ndcg", "mrr", "recall"),
    [
        (1, 1.0, 1.0, 1.0),
        (4, 1 / math.log2(5), 1 / 4, 1.0),
        (10, 1 / math.log2(11), 1 / 10, 1.0),
        (11, 0.0, 0.0, 1.0),
        (20, 0.0, 0.0, 1.0),
        (21, 0.0, 0.0, 0.0),
    ],
)
def test_the_cut_offs(rank, ndcg, mrr, recall):
    others = [f"n{number:02}" for number in range(30)]
    docs = [*others[: rank - 1], "hit", *others[rank - 1 :]]
    values = per_question(qrels_of(q={"hit": 1}), run_of(q=docs)).loc["q"]
    assert list(values) == pytest.approx([ndcg, mrr, recall])
    assert list(values.index) == ["nDCG@10", "MRR@10", "recall@20"] == list(METRICS)


def test_a_grade_of_one_counts_for_mrr_and_recall():
    values = per_question(qrels_of(q={"help": 1, "answer": 2}), run_of(q=["x", "help"])).loc["q"]
    assert values["MRR@10"] == 1 / 2
    assert values["recall@20"] == 1 / 2


def random_case():
    draw = np.random.default_rng(3)
    judged = {
        f"q{n}": {f"d{d}": int(draw.integers(1, 3)) for d in draw.choice(60, 6, replace=False)}
        for n in range(12)
    }
    retrieved = {f"q{n}": [f"d{d}" for d in draw.choice(60, 30, replace=False)] for n in range(12)}
    return qrels_of(**judged), run_of(**retrieved)


def test_agreement_with_ir_measures_called_directly():
    qrels, run = random_case()
    plain_qrels = [ir_measures.Qrel(*row) for row in qrels.itertuples(index=False)]
    plain_run = [ir_measures.ScoredDoc(*row) for row in run.itertuples(index=False)]
    measures = [ir_measures.parse_measure(name) for name in ("nDCG@10", "RR@10", "R@20")]
    expected = ir_measures.calc_aggregate(measures, plain_qrels, plain_run)
    measured = per_question(qrels, run)
    assert len(measured) == 12
    for (name, values), measure in zip(measured.items(), measures, strict=True):
        assert 0.05 < values.mean() < 0.95, "a value at the edge shows nothing"
        assert values.mean() == pytest.approx(expected[measure], abs=1e-9), name
        assert values.between(0, 1).all()


def test_a_question_that_retrieves_nothing_is_a_zero():
    qrels = qrels_of(q1={"a": 2}, q2={"a": 2})
    measured = per_question(qrels, run_of(q1="a"))
    assert list(measured.index) == ["q1", "q2"]
    assert list(measured.loc["q2"]) == [0, 0, 0]
    assert measured["nDCG@10"].mean() == 0.5


def test_nothing_retrieved_at_all_is_zeros():
    measured = per_question(qrels_of(q1={"a": 2}, q2={"b": 1}), run_of())
    assert measured.shape == (2, 3)
    assert (measured == 0).all(axis=None)


def test_a_question_without_judgements_is_not_measured():
    assert list(per_question(qrels_of(q1={"a": 2}), run_of(q1="a", q2="a")).index) == ["q1"]


def test_best_order_is_an_upper_bound_and_is_reached():
    qrels, run = random_case()
    best = best_order(run, qrels)
    assert set(zip(best.query_id, best.doc_id, strict=True)) == set(
        zip(run.query_id, run.doc_id, strict=True)
    )
    top = per_question(qrels, best)
    draw = np.random.default_rng(0)
    for _ in range(20):
        shuffled = run.assign(score=draw.permutation(len(run)).astype(float))
        assert (per_question(qrels, shuffled)["nDCG@10"] <= top["nDCG@10"] + 1e-9).all()
    assert top["nDCG@10"].mean() > per_question(qrels, run)["nDCG@10"].mean() + 0.1
    complete = best_order(run_of(q="xbya"), qrels_of(q={"a": 2, "b": 1}))
    ordered = complete.sort_values("score", ascending=False)["doc_id"]
    assert list(ordered) == ["a", "b", "x", "y"], "by grade, then as they came"
    assert per_question(qrels_of(q={"a": 2, "b": 1}), complete).loc["q", "nDCG@10"] == 1


def test_best_order_leaves_the_run_as_it_was():
    run = run_of(q="xa")
    best_order(run, qrels_of(q={"a": 2}))
    pd.testing.assert_frame_equal(run, run_of(q="xa"))


# Intervals and comparison


def test_the_interval_holds_the_mean_and_is_seeded():
    values = np.random.default_rng(1).normal(0.2, 1, 50)
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    # The normal approximation gives nearly the same interval for 50 values.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(50), rel=0.1)
    assert mean_interval(values) == (mean, low, high)
    assert mean_interval(values, seed=1) != (mean, low, high)
    wider = mean_interval(values, level=0.99)
    assert wider[1] < low and wider[2] > high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(5)
    intervals = [mean_interval(draw.normal(0, 1, 40)) for _ in range(60)]
    covered = sum(low <= 0 <= high for _, low, high in intervals)
    assert 51 <= covered <= 60


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3]])
def test_an_interval_of_values_that_do_not_differ_is_a_point(values):
    assert mean_interval(values) == pytest.approx((0.3, 0.3, 0.3))


def test_runs_are_compared_question_by_question():
    qrels = qrels_of(**{f"q{n}": {"a": 2} for n in range(10)})
    base = run_of(**{f"q{n}": "xa" for n in range(10)})
    better = run_of(**{f"q{n}": "ax" if n < 5 else "xa" for n in range(10)})
    compared = compare(qrels, {"base": base, "better": better}, "base")
    second = 1 / math.log2(3)
    assert compared.loc["base", "nDCG@10"] == pytest.approx(second)
    assert list(compared.loc["base", ["gain", "low", "high"]]) == [0, 0, 0]
    gain = (1 - second) / 2
    assert compared.loc["better", "gain"] == pytest.approx(gain)
    assert 0 < compared.loc["better", "low"] < gain < compared.loc["better", "high"]
    assert compare(qrels, {"b": base, "c": better}, "b", "MRR@10").loc["c", "MRR@10"] == 0.75


def test_the_report_by_kind_with_its_oracle():
    questions = [
        Question("q1", "?", ((0, 1, 2),), kind="fact"),
        Question("q2", "?", ((0, 1, 2),), kind="broad"),
    ]
    qrels = qrels_of(q1={"a": 2}, q2={"a": 2})
    runs = {"base (vectors)": run_of(q1="xa", q2="xa"), "reranked": run_of(q1="ax", q2="xa")}
    report = table(qrels, runs, questions)
    second = round(1 / math.log2(3), 3)
    assert list(report.index) == ["base (vectors)", "reranked", "oracle"]
    assert list(report["fact"]) == [second, 1, 1]
    assert list(report["broad"]) == [second, second, 1]
    assert list(report["gap closed"]) == [0, 0.5, 1]
    assert report.loc["reranked", "gain"] == pytest.approx((1 - second) / 2, abs=1e-3)


# Spans to chunks


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 100), [2, 0]),  # all of it
        ((50, 150), [2, 2]),  # half in each
        ((49, 149), [2, 0]),  # 51 characters in the first, 49 in the second
        ((51, 151), [0, 2]),
        ((80, 119), [2, 0]),  # 20 of 39 in the first, 19 in the second
        ((99, 100), [2, 0]),
        ((100, 101), [0, 2]),
        ((200, 210), [0, 0]),  # after both
    ],
)
def test_a_chunk_that_holds_half_of_a_span_is_relevant(span, expected):
    assert grades([chunk(0, 100), chunk(100, 100)], (*span, 2)) == expected


def test_overlapping_chunks_may_both_be_relevant():
    assert grades([chunk(0, 100), chunk(60, 100)], (65, 95, 1)) == [1, 1]


def test_a_span_longer_than_the_chunk_needs_half_of_the_chunk():
    chunks = [chunk(0, 100), chunk(100, 100), chunk(200, 100), chunk(300, 100), chunk(400, 100)]
    assert grades(chunks, (50, 350, 2)) == [2, 2, 2, 2, 0]
    assert grades(chunks, (51, 349, 2)) == [0, 2, 2, 0, 0]


def test_the_highest_grade_wins():
    assert grades([chunk(0, 100)], (0, 50, 1), (50, 100, 2)) == [2]
    assert grades([chunk(0, 100)], (0, 50, 2), (50, 100, 1)) == [2]


def test_spans_are_not_added_up():
    assert grades([chunk(100, 100)], (41, 140, 2), (161, 260, 2)) == [0]


def test_a_question_without_spans_has_no_judgements_but_keeps_the_columns():
    qrels = to_qrels([Question("q", "Why?", ())], [chunk(0, 10)])
    assert list(qrels.columns) == ["query_id", "doc_id", "relevance"]
    assert len(qrels) == 0


# Runs


class Echo(BaseRetriever):
    """Finds the chunks whose starts the question names."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [chunk(int(start), 5) for start in query.split() if start.isdigit()]


def test_a_run_keeps_the_order_and_leaves_out_what_found_nothing():
    questions = [Question("q1", "30 10 20", ()), Question("q2", "nothing", ())]
    run = to_run(Echo(), questions)
    assert run.to_dict("records") == [
        {"query_id": "q1", "doc_id": "30", "score": -1.0},
        {"query_id": "q1", "doc_id": "10", "score": -2.0},
        {"query_id": "q1", "doc_id": "20", "score": -3.0},
    ]
    qrels = qrels_of(q1={"10": 2}, q2={"10": 2})
    assert list(per_question(qrels, run)["MRR@10"]) == [0.5, 0]
    assert per_question(qrels, to_run(Echo(), questions[1:]))["nDCG@10"].sum() == 0


# Reading judgements


def line(**changes):
    fields = {"id": "q1", "question": "What falls?", "spans": [[0, 12, 2]]} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not None})


def write(tmp_path, *lines):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_readers_own_file_needs_neither_kind_nor_split(tmp_path):
    path = write(tmp_path, line(), line(id="q2", spans=[]))
    expected = [Question("q1", "What falls?", ((0, 12, 2),)), Question("q2", "What falls?", ())]
    assert load_judgements(path, TEXT) == expected
    assert load_judgements(path, TEXT, "dev") == expected


def test_the_split_chooses(tmp_path):
    path = write(
        tmp_path,
        line(split="dev", kind="fact"),
        line(id="q2", split="test"),
        line(id="q3"),
    )
    assert [q.id for q in load_judgements(path, TEXT)] == ["q1", "q2", "q3"]
    assert [q.id for q in load_judgements(path, TEXT, "dev")] == ["q1", "q3"]
    assert [q.id for q in load_judgements(path, TEXT, "test")] == ["q2", "q3"]
    assert load_judgements(path, TEXT, "dev")[0].kind == "fact"


def test_a_span_may_reach_both_ends_of_the_text(tmp_path):
    (question,) = load_judgements(write(tmp_path, line(spans=[[0, len(TEXT), 1]])), TEXT)
    assert question.spans == ((0, len(TEXT), 1),)


MALFORMED = {
    "not JSON": ('{"id": "q2", ', "Expecting property name"),
    "not an object": ('["q2", "Why?", []]', "expected a JSON object"),
    "no id": (line(id=None), "'id'"),
    "no question": (line(id="q2", question=None), "'question'"),
    "no spans": (line(id="q2", spans=None), "'spans'"),
    "empty question": (line(id="q2", question="  "), "'question'"),
    "number for an id": (line(id=2), "'id'"),
    "unknown key": (line(id="q2", grade=2), "unknown keys ['grade']"),
    "number for a kind": (line(id="q2", kind=1), "'kind'"),
    "list for a split": (line(id="q2", split=["dev"]), "'split'"),
    "spans not a list": (line(id="q2", spans={"0": 12}), "'spans'"),
    "one span not in a list": (line(id="q2", spans=[0, 12, 2]), "span 0 must be"),
    "two numbers": (line(id="q2", spans=[[0, 12]]), "span [0, 12] must be"),
    "four numbers": (line(id="q2", spans=[[0, 12, 2, 1]]), "span [0, 12, 2, 1] must be"),
    "past the end": (line(id="q2", spans=[[0, len(TEXT) + 1, 2]]), f"end <= {len(TEXT)}"),
    "before the start": (line(id="q2", spans=[[-1, 12, 2]]), "span [-1, 12, 2] must be"),
    "empty": (line(id="q2", spans=[[5, 5, 2]]), "span [5, 5, 2] must be"),
    "backwards": (line(id="q2", spans=[[12, 0, 2]]), "span [12, 0, 2] must be"),
    "grade 3": (line(id="q2", spans=[[0, 12, 3]]), "a grade of 1 or 2"),
    "grade 0": (line(id="q2", spans=[[0, 12, 0]]), "a grade of 1 or 2"),
    "grade true": (line(id="q2", spans=[[0, 12, True]]), "span [0, 12, True] must be"),
    "start false": (line(id="q2", spans=[[False, 12, 2]]), "span [False, 12, 2] must be"),
    "a fraction": (line(id="q2", spans=[[0, 12.0, 2]]), "span [0, 12.0, 2] must be"),
    "a second span": (line(id="q2", spans=[[0, 12, 2], [0, 0, 1]]), "span [0, 0, 1] must be"),
    "an id twice": (line(question="Again?"), "id 'q1' comes twice"),
}


@pytest.mark.parametrize(("bad", "fault"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_line_is_refused_by_number(tmp_path, bad, fault):
    # An empty line is no question, but it counts as a line.
    path = write(tmp_path, line(), "", bad, line(id="q4"))
    with pytest.raises(JudgementError, match=r"^mine\.jsonl, line 3: ") as caught:
        load_judgements(path, TEXT)
    assert fault in str(caught.value)


def test_a_malformed_line_of_another_split_is_refused_too(tmp_path):
    path = write(tmp_path, line(split="dev"), line(id="q2", split="test", spans=[[5, 5, 2]]))
    with pytest.raises(JudgementError, match="line 2"):
        load_judgements(path, TEXT, "dev")


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_file_is_refused(tmp_path, lines):
    with pytest.raises(JudgementError, match=r"mine\.jsonl holds no question"):
        load_judgements(write(tmp_path, *lines), TEXT)


def test_a_split_without_questions_is_refused(tmp_path):
    with pytest.raises(JudgementError, match="no question of split 'tset'"):
        load_judgements(write(tmp_path, line(split="test")), TEXT, "tset")


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_a_line_ends_at_a_newline_only(tmp_path, separator):
    question = f"What falls?{separator}And when?"
    bare = json.dumps({"id": "q1", "question": question, "spans": []}, ensure_ascii=False)
    assert load_judgements(write(tmp_path, bare), TEXT)[0].question == question


# The data


@pytest.fixture(scope="module")
def address():
    return (DATA / "address.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def judged(address):
    return load_judgements(DATA / "judgements.jsonl", address)


def test_the_address_is_long_enough(address):
    assert len(address.split()) >= 6_500


def test_there_are_enough_questions_of_every_sort(judged):
    assert len(judged) >= 120
    assert {question.split for question in judged} == {"dev", "test"}
    for split in ("dev", "test"):
        answered = [q for q in judged if q.split == split and q.spans]
        assert len(answered) >= 30
        assert {"broad", "fact", "paraphrase"} <= {q.kind for q in answered}
    assert sum(not question.spans for question in judged) >= 10
    assert len({question.question for question in judged}) == len(judged)


def test_an_answered_question_has_an_answer(judged):
    """Grade 1 helps; without a grade 2 beside it there would be nothing to help with."""
    assert [q.id for q in judged if q.spans and 2 not in {grade for _, _, grade in q.spans}] == []


def test_spans_lie_in_the_text_and_begin_and_end_with_a_word(address, judged):
    count = 0
    for question in judged:
        for start, end, _ in question.spans:
            count += 1
            span = address[start:end]
            assert len(span) == end - start, question.id
            assert span == span.strip() != "", (question.id, span)
            inside = start > 0 and address[start - 1].isalnum() and span[0].isalnum()
            assert not inside, (question.id, address[start - 5 : start + 10])
            inside = end < len(address) and span[-1].isalnum() and address[end].isalnum()
            assert not inside, (question.id, address[end - 10 : end + 5])
    assert count >= len(judged)


def test_a_question_judges_a_passage_once(judged):
    for question in judged:
        places = [(start, end) for start, end, _ in question.spans]
        assert len(places) == len(set(places)), question.id


def test_no_paragraph_answers_questions_of_both_splits(address, judged):
    paragraphs = [match.span() for match in re.finditer(r"(?:(?!\n\s*\n).)+", address, re.DOTALL)]
    assert len(paragraphs) > 20
    splits = defaultdict(set)
    for question in judged:
        for start, end, grade in question.spans:
            if grade == 2:
                for number, (left, right) in enumerate(paragraphs):
                    if start < right and left < end:
                        splits[number].add(question.split)
    shared = [address[slice(*paragraphs[n])][:60] for n, found in splits.items() if len(found) > 1]
    assert shared == []
    assert len(splits) > 20


def test_every_answered_question_has_a_relevant_chunk(judged):
    from helpers import split_text

    answered = [question for question in judged if question.spans]
    qrels = to_qrels(answered, split_text(DATA / "address.txt"))
    assert set(qrels["query_id"]) == {question.id for question in answered}
    best = qrels.groupby("query_id")["relevance"].max()
    assert (best == 2).all()


def test_the_judgements_of_the_2022_speech_are_well_formed():
    # The speech itself is downloaded; its published length bounds the spans.
    questions = load_judgements(DATA / "judgements_state_of_the_union_2022.jsonl", "x" * 39_000)
    assert len(questions) >= 30
    assert any(question.spans for question in questions)


def test_a_pair_is_scored_once_and_keeps_its_place():
    asked = []

    class Length(BaseCrossEncoder):
        def score(self, text_pairs):
            asked.extend(text_pairs)
            return [float(len(passage)) for _, passage in text_pairs]

    model = Remembering(Length())
    assert model.score([("q", "abc"), ("q", "a"), ("q", "abc")]) == [3, 1, 3]
    assert model.score([["q", "ab"], ("q", "a")]) == [2, 1]
    assert asked == [("q", "abc"), ("q", "a"), ("q", "ab")]
    assert model.score([]) == []
