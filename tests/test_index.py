"""Text to index: chunks know where they start, and a kept index is used only while it is true."""

import hashlib
import json
import warnings

import numpy as np
import pytest
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.embeddings import Embeddings

from helpers import SimilarityRetriever, build_index, split_text

SUBJECTS = ["harbours", "orchards", "prices", "schools", "rivers", "veterans", "courts", "energy"]
TEXT = "\n\n".join(
    f"On {subject}: {' '.join(f'{subject} matter {n} times over.' for n in range(30))}"
    for subject in SUBJECTS
)
QUERY = "How many times do courts matter?"
FILES = {"index.faiss", "documents.json", "manifest.json"}


class Trigrams(Embeddings):
    """A small deterministic model, which counts the documents that it was given."""

    def __init__(self, seed: int = 0, size: int = 16):
        self.seed, self.size, self.embedded = seed, size, 0

    def _vector(self, text: str) -> list[float]:
        vector = np.full(self.size, 1e-3)
        for start in range(min(len(text), 2000)):
            gram = f"{self.seed}{text[start : start + 3].lower()}".encode()
            digest = hashlib.blake2b(gram, digest_size=4).digest()
            vector[int.from_bytes(digest, "big") % self.size] += 1
        return (vector / np.linalg.norm(vector)).tolist()

    def embed_documents(self, texts):
        self.embedded += len(texts)
        return [self._vector(text) for text in texts]

    def embed_query(self, text):
        return self._vector(text)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept" / "index"


def build(corpus, embeddings=None, **settings):
    return build_index(corpus, embeddings or Trigrams(), show_progress=False, **settings)


def found(store, k=5):
    """What a search returns, in a form that compares equal."""
    return [
        (doc.page_content, doc.metadata, round(float(score), 5))
        for doc, score in store.similarity_search_with_score(QUERY, k=k)
    ]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Splitting


def test_chunks_start_where_start_index_says(corpus):
    chunks = split_text(corpus)
    assert len(chunks) >= len(SUBJECTS)
    for chunk in chunks:
        start = chunk.metadata["start_index"]
        assert TEXT[start : start + len(chunk.page_content)] == chunk.page_content
        assert 0 < len(chunk.page_content) <= 500
    starts = [chunk.metadata["start_index"] for chunk in chunks]
    assert starts == sorted(set(starts))
    assert starts[0] == 0


def test_chunk_size_and_overlap_are_passed_on(corpus):
    chunks = split_text(corpus, chunk_size=120, chunk_overlap=0)
    assert max(len(chunk.page_content) for chunk in chunks) <= 120
    ends = [c.metadata["start_index"] + len(c.page_content) for c in chunks]
    starts = [c.metadata["start_index"] for c in chunks]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_the_chunks_carry_their_source(corpus):
    assert {chunk.metadata["source"] for chunk in split_text(corpus)} == {str(corpus)}


@pytest.mark.parametrize("text", ["", "   \n\n \t \n"])
@pytest.mark.parametrize("make", [split_text, build])
def test_a_text_without_words_is_refused(tmp_path, text, make):
    path = write(tmp_path / "empty.txt", text)
    with pytest.raises(ValueError, match="empty.txt holds no text"):
        make(path)


@pytest.mark.parametrize("make", [split_text, build])
def test_a_text_that_is_not_utf8_is_refused(tmp_path, make):
    path = tmp_path / "latin.txt"
    path.write_bytes("Übermäßige Größe".encode("latin-1"))
    with pytest.raises(ValueError, match="latin.txt is not UTF-8") as caught:
        make(path)
    assert not isinstance(caught.value, UnicodeDecodeError)


def test_a_missing_text_is_an_error_and_writes_nothing(tmp_path, folder):
    with pytest.raises((OSError, RuntimeError), match="absent.txt"):
        build(tmp_path / "absent.txt", folder=folder)
    assert not folder.exists()


# Unusual texts


def test_one_short_document(tmp_path):
    path = write(tmp_path / "short.txt", "One line.")
    docs = build(path).similarity_search("line", k=20)
    assert [(doc.page_content, doc.metadata["start_index"]) for doc in docs] == [("One line.", 0)]


