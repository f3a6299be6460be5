"""Collections in BEIR's layout, as people have them: measured, or refused by file and line."""

import json
import sys

import pandas as pd
import pytest

from helpers.measure import beir
from helpers.profiles import DATA

COMMITTED = pd.read_csv(DATA / "results" / "scifact.csv")
CORPUS = [
    {"_id": "d1", "title": "Library", "text": "Books are lent for three weeks."},
    {"_id": "d2", "title": "Port", "text": "The harbour was deepened."},
    {"_id": "d3", "title": "", "text": "Bees dance."},
]
QUERIES = [
    {"_id": "q1", "text": "How long may I keep a book?"},
    {"_id": "q2", "text": "Is the port deep?"},
    {"_id": "q9", "text": "not judged"},
]
HEADER = "query-id\tcorpus-id\tscore"
QRELS = [HEADER, "q1\td1\t1", "q2\td2\t1"]


@pytest.fixture
def collection(tmp_path):
    """Writes a collection: lines that are no text become JSON; its folder comes back."""

    def collection(corpus=CORPUS, queries=QUERIES, qrels=QRELS):
        (tmp_path / "qrels").mkdir(exist_ok=True)
        for name, rows in {"corpus.jsonl": corpus, "queries.jsonl": queries}.items():
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        (tmp_path / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
        return tmp_path

    return collection


def judged(qrels):
    return {(row.query_id, row.doc_id): row.relevance for row in qrels.itertuples()}


@pytest.mark.parametrize(
    "lines",
    [
        QRELS,
        QRELS[1:],
        ["\ufeff" + HEADER, *QRELS[1:], ""],
        ["q1\td1\t1.0\r", "q2\td2\t1\r"],
        ["q1 0 d1 1", "q2 0 d2 1"],
        ["q1\t0\td1\t1", "q2\tQ0\td2\t1"],
        ["query-id\titeration\tcorpus-id\trelevance", "q1\t0\td1\t1", "q2\t0\td2\t1"],
        ["q1 d1 1", "q1 d1 1", "q2 d2 1"],
    ],
)
def test_qrels_are_read_in_every_form(collection, lines, capsys):
    documents, queries, qrels, own = beir.read_collection(collection(qrels=lines))
    assert judged(qrels) == {("q1", "d1"): 1, ("q2", "d2"): 1}
    assert list(queries) == ["q1", "q2"] and len(documents) == 3 and own == set()
    assert capsys.readouterr().err == ""


def test_ids_may_be_numbers_or_look_like_nothing(collection):
    corpus = [{"_id": 1, "text": "a"}, {"_id": "NA", "text": "b"}, {"_id": "null", "text": "c"}]
    queries = [{"_id": 7, "text": "a?"}, {"_id": "NA", "text": "b?"}]
    folder = collection(corpus, queries, ["7\t1\t1", "NA\tNA\t2", "NA\tnull\t0"])
    _, queries, qrels, own = beir.read_collection(folder)
    assert judged(qrels) == {("7", "1"): 1, ("NA", "NA"): 2, ("NA", "null"): 0}
    assert queries == {"7": "a?", "NA": "b?"}
    assert own == set(), "a query that its own document answers is no query by example"


def test_titles_stand_before_the_texts_of_documents_alone(collection):
    corpus = [*CORPUS, {"_id": "d4", "title": None, "text": "Rain."}, {"_id": "d5", "text": ""}]
    queries = [QUERIES[0] | {"title": "no part of it"}, *QUERIES[1:]]
    documents, queries, *_ = beir.read_collection(collection(corpus, queries))
    assert list(documents.values()) == [
        "Library Books are lent for three weeks.",
        "Port The harbour was deepened.",
        "Bees dance.",
        "Rain.",
        "",
    ]
    assert queries["q1"] == QUERIES[0]["text"]


def test_what_cannot_be_measured_is_said_and_left_out(collection, capsys):
    lines = [*QRELS, "q3\td1\t1", "q9\td1\t0", "q1\td7\t1"]
    _, queries, qrels, _ = beir.read_collection(collection(qrels=lines))
    assert list(queries) == ["q1", "q2"]
    assert set(qrels["doc_id"]) == {"d1", "d2", "d7"}, "as BEIR counts: there, and not found"
    assert capsys.readouterr().err.splitlines() == [
        "queries left out, queries.jsonl lacks them: 1 (q3)",
        "queries left out, nothing is relevant: 1 (q9)",
        "judged documents that corpus.jsonl lacks: 1 (d7)",
    ]


FAULTS = {
    "no JSON": ({"corpus": [CORPUS[0], "{"]}, "corpus.jsonl, line 2: "),
    "no object": ({"corpus": ["[1]"]}, "corpus.jsonl, line 1: "),
    "no text": ({"corpus": [CORPUS[0], {"_id": "d"}]}, "corpus.jsonl, line 2: text"),
    "null": ({"queries": [{"_id": "q", "text": None}]}, "queries.jsonl, line 1: text"),
    "title": ({"corpus": [CORPUS[0] | {"title": 5}]}, "corpus.jsonl, line 1: text (and title)"),
    "no id": ({"queries": ["", '{"text": "a"}']}, "queries.jsonl, line 2: _id"),
    "true": ({"queries": [{"_id": True, "text": "a"}]}, "queries.jsonl, line 1: _id"),
    "fraction": ({"queries": [{"_id": 1.5, "text": "a"}]}, "queries.jsonl, line 1: _id"),
    "NUL": ({"corpus": [{"_id": "d\0", "text": "a"}]}, "corpus.jsonl, line 1: _id"),
    "twice": ({"corpus": [*CORPUS, CORPUS[0]]}, "corpus.jsonl, line 4: _id 'd1' comes twice"),
    "1 and '1'": (
        {"queries": [{"_id": 1, "text": "a"}, {"_id": "1", "text": "b"}]},
        "queries.jsonl, line 2: _id '1' comes twice",
    ),
    "columns": ({"qrels": [HEADER, "q1\td1"]}, "test.tsv, line 2: expected query, document"),
    "five": ({"qrels": ["q1 0 d1 1 run"]}, "test.tsv, line 1: expected query, document"),
    "half": ({"qrels": [*QRELS, "q1\td2\t0.5"]}, "test.tsv, line 4: expected query, document"),
    "nan": ({"qrels": ["q1\td2\tnan"]}, "test.tsv, line 1: expected query, document"),
    "a second header": ({"qrels": [*QRELS, HEADER]}, "test.tsv, line 4: expected query, document"),
    "unknown header": ({"qrels": ["a\tb\tc", *QRELS]}, "test.tsv, line 1: expected query"),
    "two grades": ({"qrels": [*QRELS, "q1\td1\t2"]}, "test.tsv, line 4: judged before"),
    "no documents": ({"corpus": []}, "no judged query to measure in 0 documents"),
    "no queries": ({"queries": []}, "no judged query to measure in 3 documents"),
    "no judgements": ({"qrels": [HEADER]}, "no judged query to measure in 3 documents"),
}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["beir", *map(str, arguments)])
    beir.main()


