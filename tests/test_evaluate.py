"""Runs to metrics: by hand, with an interval, compared question by question, or refused."""

import math

import numpy as np
import pandas as pd
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from helpers.evaluate import best_order, compare, mean_interval, per_question, to_run
from helpers.judgements import JudgementError, Question

SECOND = 1 / math.log2(3)  # what rank 2 counts


def qrels_of(**judged):
    """`q1={"a": 2}` as a table."""
    rows = [(q, doc, grade) for q, docs in judged.items() for doc, grade in docs.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "relevance"])


def run_of(**retrieved):
    """`q1="abc"` or a list of ids, best first, as a table."""
    rows = [(q, d, -float(r)) for q, docs in retrieved.items() for r, d in enumerate(docs, 1)]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]).astype({"score": float})


# Metrics


def test_a_case_computed_by_hand():
    qrels = qrels_of(q1={"a": 2, "b": 1, "c": 1})
    values = per_question(qrels, run_of(q1="bxa")).loc["q1"]
    # Grades are gains: b at rank 1, a at rank 3; the ideal order is a, b, c.
    gained, ideal = 1 + 2 / math.log2(4), 2 + SECOND + 1 / math.log2(4)
    assert values["nDCG@10"] == pytest.approx(gained / ideal, abs=1e-9)
    assert values["MRR@10"] == 1
    assert values["recall@20"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("rank", [1, 4, 10, 11, 20, 21])
def test_the_cut_offs(rank):
    others = [f"n{number:02}" for number in range(30)]
    docs = [*others[: rank - 1], "hit", *others[rank - 1 :]]
    values = per_question(qrels_of(q={"hit": 1}), run_of(q=docs)).loc["q"]
    expected = [1 / math.log2(rank + 1), 1 / rank] if rank <= 10 else [0, 0]
    assert list(values) == pytest.approx([*expected, int(rank <= 20)])
    assert list(values.index) == ["nDCG@10", "MRR@10", "recall@20"]


@pytest.mark.parametrize("run", [run_of(q1="a", q3="a"), run_of()])
def test_what_retrieves_nothing_is_a_zero_and_what_is_not_judged_is_not_measured(run):
    measured = per_question(qrels_of(q1={"a": 2}, q2={"a": 1}), run)
    assert list(measured.index) == ["q1", "q2"]
    assert list(measured.loc["q2"]) == [0, 0, 0]
    assert measured["nDCG@10"].sum() == len(run) / 2


@pytest.mark.parametrize(("one", "two", "a", "b"), [(1, 2, 10, 20), ("q", "q 1", "1 d", "d")])
def test_ids_may_be_integers_or_hold_spaces(one, two, a, b):
    qrels = pd.DataFrame([(one, a, 2), (two, b, 2)], columns=["query_id", "doc_id", "relevance"])
    run = pd.DataFrame([(one, a, 1.0), (two, a, 1.0)], columns=["query_id", "doc_id", "score"])
    assert per_question(qrels, run)["MRR@10"].to_dict() == {str(one): 1, str(two): 0}


QRELS, RUN = qrels_of(q={"a": 2}), run_of(q="ab")


@pytest.mark.parametrize(
    ("qrels", "run", "said"),
    [
        (qrels_of(), RUN, "no question has a relevant document: there is nothing to measure"),
        (pd.concat([QRELS, QRELS]), RUN, "the judgements: .*a' comes twice"),
        (QRELS, run_of(q="aba"), "the run: .*a' comes twice"),
        (qrels_of(**{"q\0a": {"a": 1}, "q\0b": {"a": 1}}), RUN, "judgements: .* a NUL character"),
        (QRELS, run_of(q=["a\0"]), r"the run: .*a\\x00' .* a NUL character"),
        (QRELS, RUN.assign(score=[1.0, math.nan]), "a score in the run is NaN"),
    ],
)
def test_what_cannot_be_measured_is_refused(qrels, run, said):
    with pytest.raises(JudgementError, match=said):
        per_question(qrels, run)


def test_best_order_is_by_grade_and_then_as_they_came():
    qrels, run = qrels_of(q={"a": 2, "b": 1, "d": 1}), run_of(q="xbyda", p="cd")
    best = best_order(run, qrels)
    pd.testing.assert_frame_equal(run, run_of(q="xbyda", p="cd"))
    best = best.sort_values(["query_id", "score"], ascending=False)
    assert list(best["doc_id"]) == list("abdxycd")
    assert per_question(qrels, best).loc["q", "nDCG@10"] == 1


# Intervals and comparison


def test_the_interval_holds_the_mean_and_is_seeded():
    values = np.random.default_rng(1).normal(0.2, 1, 50)
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    # The normal approximation gives nearly the same interval for 50 values.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(50), rel=0.1)
    assert mean_interval(list(values)) == (mean, low, high)
    for same in ([0.3], [0.3, 0.3, 0.3]):
        assert mean_interval(same) == pytest.approx((0.3, 0.3, 0.3))
    for nothing in ([], [0.3, math.nan]):
        with pytest.raises(ValueError, match=f"{len(nothing)} values, NaN among them or none"):
            mean_interval(nothing)


def test_runs_are_compared_question_by_question():
    names = [f"q{n}" for n in range(10)]
    qrels = qrels_of(**{q: {"a": 2} for q in names})
    base = run_of(**{q: "xa" for q in names})
    better = run_of(**{q: "ax" if n < 5 else "xa" for n, q in enumerate(names)})
    table = compare(qrels, {"old": base, "new": better}, base="old")
    assert list(table.index) == ["old", "new", "oracle"]
    assert list(table.columns) == ["nDCG@10", "gain", "low", "high", "gap closed"]
    assert list(table["nDCG@10"]) == pytest.approx([SECOND, (1 + SECOND) / 2, 1])
    assert list(table["gain"]) == pytest.approx([0, (1 - SECOND) / 2, 1 - SECOND])
    assert list(table.loc["old", ["low", "high"]]) == [0, 0]
    assert 0 < table.loc["new", "low"] < table.loc["new", "gain"] < table.loc["new", "high"]
    assert list(table["gap closed"]) == pytest.approx([0, 0.5, 1])
    assert compare(qrels, {"b": base, "c": better}, "b", "MRR@10").loc["c", "MRR@10"] == 0.75
    # Where the base's order is the best, there is no gap.
    assert list(compare(qrels_of(q={"a": 2}), {"b": run_of(q="ax")}, "b")["gap closed"]) == [0, 0]


def test_several_kinds_of_questions_are_columns_of_their_own():
    fact, other = Question("q1", "?", (), kind="fact"), Question("q2", "?", ())
    qrels = qrels_of(q1={"a": 2}, q2={"a": 2})
    runs = {"base (vectors)": run_of(q1="xa", q2="xa"), "reranked": run_of(q1="ax", q2="xa")}
    table = compare(qrels, runs, questions=[fact, other, Question("q3", "?", (), kind="none")])
    assert list(table.columns[:3]) == ["fact", "other", "nDCG@10"]
    assert list(table["fact"]) == pytest.approx([SECOND, 1, 1])
    assert list(table["other"]) == pytest.approx([SECOND, SECOND, 1])
    assert compare(qrels, runs, questions=[fact]).columns[0] == "nDCG@10"


# Runs


class Echo(BaseRetriever):
    """Finds the chunks that the question names, of which one is not there."""

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document("x", metadata={"chunk_id": name}) for name in query.split() if name != "?"]


def test_a_run_keeps_the_order_and_leaves_out_what_found_nothing(capfd):
    questions = [Question("q1", "c a b", ()), Question("q2", "?", ())]
    run = to_run(Echo(), iter(questions))
    assert capfd.readouterr().err == ""
    pd.testing.assert_frame_equal(run, run_of(q1="cab"))
    qrels = qrels_of(q1={"a": 2}, q2={"a": 2})
    assert list(per_question(qrels, run)["MRR@10"]) == [0.5, 0]
    nothing = to_run(Echo(), questions[1:], show_progress=True)
    assert "Questions: 100%" in capfd.readouterr().err
    assert per_question(qrels, nothing)["nDCG@10"].sum() == 0
