"""Pairs by the million, on as many machines as Ray has: (id, query, passage) -> (id, score).

Of the rows, sorted by id, 4,096 at a time become one Parquet part, named by a hash of all that its
scores depend on: a part that is there is right, and after a crash the same command does the rest.
On a machine of a Ray cluster, `RAY_ADDRESS=auto` takes all of it; the others need this package and
the model under the same path, not PAIRS and OUT. It computes on GPUs where Ray has some, else on
processors; parts of the two have different names, for their scores differ in the last digits.
"""

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
from pyarrow import fs
from tqdm import tqdm

from helpers.profiles import load_profile

# Of a file or a row; SQLite finds half characters, integers of more than 64 bits and full disks.
FAULTS = (ValueError, OverflowError, RecursionError, OSError, pa.ArrowException, sqlite3.Error)
PART_ROWS = 4096  # the same for any number of workers: the names depend on it
PART = r"scores-[0-9a-f]{24}\.parquet"
PRECISIONS, DEVICES = ["fp32", "bf16", "fp16", "auto"], ["auto", "cpu", "cuda"]


class JobError(ValueError):
    """A job that cannot be done; the message says why."""


class Written(NamedTuple):
    """How many rows a call scored, and how many its folder holds now."""

    new: int
    total: int


@contextlib.contextmanager
def _ray_ends_with_an_error() -> Iterator[None]:
    fresh = not ray.is_initialized()
    try:
        yield
    except BaseException as error:
        if fresh and ray.is_initialized():
            ray.shutdown()
        if isinstance(error, ray.exceptions.RayError):
            raise JobError(f"A worker failed: {str(error).strip().splitlines()[-1]}") from error
        raise


@_ray_ends_with_an_error()
def score_table(
    pairs: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    workers: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    batch_size: int = 256,
    progress: bool = False,
) -> Written:
    """Score the rows of `pairs` whose parts `out` lacks, then delete the parts of a former table.

    A changed row makes its part a new one, a new id also all that follow: let new ids sort last.
    The sorted table lies in a temporary file (`TMPDIR`); memory holds some thousand rows. Uses the
    Ray that runs or that `RAY_ADDRESS` names, else starts one, which stays for the next call, with
    the model in its memory, unless this one fails. What a worker that died had in hand is done
    again, three times at most.

    Args:
        pairs: A `.parquet` or `.jsonl` file, or a folder of one kind, with the columns id (unique;
            strings or integers), query and passage; a path, or a URI of pyarrow's (`s3://...`).
        out: The folder of parts, with the columns id and score (32-bit float), and of nothing else
            but names that begin with "." or "_"; a path or a URI. Two runs may share it.
        model: The model's folder; by default the profile's reranker.
        workers: Processes, each with one CPU, and on a GPU with one of those; by default, and at
            most, one for each that Ray has.
        precision: `fp32`, `bf16`, `fp16` or `auto`, which is decided once for all workers: by this
            machine's processor, or by one worker's GPU.
        device: `cuda`, `cpu` or `auto`, which is `cuda` where Ray has a GPU.
        batch_size: Rows handed to a worker at once.
        progress: Whether to show a bar.

    Raises:
        JobError: `pairs`, `out` or an argument cannot be used, Ray does not start, or a worker
            failed. Finished parts stay, and none is deleted.
    """
    if workers == 0 or min(batch_size, workers or 1) < 1:
        raise JobError(f"{workers=}, {batch_size=}: expected at least 1.")
    if precision not in PRECISIONS or device not in DEVICES:
        raise JobError(f"{precision=}, {device=}: expected one of {PRECISIONS} and of {DEVICES}.")
    model = Path(model or load_profile().reranker_model).absolute()
    if not list(model.glob("*.safetensors")):
        raise JobError(f"{model} holds no safetensors weights: expected a model's folder.")
    if Path(out).absolute().is_relative_to(Path(pairs).absolute()):
        raise JobError(f"{out} lies within {pairs}: expected separate places.")
    try:
        source = ds.dataset(str(pairs), pa.schema([]), "parquet")
        uri = str(out if "://" in str(out) else Path(out).absolute())
        target, folder = fs.FileSystem.from_uri(uri)
        before = _find_parts(target, folder)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"Not to be found or used: {error}. Expected paths or s3://...") from error
    with contextlib.closing(sqlite3.connect("")) as table:  # a file that SQLite deletes
        _sort(table, source)
        job = [_hash(model), *_decide(precision, device, workers)]
        parts = {name: len(rows) for name, rows in _slices(table, job)}
        new = sum(rows for name, rows in parts.items() if name not in before)
        pieces = (
            (name, rows[start : start + batch_size])
            for name, rows in _slices(table, job)
            if name not in before
            for start in range(0, len(rows), batch_size)
        )
        target.create_dir(folder, recursive=True)
        scores = {name: {} for name in parts}
        with tqdm(total=new, unit=" rows", disable=not progress or not new) as bar:
            for name, some in _spread(pieces, workers, model, job) if new else ():
                bar.update(len(some))
                scores[name].update(some)
                if len(scores[name]) == parts[name]:
                    _write(target, folder, name, scores.pop(name))
    if not parts.keys() <= _find_parts(target, folder) <= before | parts.keys():
        raise JobError(f"{out} has changed meanwhile: does a run of another table write to it?")
    if former := before - parts.keys():
        for name in former:
            with contextlib.suppress(FileNotFoundError):  # another run was faster
                target.delete_file(f"{folder}/{name}")
        logging.warning("%s: deleted %d parts of a former table or model", out, len(former))
    return Written(new, sum(parts.values()))


