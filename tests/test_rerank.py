"""Candidates to ranked documents: order, scores, what is refused, and the real model's scores."""

import asyncio
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError

from helpers import ScoringReranker, load_profile

QUERY = "What is the plan for the economy?"


class Fixed(BaseCrossEncoder):
    """Returns the scores that it was made with, and remembers what it was asked."""

    def __init__(self, scores):
        self.scores = scores
        self.asked = []

    def score(self, text_pairs):
        self.asked.append(list(text_pairs))
        return self.scores


class Length(BaseCrossEncoder):
    """The longer the passage, the higher its score."""

    def score(self, text_pairs):
        return [float(len(passage)) for _, passage in text_pairs]


class Candidates(BaseRetriever):
    """Retrieves the same documents whatever is asked."""

    docs: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.docs


class Recorder(BaseCallbackHandler):
    """Writes down the name and the parent of each chain that starts, and what ends."""

    def __init__(self):
        self.started, self.ended, self.failed = [], [], []
        self.names, self.parents = {}, {}

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
        self.started.append(run_id)
        self.names[run_id], self.parents[run_id] = kwargs.get("name"), parent_run_id

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, **kwargs):
        self.names[run_id], self.parents[run_id] = kwargs.get("name"), parent_run_id

    def on_chain_end(self, outputs, *, run_id, **kwargs):
        self.ended.append(run_id)

    def on_chain_error(self, error, *, run_id, **kwargs):
        self.failed.append((run_id, error))


def documents(*texts):
    return [Document(text, id=text, metadata={"source": f"{text}.txt"}) for text in texts]


def texts(docs):
    return [doc.page_content for doc in docs]


def field(docs, name):
    return [doc.metadata[name] for doc in docs]


# Order


def test_the_best_comes_first_with_its_score_and_the_rank_it_came_from():
    ranked = ScoringReranker(model=Fixed([0.2, 0.9, 0.5])).compress_documents(
        documents("a", "b", "c"), QUERY
    )
    assert texts(ranked) == ["b", "c", "a"]
    assert field(ranked, "relevance_score") == [0.9, 0.5, 0.2]
    assert field(ranked, "base_rank") == [2, 3, 1]
    assert field(ranked, "source") == ["b.txt", "c.txt", "a.txt"]
    assert [doc.id for doc in ranked] == ["b", "c", "a"]


def test_the_model_is_asked_once_with_query_and_passage_in_the_input_order():
    model = Fixed([1, 2])
    ScoringReranker(model=model).compress_documents(documents("a", "b"), QUERY)
    assert model.asked == [[(QUERY, "a"), (QUERY, "b")]]


def test_documents_of_equal_score_keep_their_order():
    ranked = ScoringReranker(model=Fixed([1, 2, 1, 2, 1])).compress_documents(
        documents(*"abcde"), QUERY
    )
    assert texts(ranked) == ["b", "d", "a", "c", "e"]


# Together with the first stage


def found_by_similarity(**similarities):
    return [
        Document(text, metadata={"similarity": value}) if value is not None else Document(text)
        for text, value in similarities.items()
    ]


def test_similarity_above_the_mean_is_added_to_the_log_odds():
    docs = found_by_similarity(a=0.9, b=0.5, c=0.1)
    ranked = ScoringReranker(model=Fixed([0.5, 0.6, 0.4]), base_weight=2).compress_documents(
        docs, QUERY
    )
    assert texts(ranked) == ["a", "b", "c"]
    assert field(ranked, "cross_encoder_score") == [0.5, 0.6, 0.4]
    odds = [2 * 0.4, math.log(0.6 / 0.4), math.log(0.4 / 0.6) - 2 * 0.4]
    expected = [1 / (1 + math.exp(-value)) for value in odds]
    assert field(ranked, "relevance_score") == pytest.approx(expected)
    assert docs[0].metadata == {"similarity": 0.9}


