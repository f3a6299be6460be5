"""Text to index: chunks know who they are and where they start, and the nearest are found."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers import EnsembleRetriever
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter

from helpers.index import (
    SimilarityRetriever,
    build_index,
    make_store,
    number_chunks,
    read_text,
    split_text,
)

SUBJECTS = ["harbours", "orchards", "prices", "schools", "rivers", "veterans", "courts", "energy"]
TEXT = "\n\n".join(" ".join(f"{s} matter {n} times over." for n in range(30)) for s in SUBJECTS)
QUERY = "How many times do courts matter?"
# Words that come again and again, and every kind of white space and script.
PARTS = ["word", "Page", "物価", "経済は。", "🍎🍐", "a" * 7, " ", "\n", "\n\n", "\t", "\u3000"]
WORDS = st.lists(st.sampled_from(["prices", "fall", "a", "Übermaß", "therefore,"]), min_size=1)
PROSE = st.lists(WORDS, min_size=1).map(
    lambda paragraphs: "\n\n".join(" ".join(words) + "." for words in paragraphs)
)


class Letters(Embeddings):
    """How often each letter comes, to length `norm`; notes the number of texts of each call."""

    def __init__(self, norm=1.0):
        self.norm, self.calls = norm, []

    def embed_documents(self, texts):
        self.calls.append(len(texts))
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        found = np.bincount([ord(c) % 32 for c in text.lower() if c != " "], minlength=32) + 1e-3
        return (self.norm * found / np.linalg.norm(found)).tolist()


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.txt", TEXT)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file for the examples of hypothesis, each of which overwrites it."""
    return tmp_path_factory.mktemp("scratch") / "text.txt"


def write(path, text):
    path.write_bytes(text.encode())
    return path


def build(corpus, embeddings=None, **settings):
    return build_index(corpus, embeddings or Letters(), show_progress=False, **settings)


# Reading


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_text_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "text.txt"
    path.write_bytes("Größe\r\nund 経済".encode(encoding))
    assert read_text(path) == "Größe\nund 経済"
    assert split_text(path)[0].metadata["start_index"] == 0


WINDOWS = ["Übermäßig".encode("cp1252"), "Prices".encode("utf-16"), "Prices".encode("utf-16-le")]


@pytest.mark.parametrize("make", [split_text, build])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        *[(content, "is not UTF-8 text, save it as such") for content in WINDOWS],
        *[(content, "holds no text to index") for content in (b"", b"  \n\n \t \n")],
        (None, "No such file"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(tmp_path, make, content, said):
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(OSError if content is None else ValueError, match="mine.txt") as caught:
        make(tmp_path / "mine.txt")
    assert said in str(caught.value)


# Splitting


def check(text, chunks, chunk_size):
    starts = [chunk.metadata["start_index"] for chunk in chunks]
    assert starts == sorted(set(starts))
    lost = {i for i, character in enumerate(text) if not character.isspace()}
    for start, chunk in zip(starts, chunks, strict=True):
        end = start + len(chunk.page_content)
        assert 0 < end - start <= chunk_size
        assert text[start:end] == chunk.page_content
        lost -= set(range(start, end))
    assert not lost


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 40)), min_size=1, max_size=30))
@example([("word", 1), (" ", 300)] * 20)
@example([(" ", 140), ("Page", 1), ("\n", 1)] * 60)
@example([("Page", 1), ("\n", 150)] * 20)
def test_every_character_is_in_a_chunk_that_says_where_it_starts(scratch, parts):
    text = "".join(part * times for part, times in parts)
    if text.strip():
        chunks = split_text(write(scratch, text), chunk_size=50, chunk_overlap=10)
        check(text, chunks, 50)


@settings(max_examples=50, deadline=None)
@given(PROSE)
def test_the_chunks_of_prose_are_langchains(scratch, text):
    chunks = split_text(write(scratch, text), chunk_size=60, chunk_overlap=15)
    splitter = RecursiveCharacterTextSplitter(chunk_size=60, chunk_overlap=15)
    assert [chunk.page_content for chunk in chunks] == splitter.split_text(text)


@pytest.mark.parametrize("text", ["a" * 100_000, "".join(chr(0x4E00 + n) for n in range(20_000))])
def test_a_long_text_without_a_space_is_cut_at_the_size(scratch, text):
    chunks = split_text(write(scratch, text))
    check(text, chunks, 500)
    assert [c.metadata["start_index"] for c in chunks] == list(range(0, len(text) - 100, 400))


def test_a_chunk_has_an_identity(corpus):
    chunks = split_text(corpus)
    assert len(chunks) >= len(SUBJECTS)
    names = [f"{corpus}#{n}" for n in range(len(chunks))]
    assert [c.id for c in chunks] == [c.metadata["chunk_id"] for c in chunks] == names
    assert {c.metadata["source"] for c in chunks} == {str(corpus)}
    own = number_chunks([Document("one", metadata={"source": "mine"}), Document("two")])
    assert [c.metadata["chunk_id"] for c in own] == ["mine#0", "#1"]


