"""The commands that take too long for a notebook run at a small size and write what it reads."""

import json

import pytest

from helpers import beir, bench, sweep
from helpers.profiles import DATA

pytestmark = pytest.mark.slow


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_sweep(tmp_path, monkeypatch, capsys):
    out = tmp_path / "sweep.json"
    small = ("--questions", 4, "--candidates", 5, 10, "--chunk-sizes", 500)
    run(sweep, monkeypatch, "--out", out, *small)
    result = json.loads(out.read_text())
    committed = json.loads((DATA / "results" / "sweep.json").read_text())
    assert result.keys() == committed.keys()
    assert [row["k"] for row in result["candidates"]] == [5, 10]
    assert [row["k"] for row in committed["candidates"]] == list(sweep.CANDIDATES)
    for row in result["candidates"] + committed["candidates"]:
        assert row["low"] <= row["nDCG@10"] <= min(row["high"], row["oracle"]) + 1e-3
        assert row["seconds"] > 0
    assert result["candidates"][0]["recall"] <= result["candidates"][1]["recall"]
    assert result["chunk sizes"][0]["chunks"] == 120


def test_a_collection_is_measured_and_a_second_implementation_agrees(tmp_path, monkeypatch, capsys):
    texts = ["Books are lent for three weeks.", "The harbour was deepened.", "Bees dance."]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": t}) for i, t in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    queries = ["How long may I keep a book?", "Is the port deep?", "not judged"]
    lines = [json.dumps({"_id": f"q{i}", "text": t}) for i, t in enumerate(queries)]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\n"
    )
    out = tmp_path / "result.json"
    run(beir, monkeypatch, tmp_path, "--out", out)
    result = json.loads(out.read_text())
    assert (result["queries"], result["documents"]) == (2, 3)
    assert result["nDCG@10"]["reranked"] == pytest.approx(1)
    base = result["nDCG@10"]["base"]
    assert result["base by InformationRetrievalEvaluator"] == pytest.approx(base, abs=0.002)


def test_the_committed_base_on_scifact_agrees_with_a_second_implementation():
    result = json.loads((DATA / "results" / "scifact.json").read_text())
    base = result["nDCG@10"]["base"]
    assert result["base by InformationRetrievalEvaluator"] == pytest.approx(base, abs=0.002)
    assert result["queries"] == 300


def test_a_folder_that_is_no_collection_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(beir, monkeypatch, tmp_path)
    assert "corpus.jsonl is missing" in capsys.readouterr().err


def test_bench_prints_both_medians(monkeypatch, capsys):
    monkeypatch.setattr(bench, "RUNS", 1)
    run(bench, monkeypatch)
    assert "bge-reranker-base" in capsys.readouterr().out
