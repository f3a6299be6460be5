"""The bulk job on a real local Ray: the scores of one process, each once, whatever goes wrong."""

import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.scale import bulk
from helpers.scale.bulk import JobError, Written, score_table

ROOT = Path(__file__).resolve().parents[1]


def rows_of(numbers):
    """Ids and passages that a guessing reader would take for days and for numbers."""
    return [
        {
            "id": str(date.fromordinal(738_000 + n)),
            "query": "How many books?",
            "passage": str(n) if n % 3 else "Books are lent. " * (n % 20 + 1),
            "more": [n],
        }
        for n in numbers
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(out):
    """Return what the parts in `out` hold, part by part: {file: {id: score}}."""
    tables = {path: pq.read_table(path) for path in sorted(out.glob("*.parquet"))}
    for table in tables.values():
        assert table.schema.names == ["id", "score", "digest"]
        assert pa.types.is_floating(table.schema.field("score").type)
    return {
        path: dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))
        for path, table in tables.items()
    }


def marks(out):
    """Return Ray's notes of the parts that are finished."""
    return sorted(out.glob("_checkpoint/*[0-9].parquet"))


def merged(parts):
    """Return the scores of all parts; no id may be in two of them."""
    scores = {name: score for part in parts.values() for name, score in part.items()}
    assert len(scores) == sum(map(len, parts.values()))
    return scores


@pytest.fixture(scope="module")
def reranker():
    """The model that the job takes by default, in this process; Ray ends with these tests."""
    from helpers.profiles import load_profile
    from helpers.score import LocalCrossEncoder

    yield LocalCrossEncoder(load_profile().reranker_model)
    import ray

    ray.shutdown()


@pytest.mark.slow
def test_killed_and_failed_and_grown(tmp_path, reranker, monkeypatch):
    """The driver is killed, then a worker fails, then the table has grown; notebook 06 shows the
    same over Parquet with nothing going wrong.
    """
    rows = rows_of(range(400))
    folder, out = tmp_path / "pairs", tmp_path / "out"
    folder.mkdir()
    write(folder / "a.jsonl", rows[:250])
    write(folder / "b.jsonl", rows[250:])
    command = [sys.executable, "-m", "helpers.scale.bulk", folder, out, "--batch-size", "16"]
    command += ["--workers", "2"]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    while len(finished := marks(out)) < 2:
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    workers = [
        process
        for process in psutil.Process(job.pid).children(recursive=True)
        if "Agent" not in " ".join(process.cmdline())
    ]
    job.kill()
    job.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive

    # As if it had been killed within the first part, too.
    mark = finished[0]
    part = out / f"{mark.stem}-0.parquet"
    part.write_bytes(part.read_bytes()[:100])
    mark.rename(mark.with_name(f"{mark.stem}.pending.parquet"))
    unfinished = {path.name.split(".")[0] for path in out.glob("_checkpoint/*.pending.parquet")}
    kept = {p: p.read_bytes() for p in out.glob("*.parquet") if p.stem[:-2] not in unfinished}
    assert kept
    done = {name for path in kept for name in pq.read_table(path)["id"].to_pylist()}
    last = next(row["id"] for row in reversed(rows) if row["id"] not in done)

    class Failing(bulk.Scorer):
        def __call__(self, batch):
            if last in batch["id"].to_pylist():
                # Not `marks`: the workers do not have this module.
                while len(list(out.glob("_checkpoint/*[0-9].parquet"))) <= len(kept):
                    time.sleep(0.1)
                raise RuntimeError("out of luck")
            return super().__call__(batch)

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "Scorer", Failing)
        with pytest.raises(Exception, match="out of luck"):
            score_table(folder, out, workers=2, batch_size=16)
    assert {path: path.read_bytes() for path in kept} == kept
    done = sum(pq.read_metadata(out / f"{path.stem}-0.parquet").num_rows for path in marks(out))
    assert 0 < done < len(rows)

    more = rows_of(range(400, 430))
    write(folder / "c.jsonl", more)
    rows += more
    assert score_table(folder, out, batch_size=16) == Written(len(rows) - done, len(rows))
    assert {path: path.read_bytes() for path in kept} == kept
    parts = read(out)
    scores = merged(parts)
    assert scores.keys() == {row["id"] for row in rows}
    some = rows[::30]
    expected = reranker.score([(row["query"], row["passage"]) for row in some])
    assert [scores[row["id"]] for row in some] == pytest.approx(expected, abs=1e-5)

    assert score_table(folder, out) == Written(0, len(rows))
    assert read(out) == parts
    with pytest.raises(JobError, match="Ray has 4 CPUs, but 3 workers need 5"):
        score_table(folder, tmp_path / "new", workers=3)
    rows[-1]["passage"] = "something else"
    write(folder / "c.jsonl", rows[400:])
    with pytest.raises(JobError, match=f"other texts for 1 ids ..{rows[-1]['id']}"):
        score_table(folder, out)


