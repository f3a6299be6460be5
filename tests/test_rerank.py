"""Candidates to ranked documents: order, scores, what is refused, and the real model's scores."""

import asyncio
import math
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from pydantic import ValidationError

from helpers.rerank import ScoringReranker

QUERY = "What is the plan for the economy?"
SCORES = st.floats(allow_nan=False)


class Fixed(BaseCrossEncoder):
    """Returns the scores that it was made with, and remembers what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def score(self, text_pairs):
        self.asked.append(list(text_pairs))
        return self.scores


class Length(BaseCrossEncoder):
    """The longer the passage, the higher its score; remembers the thread it ran in."""

    def score(self, text_pairs):
        self.thread = threading.get_ident()
        return [float(len(passage)) for _, passage in text_pairs]


def documents(*texts):
    return [Document(text, id=text, metadata={"source": f"{text}.txt"}) for text in texts]


def found_by_similarity(**similarities):
    return [Document(text, metadata={"similarity": s}) for text, s in similarities.items()]


def texts(docs):
    return [doc.page_content for doc in docs]


def field(docs, name):
    return [doc.metadata[name] for doc in docs]


def rerank(scores, docs, **settings):
    return ScoringReranker(model=Fixed(scores), **settings).compress_documents(docs, QUERY)


def in_a_thread(reranker, docs, callbacks=None):
    return asyncio.run(reranker.acompress_documents(docs, QUERY, callbacks))


def at_once(reranker, docs, callbacks=None):
    return reranker.compress_documents(docs, QUERY, callbacks)


BOTH = pytest.mark.parametrize("compress", [at_once, in_a_thread])


# Order


def test_the_best_comes_first_with_its_score_and_the_rank_it_came_from():
    model, docs = Fixed([0.2, 0.9, 0.5]), documents("a", "b", "c")
    before = [doc.model_copy(deep=True) for doc in docs]
    ranked = ScoringReranker(model=model).compress_documents(docs, QUERY)
    assert model.asked == [[(QUERY, "a"), (QUERY, "b"), (QUERY, "c")]], "once, as they came"
    assert texts(ranked) == [doc.id for doc in ranked] == ["b", "c", "a"]
    assert field(ranked, "relevance_score") == [0.9, 0.5, 0.2]
    assert field(ranked, "base_rank") == [2, 3, 1]
    assert field(ranked, "source") == ["b.txt", "c.txt", "a.txt"]
    again = rerank([5, 7, 6], ranked)
    assert field(again, "relevance_score") == [7, 6, 5] and field(again, "base_rank") == [2, 3, 1]
    assert field(ranked, "relevance_score") == [0.9, 0.5, 0.2] and docs == before, "copies"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(SCORES | st.sampled_from([0.0, -0.0, 0.5, math.inf]), max_size=40),
    st.none() | st.integers(1, 50),
    st.none() | SCORES,
)
@example([1, 2, 1, 2, 1], None, None)  # equal scores keep their order
@example([0.1, 0.9, 0.7, 0.8], 2, 0.5)  # the threshold goes before top_n
@example([-1.0, 0.0, 1.0], None, 0)  # a threshold of zero is one
@example([0.1, 0.2], 1, 0.5)  # a threshold above all leaves nothing
def test_the_result_is_the_sorted_input(scores, top_n, threshold):
    docs = documents(*(f"passage {number}" for number in range(len(scores))))
    ranked = rerank(scores, docs, top_n=top_n, score_threshold=threshold)
    kept = [n for n, score in enumerate(scores) if threshold is None or score >= threshold]
    expected = sorted(kept, key=lambda n: (-scores[n], n))[:top_n]
    assert [rank - 1 for rank in field(ranked, "base_rank")] == expected
    assert texts(ranked) == [docs[n].page_content for n in expected]
    assert field(ranked, "relevance_score") == [scores[n] for n in expected]


@BOTH
def test_without_documents_the_model_is_not_asked(compress):
    model = Fixed([])
    assert compress(ScoringReranker(model=model), []) == model.asked == []


# What is scored


@BOTH
def test_of_documents_that_read_alike_the_first_stands_for_all(compress):
    docs = documents("a", "b", "a", "c", "b", "a")
    docs[2].metadata["source"] = "copy.txt"
    before = [doc.model_copy(deep=True) for doc in docs]
    model = Fixed([0.3, 0.2, 0.1])
    ranked = compress(ScoringReranker(model=model, top_n=2), docs)
    assert model.asked == [[(QUERY, "a"), (QUERY, "b"), (QUERY, "c")]]
    assert texts(ranked) == ["a", "b"] and field(ranked, "base_rank") == [1, 2]
    assert field(ranked, "duplicates") == [[3, 6], [5]] and field(ranked, "source")[0] == "a.txt"
    assert docs == before
    again = compress(ScoringReranker(model=Fixed([1, 2])), ranked)
    assert field(again, "base_rank") == [2, 1] and "duplicates" not in again[0].metadata


def test_a_template_puts_metadata_before_the_passage():
    docs = [Document("Nine {metres}.", metadata={"title": t, "page": 3}) for t in ("Ports", "Rail")]
    model = Fixed([0.1, 0.9])
    reranker = ScoringReranker(model=model, template="{title}, p. {page}\n{page_content}")
    ranked = reranker.compress_documents(docs, QUERY)
    said = [f"{title}, p. 3\nNine {{metres}}." for title in ("Ports", "Rail")]
    assert model.asked == [[(QUERY, text) for text in said]]
    assert field(ranked, "title") == ["Rail", "Ports"] and texts(ranked) == ["Nine {metres}."] * 2
    with pytest.raises(ValueError, match="document . has no .'title'., which the"):
        reranker.compress_documents([Document("no title", metadata={"page": 1})], QUERY)


# Together with the first stage


def test_a_distance_in_place_of_a_similarity_is_refused_and_none_is_read_as_nothing():
    docs = found_by_similarity(a=0.2, b=0.4, c=0.9)
    with pytest.raises(ValueError, match="is it a distance"):
        ScoringReranker(model=Fixed([0.5] * 3), base_weight=1).compress_documents(docs, "q")
    untitled = [Document("a", metadata={"title": None}), Document("a", metadata={"title": ""})]
    titled = ScoringReranker(model=Fixed([0.5]), template="{title}{page_content}")
    [doc] = titled.compress_documents(untitled, "q")
    assert doc.metadata["duplicates"] == [2] and doc.metadata["title"] is None


def test_similarity_above_the_mean_is_added_to_the_log_odds():
    docs = found_by_similarity(a=0.9, b=0.5, c=0.1)
    ranked = rerank([0.5, 0.6, 0.4], docs, base_weight=2)
    assert texts(ranked) == ["a", "b", "c"]
    assert field(ranked, "cross_encoder_score") == [0.5, 0.6, 0.4]
    odds = [2 * 0.4, math.log(0.6 / 0.4), math.log(0.4 / 0.6) - 2 * 0.4]
    expected = [1 / (1 + math.exp(-value)) for value in odds]
    assert field(ranked, "relevance_score") == pytest.approx(expected)
    assert docs[0].metadata == {"similarity": 0.9}
    alone = rerank([0.5, 0.6, 0.4], docs)
    assert field(alone, "relevance_score") == [0.6, 0.5, 0.4]
    assert field(alone, "cross_encoder_score") == [0.6, 0.5, 0.4]
    certain = rerank([1.0, 0.0, 0.5], docs, base_weight=1)
    assert all(math.isfinite(score) for score in field(certain, "relevance_score"))
    assert texts(certain) == ["a", "c", "b"]


def test_what_a_weight_cannot_be_used_with_is_refused():
    docs = found_by_similarity(a=0.4, b=0.2)
    with pytest.raises(ValueError, match="between 0 and 1; Fixed gives -2 to 3.5"):
        rerank([3.5, -2.0], docs, base_weight=1)
    with pytest.raises(ValueError, match=r"document 2 has no metadata\[.similarity"):
        rerank([0.5, 0.5], [docs[0], Document("b")], base_weight=1)


# What is refused


@pytest.mark.parametrize(
    "setting", [{"top_n": 0}, {"top_n": 1.5}, {"top_k": 3}, {"base_weight": -1}, {"model": "bge"}]
)
def test_an_impossible_setting_is_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        ScoringReranker(**{"model": Fixed([])} | setting)


@BOTH
@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([], "Fixed returned 0 scores for 2 documents"),
        ([1.0, 2.0, 3.0], "Fixed returned 3 scores for 2 documents"),
        ([0.1, np.float32("nan")], "NaN for the document of rank 2"),
    ],
)
def test_scores_that_cannot_be_trusted_are_refused(compress, scores, said):
    reranker = ScoringReranker(model=Fixed(scores), score_threshold=0.2, top_n=1)
    with pytest.raises(ValueError, match=said):
        compress(reranker, documents("a", "b"))


# LangChain's HuggingFaceCrossEncoder returns an array, or a map for a model of two labels.
@pytest.mark.parametrize(
    "make", [np.float32, tuple, iter, lambda scores: [np.float32(score) for score in scores]]
)
def test_scores_become_floats_of_python(make):
    ranked = rerank(make([0.25, 0.75]), documents("a", "b"))
    assert texts(ranked) == ["b", "a"]
    assert field(ranked, "relevance_score") == [0.75, 0.25]
    assert [type(score) for score in field(ranked, "relevance_score")] == [float, float]
    assert '"relevance_score":' in ranked[0].model_dump_json()


# Sync, async and callbacks


def test_async_gives_what_sync_gives_and_does_not_hold_up_the_loop():
    docs = documents("aaa", "a", "aaaa", "aa", "bbb")
    reranker = ScoringReranker(model=Length(), top_n=4, score_threshold=2)
    expected = reranker.compress_documents(docs, QUERY)
    assert texts(expected) == ["aaaa", "aaa", "bbb", "aa"]
    assert reranker.model.thread == threading.get_ident()
    assert in_a_thread(reranker, docs) == expected
    assert reranker.model.thread != threading.get_ident()


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_trace_shows_the_scoring_inside_a_retriever_and_its_error(how):
    class Broken(BaseCrossEncoder):
        def score(self, text_pairs):
            raise ConnectionError("the endpoint is gone")

    def retrieve(model, *found):
        retriever = ContextualCompressionRetriever(
            base_compressor=ScoringReranker(model=model, top_n=2),
            base_retriever=RunnableLambda(lambda query: documents(*found), name="base"),
        )
        docs = getattr(retriever, how)(QUERY, {"callbacks": [collector]})
        return texts(asyncio.run(docs) if how == "ainvoke" else docs)

    collector = RunCollectorCallbackHandler()
    assert retrieve(Length(), "a", "bbb", "cc") == ["bbb", "cc"]
    assert retrieve(Length()) == []
    with pytest.raises(ConnectionError, match="the endpoint is gone"):
        retrieve(Broken(), "a")
    runs = collector.traced_runs
    assert {run.name for run in runs} == {"ContextualCompressionRetriever"}
    scored = [[child.name for child in run.child_runs] for run in runs]
    assert scored == [["base", "Length"], ["base"], ["base", "Broken"]]
    assert runs[0].child_runs[1].end_time and not runs[0].child_runs[1].error
    assert "the endpoint is gone" in runs[2].child_runs[1].error


# The embedded model itself

ANSWER = "The plan for the economy is to cut prices, raise wages and build things at home again."
NEAR = "The economy of the islands was studied by three historians in the last century."
OFF = "The lighthouse at the cape was painted white and red in the spring."


HOSTILE = [
    "",
    " ",
    "word " * 20_000,
    "x" * 100_000,
    "経済計画は物価を下げることです。",
    "خطة الاقتصاد",
]
HOSTILE += ["🍎🍐 \u200b\0 \ud7ff", "[SEP] [CLS] [PAD] [MASK]"]


def test_the_embedded_model_ranks_an_answer_above_a_near_miss(local):
    ranked = ScoringReranker(model=local).compress_documents(documents(OFF, NEAR, ANSWER), QUERY)
    assert texts(ranked) == [ANSWER, NEAR, OFF]
    scores = field(ranked, "relevance_score")
    assert 1 >= scores[0] > scores[2] + 0.1 > 0.1
    there, back = local.score([(QUERY, ANSWER), (ANSWER, QUERY)])
    assert abs(there - back) > 1e-3, "query and passage are not exchangeable"


def test_scores_of_hostile_texts_depend_on_nothing_but_the_pair(local):
    pairs = [(QUERY, passage) for passage in [ANSWER, "Prices. " * 40, *HOSTILE]]
    scores = local.score(pairs)
    assert scores[0] > max(scores[1:]), "an answer is not disturbed by its neighbours"
    assert local.score(pairs) == scores
    for other in (local.score(pairs[::-1])[::-1], [local.score([pair])[0] for pair in pairs]):
        np.testing.assert_allclose(other, scores, atol=1e-4)
    assert all(0 <= s <= 1 for s in scores + local.score([(query, ANSWER) for query in HOSTILE]))