def _spread(
    pieces: Iterator[tuple[str, list]], workers: int | None, model: Path, job: list[str]
) -> Iterator[tuple[str, dict]]:
    """Score pieces of parts on Ray: (part, rows) -> (part, {id: score}), in any order."""
    device = job[2] if job[2:] else "cpu"
    workers = _connect(workers, device)
    needs = {"num_cpus": 1, "num_gpus": int(device == "cuda")}
    task, running = ray.remote(**needs, max_retries=3)(_score), {}
    while True:
        for name, rows in itertools.islice(pieces, workers - len(running)):
            running[task.remote(rows, model, *job)] = name
        if not running:
            return
        done = ray.wait(list(running))[0][0]
        yield running.pop(done), ray.get(done)


def _decide(precision: str, device: str, workers: int | None) -> list[str]:
    """Return what the names of parts depend on: the precision and, if it is a GPU, the device."""
    if device == "auto" and not (ray.is_initialized() or os.environ.get("RAY_ADDRESS")):
        import torch  # takes seconds; a Ray that is started here finds what torch finds

        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "auto":
        _connect(workers)
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    if precision == "auto" and device == "cuda":  # this machine may have another GPU, or none
        _connect(workers, device)
        precision = ray.get(ray.remote(num_cpus=1, num_gpus=1)(_auto).remote(device))
    return [_auto(device) if precision == "auto" else precision] + ["cuda"] * (device == "cuda")


def _auto(device: str) -> str:
    import torch

    from helpers.hardware import auto_precision

    if device == "cuda" and not torch.cuda.is_available():
        said = f"Ray gave a worker a GPU, but its torch {torch.__version__} finds no CUDA: install"
        raise JobError(f"{said} a torch that does on that machine, or take the device cpu.")
    return auto_precision(device)


def _connect(workers: int | None, device: str = "cpu") -> int:
    """Find or start Ray; return how many tasks to give it at a time."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    here = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    options = {} if (address := os.environ.get("RAY_ADDRESS", "")) else here
    tries = 1 if address else 3  # on a busy machine the half minute that Ray waits is too short
    while not ray.is_initialized():
        tries -= 1
        try:
            if address.startswith("ray://"):
                raise ConnectionError("This does not run over a Ray Client.")
            ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:
            if not tries:
                raise JobError(
                    f"Ray does not start or answer: {str(error).splitlines()[0]} Try again when "
                    "the machine is less busy; in a cluster, on a machine of it, RAY_ADDRESS=auto."
                ) from error
    places = []
    for kind in ["CPU"] + ["GPU"] * (device == "cuda"):
        places.append(int(ray.cluster_resources().get(kind, 0)))
        if not places[-1]:
            said = f"Ray has no {kind}s, expected one a worker: ray.shutdown(), and start another"
            raise JobError(f"{said}, or take another device.")
    return min(workers or max(places), *places)


def _score(rows: list[tuple], *model: object) -> dict[str | int, float]:
    """Score rows in a process of Ray's, which keeps the model."""
    scores = _load(*model).score([pair for _, *pair in rows])
    return dict(zip([name for name, *_ in rows], scores, strict=True))


@functools.lru_cache(maxsize=1)
def _load(model: Path, sha256: str, precision: str, device: str = "cpu") -> object:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else every worker would fill the same GPU
    import torch

    from helpers.score import LocalCrossEncoder

    _auto(device)  # which knows whether it is there
    torch.set_num_threads(1)
    if _hash(model) != sha256:
        raise JobError(f"{model} is another one on a machine of Ray's: copy the same to all.")
    return LocalCrossEncoder(model, precision=precision, device=device)


