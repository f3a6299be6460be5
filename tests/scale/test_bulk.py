"""The bulk job: tables that are refused, parts that stay, and, on a real Ray, right scores."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from helpers.profiles import load_profile
from helpers.scale import bulk
from helpers.scale.bulk import JobError, Written, score_table

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"id": "a", "query": "why", "passage": "because"}
COMMAND = """from helpers.scale import bulk; bulk.PART_ROWS = 50; import runpy
runpy.run_module("helpers.scale.bulk", run_name="__main__")"""


def rows_of(numbers):
    """Ids and passages that a guessing reader would take for days and for numbers."""
    common = {"query": "How many books?", "more": [1]}
    texts = {n: str(n) if n % 3 else "Books are lent. " * (n % 20 + 1) for n in numbers}
    days = {n: str(date.fromordinal(738_000 + n)) for n in numbers}
    return [common | {"id": days[n], "passage": texts[n]} for n in numbers]


def write(path, rows, encoding="utf-8"):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding=encoding)


def refused(message, *arguments, **options):
    with pytest.raises(JobError, match=message) as caught:
        score_table(*arguments, **options)
    assert "\n" not in str(caught.value)


def times(out):
    """Return {part: when it was written}."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}


@pytest.fixture
def model(tmp_path):
    """Something that passes for a model where none gets loaded."""
    (folder := tmp_path / "model").mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def done(monkeypatch):
    """Parts that hold 50 rows, and are written without a score from Ray."""
    monkeypatch.setattr(bulk, "PART_ROWS", 50)

    def spread(pieces, workers, model, job):
        yield from ((name, dict.fromkeys([row[0] for row in rows], 0.5)) for name, rows in pieces)

    monkeypatch.setattr(bulk, "_spread", spread)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"id": "b", "query": "why"}], "line 2: found {'id': 'b', 'query': 'why'}"),
        ([GOOD, GOOD], "line 2: id 'a' occurs twice"),
        ([GOOD, GOOD | {"id": "b", "passage": ""}], "line 2: .*'passage': ''}"),
        ([GOOD | {"query": " \n"}], r"line 1: .*'query': ' \\n'"),
        ([GOOD | {"passage": 7}], "line 1: .*'passage': 7"),
        ([GOOD | {"passage": "\ud83d"}], r"line 1: .*'\\ud83d'.* surrogates not allowed"),
        ([GOOD | {"id": "\ud83d"}], r"line 1: .*'\\ud83d'.* surrogates not allowed"),
        ([GOOD, GOOD | {"id": 1}], "line 2: .*'id': 1.*only strings or only"),
        ([GOOD | {"id": None}], "'id': None"),
        ([GOOD | {"id": True}], "'id': True"),
        ([GOOD | {"id": 2**63}], "line 1: .*int too large.*64-bit"),
        (["not an object"], "line 1: found 'not an object'"),
        ([[["id", 1], ["query", "a"], ["passage", "b"]]], "line 1: found"),
        ([], "no rows"),
        (json.dumps(GOOD).encode() + b"\n\n{", "line 3: Expecting property name"),
        (b'{"id": 1, "id": 2, "query": "a", "passage": "b"}', "line 1: .*twice: id, id, query"),
        (b'{"id": "\xff"}', "line 1: 'utf-8' codec"),
        (json.dumps(GOOD).encode("utf-16") + b"\n", "line 1: .*in UTF-8"),
        (b"[" * 100_000, "line 1: maximum recursion"),
    ],
)
def test_a_bad_row_is_named(tmp_path, model, rows, message):
    if isinstance(rows, bytes):
        (tmp_path / "pairs.jsonl").write_bytes(rows)
    else:
        write(tmp_path / "pairs.jsonl", rows)
    refused(f"pairs.jsonl.*{message}", tmp_path / "pairs.jsonl", tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([["a"]], "row 1: found {'id': 'a'}"),
        ([["a", "b"], ["c", None], ["d", "e"]], "row 2: .*None"),
        ([[1, 2, 1], list("abc"), list("abc")], "row 3: id 1 .* twice"),
        ([[0.5], ["a"], ["b"]], "row 1: found {'id': 0.5"),
        ([["a"], ["b"], ["c"], ["d"]], "twice: id, query, passage, id"),
    ],
)
def test_a_bad_column_is_named(tmp_path, model, columns, message):
    names = ["id", "query", "passage", "id"][: len(columns)]
    table = pa.Table.from_arrays([pa.array(column) for column in columns], names)
    pq.write_table(table, tmp_path / "p.parquet")
    refused(f"p.parquet, .*{message}", tmp_path / "p.parquet", tmp_path / "out", model)


