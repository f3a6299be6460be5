"""The commands that take too long for a notebook run at a small size and write what it reads."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from helpers.evaluate import compare, mean_interval
from helpers.index import split_text
from helpers.judgements import Question, chunk_id
from helpers.measure import quality, ranking, reading, sweep, windows
from helpers.measure.baselines import pipelines
from helpers.measure.command import printable
from helpers.measure.intervals import area, gains, questions_needed
from helpers.profiles import DATA


class Normalised(Embeddings):
    """Vectors of length 1, of the hash of a text."""

    def __init__(self, model):
        self.model = model

    def embed_documents(self, texts):
        vectors = np.array(self.model.embed_documents(texts))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class Digits:
    """A cross-encoder that likes a passage by the digits in it."""

    def score(self, pairs):
        return [
            1 / (2 + int("".join(filter(str.isdigit, text))[:3] or 0) % 17) for _, text in pairs
        ]


def run(module, monkeypatch, *arguments, **small):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main(**small)


def committed(name):
    return pd.read_csv(DATA / "results" / f"{name}.csv", keep_default_na=False)


@pytest.mark.slow
def test_sweep(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sweep.csv"
    small = ("--questions", 4, "--candidates", 5, 10, "--chunk-sizes", 500, 1000)
    run(sweep, monkeypatch, "--out", out, *small)
    found, kept = pd.read_csv(out), committed("sweep")
    assert list(found.columns) == list(kept.columns)
    assert found.groupby(["chunk size", "k"]).size().to_dict() == {
        (500, 5): 4,
        (500, 10): 4,
        (1000, 20): 4,
    }
    assert {*kept["k"]} == {*sweep.CANDIDATES} and {*kept["chunk size"]} == {*sweep.CHUNK_SIZES}
    for table in (found, kept):
        assert (table["reranked"] <= table["oracle"] + 1e-6).all()
        assert table.drop(columns=["question", "seconds"]).stack().ge(0).all()
    both = found.merge(kept, on=["chunk size", "k", "question"])
    assert len(both) == 12
    np.testing.assert_allclose(both["reranked_x"], both["reranked_y"], atol=0.02)


def test_what_is_shown_counts_characters_that_answer():
    chunks = [(0, "a" * 10), (8, "b" * 10), (40, "c" * 10)]
    docs = [Document(text, metadata={"start_index": start}) for start, text in chunks]
    question = Question("q", "?", ((5, 15, 2), (40, 50, 2), (0, 3, 1)))
    assert sweep.share_shown(question, docs, 30) == 1
    assert sweep.share_shown(question, docs, 20) == 0.5  # of an overlap each character counts once
    assert sweep.share_shown(question, docs, 12) == pytest.approx(5 / 20)
    assert sweep.share_shown(question, [], 30) == 0
    assert sweep.share_shown(Question("q", "?", ((0, 3, 1),)), docs, 2) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_reading(tmp_path, monkeypatch, capsys):
    out = tmp_path / "contrast.csv"
    run(reading, monkeypatch, "--out", out, "--questions", 3, "--splits", "dev")
    found, kept = pd.read_csv(out), committed("contrast")
    assert list(found.columns) == list(kept.columns)
    keys = ["split", "what", "kind", "id"]
    both = found.merge(kept[kept["split"] == "dev"].drop_duplicates(keys), on=keys)
    assert len(both) and {*found["split"]} == {"dev"}
    assert {*kept.drop(columns=keys).stack()} == {0, 1}
    assert "dev, attention closed" in capsys.readouterr().out


@pytest.mark.slow
def test_ranking(tmp_path, monkeypatch, capsys):
    run(
        ranking,
        monkeypatch,
        "--out",
        tmp_path,
        "--questions",
        3,
        "--sets",
        "address, dev",
        "speech",
    )
    assert "speech is left out: it needs --data" in capsys.readouterr().out
    for name, keys in {
        "ranking": ["set", "question"],
        "scores": ["set", "question", "rank"],
    }.items():
        found, kept = pd.read_csv(tmp_path / f"{name}.csv"), committed(name)
        assert list(found.columns) == list(kept.columns)
        assert {*kept["set"]} == {*ranking.SETS}
        both = found.merge(kept, on=keys, suffixes=("", " kept"))
        assert len(both) == len(found) == {"ranking": 3, "scores": 60}[name]
        for column in found.select_dtypes("number").columns.drop("rank", errors="ignore"):
            np.testing.assert_allclose(both[column], both[f"{column} kept"], atol=0.02)


@pytest.mark.slow
def test_windows(tmp_path, monkeypatch, capsys):
    articles = [
        {
            "title": name,
            "paragraphs": [
                {
                    "context": f"The {name} of year {n} is deep. " * 30,
                    "qas": [{"id": f"{name} {n}", "question": f"How deep was the {name} in {n}?"}],
                }
                for n in range(6)
            ],
        }
        for name in ("port", "Warsaw", "Imperialism")  # the last two were kept from training
    ]
    (tmp_path / "squad.json").write_text(json.dumps({"data": articles}))
    out = tmp_path / "windows.csv"
    run(windows, monkeypatch, tmp_path / "squad.json", "--questions", 5, "-k", 2, "--out", out)
    assert "3 documents, 5 questions, 2 candidates" in capsys.readouterr().out
    found = pd.read_csv(out)
    assert len(found) == 5
    assert (found["tokens, windows"] > found["tokens, cut"]).all()
    assert (found["windows"] <= found["oracle"] + 1e-6).all()
    assert (found["documents cut"] == 2).all()  # of both candidates only 512 tokens are read


def test_a_reranked_order_is_what_the_pipeline_returns(tmp_path):
    """For a text of its own: every order that `orders` and the retrievers both know."""
    (tmp_path / "t.txt").write_text("\n\n".join(f"The port {n} is deep." * 9 for n in range(40)))
    embeddings = DeterministicFakeEmbedding(size=8)
    normal = Normalised(embeddings)
    corpus = ranking.Corpus(tmp_path / "t.txt", normal, {"cross-encoder": Digits()}, weight=3.0)
    found = corpus.order("How deep is port 7 or 31?")
    asked = pipelines(corpus.store, corpus.chunks, Digits(), normal, base_weight=3.0)
    same = {"BM25": "BM25", "vectors": "base (vectors)", "cross-encoder": "reranked"}
    same |= {"fused": "fused", "fused, vectors + BM25": "vectors + BM25"}
    for name, pipeline in same.items():
        docs = asked[pipeline].invoke("How deep is port 7 or 31?")
        order = sorted(found[name], key=found[name].get, reverse=True)
        assert order == [chunk_id(doc) for doc in docs], name


def test_with_attention_closed_words_of_the_question_reach_no_word_of_the_passage(model_dir, local):
    """Only [CLS] sees both: the passage's own states do not depend on the question."""
    closed, states = reading.ClosedCrossEncoder(model_dir), []
    layer = closed.client.model.bert.encoder.layer[-1]
    layer.register_forward_hook(lambda _, __, out: states.append(out))
    pairs = [("how deep is it", "nine metres"), ("who cut the ribbon", "nine metres")]
    scores = []
    for pair in pairs:
        scores += closed.score([pair])
    last = [state[0] if isinstance(state, tuple) else state for state in states]
    one, other = (torch.as_tensor(state).reshape(-1, 384)[-3:] for state in last)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)  # [CLS] does read both
    assert local.score(pairs)[0] != pytest.approx(scores[0], abs=1e-3)