@pytest.mark.parametrize(("files", "error"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_one_line_with_its_place(collection, monkeypatch, capsys, files, error):
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, collection(**files))
    lines = capsys.readouterr().err.splitlines()
    assert error in lines[-1]
    assert all(line.startswith(("queries", "judged", "python -m")) for line in lines)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_file_that_is_missing_is_named(collection, monkeypatch, capsys, name):
    folder = collection()
    (folder / name).unlink()
    with pytest.raises(SystemExit, match="1"):
        run(monkeypatch, folder)
    [line] = capsys.readouterr().err.splitlines()
    assert "No such file" in line and name in line


def test_a_collection_is_measured_and_a_second_implementation_agrees(
    collection, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "out" / "result.csv"
    run(monkeypatch, collection(), "--words", 20, "--check", "--out", out)
    found = pd.read_csv(out)
    assert found["question"].tolist() == ["q1", "q2"]
    assert list(found.columns) == list(COMMITTED.columns)
    assert found["cross-encoder"].mean() == pytest.approx(1)
    printed = capsys.readouterr().out
    assert "2 queries, 3 documents" in printed
    assert f"InformationRetrievalEvaluator: {found['vectors'].mean():.4f}" in printed


def test_a_query_that_is_a_document_is_not_in_its_own_ranking(
    collection, monkeypatch, capsys, tmp_path
):
    """As in ArguAna: the nearest document to an argument is that argument itself."""
    argument = {"_id": "d2", "text": "Port The harbour was deepened."}
    answer = {"_id": "d4", "title": "", "text": "The harbour is still not deep."}
    folder = collection([*CORPUS, answer], [argument], ["d2\td4\t2"])
    run(monkeypatch, folder, "-k", 1, "--check", "--out", tmp_path / "r.csv")
    printed = capsys.readouterr()
    assert pd.read_csv(tmp_path / "r.csv").drop(columns="question").stack().eq(1).all()
    assert "Evaluator" not in printed.out  # it knows no such queries
    assert "left out of their own rankings: 1 (d2)" in printed.err


def test_the_committed_base_on_scifact_is_the_published_one():
    """0.64508: all-MiniLM-L6-v2 in the MTEB paper's results (embeddings-benchmark/mtebpaper)."""
    assert COMMITTED["vectors"].mean() == pytest.approx(0.64508, abs=0.002)
    assert len(COMMITTED) == 300