def test_a_hundred_thousand_characters_without_a_space(tmp_path):
    text = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(1563))[:100_000]
    chunks = split_text(write(tmp_path / "long.txt", text))
    assert all(len(chunk.page_content) <= 500 for chunk in chunks)
    starts = [chunk.metadata["start_index"] for chunk in chunks]
    assert starts == list(range(0, 100_000 - 100, 400))
    assert all(
        text[start : start + 500] == chunk.page_content
        for start, chunk in zip(starts, chunks, strict=True)
    )
    store = build(tmp_path / "long.txt")
    assert store.index.ntotal == len(chunks)


def test_one_character_a_hundred_thousand_times(tmp_path):
    chunks = split_text(write(tmp_path / "same.txt", "a" * 100_000))
    assert [c.metadata["start_index"] for c in chunks] == list(range(0, 100_000 - 100, 400))


@pytest.mark.parametrize(
    "text",
    ["経済計画は物価を下げることです。" * 80, "خطة الاقتصاد هي خفض الأسعار. " * 60, "🍎🍐 " * 400],
)
def test_non_latin_text_survives_being_kept(tmp_path, folder, text):
    path = write(tmp_path / "text.txt", text)
    fresh = build(path, folder=folder)
    again = build(path, folder=folder)
    for store in (fresh, again):
        for doc in store.similarity_search(text[:20], k=3):
            start = doc.metadata["start_index"]
            assert doc.page_content == text[start : start + len(doc.page_content)] != ""
    assert found(fresh) == found(again)


# What is searched


@pytest.mark.parametrize(
    ("strategy", "best_is_highest"),
    [(DistanceStrategy.MAX_INNER_PRODUCT, True), (DistanceStrategy.EUCLIDEAN_DISTANCE, False)],
)
def test_the_search_is_the_one_that_the_distance_names(corpus, strategy, best_is_highest):
    embeddings = Trigrams()
    store = build(corpus, embeddings, distance_strategy=strategy)
    chunks = split_text(corpus)
    query = np.array(embeddings.embed_query(QUERY))
    vectors = np.array([embeddings._vector(chunk.page_content) for chunk in chunks])
    inner = vectors @ query
    distances = inner if best_is_highest else ((vectors - query) ** 2).sum(1)
    order = np.argsort(-distances if best_is_highest else distances)[:5]
    hits = store.similarity_search_with_score(QUERY, k=5)
    assert [doc.page_content for doc, _ in hits] == [chunks[i].page_content for i in order]
    assert [score for _, score in hits] == pytest.approx(distances[order], abs=1e-5)


def test_every_chunk_is_embedded_once_and_found(corpus):
    embeddings = Trigrams()
    store = build(corpus, embeddings, chunk_size=60, chunk_overlap=10)
    chunks = split_text(corpus, chunk_size=60, chunk_overlap=10)
    assert len(chunks) > 64, "more than two batches, or this shows nothing"
    assert embeddings.embedded == len(chunks)
    docs = store.similarity_search(QUERY, k=len(chunks) + 5)
    assert {doc.metadata["start_index"] for doc in docs} == {
        chunk.metadata["start_index"] for chunk in chunks
    }


def test_progress_is_shown_only_when_wanted(corpus, capfd):
    build_index(corpus, Trigrams(), show_progress=False)
    assert capfd.readouterr().err == ""
    build_index(corpus, Trigrams())
    assert "Embedding: 100%" in capfd.readouterr().err


# An index that is kept


def test_a_kept_index_is_not_embedded_again(corpus, folder):
    fresh = build(corpus, folder=folder)
    again = Trigrams()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = build(corpus, again, folder=folder)
    assert again.embedded == 0
    assert found(store) == found(fresh)
    assert len(found(store)) == 5


def test_a_kept_index_can_be_a_retriever_and_grow(corpus, folder):
    build(corpus, folder=folder)
    store = build(corpus, folder=folder)
    retrieved = store.as_retriever(search_kwargs={"k": 3}).invoke(QUERY)
    assert [doc.page_content for doc in retrieved] == [text for text, _, _ in found(store, 3)]
    store.add_texts(["An afterthought about courts."], ids=["new"])
    assert store.index.ntotal == len(split_text(corpus)) + 1
    assert store.get_by_ids(["new"])[0].page_content == "An afterthought about courts."


