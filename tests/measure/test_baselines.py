"""What notebook 04 compares with: BM25, the best sentence, and the five pipelines."""

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from helpers.index import build_index, split_text
from helpers.measure.baselines import (
    BM25,
    SENTENCE_END,
    ChunkAndSentence,
    Remembering,
    pipelines,
    words,
)

QUERY = "Which harbour is deep?"


class Length(BaseCrossEncoder):
    """A longer passage scores higher, from 0 to 1; notes the pairs that it was asked."""

    def __init__(self):
        self.asked = []

    def score(self, text_pairs):
        self.asked.extend(text_pairs)
        return [len(passage) / 1000 for _, passage in text_pairs]


class Letters(Embeddings):
    """Counts letters, in vectors that are not of length 1; notes the texts that it was given."""

    def __init__(self):
        self.seen = []

    def embed_documents(self, texts):
        self.seen.extend(texts)
        return [[text.lower().count(letter) + 0.1 for letter in "abcdefgh"] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


# Words and BM25


def test_words_of_any_script():
    assert words("The harbour's DEPTH: 9.5 m") == ["the", "harbour", "s", "depth", "9", "5", "m"]
    assert words("物価はABCです ราคา") == [*"物価は", "abc", *"ですราคา"]
    assert words("कीमतें गिरती हैं") == ["कीमतें", "गिरती", "हैं"]  # vowel signs belong to their word
    assert words("... 🍎🍐 ?") == ["...", "🍎🍐", "?"]
    assert words("  ") == []


def test_bm25_finds_only_what_shares_a_word_and_keeps_the_order_of_equals():
    texts = ["The port is old.", "Deep, deep water.", "Deep, dull water.", "Deep, cold water.", "."]
    docs = [Document(text) for text in texts]
    assert BM25(docs=docs).invoke("How DEEP?") == docs[1:4]
    assert BM25(docs=docs, k=2).invoke("deep") == docs[1:3]
    assert BM25(docs=docs).invoke("deep water in the old port")[0] == docs[0]
    assert BM25(docs=docs).invoke(". ?") == docs[4:], "a text without a word has its signs"
    assert BM25(docs=docs).invoke("unknown words") == BM25(docs=docs).invoke("  ") == []
    assert BM25(docs=docs[4:]).invoke("deep") == []
    many = [Document("deep" + " water" * (n % 3), id=str(n)) for n in range(99)]
    assert BM25(docs=many, k=99).invoke("deep") == many[::3] + many[1::3] + many[2::3]


# Scores


def test_a_chunk_counts_half_and_its_best_sentence_half():
    embeddings = Letters()
    model = ChunkAndSentence(embeddings)
    passage = "A bad egg. The deep harbour!\nFab gag?"
    cosine = lambda a, b: np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    query = embeddings.embed_query(QUERY)
    parts = (passage, "A bad egg.", "The deep harbour!", "Fab gag?")
    cosines = [cosine(query, embeddings.embed_query(part)) for part in parts]
    assert max(cosines[1:]) > cosines[0], "or the sentence shows nothing"
    expected = (cosines[0] + max(cosines[1:])) / 2
    embeddings.seen.clear()
    found = model.score([(QUERY, passage), (QUERY, "Fab gag?"), (QUERY, passage)])
    assert found == pytest.approx([expected, cosines[3], expected])
    assert len(embeddings.seen) == len(set(embeddings.seen)) == 5, "each text is embedded once"
    model.score([(QUERY, passage)])
    assert len(embeddings.seen) == 5


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("港は深い。本を借りる。", ["港は深い。", "本を借りる。"]),
        ("港口很深！  能借多久？三周。", ["港口很深！", "能借多久？", "三周。"]),
        ("बंदरगाह गहरा है। किताबें मिलती हैं।", ["बंदरगाह गहरा है।", "किताबें मिलती हैं।"]),
        ("At 0.5 metres. Deep!", ["At 0.5 metres.", "Deep!"]),
    ],
)
def test_sentences_end_as_the_script_ends_them(text, parts):
    assert SENTENCE_END.split(text) == parts


def test_a_pair_is_scored_once_and_keeps_its_place():
    inner = Length()
    model = Remembering(inner)
    assert model.score([("q", "abc"), ("q", "a"), ("q", "abc")]) == [0.003, 0.001, 0.003]
    assert model.score([["q", "ab"], ("q", "a")]) == [0.002, 0.001]
    assert inner.asked == [("q", "abc"), ("q", "a"), ("q", "ab")]
    assert model.score([]) == []


# Pipelines


def test_the_pipelines_rank_the_same_candidates_and_ask_the_model_once(tmp_path):
    sentences = [f"Harbour {n} is deep{' and dredged' * (n + 7)}." for n in range(8)]
    corpus = tmp_path / "text.txt"
    corpus.write_text("\n\n".join(sentences), encoding="utf-8")
    settings = {"chunk_size": 190, "chunk_overlap": 0}
    store = build_index(corpus, Letters(), show_progress=False, **settings)
    chunks, model = split_text(corpus, **settings), Length()
    asked = pipelines(store, chunks, model, Letters(), k=5, base_weight=1.0)
    found = {name: retriever.invoke(QUERY) for name, retriever in asked.items()}
    assert list(found)[:-1] == ["BM25", "base (vectors)", "chunk + sentence", "reranked", "fused"]
    hybrid = found.pop("vectors + BM25")
    assert {doc.id for doc in hybrid} > {doc.id for doc in found["fused"]}
    for doc in hybrid:
        both = [Letters().embed_query(text) for text in (QUERY, doc.page_content)]
        assert doc.metadata["similarity"] == pytest.approx(np.dot(*both))
    candidates = {doc.id for doc in found["base (vectors)"]}
    assert len(candidates) == 5 < len(chunks)
    assert [len(docs) for docs in found.values()] == [5] * 5
    for name in ("chunk + sentence", "reranked", "fused"):
        assert {doc.id for doc in found[name]} == candidates
    lengths = [len(doc.page_content) for doc in found["reranked"]]
    assert lengths == sorted(lengths, reverse=True)
    assert all("cross_encoder_score" in doc.metadata for doc in found["fused"])
    assert len(model.asked) == len(hybrid), "three pipelines ask for the same pairs"
    assert "fused" not in pipelines(store, chunks, model, Letters())
