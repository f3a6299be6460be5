"""Clients as people have them, against our server: they get the order of `LocalCrossEncoder`."""

import cohere
import pytest
from cohere.core.api_error import ApiError
from langchain_community.document_compressors import jina_rerank
from rerankers import Reranker
from tei_client.clients.http_client import HttpClient

pytestmark = pytest.mark.slow

QUERY = "What is said about the harbour?"
DOCUMENTS = ["The school opens at eight.", "The harbour was dredged.", "", "A harbour, again."]
DOCUMENTS += ["Nothing of that kind. " * 300, "Boats lie in the harbour all winter."]


@pytest.fixture(scope="module")
def ranked(local):
    """Indexes and scores, best first."""
    scores = local.score([(QUERY, document) for document in DOCUMENTS])
    return sorted(enumerate(scores), key=lambda each: -each[1])


def assert_same(found, ranked) -> None:
    assert [index for index, _ in found] == [index for index, _ in ranked]
    assert [score for _, score in found] == pytest.approx([s for _, s in ranked], abs=1e-5)


def test_text_embeddings_inferences_client(endpoint, ranked):
    client = HttpClient(endpoint.url)
    assert client.health()
    info = client.info()
    assert info.server_model_id == endpoint.name and info.max_client_batch_size == 2000
    found = client.rerank(QUERY, DOCUMENTS, return_text=True, truncate=True)
    assert_same([(each.index, each.score) for each in found.ranks], ranked)
    assert [each.text for each in found.ranks] == [DOCUMENTS[i] for i, _ in ranked]


@pytest.mark.parametrize("kind", [cohere.Client, cohere.ClientV2])
def test_coheres_clients(endpoint, ranked, kind):
    client = kind(api_key="any", base_url=endpoint.url)
    found = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=4)
    assert_same([(each.index, each.relevance_score) for each in found.results], ranked[:4])
    assert len(found.meta.warnings) == 1
    with pytest.raises(ApiError) as error:
        client.rerank(model="any", query=QUERY, documents=[])
    assert error.value.status_code == 400 and "is empty" in error.value.body["message"]


@pytest.mark.parametrize("kind", ["text-embeddings-inference", "cohere", "jina"])
def test_rerankers(endpoint, ranked, kind):
    how = {"api_key": "any", "verbose": 0, "url": f"{endpoint.url}/rerank"}
    found = Reranker("any", model_type=kind, **how).rank(query=QUERY, docs=DOCUMENTS)
    assert_same([(each.doc_id, each.score) for each in found.results], ranked)


def test_langchains_client_of_jina(endpoint, ranked, monkeypatch):
    """It has no setting for the address, but takes it from its module."""
    monkeypatch.setattr(jina_rerank, "JINA_API_URL", f"{endpoint.url}/v1/rerank")
    client = jina_rerank.JinaRerank(jina_api_key="any", top_n=4)
    found = client.rerank(DOCUMENTS, QUERY)
    assert_same([(each["index"], each["relevance_score"]) for each in found], ranked[:4])