def test_without_a_weight_similarity_changes_nothing_and_no_second_score_is_kept():
    docs = found_by_similarity(a=0.1, b=0.9)
    ranked = ScoringReranker(model=Fixed([0.9, 0.2])).compress_documents(docs, QUERY)
    assert field(ranked, "relevance_score") == [0.9, 0.2]
    assert "cross_encoder_score" not in ranked[0].metadata


def test_certain_scores_stay_finite():
    docs = found_by_similarity(a=0.4, b=0.6)
    ranked = ScoringReranker(model=Fixed([1.0, 0.0]), base_weight=1).compress_documents(docs, QUERY)
    assert texts(ranked) == ["a", "b"]
    assert all(math.isfinite(score) for score in field(ranked, "relevance_score"))


@pytest.mark.parametrize(
    ("docs", "scores", "said"),
    [
        (found_by_similarity(a=0.4, b=None), [0.5, 0.5], "document 2 has no metadata"),
        (found_by_similarity(a=0.4, b=0.2), [3.5, -2.0], "between 0 and 1; Fixed gives -2 to 3.5"),
    ],
)
def test_what_a_weight_cannot_be_used_with_is_refused(docs, scores, said):
    reranker = ScoringReranker(model=Fixed(scores), base_weight=1)
    with pytest.raises(ValueError, match=said):
        reranker.compress_documents(docs, QUERY)


@given(
    st.lists(
        st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 0.5, math.inf])),
        max_size=40,
    ),
    st.one_of(st.none(), st.integers(1, 50)),
    st.one_of(st.none(), st.floats(allow_nan=False)),
)
@settings(max_examples=100, deadline=None)
def test_the_result_is_the_sorted_input(scores, top_n, threshold):
    docs = documents(*(f"passage {number}" for number in range(len(scores))))
    ranked = ScoringReranker(
        model=Fixed(scores), top_n=top_n, score_threshold=threshold
    ).compress_documents(docs, QUERY)
    kept = [n for n, score in enumerate(scores) if threshold is None or score >= threshold]
    expected = sorted(kept, key=lambda n: (-scores[n], n))[:top_n]
    assert [rank - 1 for rank in field(ranked, "base_rank")] == expected
    assert texts(ranked) == [docs[n].page_content for n in expected]
    assert field(ranked, "relevance_score") == [scores[n] for n in expected]


# How many


@pytest.mark.parametrize(("top_n", "expected"), [(1, "c"), (2, "cb"), (3, "cba"), (99, "cba")])
def test_top_n(top_n, expected):
    reranker = ScoringReranker(model=Fixed([1, 2, 3]), top_n=top_n)
    assert texts(reranker.compress_documents(documents(*"abc"), QUERY)) == list(expected)


def test_top_n_none_returns_all():
    reranker = ScoringReranker(model=Fixed([1, 2, 3]), top_n=None)
    assert texts(reranker.compress_documents(documents(*"abc"), QUERY)) == ["c", "b", "a"]


@pytest.mark.parametrize("top_n", [0, -1, 1.5, "many"])
def test_an_impossible_top_n_is_refused(top_n):
    with pytest.raises(ValidationError, match="top_n"):
        ScoringReranker(model=Fixed([]), top_n=top_n)


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ValidationError, match="top_k"):
        ScoringReranker(model=Fixed([]), top_k=3)


def test_what_is_no_cross_encoder_is_refused():
    with pytest.raises(ValidationError, match="BaseCrossEncoder"):
        ScoringReranker(model="BAAI/bge-reranker-base")


def test_the_threshold_keeps_what_scores_at_least_that():
    reranker = ScoringReranker(model=Fixed([0.4, 0.6, 0.5, 0.49]), score_threshold=0.5)
    ranked = reranker.compress_documents(documents(*"abcd"), QUERY)
    assert texts(ranked) == ["b", "c"]
    assert field(ranked, "base_rank") == [2, 3]