def test_nothing_in_the_folder_is_pickled(corpus, folder):
    build(corpus, folder=folder)
    assert {path.name for path in folder.iterdir()} == FILES
    for name in FILES:
        content = (folder / name).read_bytes()
        assert not content.startswith(b"\x80"), f"{name} begins as a pickle does"
    for name in FILES - {"index.faiss"}:
        json.loads((folder / name).read_text(encoding="utf-8"))


def test_a_changed_text_is_embedded_anew(corpus, folder):
    build(corpus, folder=folder)
    write(corpus, TEXT.replace("courts matter 3 times", "courts matter 4 times"))
    again = Trigrams()
    store = build(corpus, again, folder=folder)
    assert again.embedded == len(split_text(corpus))
    assert found(store) == found(build(corpus))


@pytest.mark.parametrize(
    "settings",
    [
        {"chunk_size": 300},
        {"chunk_overlap": 50},
        {"distance_strategy": DistanceStrategy.EUCLIDEAN_DISTANCE},
    ],
)
def test_other_settings_are_embedded_anew(corpus, folder, settings):
    build(corpus, folder=folder)
    again = Trigrams()
    store = build(corpus, again, folder=folder, **settings)
    assert again.embedded == store.index.ntotal > 0
    assert found(store) == found(build(corpus, **settings))
    assert found(store) != found(build(corpus))
    # What is kept now is the new one.
    third = Trigrams()
    build(corpus, third, folder=folder, **settings)
    assert third.embedded == 0


@pytest.mark.parametrize("other", [{"seed": 1}, {"size": 24}])
def test_another_model_of_the_same_name_is_embedded_anew(corpus, folder, other):
    build(corpus, folder=folder)
    again = Trigrams(**other)
    store = build(corpus, again, folder=folder)
    assert again.embedded == store.index.ntotal
    assert store.index.d == again.size
    assert found(store) == found(build(corpus, Trigrams(**other)))


def test_the_rounding_of_another_processor_is_not_another_model(corpus, folder):
    class Rounded(Trigrams):
        def embed_query(self, text):
            return [x + 1e-5 for x in super().embed_query(text)]

    Rounded.__name__ = "Trigrams"
    build(corpus, folder=folder)
    again = Rounded()
    build(corpus, again, folder=folder)
    assert again.embedded == 0


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    write(path, json.dumps(manifest))


