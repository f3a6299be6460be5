"""The commands that take too long for a notebook run at a small size and write what it reads."""

import json

import numpy as np
import pytest
import torch

import helpers.bench.__main__ as bench
from helpers import beir, sweep
from helpers.bench.machine import encoder_flops
from helpers.bench.variants import VARIANTS
from helpers.bench.worker import Variant
from helpers.bench.workloads import calibration_pairs, mixed_pairs
from helpers.profiles import DATA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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


def test_the_benchmark_runs_and_prints_its_tables(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bench.json"
    names = ("the page's method", "HuggingFaceCrossEncoder", "LocalCrossEncoder")
    run(bench, monkeypatch, "--small", "--out", out, "--variants", *names)
    result = json.loads(out.read_text())
    committed = json.loads((DATA / "results" / "bench.json").read_text())
    for part in ("speed", "growth"):
        assert result[part].keys() == committed[part].keys()
    assert {row["variant"] for row in committed["speed"]["rows"]} == set(VARIANTS)
    for row in result["speed"]["rows"]:
        assert row["seconds"] > 0
        assert row["tau"] == pytest.approx(1, abs=0.15)  # six pairs, and ties may fall either way
        assert row["largest difference"] < 1e-5
    for row in result["growth"]["rows"]:
        assert all(kind["recall@20"] > 0 for kind in row["indexes"])
        assert row["indexes"][0]["recall@20"] == 1
    printed = capsys.readouterr().out
    assert "of the limit" in printed
    assert "reload seconds" in printed


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "OpenVINO"])
def test_every_way_of_scoring_gives_the_order_of_the_others(name, model_dir, reference):
    pairs = calibration_pairs()[:12]
    scores = VARIANTS[name][0](str(model_dir))(pairs)
    tolerance = {"fp32": 1e-5, "auto": 0.02, "int8": 0.1}[VARIANTS[name][1]]
    np.testing.assert_allclose(scores, reference.score(pairs), atol=tolerance)


def test_a_batch_out_of_memory_is_a_row_and_not_a_crash():
    variant = Variant("the page's method", str(DATA / "reranker"))
    try:
        found = variant.run([("a question", "many words " * 300)] * 2500)
        assert found == {"error": "more than 8 GiB"}
        assert len(variant.run([("a question", "an answer")] * 2)["scores"]) == 2
    finally:
        variant.close()


def test_mixed_pairs_have_the_lengths_that_were_asked_for(reference):
    pairs = mixed_pairs(20, 10, 60)
    lengths = [len(ids) for ids in reference.client.tokenizer(pairs)["input_ids"]]
    assert min(lengths) >= 10
    assert max(lengths) <= 60
    assert len(set(lengths)) > 10


def test_flops_are_those_that_torch_counts(model_dir):
    """Counted by torch over a plain BERT layer by layer, in multiplications and additions."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.intermediate_size = 64
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.ones(1, 24, dtype=torch.long))
    assert counter.get_total_flops() == encoder_flops(config, [24])