def test_files_and_folders_that_cannot_be_used(tmp_path, model):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    refused("Not to be found.*pairs.jsonl", pairs, out, model)
    write(pairs, [GOOD])
    write(tmp_path / "file", [])
    refused("Cannot list directory .*file.*Not a directory", pairs, tmp_path / "file", model)
    refused("no safetensors", pairs, out, ROOT)
    for wrong in ({"precision": "fp8"}, {"workers": 0}, {"workers": -1}, {"batch_size": 0}):
        refused("{}={!r}".format(*next(iter(wrong.items()))), pairs, out, model, **wrong)
    refused("device='tpu': expected one of", pairs, out, model, device="tpu")
    refused("nowhere.*Expected paths", "nowhere://pairs", out, model)
    refused("nowhere.*Expected paths", pairs, "nowhere://out", model)
    (folder := tmp_path / "folder").mkdir()
    for place in (folder, folder / "out"):
        refused("lies within", folder, place, model)
    refused("no files", folder, out, model)
    (mine := folder / f"{'0' * 24}.parquet").write_bytes(b"PAR1")
    refused("holds 0.*, which is no part", pairs, folder, model)
    refused("0.parquet, row 0: Parquet", folder, out, model)
    for name in ("q.jsonl", "r.jsonl"):
        write(folder / name, [GOOD])
    refused("are .jsonl and .parquet files", folder, out, model)
    mine.unlink()
    refused("r.jsonl, line 1: id 'a' occurs twice", folder, out, model)
    assert not out.exists()


@pytest.mark.parametrize(("address", "times"), [("ray://head:10001", 0), ("auto", 1), ("", 3)])
def test_ray_that_does_not_start_is_one_line(tmp_path, model, monkeypatch, capsys, address, times):
    tried = []

    def init(**options):
        tried.append(options)
        raise Exception("The current node timed out during startup. This could\nhappen")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", address)
    write(tmp_path / "pairs.jsonl", [GOOD])
    monkeypatch.setattr("sys.argv", ["bulk", f"{tmp_path}/pairs.jsonl", f"{tmp_path}/out"])
    with pytest.raises(SystemExit, match="2"):
        bulk.main()
    error = capsys.readouterr().err.splitlines()[-1]
    assert ("timed out during startup" in error) if times else ("a Ray Client" in error)
    assert "RAY_ADDRESS=auto" in error
    assert len(tried) == times


def test_what_is_accepted(tmp_path, model, done):
    """A byte order mark, ids like times, ids that differ after a NUL, Parquet with integers."""
    names = ["2020-01-01", "07:30", "q\0a", "q\0b", "é", "\ufffd", "\U0001f4da"]
    write(tmp_path / "pairs.jsonl", [GOOD | {"id": name} for name in names], "utf-8-sig")
    assert score_table(tmp_path / "pairs.jsonl", tmp_path / "out", model) == Written(7, 7)
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == sorted(names)
    numbers = [10, 9, -1, 2**63 - 1]
    columns = {"id": numbers, "query": ["q"] * 4, "passage": ["p"] * 4, "more": [None] * 4}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    assert score_table(tmp_path / "pairs.parquet", tmp_path / "ints", model) == Written(4, 4)
    assert pq.read_table(tmp_path / "ints")["id"] == pa.chunked_array([sorted(numbers)])