DAMAGE = {
    "index.faiss cut in half": lambda folder: cut(folder / "index.faiss"),
    "index.faiss gone": lambda folder: (folder / "index.faiss").unlink(),
    "documents.json cut in half": lambda folder: cut(folder / "documents.json"),
    "documents.json of another index": lambda folder: write(
        folder / "documents.json",
        (folder / "documents.json").read_text().replace("courts", "ports"),
    ),
    "documents.json gone": lambda folder: (folder / "documents.json").unlink(),
    "manifest cut in half": lambda folder: cut(folder / "manifest.json"),
    "manifest not text": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest a list": lambda folder: write(folder / "manifest.json", "[1, 2]"),
    "manifest null": lambda folder: write(folder / "manifest.json", "null"),
    "manifest empty": lambda folder: write(folder / "manifest.json", "{}"),
    "manifest without a hash": lambda folder: edit_manifest(
        folder, lambda manifest: manifest.pop("index_sha256")
    ),
    "manifest with words for a probe": lambda folder: edit_manifest(
        folder, lambda manifest: manifest.update(probe=["garbage"])
    ),
    "manifest with a probe that is an object": lambda folder: edit_manifest(
        folder, lambda manifest: manifest.update(probe={"a": 1})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_index_is_built_anew_with_a_warning(corpus, folder, damage):
    right = found(build(corpus, folder=folder))
    damage(folder)
    again = Trigrams()
    with pytest.warns(UserWarning, match="damaged and is built anew"):
        store = build(corpus, again, folder=folder)
    assert again.embedded == store.index.ntotal
    assert found(store) == right
    # And the folder is whole again.
    third = Trigrams()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(build(corpus, third, folder=folder)) == right
    assert third.embedded == 0


def test_a_folder_cut_off_before_its_manifest_is_built_anew(corpus, folder):
    right = found(build(corpus, folder=folder))
    (folder / "manifest.json").unlink()
    cut(folder / "index.faiss")
    again = Trigrams()
    assert found(build(corpus, again, folder=folder)) == right
    assert again.embedded > 0
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_graph_finds_what_a_flat_index_finds(corpus):
    flat, graph = build(corpus), build(corpus, factory="HNSW32")
    assert type(graph.index).__name__ == "IndexHNSWFlat"
    shown = [[d.page_content for d in s.similarity_search(QUERY, k=5)] for s in (flat, graph)]
    assert shown[0] == shown[1]


def test_an_index_of_another_kind_is_built_anew(corpus, folder):
    embeddings = Trigrams()
    build(corpus, embeddings, folder=folder)
    first = embeddings.embedded
    again = build(corpus, embeddings, folder=folder, factory="HNSW32")
    assert embeddings.embedded == 2 * first
    kept = build(corpus, embeddings, folder=folder, factory="HNSW32")
    assert embeddings.embedded == 2 * first
    assert type(kept.index) is type(again.index)


def test_effort_is_set_after_building_and_after_loading(corpus, folder):
    for cells in (2, 3):  # built, then loaded
        kept = build(corpus, folder=folder, factory="IVF4,Flat", effort=cells)
        assert kept.index.nprobe == cells
    assert build(corpus, factory="HNSW32", effort=99).index.hnsw.efSearch == 99
    with pytest.raises(ValueError, match="factory 'Flat' takes no effort"):
        build(corpus, effort=3)
    with pytest.raises(ValueError, match="effort is 0: expected"):
        build(corpus, factory="HNSW32", effort=0)


@pytest.mark.parametrize(
    ("factory", "said"),
    [("nonsense", "could not parse"), ("IVF4096,Flat", "Number of training points")],
)
def test_an_index_that_cannot_be_made_is_named(corpus, factory, said):
    with pytest.raises(ValueError, match=f"the index '{factory}' of .*{said}") as error:
        build(corpus, factory=factory)
    assert ".cpp" not in str(error.value)


def test_embedding_goes_on_after_being_killed_and_new_chunks_alone_are_embedded(corpus, tmp_path):
    """LangChain's CacheBackedEmbeddings does both; a killed process leaves what was stored."""
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore

    class Killed(Trigrams):
        def embed_documents(self, texts):
            if self.embedded >= 32:
                raise KeyboardInterrupt
            return super().embed_documents(texts)

    def cached(embeddings):
        store = LocalFileStore(tmp_path / "vectors")
        return CacheBackedEmbeddings.from_bytes_store(
            embeddings, store, namespace="trigrams", key_encoder="sha256"
        )

    small = {"chunk_size": 60, "chunk_overlap": 0}
    all_at_once = Trigrams()
    expected = build(corpus, all_at_once, **small).index
    killed, rest = Killed(), Trigrams()
    with pytest.raises(KeyboardInterrupt):
        build(corpus, cached(killed), **small)
    resumed = build(corpus, cached(rest), **small).index
    distinct = len({c.page_content for c in split_text(corpus, **small)})
    assert killed.embedded == 32
    assert rest.embedded < all_at_once.embedded
    assert 32 + rest.embedded >= distinct
    np.testing.assert_allclose(
        resumed.reconstruct_n(0, resumed.ntotal), expected.reconstruct_n(0, expected.ntotal)
    )

    corpus.write_text(TEXT + "\n\nA new chunk of text about lighthouses.", encoding="utf-8")
    more = Trigrams()
    assert build(corpus, cached(more), **small).index.ntotal == expected.ntotal + 1
    assert more.embedded == 1


# With similarities


def test_the_retriever_gives_the_stores_passages_with_their_similarity(corpus):
    store = build(corpus)
    docs = SimilarityRetriever(store=store, k=5).invoke(QUERY)
    expected = store.similarity_search_with_score(QUERY, k=5)
    assert [doc.page_content for doc in docs] == [doc.page_content for doc, _ in expected]
    similarities = [doc.metadata["similarity"] for doc in docs]
    assert similarities == [float(score) for _, score in expected]
    assert similarities == sorted(similarities, reverse=True)
    assert "similarity" not in store.similarity_search(QUERY, k=1)[0].metadata  # copies


def test_a_store_by_distance_is_refused(corpus):
    store = build(corpus, distance_strategy=DistanceStrategy.EUCLIDEAN_DISTANCE)
    with pytest.raises(ValueError, match="less is nearer: expected an index by inner product"):
        SimilarityRetriever(store=store)