def test_a_threshold_of_zero_is_a_threshold():
    reranker = ScoringReranker(model=Fixed([-1.0, 0.0, 1.0]), score_threshold=0)
    assert texts(reranker.compress_documents(documents(*"abc"), QUERY)) == ["c", "b"]


def test_a_threshold_above_all_scores_leaves_nothing():
    reranker = ScoringReranker(model=Fixed([0.1, 0.2]), score_threshold=0.5, top_n=1)
    assert reranker.compress_documents(documents("a", "b"), QUERY) == []


def test_the_threshold_goes_before_top_n():
    reranker = ScoringReranker(model=Fixed([0.1, 0.9, 0.7, 0.8]), score_threshold=0.5, top_n=2)
    assert texts(reranker.compress_documents(documents(*"abcd"), QUERY)) == ["b", "d"]


def test_no_documents_and_the_model_is_not_asked():
    model = Fixed([])
    reranker = ScoringReranker(model=model)
    assert reranker.compress_documents([], QUERY) == []
    assert asyncio.run(reranker.acompress_documents([], QUERY)) == []
    assert model.asked == []


def test_one_document():
    ranked = ScoringReranker(model=Fixed([0.3])).compress_documents(documents("a"), QUERY)
    assert [(d.page_content, d.metadata["base_rank"]) for d in ranked] == [("a", 1)]


# Copies


def test_the_documents_given_are_left_as_they_were():
    docs = documents("a", "b")
    before = [doc.model_copy(deep=True) for doc in docs]
    ranked = ScoringReranker(model=Fixed([1, 2])).compress_documents(docs, QUERY)
    assert docs == before
    assert ranked[0] is not docs[1]
    ranked[0].metadata["source"] = "changed"
    assert docs == before


def test_the_documents_in_the_store_are_left_as_they_were():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(documents("a", "bb", "ccc"))
    docs = store.similarity_search(QUERY, k=3)
    for retriever_docs in (docs, store.similarity_search(QUERY, k=3)):
        ranked = ScoringReranker(model=Length()).compress_documents(retriever_docs, QUERY)
        assert texts(ranked) == ["ccc", "bb", "a"]
    stored = store.get_by_ids(["a", "bb", "ccc"])
    assert [doc.metadata for doc in stored] == [
        {"source": f"{text}.txt"} for text in ("a", "bb", "ccc")
    ]


def test_reranking_twice_replaces_the_score_and_the_rank():
    first = ScoringReranker(model=Fixed([1, 2])).compress_documents(documents("a", "b"), QUERY)
    second = ScoringReranker(model=Fixed([5, 7])).compress_documents(first, QUERY)
    assert texts(second) == ["a", "b"]
    assert field(second, "relevance_score") == [7, 5]
    assert field(second, "base_rank") == [2, 1]
    assert field(first, "relevance_score") == [2, 1]


# Scores that cannot be trusted


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_scores_is_refused(scores):
    reranker = ScoringReranker(model=Fixed(scores))
    with pytest.raises(ValueError, match=f"Fixed returned {len(scores)} scores for 2 documents"):
        reranker.compress_documents(documents("a", "b"), QUERY)
    with pytest.raises(ValueError, match=f"Fixed returned {len(scores)} scores for 2 documents"):
        asyncio.run(reranker.acompress_documents(documents("a", "b"), QUERY))


@pytest.mark.parametrize("nan", [math.nan, np.float32("nan")])
def test_nan_is_refused_and_its_rank_named(nan):
    reranker = ScoringReranker(model=Fixed([0.1, nan, 0.3]), score_threshold=0.2, top_n=1)
    with pytest.raises(ValueError, match="NaN for the document of rank 2"):
        reranker.compress_documents(documents(*"abc"), QUERY)
    with pytest.raises(ValueError, match="NaN for the document of rank 2"):
        asyncio.run(reranker.acompress_documents(documents(*"abc"), QUERY))


