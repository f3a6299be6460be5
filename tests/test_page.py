"""LangChain's page 'Cross Encoder Reranker', run here on today's imports and our own text."""

import re
import warnings

import pytest

from helpers import load_profile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder
    from langchain_community.document_loaders import TextLoader
    from langchain_community.vectorstores import FAISS
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter

import helpers

QUERY = "What is the plan for the economy?"
RULE = "\n" + "-" * 100 + "\n"


# The page's first code cell.
def pretty_print_docs(docs):
    print(
        f"\n{'-' * 100}\n".join(
            [f"Document {i + 1}:\n\n" + d.page_content for i, d in enumerate(docs)]
        )
    )


@pytest.fixture(scope="module")
def profile():
    return load_profile("embedded")


@pytest.fixture(scope="module")
def retriever(profile):
    # The page's second code cell, up to its search.
    documents = TextLoader(str(profile.corpus)).load()
    text_splitter = RecursiveCharacterTextSplitter(chunk_size=500, chunk_overlap=100)
    texts = text_splitter.split_documents(documents)
    embeddingsModel = HuggingFaceEmbeddings(model_name=profile.embedding_model)
    return FAISS.from_documents(texts, embeddingsModel).as_retriever(search_kwargs={"k": 20})


@pytest.fixture(scope="module")
def docs(retriever):
    return retriever.invoke(QUERY)


def test_the_first_two_cells_print_in_the_pages_form(docs, profile, capsys):
    pretty_print_docs(docs)
    printed = capsys.readouterr().out
    blocks = printed.removesuffix("\n").split(RULE)
    assert len(blocks) == 20
    text = profile.corpus.read_text(encoding="utf-8")
    for number, block in enumerate(blocks, start=1):
        heading, passage = block.split("\n\n", 1)
        assert heading == f"Document {number}:"
        assert passage in text
        assert 0 < len(passage) <= 500
    assert len(set(blocks)) == 20
    assert re.search(r"\beconom", printed)


def test_our_helper_prints_what_the_pages_does(docs, capsys):
    pretty_print_docs(docs)
    expected = capsys.readouterr().out
    helpers.pretty_print_docs(docs)
    assert capsys.readouterr().out == expected


def test_our_index_finds_what_the_pages_does(docs, profile, retriever):
    """Euclid or inner product: for vectors of length 1 they are the same order."""
    store = helpers.build_index(
        profile.corpus,
        retriever.vectorstore.embeddings,
        distance_strategy=profile.distance_strategy,
        show_progress=False,
    )
    ours = store.as_retriever(search_kwargs={"k": 20}).invoke(QUERY)
    assert [doc.page_content for doc in ours] == [doc.page_content for doc in docs]


def test_reranking_as_the_page_does_and_as_we_do(docs, profile, retriever, capsys):
    model = HuggingFaceCrossEncoder(model_name=profile.reranker_model)
    compressor = CrossEncoderReranker(model=model, top_n=3)
    compression_retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=retriever
    )
    compressed_docs = compression_retriever.invoke(QUERY)
    pretty_print_docs(compressed_docs)
    assert capsys.readouterr().out.count(RULE) == 2
    candidates = [doc.page_content for doc in docs]
    chosen = [doc.page_content for doc in compressed_docs]
    assert len(set(chosen)) == 3
    assert set(chosen) <= set(candidates)

    ours = ContextualCompressionRetriever(
        base_compressor=helpers.ScoringReranker(model=model, top_n=3), base_retriever=retriever
    ).invoke(QUERY)
    assert [doc.page_content for doc in ours] == chosen
    assert [candidates[doc.metadata["base_rank"] - 1] for doc in ours] == chosen
    scores = [doc.metadata["relevance_score"] for doc in ours]
    assert scores == sorted(scores, reverse=True)
    assert max(doc.metadata["base_rank"] for doc in ours) > 3, "one was below rank three"
