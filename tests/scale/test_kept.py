"""A kept index is used only while it is true; an index of another kind finds what flat finds."""

import json
import warnings

import faiss
import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from helpers.index import build_index
from helpers.scale.kept import kept_index, reindex

TEXT = "\n\n".join(f"On {name}: {f'{name} matter. ' * 30}" for name in ("ports", "courts", "bees"))
QUERY = "How much do courts matter?"
FILES = {"index.faiss", "documents.json", "manifest.json"}


class Counting(DeterministicFakeEmbedding):
    """Vectors of length 1 that depend on the text and the salt; counts the documents."""

    size: int = 16
    salt: str = ""
    rounding: float = 0
    embedded: int = 0

    def embed_query(self, text):
        vector = np.array(super().embed_query(self.salt + text))
        return (vector / np.linalg.norm(vector) + self.rounding).tolist()

    def embed_documents(self, texts):
        self.embedded += len(texts)
        return [self.embed_query(text) for text in texts]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept" / "index"


def make(corpus, folder=None, embeddings=None, **settings):
    """Return a store of small chunks, kept if there is a folder, and how many were embedded."""
    embeddings = embeddings or Counting()
    settings = {"chunk_size": 60, "chunk_overlap": 0, "show_progress": False} | settings
    before = embeddings.embedded
    if folder is None:
        return build_index(corpus, embeddings, **settings)
    return kept_index(corpus, embeddings, folder, **settings), embeddings.embedded - before


def found(store, k=5):
    """What a search returns, in a form that compares equal."""
    return [
        (doc.page_content, doc.metadata, round(float(score), 5))
        for doc, score in store.similarity_search_with_score(QUERY, k=k)
    ]


