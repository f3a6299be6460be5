"""A question to candidates, by vectors and by words, from a real database. Slow: a database."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_postgres import PGEngine, PGVectorStore
from langchain_postgres.v2.hybrid_search_config import HybridSearchConfig

from helpers.documents.retrieve import PostgresRetriever

pytestmark = pytest.mark.slow


@pytest.fixture
def retrieve(engines, embeddings):
    def ask(question, role="owner", **settings):
        how = {"engine": engines[role], "embeddings": embeddings}
        return PostgresRetriever(**how, **settings).invoke(question)

    return ask


def test_what_is_near_and_what_shares_any_word_both_come(retrieve):
    near, worded = retrieve("Who may ride a zebra? K-46", k=1, words=1)
    assert "Riders dismount at the ramp" in near.page_content
    assert "on form K-46" in worded.page_content
    assert len(retrieve("ticket machine Skua", k=1)) >= 10, "not all of the words are needed"


def test_each_passage_comes_once_nearest_first_with_its_cosine_and_its_facts(retrieve, embeddings):
    docs = retrieve("What does it cost to take a dog along?")
    assert 20 <= len(docs) <= 30 and len({doc.id for doc in docs}) == len(docs)
    similarities = [doc.metadata["similarity"] for doc in docs]
    assert similarities == sorted(similarities, reverse=True)
    vectors = np.array(embeddings.embed_documents([doc.page_content for doc in docs]))
    cosines = vectors @ embeddings.embed_query("What does it cost to take a dog along?")
    np.testing.assert_allclose(similarities, cosines, atol=1e-4)  # these vectors have length 1
    facts = {"source", "audience", "title", "page", "similarity"}
    assert all(doc.metadata.keys() - {"encoding"} == facts for doc in docs)


def test_stop_words_and_marks_do_no_harm_and_a_nul_is_refused(retrieve):
    for question in ("the of and", "", "?!", "' ; \" % : {} \\ -- /*"):
        assert len(retrieve(question, k=7)) == 7
    for mark in ("'", '"', ";", "%s", ":k", "\\", "' & 'x", "!", "<->", ":*", "(", "$1"):
        found = retrieve(f"dog{mark} {mark}ticket {mark}DROP TABLE passages;{mark}")
        assert any("ticket for a dog" in doc.page_content for doc in found), mark
    with pytest.raises(ValueError, match="NUL character"):
        retrieve("dog\0s")


def test_a_role_finds_its_rows_alone_and_as_many_of_them(retrieve):
    for role, may in {"passenger": {"everyone"}, "crew": {"everyone", "staff"}}.items():
        docs = retrieve("Skua Karvik salaries overtime K-46", role)
        assert {doc.metadata["audience"] for doc in docs} == may and len(docs) >= 20


def test_eight_threads_at_once_find_what_one_finds(engines, embeddings):
    retriever = PostgresRetriever(engine=engines["crew"], embeddings=embeddings, k=5)
    questions = [f"{thing} {n}?" for n in range(4) for thing in ("dogs", "E-22", "fog", "K-46")]
    expected = [retriever.invoke(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(retriever.invoke, questions * 3)) == expected * 3


def test_langchain_keeps_the_first_question_s_words_in_a_shared_config(engines, embeddings):
    """Why the retriever writes its own query: when this fails, langchain-postgres mended it."""
    config = HybridSearchConfig("content_tsv")
    engine = PGEngine.from_connection_string(engines["owner"].url)
    how = {"metadata_columns": ["source", "audience"], "hybrid_search_config": config}
    store = PGVectorStore.create_sync(engine, embeddings, "passages", **how)
    store.similarity_search("Skua")
    store.similarity_search("dogs")
    assert config.fts_query == "Skua"