@pytest.mark.parametrize(
    "scores",
    [
        np.array([0.25, 0.75], dtype=np.float32),
        [np.float32(0.25), np.float32(0.75)],
        (0.25, 0.75),
        [0, 1],
    ],
    ids=["float32 array", "float32 list", "tuple", "integers"],
)
def test_scores_become_floats_of_python(scores):
    ranked = ScoringReranker(model=Fixed(scores)).compress_documents(documents("a", "b"), QUERY)
    assert texts(ranked) == ["b", "a"]
    assert [type(score) for score in field(ranked, "relevance_score")] == [float, float]
    assert field(ranked, "relevance_score") == [float(scores[1]), float(scores[0])]
    assert '"relevance_score":' in ranked[0].model_dump_json()


def test_a_map_is_as_good_as_a_list():
    # LangChain's HuggingFaceCrossEncoder returns one for a model of two labels.
    model = Fixed(map(lambda pair: pair[1], [(0.9, 0.1), (0.2, 0.8)]))
    ranked = ScoringReranker(model=model).compress_documents(documents("a", "b"), QUERY)
    assert texts(ranked) == ["b", "a"]
    assert field(ranked, "relevance_score") == [0.8, 0.1]


def test_an_error_of_the_model_is_not_swallowed():
    class Broken(BaseCrossEncoder):
        def score(self, text_pairs):
            raise ConnectionError("the endpoint is gone")

    recorder = Recorder()
    with pytest.raises(ConnectionError, match="the endpoint is gone"):
        ScoringReranker(model=Broken()).compress_documents(documents("a"), QUERY, [recorder])
    assert [str(error) for _, error in recorder.failed] == ["the endpoint is gone"]


# Sync, async and callbacks


def test_async_gives_what_sync_gives():
    docs = documents("aaa", "a", "aaaa", "aa", "bbb")
    reranker = ScoringReranker(model=Length(), top_n=4, score_threshold=2)
    expected = reranker.compress_documents(docs, QUERY)
    assert texts(expected) == ["aaaa", "aaa", "bbb", "aa"]
    assert asyncio.run(reranker.acompress_documents(docs, QUERY)) == expected


def test_async_scoring_does_not_hold_up_the_loop():
    import threading

    class Thread(BaseCrossEncoder):
        def score(self, text_pairs):
            self.thread = threading.get_ident()
            return [1.0] * len(text_pairs)

    model = Thread()
    asyncio.run(ScoringReranker(model=model).acompress_documents(documents("a"), QUERY))
    assert model.thread != threading.get_ident()


@pytest.mark.parametrize("how", ["sync", "async"])
def test_callbacks_see_the_scoring(how):
    recorder = Recorder()
    reranker = ScoringReranker(model=Length())
    if how == "sync":
        reranker.compress_documents(documents("a", "bb"), QUERY, callbacks=[recorder])
    else:
        asyncio.run(reranker.acompress_documents(documents("a", "bb"), QUERY, callbacks=[recorder]))
    assert [recorder.names[run] for run in recorder.started] == ["Length"]
    assert recorder.ended == recorder.started


@pytest.mark.parametrize("how", ["sync", "async"])
def test_callbacks_see_the_scoring_inside_a_retriever(how):
    retriever = ContextualCompressionRetriever(
        base_compressor=ScoringReranker(model=Length(), top_n=2),
        base_retriever=Candidates(docs=documents("a", "bbb", "cc")),
    )
    recorder = Recorder()
    config = {"callbacks": [recorder]}
    if how == "sync":
        docs = retriever.invoke(QUERY, config)
    else:
        docs = asyncio.run(retriever.ainvoke(QUERY, config))
    assert texts(docs) == ["bbb", "cc"]
    assert [recorder.names[run] for run in recorder.started] == ["Length"]
    assert recorder.ended == recorder.started
    (parent,) = (recorder.parents[run] for run in recorder.started)
    assert recorder.names[parent] == "ContextualCompressionRetriever"