@pytest.fixture
def model(tmp_path):
    """Something that passes for a model where none gets loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


GOOD = {"id": "a", "query": "why", "passage": "because"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"id": "b", "query": "why"}], "line 2: passage is missing, found id, query"),
        ([GOOD, GOOD], "id 'a' occurs twice"),
        ([GOOD, GOOD | {"id": "b", "passage": ""}], "passage of id 'b' is ''"),
        ([GOOD | {"query": " \n"}], "query of id 'a'"),
        ([GOOD | {"query": None}], "query of id 'a' is None"),
        ([GOOD | {"passage": 7}], "passage of id 'a' is 7"),
        ([GOOD | {"passage": "\ud83d"}], "passage of id 'a'"),
        ([GOOD, GOOD | {"id": 1}], "id 1 is of type int"),
        ([GOOD | {"id": None}], "id None"),
        ([GOOD | {"id": True}], "id True"),
        ([GOOD | {"id": "\ud83d"}], "cannot be stored"),
        ([GOOD | {"id": 2**63}], "cannot be stored"),
        (["not an object"], "line 1: id, query, passage is missing"),
        ([], "no rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path, model, rows, message):
    write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(JobError, match=message):
        score_table(tmp_path / "pairs.jsonl", tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["a"], "text": ["b"]}, "query, passage is missing, found id, text"),
        ({"id": ["a", "b"], "query": ["c", None], "passage": ["d", "e"]}, "query of id 'b'"),
        ({"id": [1, 2, 1], "query": list("abc"), "passage": list("abc")}, "id 1 occurs twice"),
        ({"id": [0.5], "query": ["a"], "passage": ["b"]}, "id 0.5 is of type float"),
    ],
)
def test_a_bad_column_is_named(tmp_path, model, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    with pytest.raises(JobError, match=message):
        score_table(tmp_path / "pairs.parquet", tmp_path / "out", model)


def test_an_id_may_not_be_in_two_files(tmp_path, model):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in ("one", "two"):
        write(folder / f"{name}.jsonl", [GOOD])
    with pytest.raises(JobError, match="two.jsonl: id 'a' occurs twice"):
        score_table(folder, tmp_path / "out", model)


def test_files_and_folders_that_cannot_be_used(tmp_path, model, monkeypatch):
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    with pytest.raises(JobError, match="does not exist"):
        score_table(pairs, out, model)
    write(pairs, [GOOD])
    with pytest.raises(JobError, match="is a file: expected a folder"):
        score_table(pairs, pairs, model)
    with pytest.raises(JobError, match="no safetensors"):
        score_table(pairs, out, tmp_path)
    with pytest.raises(JobError, match="precision='fp8'"):
        score_table(pairs, out, model, precision="fp8")
    with pytest.raises(JobError, match="Expected a path"):
        score_table("nowhere://pairs", out, model)
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "pairs.jsonl", [GOOD])
    with pytest.raises(JobError, match="one within the other"):
        score_table(tmp_path / "folder", tmp_path / "folder" / "out", model)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(JobError, match="RAY_ADDRESS=auto"):
        score_table(pairs, out, model)
    pairs.write_text(json.dumps(GOOD) + "\n{")
    with pytest.raises(JobError, match="line 2 is no JSON"):
        score_table(pairs, out, model)
    pairs.write_bytes(b'{"id": "\xff"}')
    with pytest.raises(JobError, match="cannot be read"):
        score_table(pairs, out, model)
    pairs.rename(tmp_path / "pairs.csv")
    with pytest.raises(JobError, match="holds .csv files"):
        score_table(tmp_path / "pairs.csv", out, model)
    assert not out.exists()


def test_a_folder_of_other_scores_is_refused(tmp_path, model):
    write(tmp_path / "pairs.jsonl", [GOOD])
    out = tmp_path / "out"
    out.mkdir()
    pq.write_table(pa.table({"id": ["a"]}), out / "mine-0.parquet")
    with pytest.raises(JobError, match=r"disagree about 1 parts \(mine"):
        score_table(tmp_path / "pairs.jsonl", out, model)
    (out / "_checkpoint").mkdir()
    pq.write_table(pa.table({"id": ["a"]}), out / "_checkpoint" / "mine.parquet")
    with pytest.raises(JobError, match="has the columns id: expected id, score, digest"):
        score_table(tmp_path / "pairs.jsonl", out, model)
    digests = {"id": ["a"], "score": [0.5], "digest": ["0" * 16]}
    pq.write_table(pa.table(digests), out / "mine-0.parquet")
    with pytest.raises(JobError, match="other texts for 1 ids"):
        score_table(tmp_path / "pairs.jsonl", out, model)
    (out / "_job.json").write_text('{"precision": "bf16"}')
    with pytest.raises(JobError, match="another model or precision"):
        score_table(tmp_path / "pairs.jsonl", out, model)
    assert (out / "mine-0.parquet").exists()


def test_the_command_says_what_is_wrong(tmp_path, model, monkeypatch, capsys):
    arguments = [str(tmp_path / "pairs.jsonl"), str(tmp_path / "out"), "--model", str(model)]
    monkeypatch.setattr("sys.argv", ["bulk", *arguments])
    with pytest.raises(SystemExit):
        bulk.main()
    assert "pairs.jsonl does not exist" in capsys.readouterr().err