def test_parts_are_kept_renewed_and_deleted(tmp_path, model, done, caplog, monkeypatch):
    rows, pairs, out = rows_of(range(180)), tmp_path / "pairs", tmp_path / "out"
    pairs.mkdir()
    write(pairs / "b.jsonl", rows[:90])
    write(pairs / "a.jsonl", rows[90:])
    assert score_table(pairs, out, model) == Written(180, 180)
    first = times(out)
    assert sorted(pq.read_metadata(out / name).num_rows for name in first) == [30, 50, 50, 50]
    half = out / f".scores-{'0' * 24}.parquet.00000000.tmp"  # as a killed run leaves it
    half.write_bytes(b"PAR1")
    uris = (pairs.as_uri(), out.as_uri(), model)
    assert score_table(*uris, workers=3, batch_size=7) == Written(0, 180)
    assert times(out) == first
    assert not caplog.records

    rows[60]["passage"] = "something else"
    write(pairs / "b.jsonl", rows[:90])
    assert score_table(pairs, out, model) == Written(50, 180)
    changed = times(out)
    assert len(changed.keys() - first.keys()) == len(first.keys() - changed.keys()) == 1
    assert all(changed[name] == first[name] for name in changed.keys() & first.keys())
    assert "out: deleted 1 parts of a former table" in caplog.text

    write(pairs / "c.jsonl", more := rows_of(range(180, 230)))
    assert score_table(pairs, out, model) == Written(80, 230)  # 30 of them fill their part up
    table = pq.read_table(out)
    assert sorted(table["id"].to_pylist()) == [row["id"] for row in rows + more]
    assert table.schema == pa.schema([("id", pa.string()), ("score", pa.float32())])

    assert score_table(pairs, out, model, precision="bf16") == Written(230, 230)
    (model / "tokenizer.json").write_text("{}")
    assert score_table(pairs, out, model, precision="bf16") == Written(230, 230)
    assert caplog.text.count("deleted 5 parts") == 2
    assert score_table(pairs, out, model, precision="bf16", device="cuda") == Written(230, 230)
    assert score_table(pairs, out, model, precision="bf16", device="cpu") == Written(230, 230)
    assert half.exists()

    def another(*arguments, fill=bulk._spread):  # a run of another table, meanwhile
        (out / f"scores-{'0' * 24}.parquet").touch()
        yield from fill(*arguments)

    monkeypatch.setattr(bulk, "_spread", another)
    refused("out has changed meanwhile", pairs, out, model)
    assert len(times(out)) == 5 + 5 + 1  # neither run knows what to delete


@pytest.mark.slow
def test_killed_and_shared_and_failed(tmp_path, monkeypatch):
    """A killed command; a folder that it then shares with a call that loses a worker; a failure."""
    from helpers.score import LocalCrossEncoder

    monkeypatch.setattr(bulk, "PART_ROWS", 50)
    rows, pairs, out = rows_of(range(400)), tmp_path / "pairs.jsonl", tmp_path / "out"
    write(pairs, rows)
    line = [sys.executable, "-c", COMMAND, pairs, out, "--batch-size", "16", "--workers", "2"]

    def start(log):
        return subprocess.Popen(line, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def workers(driver):
        found = psutil.Process(driver).children(recursive=True)
        return [process for process in found if "ray::_score" in " ".join(process.cmdline())]

    job = start(log := tmp_path / "killed")
    while len(times(out)) < 2 or not (left := workers(job.pid)):
        assert job.poll() is None, log.read_text()
        time.sleep(0.02)
    job.kill()
    job.wait()
    assert not psutil.wait_procs(left, timeout=600)[1]
    kept = times(out)
    assert 2 <= len(kept) < 8

    def kill_one():
        while len(times(out)) == len(kept) or not (found := workers(os.getpid())):
            time.sleep(0.02)
        found[0].kill()

    job, killer = start(log := tmp_path / "shared"), threading.Thread(target=kill_one, daemon=True)
    killer.start()
    try:
        assert score_table(pairs, out, workers=2, batch_size=16).total == 400
        assert job.wait() == 0, log.read_text()
        assert "holds 400 scores" in log.read_text()
        assert not killer.is_alive()
        assert kept.items() <= times(out).items()
        scores = pq.read_table(out).to_pandas().set_index("id")["score"].sort_index()
        assert list(scores.index) == [row["id"] for row in rows]
        alone = LocalCrossEncoder(load_profile().reranker_model)
        expected = alone.score([(row["query"], row["passage"]) for row in rows])
        assert list(scores) == pytest.approx(expected, abs=1e-5)

        before = times(out)
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "model.safetensors").write_bytes(b"weights")
        refused("A worker failed: .*broken", pairs, out, tmp_path / "broken")
        assert times(out) == before
    finally:
        ray.shutdown()


def test_a_gpu_that_ray_lacks_is_refused(tmp_path, model, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    write(tmp_path / "pairs.jsonl", [GOOD])
    job = tmp_path / "pairs.jsonl", tmp_path / "out", model
    refused("no GPUs, expected one a worker.*or take another device", *job, device="cuda")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    refused("Ray has no CPUs", *job)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_whose_torch_finds_no_gpu_ends_the_job(tmp_path):
    write(tmp_path / "pairs.jsonl", [GOOD])
    job = tmp_path / "pairs.jsonl", tmp_path / "out"
    ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        for precision in ("fp32", "auto"):
            refused("A worker failed: .*torch .* finds no CUDA", *job, precision=precision)
        assert ray.is_initialized()  # it was not this call that started it
        assert score_table(*job, device="cpu") == Written(1, 1)
    finally:
        ray.shutdown()