def taken(*args, **settings):
    """Return the store, which must come from the folder, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store, embedded = make(*args, **settings)
    assert embedded == 0
    return store


@pytest.mark.parametrize(
    "text", [TEXT, "経済計画は物価を下げる。" * 40, "خطة الاقتصاد. " * 30, "🍎🍐 " * 90]
)
@pytest.mark.parametrize("distance", ["MAX_INNER_PRODUCT", "EUCLIDEAN_DISTANCE"])
def test_a_kept_index_is_the_one_that_was_built(corpus, folder, distance, text):
    corpus.write_text(text, encoding="utf-8")
    expected = make(corpus, distance_strategy=distance)
    built, embedded = make(corpus, folder, distance_strategy=distance)
    assert embedded == expected.index.ntotal > 1
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "index.faiss").read_bytes().startswith(b"IxF")  # FAISS's own mark: no pickle
    for name in FILES - {"index.faiss"}:
        json.loads((folder / name).read_text(encoding="utf-8"))
    again = taken(corpus, folder, distance_strategy=distance)
    asked = {"query": QUERY, "k": 9, "score_threshold": -1}
    for store in (built, again):
        assert found(store) == found(expected) != []
        near = store.similarity_search_with_relevance_scores(**asked)
        assert near == expected.similarity_search_with_relevance_scores(**asked) != []
    again.add_texts(["An afterthought about courts."], ids=["new"])
    assert again.get_by_ids(["new"])[0].page_content == "An afterthought about courts."


def test_a_text_that_moved_is_not_embedded_again_and_its_chunks_say_where_it_is(corpus, folder):
    make(corpus, folder)
    moved = corpus.rename(corpus.with_name("moved.txt"))
    store = taken(moved, folder)
    assert found(store) == found(make(moved))
    assert store.get_by_ids([found(store)[0][1]["chunk_id"]])[0].metadata["source"] == str(moved)


@pytest.mark.parametrize(
    "change",
    [
        {"text": TEXT.replace("courts matter", "courts count", 1)},
        {"chunk_size": 90},
        {"chunk_overlap": 20},
        {"distance_strategy": "EUCLIDEAN_DISTANCE"},
        {"embeddings": Counting(salt="other weights")},
        {"embeddings": Counting(size=24)},
    ],
    ids=str,
)
def test_what_has_changed_is_embedded_anew(corpus, folder, change):
    before, _ = make(corpus, folder)
    settings = dict(change)
    corpus.write_text(settings.pop("text", TEXT), encoding="utf-8")
    store, embedded = make(corpus, folder, **settings)
    assert embedded == store.index.ntotal > 0
    assert found(store, 99) == found(make(corpus, **settings), 99) != found(before, 99)
    taken(corpus, folder, **settings)  # the new one


def test_the_rounding_of_another_processor_is_not_another_model(corpus, folder):
    make(corpus, folder)
    taken(corpus, folder, Counting(rounding=1e-5))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, **change):
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


DAMAGE = {
    "index cut": lambda f: cut(f / "index.faiss"),
    "index gone": lambda f: (f / "index.faiss").unlink(),
    "documents of another index": lambda f: (f / "documents.json").write_text('[["other", 0]]'),
    "documents gone": lambda f: (f / "documents.json").unlink(),
    "manifest cut": lambda f: cut(f / "manifest.json"),
    "manifest not text": lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest a list": lambda f: (f / "manifest.json").write_text("[1, 2]"),
    "manifest null": lambda f: (f / "manifest.json").write_text("null"),
    "manifest empty": lambda f: (f / "manifest.json").write_text("{}"),
    "no hash": lambda f: edit(f / "manifest.json", **{"index.faiss": None}),
    "words for a probe": lambda f: edit(f / "manifest.json", probe=["garbage"]),
    "an object for a probe": lambda f: edit(f / "manifest.json", probe={"a": 1}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_index_is_built_anew_with_a_warning(corpus, folder, damage):
    right = found(make(corpus, folder)[0])
    damage(folder)
    with pytest.warns(UserWarning, match="damaged and is built anew"):
        store, embedded = make(corpus, folder)
    assert embedded == store.index.ntotal
    assert found(store) == right == found(taken(corpus, folder))  # and it is whole again


def test_a_folder_cut_off_before_its_manifest_is_built_anew(corpus, folder):
    right = found(make(corpus, folder)[0])
    (folder / "manifest.json").unlink()
    cut(folder / "index.faiss")
    store, embedded = make(corpus, folder)
    assert (found(store), embedded) == (right, store.index.ntotal)
    assert {path.name for path in folder.iterdir()} == FILES


@pytest.mark.parametrize("name", ["taken", "taken/index"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_embedded(corpus, tmp_path, name):
    (tmp_path / "taken").write_text("a file")
    embeddings = Counting()
    with pytest.raises(ValueError, match="taken is a file: expected a folder"):
        make(corpus, tmp_path / name, embeddings)
    assert embeddings.embedded == 0


def test_a_text_that_is_missing_writes_nothing(tmp_path, folder):
    with pytest.raises(OSError, match=r"absent\.txt"):
        make(tmp_path / "absent.txt", folder)
    assert not folder.exists()


def test_another_kind_of_index_finds_the_same_and_leaves_the_store_as_it_is(corpus):
    store = make(corpus)
    graph = reindex(store, "HNSW32", effort=99)
    assert (type(graph.index).__name__, graph.index.hnsw.efSearch) == ("IndexHNSWFlat", 99)
    assert found(graph) == found(store)
    near = graph.similarity_search_with_relevance_scores(QUERY, k=9, score_threshold=0.1)
    assert near[0][0].page_content == found(store)[0][0]  # the nearest, not the farthest
    graph.add_texts(["new"], ids=["new"])
    store.delete([store.index_to_docstore_id[0]])
    assert store.get_by_ids(["new"]) == []
    assert graph.get_by_ids([graph.index_to_docstore_id[0]])
    cells = reindex(make(corpus, distance_strategy="EUCLIDEAN_DISTANCE"), "IVF4,Flat", effort=3)
    assert (cells.index.nprobe, cells.index.metric_type) == (3, faiss.METRIC_L2)
    with pytest.raises(ValueError, match="index is IndexHNSWFlat: expected a flat one"):
        reindex(graph, "Flat")


@pytest.mark.parametrize(
    ("factory", "effort", "said"),
    [
        ("nonsense", None, "the index 'nonsense' of .*could not parse"),
        ("IVF4096,Flat", None, "the index 'IVF4096,Flat' of .*Number of training points"),
        ("Flat", 3, "factory 'Flat' takes no effort"),
        ("HNSW32", 0, "effort is 0: expected"),
    ],
)
def test_an_index_that_cannot_be_made_is_named(corpus, factory, effort, said):
    with pytest.raises(ValueError, match=said) as error:
        reindex(make(corpus), factory, effort)
    assert ".cpp" not in str(error.value)
