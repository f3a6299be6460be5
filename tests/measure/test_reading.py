"""The commands that take too long for a notebook run at a small size and write what it reads."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import helpers.scale.bench as bench
from helpers.measure import beir, sweep
from helpers.scale.machine import encoder_flops
from helpers.scale.variants import VARIANTS
from helpers.scale.worker import Variant
from helpers.scale.workloads import calibration_pairs, mixed_pairs
from helpers.evaluate import load_judgements
from helpers.measure import reading
from helpers.measure.contrast import (
    contrast_table,
    few_shared_words,
    judged,
    passage_alone,
    share,
)
from helpers.profiles import DATA
from helpers.score import LocalCrossEncoder

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


def test_reading(tmp_path, monkeypatch, capsys):
    out = tmp_path / "reading.json"
    small = ("--questions", 3, "--splits", "dev", "--work", tmp_path / "start")
    run(reading, monkeypatch, "--out", out, *small)
    result = json.loads(out.read_text())
    committed = json.loads((DATA / "results" / "reading.json").read_text())
    assert result.keys() == committed.keys()
    assert result["contrast"]["dev"].keys() == committed["contrast"]["dev"].keys()
    found, kept = (r["ranking"]["address, dev"] for r in (result, committed))
    assert found.keys() == kept.keys()
    assert all(0 <= row["nDCG@10"] <= 1 for row in found.values())
    answerable = len(result["first passages"]["address, dev"])
    assert answerable == 6
    for (score, right), (old, was) in zip(
        result["first passages"]["address, dev"][:3],
        [
            row
            for row, q in zip(
                committed["first passages"]["address, dev"], judged_questions("dev"), strict=True
            )
            if q.spans
        ],
        strict=False,
    ):
        assert score == pytest.approx(old, abs=0.02)
        assert right == was


def judged_questions(split):
    text = (DATA / "address.txt").read_text(encoding="utf-8")
    return load_judgements(DATA / "judgements.jsonl", text, split)


RECORD = {
    "id": "w1",
    "question": "When does it open?",
    "answer": "At nine.",
    "decoys": [
        {"kind": "attribute", "text": "It is free.", "answers": "What does it cost?"},
        {"kind": "heading", "text": "When does it open?"},
    ],
}


def scorer(**known):
    """Scores by the passage's first word, or by (question's first word, passage's)."""
    return lambda pairs: [
        known.get(f"{q.split()[0]}_{p.split()[0]}", known.get(p.split()[0], 0.0)) for q, p in pairs
    ]


@pytest.mark.parametrize(
    ("score", "both", "first", "beaten"),
    [
        (scorer(When_At=2, When_It=1, What_It=1, When_When=1), 1, 1, 1),
        (scorer(At=2, It=1, When=3), 0, 1, 0),  # the passage alone wins both times
        (scorer(), 0, 0, 0),  # ties are wrong
    ],
)
def test_a_pair_is_right_when_both_questions_prefer_their_own(score, both, first, beaten):
    table = contrast_table(judged([RECORD], score))["right"]
    assert table["pairs right both ways", "attribute"] == both
    assert table["their first question alone", "all"] == first
    assert table["decoys beaten", "heading"] == beaten


def test_the_interval_draws_questions_and_not_comparisons():
    right = [1] * 10 + [0] * 10
    alike = pd.DataFrame({"id": ["a"] * 10 + ["b"] * 10, "right": right})
    apart = pd.DataFrame({"id": [str(n) for n in range(20)], "right": right})
    assert share(alike)[1:] == (0, 1)
    assert 0.2 < share(apart)[1] < share(apart)[2] < 0.8


def test_controls_see_what_they_say(model_dir):
    assert few_shared_words([("a b", "a b c"), ("a b", "a d"), ("a b", "e")]) == [-1, -0.5, 0]
    asked = []
    passage_alone(lambda pairs: asked.extend(pairs) or [0.0])([("a question", "a passage")])
    assert asked == [("", "a passage")]


def test_with_attention_closed_words_of_the_question_reach_no_word_of_the_passage(model_dir):
    """Only [CLS] sees both: the passage's own states do not depend on the question."""
    closed, plain = reading.ClosedCrossEncoder(model_dir), LocalCrossEncoder(model_dir)
    states = []
    layer = closed.model.bert.encoder.layer[-1]
    layer.register_forward_hook(lambda _, __, out: states.append(out))
    pairs = [("how deep is it", "nine metres"), ("who cut the ribbon", "nine metres")]
    scores = [closed.score([pair])[0] for pair in pairs]
    last = [state[0] if isinstance(state, tuple) else state for state in states]
    one, other = (torch.as_tensor(state).reshape(-1, 384)[-3:] for state in last)
    np.testing.assert_allclose(one, other, atol=1e-5)
    opened = plain.score(pairs)
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)  # [CLS] does read both
    assert opened[0] != pytest.approx(1 / (1 + np.exp(-scores[0])), abs=1e-3)


def test_the_area_is_half_for_scores_that_say_nothing():
    found = reading.area([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    assert found["AUC"] == 0.5
    assert reading.area([0.8, 0.9], [0.1, 0.2])["AUC"] == 1


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
