"""The benchmarks run small, whatever part of them is asked for, and leave nothing behind."""

import json

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sentence_transformers.util import get_device_name
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from helpers.profiles import DATA
from helpers.scale import bench, gpu, growth, precision, speed, variants
from helpers.scale.machine import encoder_flops, matmul_gflops
from helpers.scale.variants import PAGE, REFERENCE, VARIANTS
from helpers.scale.workloads import calibration_pairs, mixed_pairs, real_pairs

COMMITTED = json.loads((DATA / "results" / "bench.json").read_text())
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 64}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command with a file that is not there yet; return the file."""

    def run(command, *arguments):
        out = tmp_path / "result"
        monkeypatch.setattr("sys.argv", ["command", "--out", str(out), *arguments])
        command.main()
        return out

    return run


def workers():
    """The variants' processes (multiprocessing has one more, which stays)."""
    found = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    return [command for command in found if "spawn_main" in " ".join(command)]


def test_what_was_only_tried_replaces_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "DATA", tmp_path / "data")
    monkeypatch.setattr(growth, "measure_growth", lambda *_, **__: COMMITTED["growth"])
    monkeypatch.setattr("sys.argv", ["bench", "--small", "--parts", "growth"])
    bench.main()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")] == [
        "build/bench.json"
    ]


def test_the_table_has_a_line_for_each_row_and_gaps_where_a_number_is_missing():
    rows = COMMITTED["speed"]["rows"]
    table = speed.table(COMMITTED["speed"])
    assert table["variant"].tolist() == [row["variant"] for row in rows]
    assert (table.loc[table["variant"] == PAGE, "times the page's"].dropna() == 1).all()
    assert (table["of the limit"].dropna() > 0).any()
    assert (table["spread"].isna() == (table["runs"] < 2)).all()
    others = [row for row in rows if row["variant"] != PAGE]
    gaps = speed.table(COMMITTED["speed"] | {"rows": others})
    assert gaps["times the page's"].isna().all()
    failed = [{key: row[key] for key in ("model", "workload", "variant")} for row in rows]
    gaps = speed.table(COMMITTED["speed"] | {"rows": [row | {"error": "no"} for row in failed]})
    assert set(gaps["error"]) == {"no"}
    assert gaps["seconds"].isna().all()


def test_a_way_that_is_not_installed_is_an_error_and_not_a_crash(monkeypatch):
    def absent(folder):
        raise ModuleNotFoundError("No module named 'rerankers'")

    monkeypatch.setitem(VARIANTS, "rerankers", (absent, "fp32"))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(variants, "hide_accelerators", lambda: None)
    monkeypatch.setattr("logging.disable", lambda _: None)
    found = variants.load("rerankers", "a folder")
    assert found == {"error": "ModuleNotFoundError: No module named 'rerankers'"}


def test_chunks_end_with_sentences_and_questions_belong_to_a_paragraph(tmp_path):
    (tmp_path / "qa").mkdir()
    long = "A sentence of some length about the sea and the boats on it. " * 9
    paragraph = {"context": long, "qas": [{"question": " Why? "}, {"question": "No?"}]}
    paragraph["qas"][1]["is_impossible"] = True
    for name in ("squad.json", "xquad_es.json"):
        found = {"data": [{"paragraphs": [paragraph, paragraph]}]}
        (tmp_path / "qa" / name).write_text(json.dumps(found))
    found = growth.read_texts(tmp_path)
    assert found.keys() == {"training_documents.jsonl", "squad.json"}
    assert found["squad.json"] == {long: ["Why?", "Why?"]}
    assert sum(map(len, found["training_documents.jsonl"].values())) > 1500
    chunks = growth.CHUNK.findall(" ".join(long.split()))
    assert {len(chunk) for chunk in chunks} == {121}
    assert all(chunk.endswith("it.") for chunk in chunks)