def test_the_start_of_training_has_a_new_head_that_is_always_the_same():
    one, other = reading.untrained(), reading.untrained()
    pair = [("how deep is it", "nine metres")]
    assert one.score(pair) == other.score(pair)


def test_the_area_is_half_for_scores_that_say_nothing():
    found = area([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert found["AUC"] == 0.5
    assert area([0.8, 0.9], [0.1, 0.2])["AUC"] == 1


def test_how_many_questions_an_interval_needs():
    """A spread of 0.2 needs 171 for 0.03, a textbook's (1.96 * 0.2 / 0.03) ** 2."""
    differences = [0.2, -0.2] * 500
    assert questions_needed(differences) == 171
    assert questions_needed(differences, within=0.06) == 43
    low, high = mean_interval(differences[:170])[1:]
    assert (high - low) / 2 == pytest.approx(0.03, abs=0.002)


def test_gains_are_paired():
    values = pd.DataFrame({"base": [0.1, 0.5, 0.9], "better": [0.2, 0.6, 1.0]})
    row = gains(values, "base").loc["better"]
    assert row.tolist() == pytest.approx([0.6, 0.1, 0.1, 0.1])


# The table for a reader's own text

TEXT = "The harbour was deepened twice.\n\nBooks are lent for three weeks.\n"
ANSWERED = {"id": "yes", "question": "How long are books lent?", "spans": [[33, 64, 2]]}
IDLE = {"id": "no", "question": "Who won the cup?", "spans": []}
BETWEEN = {"id": "between", "question": "What is white?", "spans": [[31, 33, 2]]}


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Runs `make evaluate` on questions: what it printed, its error and its exit code come back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")

    def evaluate(*questions, more=(), text="my.txt"):
        lines = "\n".join(q if isinstance(q, str) else json.dumps(q) for q in questions)
        (tmp_path / "my.jsonl").write_text(lines, encoding="utf-8")
        code = 0
        try:
            run(quality, monkeypatch, "--corpus", text, "--questions", "my.jsonl", *more)
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return printed.out, printed.err.strip().splitlines()[-1:], code

    return evaluate


@pytest.mark.parametrize(
    ("questions", "reason"),
    [
        ([IDLE], "the text does not answer them (no spans): 1 (no)"),
        ([BETWEEN], "no chunk holds their spans: 1 (between)"),
        ([IDLE, BETWEEN], "no spans): 1 (no); no chunk holds their spans: 1 (between)"),
    ],
)
def test_questions_that_nothing_answers_are_no_table(evaluate, monkeypatch, questions, reason):
    chunks = split_text("my.txt", chunk_size=32, chunk_overlap=0)  # parted at the blank line
    assert len(chunks) == 2
    monkeypatch.setattr(quality, "split_text", lambda _: chunks)
    out, [error], code = evaluate(*questions)
    assert (out, code) == ("", 1)
    assert "my.jsonl: no question can be measured: " in error and error.endswith(reason)


def test_some_questions_that_nothing_answers_are_named(evaluate):
    many = [IDLE | {"id": f"n{number:02}"} for number in range(12)]
    out, _, code = evaluate(ANSWERED, *many)
    assert code == 0
    names = ", ".join(q["id"] for q in many[:10])
    assert f"not measured, the text does not answer them (no spans): 12 ({names}, ...)" in out
    assert "questions: all 1\n" in out
    assert "candidates: the top 20 of 1 chunks" in out
    assert "NaN" not in out and "base (vectors)" in out


@pytest.mark.parametrize(
    ("questions", "more", "text", "error", "code"),
    [
        ([ANSWERED], ("-k", 0), "my.txt", "argument -k: expected a whole number of at least 1", 2),
        ([ANSWERED], ("-k", "x"), "my.txt", "argument -k: expected a whole number", 2),
        ([ANSWERED, "{"], (), "my.txt", "my.jsonl, line 2: ", 1),
        ([ANSWERED], (), "none.txt", "none.txt", 1),
        ([ANSWERED], (), "latin.txt", "latin.txt is not UTF-8 text", 1),
        ([ANSWERED], ("--profile", "x"), "my.txt", "unknown profile 'x'", 1),
        (['{"id": "q", "question": "\\ud800?", "spans": []}'], (), "my.txt", "my.jsonl, line 1", 1),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    evaluate, tmp_path, questions, more, text, error, code
):
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    out, [found], stopped = evaluate(*questions, more=more, text=text)
    assert (out, stopped) == ("", code)
    assert error in found


def test_the_printed_interval_is_one_column():
    qrels = pd.DataFrame([("q", "a", 1)], columns=["query_id", "doc_id", "relevance"])
    run = pd.DataFrame([("q", "a", 1.0)], columns=["query_id", "doc_id", "score"])
    table = printable(compare(qrels, {"base": run}, base="base"))
    assert list(table.columns) == ["nDCG@10", "gain", "95 % interval", "gap closed"]
    assert table.loc["base", "95 % interval"] == "[+0.000, +0.000]"