def test_a_retriever_that_finds_nothing():
    retriever = ContextualCompressionRetriever(
        base_compressor=ScoringReranker(model=Fixed([1.0])), base_retriever=Candidates(docs=[])
    )
    assert retriever.invoke(QUERY) == []
    assert asyncio.run(retriever.ainvoke(QUERY)) == []


# The embedded model itself

ANSWER = "The plan for the economy is to cut prices, raise wages and build things at home again."
NEAR = "The economy of the islands was studied by three historians in the last century."
OFF = "The lighthouse at the cape was painted white and red in the spring."


@pytest.fixture(scope="module")
def cross_encoder():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.cross_encoders import HuggingFaceCrossEncoder

        return HuggingFaceCrossEncoder(model_name=load_profile().reranker_model)


def test_the_embedded_model_ranks_an_answer_above_a_near_miss(cross_encoder):
    ranked = ScoringReranker(model=cross_encoder).compress_documents(
        documents(OFF, NEAR, ANSWER), QUERY
    )
    assert texts(ranked) == [ANSWER, NEAR, OFF]
    assert all(0 <= score <= 1 for score in field(ranked, "relevance_score"))
    assert ranked[0].metadata["relevance_score"] - ranked[2].metadata["relevance_score"] > 0.1


@pytest.mark.parametrize(
    "passage",
    [
        "",
        " ",
        "word " * 20_000,
        "x" * 100_000,
        "経済計画は物価を下げ、賃金を上げることです。",
        "خطة الاقتصاد هي خفض الأسعار",
        "🍎🍐 \u200b\u0000 \ud7ff",
        "[SEP] [CLS] [PAD] [MASK]",
    ],
    ids=["empty", "space", "100,000 in words", "100,000", "Japanese", "Arabic", "odd", "special"],
)
def test_hostile_passages_get_a_score(cross_encoder, passage):
    alone = float(cross_encoder.score([(QUERY, passage)])[0])
    beside = np.asarray(cross_encoder.score([(QUERY, ANSWER), (QUERY, passage)]), dtype=float)
    assert 0 <= alone <= 1
    assert beside[1] == pytest.approx(alone, abs=1e-4)
    assert beside[0] > alone, "an answer scores above it, and is not disturbed by its neighbour"


@pytest.mark.parametrize(
    "query", ["", "why " * 5_000, "物価はどうなりますか。"], ids=["empty", "20,000", "Japanese"]
)
def test_hostile_queries_get_scores(cross_encoder, query):
    scores = np.asarray(cross_encoder.score([(query, ANSWER), (query, "")]), dtype=float)
    assert scores.shape == (2,)
    assert np.all((scores >= 0) & (scores <= 1))


def test_scores_depend_on_nothing_but_the_pair(cross_encoder):
    passages = [ANSWER, NEAR, OFF, "", "Prices. " * 40, ANSWER + " " + NEAR, "経済", "Wages."]
    pairs = [(QUERY, passage) for passage in passages]
    scores = np.asarray(cross_encoder.score(pairs), dtype=float)
    assert np.ptp(scores) > 0.1, "scores that are all alike show nothing"
    again = np.asarray(cross_encoder.score(pairs), dtype=float)
    backwards = np.asarray(cross_encoder.score(pairs[::-1]), dtype=float)[::-1]
    single = [float(cross_encoder.score([pair])[0]) for pair in pairs]
    many = np.asarray(cross_encoder.score(pairs * 5), dtype=float).reshape(5, -1)
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_allclose(backwards, scores, atol=1e-4)
    np.testing.assert_allclose(single, scores, atol=1e-4)
    np.testing.assert_allclose(many, np.tile(scores, (5, 1)), atol=1e-4)


def test_the_query_and_the_passage_are_not_exchangeable(cross_encoder):
    there, back = cross_encoder.score([(QUERY, ANSWER), (ANSWER, QUERY)])
    assert abs(float(there) - float(back)) > 1e-3