def test_on_a_machine_with_a_gpu_all_is_computed_on_the_processor(monkeypatch):
    """CUDA reads the variable when it starts, which no test can: only MPS is looked at here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert get_device_name() == "mps"
    variants.hide_accelerators()
    assert get_device_name() == "cpu"


def test_without_a_gpu_nothing_is_measured(tmp_path, run):
    with pytest.raises(SystemExit, match="nothing was measured: device is 'cuda:99'"):
        run(gpu, "--device", "cuda:99")
    assert not list(tmp_path.iterdir())


def test_flops_are_those_that_torch_counts():
    """Counted by torch over a plain BERT layer by layer, in multiplications and additions."""
    config = BertConfig(**TINY)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.ones(1, 24, dtype=torch.long))
    assert counter.get_total_flops() == encoder_flops(config, [24])
    limits = matmul_gflops(config, 32)
    assert limits.keys() | {"bf16"} == {"fp32, torch", "fp32", "bf16", "int8"}
    assert limits["fp32"] >= limits["fp32, torch"] > 0


@pytest.mark.slow
def test_one_variant_is_compared_with_the_pages_and_langchains(run, capsys):
    out = run(bench, "--small", "--variants", "LocalCrossEncoder", "--parts", "speed")
    found, kept = json.loads(out.read_text())["speed"], COMMITTED["speed"]
    assert found.keys() == kept.keys()
    assert {row["variant"] for row in kept["rows"]} == set(VARIANTS)
    assert {row["workload"] for row in kept["rows"]} == set(speed.ROUNDS)
    assert {row["variant"] for row in found["rows"]} == {PAGE, REFERENCE, "LocalCrossEncoder"}
    for row in found["rows"]:
        assert row["seconds"] > 0
        assert row["tau"] == pytest.approx(1, abs=0.15)  # six pairs, and ties may fall either way
        assert row["largest difference"] < 1e-5
    assert "not run: sentence-transformers" in capsys.readouterr().out
    assert not workers()


@pytest.mark.slow
def test_growth_alone_fills_a_new_file(run, capsys):
    result = json.loads(run(bench, "--small", "--parts", "growth").read_text())
    assert result.keys() == {"growth"}
    for row, kept in zip(result["growth"]["rows"], COMMITTED["growth"]["rows"], strict=False):
        assert row.keys() == kept.keys()
        assert [kind.keys() for kind in row["indexes"]] == [kind.keys() for kind in kept["indexes"]]
        assert row["indexes"][0]["recall@20"] == 1
        assert all(kind["recall@20"] > 0 for kind in row["indexes"])
    assert "reload seconds" in capsys.readouterr().out


@pytest.mark.slow
def test_precision_is_measured_question_by_question(run, capsys):
    table = pd.read_csv(run(precision, "--questions", "2"))
    assert table["order"].value_counts().to_dict() == {"fused": 4, "cross-encoder": 4}
    assert table["set"].value_counts().to_dict() == {"dev": 4, "test": 4}
    assert {"fp32", "int8", "int8 tau"} <= {*table.columns}
    for column in table.columns[3:]:
        assert table[column].between(0.3 if "tau" in column else 0, 1).all()
    assert abs(table["int8"] - table["fp32"]).mean() < 0.1
    assert "cross-encoder" in capsys.readouterr().out


@pytest.mark.slow
def test_a_device_is_measured_in_three_classes_and_precisions():
    found = gpu.measure_gpu("cpu", 4, 1, **TINY)
    assert len(found["rows"]) == 2 * 3 * 3
    assert all(row["pairs/s"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_no_process_survives_an_error(model_dir):
    with pytest.raises(KeyError, match="no such workload"):
        work, rounds = {"some": [("a question", "an answer")]}, {"no such workload": 1}
        speed.measure("embedded", str(model_dir), [PAGE, REFERENCE], work, rounds)
    assert not workers()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in ("OpenVINO", "torch.compile")])
def test_every_way_of_scoring_gives_the_order_of_the_others(name, model_dir, reference):
    pairs = calibration_pairs()[:12]
    scores = VARIANTS[name][0](str(model_dir))(pairs)
    tolerance = {"fp32": 1e-5, "auto": 0.02, "int8": 0.1}[VARIANTS[name][1]]
    np.testing.assert_allclose(scores, reference.score(pairs), atol=tolerance)


@pytest.mark.slow
def test_a_batch_out_of_memory_is_a_row_and_not_a_crash(model_dir):
    with variants.process() as worker:
        worker.submit(variants.load, PAGE, str(model_dir)).result()
        many = [("a question", "many words " * 300)] * 2500
        assert worker.submit(variants.run, many).result() == {"error": "more than 8 GiB"}
        assert len(worker.submit(variants.run, many[:2]).result()["scores"]) == 2


@pytest.mark.slow
def test_pairs_have_the_lengths_that_were_asked_for(reference):
    for pairs, most in ((mixed_pairs(20, 10, 60), 60), (real_pairs(), 512)):
        lengths = [len(ids) for ids in reference.client.tokenizer(pairs)["input_ids"]]
        assert 10 <= min(lengths) < max(lengths) / 3 <= most / 3
        assert len(set(lengths)) > 10