def test_two_files_in_one_store_and_an_ensemble_lose_no_chunk(corpus, tmp_path):
    """The same text twice: words and offsets are the same, the identities are not."""
    chunks = split_text(corpus) + split_text(write(tmp_path / "other.txt", TEXT))
    made = build(corpus)
    store = make_store(made.index, chunks[: len(chunks) // 2], Letters())
    assert store.similarity_search(QUERY) == made.similarity_search(QUERY)
    store.add_documents(chunks[len(chunks) // 2 :])
    retriever = store.as_retriever(search_kwargs={"k": len(chunks)})
    both = {"retrievers": [retriever, retriever], "weights": [0.5, 0.5]}
    found = EnsembleRetriever(**both, id_key="chunk_id").invoke(QUERY)
    assert sorted(doc.id for doc in found) == sorted(chunk.id for chunk in chunks)


# What is searched


@pytest.mark.parametrize("norm", [1, 3])
@pytest.mark.parametrize("strategy", ["MAX_INNER_PRODUCT", *DistanceStrategy][:3])
def test_the_search_is_the_one_that_the_distance_names(corpus, strategy, norm):
    embeddings = Letters(norm)
    store = build(corpus, embeddings, distance_strategy=strategy)
    chunks = split_text(corpus)
    assert embeddings.calls == [len(chunks)], "one call, so that the model can sort"
    query = np.array(embeddings.embed_query(QUERY))
    vectors = np.array([embeddings.embed_query(chunk.page_content) for chunk in chunks])
    inner = "INNER" in strategy
    distances = vectors @ query if inner else ((vectors - query) ** 2).sum(1)
    order = np.argsort(-distances if inner else distances)
    hits = store.similarity_search_with_score(QUERY, k=len(chunks) + 5)
    assert [doc.id for doc, _ in hits] == [chunks[i].id for i in order]
    assert [score for _, score in hits] == pytest.approx(distances[order], abs=1e-5)


@pytest.mark.parametrize("strategy", ["COSINE", *list(DistanceStrategy)[2:], "nonsense", None])
def test_a_distance_that_langchain_would_take_for_the_euclidean_is_refused(corpus, strategy):
    embeddings = Letters()
    with pytest.raises(ValueError, match=r"distance_strategy is \w+: expected one of MAX_INNER"):
        build(corpus, embeddings, distance_strategy=strategy)
    assert embeddings.calls == []


@pytest.mark.parametrize("strategy", ["MAX_INNER_PRODUCT", "EUCLIDEAN_DISTANCE"])
def test_a_threshold_keeps_the_nearest_and_needs_vectors_of_length_one(corpus, strategy):
    store = build(corpus, distance_strategy=strategy)
    nearest = SimilarityRetriever(store=build(corpus), k=9).invoke(QUERY)
    cosines = [doc.metadata["similarity"] for doc in nearest]
    found = store.similarity_search_with_relevance_scores(QUERY, k=9)
    assert [score for _, score in found] == pytest.approx(cosines, abs=1e-5)
    how = {"k": 20, "score_threshold": (cosines[4] + cosines[5]) / 2}
    kept = store.as_retriever(search_type="similarity_score_threshold", search_kwargs=how)
    assert [doc.id for doc in kept.invoke(QUERY)] == [doc.id for doc in nearest[:5]]
    long = build(corpus, Letters(3), distance_strategy=strategy)
    with pytest.raises(ValueError, match="is no cosine: normalise the embeddings"):
        long.similarity_search_with_relevance_scores(QUERY, k=20)


def test_progress_is_shown_only_when_wanted(tmp_path, embeddings, capfd):
    corpus = write(tmp_path / "short.txt", "One line.")
    build_index(corpus, embeddings, show_progress=False)
    assert "Batches" not in capfd.readouterr().err
    build_index(corpus, embeddings)
    assert "Batches: 100%" in capfd.readouterr().err
    assert not embeddings.show_progress, "the model given is left as it was"


def test_the_retriever_gives_the_stores_passages_with_their_similarity(corpus):
    store = build(corpus)
    docs = SimilarityRetriever(store=store, k=5).invoke(QUERY)
    expected = store.similarity_search_with_score(QUERY, k=5)
    assert [doc.id for doc in docs] == [doc.id for doc, _ in expected]
    similarities = [doc.metadata["similarity"] for doc in docs]
    assert similarities == [float(score) for _, score in expected]
    assert similarities == sorted(similarities, reverse=True)
    assert "similarity" not in store.similarity_search(QUERY, k=1)[0].metadata  # copies
    by_distance = build(corpus, distance_strategy="EUCLIDEAN_DISTANCE")
    with pytest.raises(ValueError, match="by distance: expected one by inner product"):
        SimilarityRetriever(store=by_distance)