def _hash(model: Path) -> str:
    """Return the SHA-256 of what a model's scores depend on, each file with its name."""
    kinds = {".safetensors", ".json", ".txt", ".model", ".jinja"}
    files = sorted(path for path in model.rglob("*") if path.suffix in kinds)
    names = [path.relative_to(model).as_posix() for path in files]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return hashlib.sha256(json.dumps([names, hashes]).encode()).hexdigest()


def _sort(table: sqlite3.Connection, source: ds.FileSystemDataset) -> None:
    """Check all rows of the files and put them into an empty database."""
    found = " and ".join(sorted({Path(file).suffix for file in source.files}))
    if found not in (".jsonl", ".parquet"):
        raise JobError(f"pairs are {found or 'no'} files: expected .jsonl or .parquet, no others.")
    kind = "line" if found == ".jsonl" else "row"
    table.execute("CREATE TABLE pairs (id PRIMARY KEY, query, passage)")
    types = set()
    for file in source.files:
        number = 0
        try:
            if kind == "row":
                parquet = pq.ParquetFile(file, filesystem=source.filesystem)
                _once([(name, None) for name in parquet.schema_arrow.names])
                batches = parquet.iter_batches(columns=["id", "query", "passage"])
                rows = (row for batch in batches for row in batch.to_pylist())
            else:
                rows = io.BufferedReader(source.filesystem.open_input_stream(file))
            for row in rows:
                number += 1
                if isinstance(row, bytes):
                    if not row.strip():
                        continue
                    row = json.loads(row, object_pairs_hook=_once)
                match row:
                    case {"id": name, "query": str(query), "passage": str(passage)} if (
                        type(name) in (types or {str, int}) and query.strip() and passage.strip()
                    ):
                        types = {type(name)}
                    case _:
                        raise ValueError(f"found {row!r:.200}")
                insert = "INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)"
                if not table.execute(insert, (name, query, passage)).rowcount:
                    raise ValueError(f"id {name!r} occurs twice")
        except FAULTS as error:
            raise JobError(
                f"{file}, {kind} {number}: {error}. Expected, in UTF-8, id (unique; only strings "
                "or only 64-bit whole numbers), query and passage (text, not empty)."
            ) from error
    if not types:
        raise JobError(f"{source.files[0]} holds no rows: expected at least one.")


def _once(fields: list[tuple[str, object]]) -> dict:
    if len(row := dict(fields)) < len(fields):
        raise ValueError(f"a name occurs twice: {', '.join(name for name, _ in fields)}")
    return row


def _slices(table: sqlite3.Connection, job: list[str]) -> Iterator[tuple[str, list[tuple]]]:
    """Yield the name of each part and its rows: a SHA-256 over JSON of the job and the rows."""
    cursor = table.execute("SELECT id, query, passage FROM pairs ORDER BY id")
    while rows := cursor.fetchmany(PART_ROWS):
        sha256 = hashlib.sha256(json.dumps([job, rows]).encode()).hexdigest()
        yield f"scores-{sha256[:24]}.parquet", rows


def _find_parts(target: fs.FileSystem, folder: str) -> set[str]:
    found = target.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = {info.base_name for info in found if not info.base_name.startswith((".", "_"))}
    if odd := sorted(name for name in names if not re.fullmatch(PART, name)):
        raise JobError(f"{folder} holds {odd[0]}, which is no part: expected nothing else in it.")
    return names


def _write(target: fs.FileSystem, folder: str, name: str, scores: dict) -> None:
    """Write a part beside its place, then rename it into it: it is there whole, or not at all."""
    ids = sorted(scores)
    part = pa.table({"id": ids, "score": pa.array([scores[i] for i in ids], pa.float32())})
    beside = f"{folder}/.{name}.{os.urandom(4).hex()}.tmp"
    pq.write_table(part, beside, filesystem=target)
    target.move(beside, f"{folder}/{name}")


def main() -> None:
    """Score a table of (query, passage) pairs on Ray; after a crash, start it again."""
    parser = argparse.ArgumentParser("python -m helpers.scale.bulk", description=main.__doc__)
    parser.add_argument("pairs", help="JSON lines or Parquet, file or folder: id, query, passage")
    parser.add_argument("out", help="folder of Parquet parts: id, score")
    parser.add_argument("--model", help="a model's folder; by default the profile's reranker")
    parser.add_argument("--workers", type=int, help="by default one for each GPU, else CPU")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--batch-size", type=int, default=256, help="rows for a worker at once")
    arguments = parser.parse_args()
    try:
        new, total = score_table(**vars(arguments), progress=True)
    except (JobError, OSError) as error:
        parser.error(str(error))
    print(f"{arguments.out} holds {total} scores, {new} of them new")


if __name__ == "__main__":
    from helpers.scale.bulk import main  # where the workers find its functions, too

    main()
