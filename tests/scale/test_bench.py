"""The benchmark runs small, whatever part of it is asked for, and leaves nothing behind."""

import json

import numpy as np
import psutil
import pytest
import torch
from sentence_transformers.util import get_device_name
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from helpers.profiles import DATA
from helpers.scale import bench, growth, speed, variants
from helpers.scale.machine import encoder_flops
from helpers.scale.variants import PAGE, REFERENCE, VARIANTS
from helpers.scale.workloads import calibration_pairs, mixed_pairs

COMMITTED = json.loads((DATA / "results" / "bench.json").read_text())


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command, small, with a file that is not there yet; return what it wrote."""

    def run(*arguments):
        out = tmp_path / "new" / "bench.json"
        monkeypatch.setattr("sys.argv", ["bench", "--small", "--out", str(out), *arguments])
        bench.main()
        return json.loads(out.read_text())

    return run


def workers():
    """The variants' processes (multiprocessing has one more, which stays)."""
    found = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    return [command for command in found if "spawn_main" in " ".join(command)]


@pytest.mark.slow
def test_one_variant_is_compared_with_the_pages_and_langchains(run, capsys):
    result = run("--variants", "LocalCrossEncoder", "--parts", "speed")
    found, kept = result["speed"], COMMITTED["speed"]
    assert found.keys() == kept.keys()
    assert {row["variant"] for row in kept["rows"]} == set(VARIANTS)
    assert {row["variant"] for row in found["rows"]} == {PAGE, REFERENCE, "LocalCrossEncoder"}
    for row in found["rows"]:
        assert row["seconds"] > 0
        assert row["tau"] == pytest.approx(1, abs=0.15)  # six pairs, and ties may fall either way
        assert row["largest difference"] < 1e-5
    shares = found["classes"][0]["overhead"]
    assert shares.keys() == {REFERENCE, "LocalCrossEncoder"}
    assert all(0 < share < 10 for share in shares.values())
    assert "of the limit" in capsys.readouterr().out
    assert not workers()


@pytest.mark.slow
def test_growth_alone_fills_a_new_file(run, capsys):
    result = run("--parts", "growth")
    assert result.keys() == {"growth"}
    for row, kept in zip(result["growth"]["rows"], COMMITTED["growth"]["rows"], strict=False):
        assert row.keys() == kept.keys()
        assert [kind.keys() for kind in row["indexes"]] == [kind.keys() for kind in kept["indexes"]]
        assert row["indexes"][0]["recall@20"] == 1
        assert all(kind["recall@20"] > 0 for kind in row["indexes"])
    assert "reload seconds" in capsys.readouterr().out


@pytest.mark.slow
def test_no_process_survives_an_error(model_dir):
    with pytest.raises(KeyError, match="a workload without a number of rounds"):
        work = {"a workload without a number of rounds": [("a question", "an answer")]}
        speed.measure("embedded", str(model_dir), [PAGE, REFERENCE], work, {})
    with pytest.raises(OSError):
        speed.measure("embedded", str(model_dir / "absent"), [PAGE, REFERENCE], work, {})
    assert not workers()


def test_what_was_only_tried_replaces_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "DATA", tmp_path / "data")
    monkeypatch.setattr(growth, "measure_growth", lambda **_: COMMITTED["growth"]["rows"])
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
    others = [row for row in rows if row["variant"] != PAGE]
    gaps = speed.table(COMMITTED["speed"] | {"rows": others})
    assert gaps["times the page's"].isna().all()
    assert gaps["pairs/s"].tolist() == [r["pairs"] / r["seconds"] for r in others]
    failed = [{key: row[key] for key in ("model", "workload", "variant")} for row in rows]
    gaps = speed.table(COMMITTED["speed"] | {"rows": [row | {"error": "no"} for row in failed]})
    assert set(gaps["error"]) == {"no"}
    assert gaps["seconds"].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "OpenVINO"])
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


def test_on_a_machine_with_a_gpu_all_is_computed_on_the_processor(monkeypatch):
    """CUDA reads the variable when it starts, which no test can: only MPS is looked at here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert get_device_name() == "mps"
    variants.hide_accelerators()
    assert get_device_name() == "cpu"


@pytest.mark.slow
def test_mixed_pairs_have_the_lengths_that_were_asked_for(reference):
    pairs = mixed_pairs(20, 10, 60)
    lengths = [len(ids) for ids in reference.client.tokenizer(pairs)["input_ids"]]
    assert min(lengths) >= 10
    assert max(lengths) <= 60
    assert len(set(lengths)) > 10


def test_flops_are_those_that_torch_counts():
    """Counted by torch over a plain BERT layer by layer, in multiplications and additions."""
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.intermediate_size = 64
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.ones(1, 24, dtype=torch.long))
    assert counter.get_total_flops() == encoder_flops(config, [24])
