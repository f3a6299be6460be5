"""LangChain's page 'Cross Encoder Reranker', run here on today's imports and our own text."""

import re

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.document_loaders import TextLoader
from langchain_community.vectorstores import FAISS
from langchain_text_splitters import RecursiveCharacterTextSplitter

import helpers
from helpers.profiles import DATA

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
def retriever(embeddings):
    # The page's second code cell, up to its search.
    documents = TextLoader(str(DATA / "address.txt")).load()
    text_splitter = RecursiveCharacterTextSplitter(chunk_size=500, chunk_overlap=100)
    texts = text_splitter.split_documents(documents)
    return FAISS.from_documents(texts, embeddings).as_retriever(search_kwargs={"k": 20})


@pytest.fixture(scope="module")
def docs(retriever):
    return retriever.invoke(QUERY)


def test_both_print_in_the_pages_form(docs, capsys):
    pretty_print_docs(docs)
    printed = capsys.readouterr().out
    helpers.pretty_print_docs(docs)
    assert capsys.readouterr().out == printed
    assert len({*printed.removesuffix("\n").split(RULE)}) == 20
    assert re.match(r"Document 1:\n\n.*\beconom", printed, re.DOTALL)


def test_our_index_finds_what_the_pages_does(docs, embeddings):
    """Euclid or inner product: for vectors of length 1 they are the same order."""
    store = helpers.build_index(DATA / "address.txt", embeddings, show_progress=False)
    ours = helpers.SimilarityRetriever(store=store, k=20).invoke(QUERY)
    assert [doc.page_content for doc in ours] == [doc.page_content for doc in docs]


def test_reranking_as_the_page_does_and_as_we_do(docs, retriever, reference):
    def rerank(compressor):
        compression_retriever = ContextualCompressionRetriever(
            base_compressor=compressor, base_retriever=retriever
        )
        return compression_retriever.invoke(QUERY)

    chosen = [d.page_content for d in rerank(CrossEncoderReranker(model=reference, top_n=3))]
    ours = rerank(helpers.ScoringReranker(model=reference, top_n=3))
    candidates = [doc.page_content for doc in docs]
    assert [doc.page_content for doc in ours] == chosen
    assert [candidates[doc.metadata["base_rank"] - 1] for doc in ours] == chosen
    assert len(set(chosen)) == 3
    assert max(doc.metadata["base_rank"] for doc in ours) > 3, "one was below rank three"
