"""Pairs by the million, on as many machines as Ray has: (id, query, passage) -> (id, score).

`python -m helpers.bulk PAIRS OUT` reads JSON lines or Parquet and writes Parquet parts into the
folder OUT. What is written stays: after a crash the same command scores only what OUT lacks. With
`RAY_ADDRESS` set it runs on that cluster, whose machines need this package, the model under the
same path, and PAIRS and OUT on storage they all reach (a shared folder, `s3://...`).
"""

import argparse
import gc
import hashlib
import io
import json
import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from pyarrow import fs

COLUMNS = ["id", "query", "passage"]
PART_ROWS = 4096  # what a crash costs a worker at most
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # can be spelled in JSON, not stored in Parquet


_OURS: list[bool] = []  # not empty: Ray was started here, and may be ended here


class JobError(ValueError):
    """A job that cannot start: something is wrong with its table, its folder or its arguments."""


class Written(NamedTuple):
    """How many rows a call scored, and how many its folder holds now."""

    new: int
    total: int


class Scorer:
    """One worker of the pool: loads the model once, then scores batch after batch."""

    def __init__(self, model: str, precision: str):
        import ray
        import torch

        from helpers.score import LocalCrossEncoder

        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self.cross_encoder = LocalCrossEncoder(model, precision=precision)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the columns id and score of a batch with id, query and passage."""
        texts = (batch[name].to_pylist() for name in COLUMNS[1:])
        scores = self.cross_encoder.score(list(zip(*texts, strict=True)))
        return pa.table({"id": batch["id"], "score": pa.array(scores, pa.float32())})


def score_table(
    pairs: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    workers: int = 2,
    precision: str = "fp32",
    batch_size: int = 256,
    progress: bool = False,
) -> Written:
    """Score the rows of `pairs` that `out` does not hold yet.

    Uses the Ray that runs or that `RAY_ADDRESS` names, else starts one, which stays for the next
    call. Only one call at a time may write to `out`. All ids must fit into memory, here and in a
    worker of Ray's (about 100 bytes each); of the texts, only what is being scored.

    Args:
        pairs: A `.parquet` or `.jsonl` file, or a folder of one kind, with the columns id
            (unique; strings or integers), query and passage. Ray reads a JSON file at once: keep
            what is large as Parquet.
        out: The folder of Parquet parts with the columns id and score (32-bit float), in no
            particular order. Delete it to start afresh.
        model: The model's folder; by default the profile's reranker.
        workers: Processes that score, each with one CPU and its own copy of the model.
        precision: `fp32`, `bf16` or `auto`, as in `LocalCrossEncoder`.
        batch_size: Rows handed to the model at once.
        progress: Whether Ray reports its progress.

    Raises:
        JobError: `pairs`, `out` or an argument cannot be used, or Ray has too few CPUs. Nothing
            was scored.
    """
    if workers < 1 or batch_size < 1 or precision not in ("fp32", "bf16", "auto"):
        raise JobError(
            f"workers={workers}, batch_size={batch_size}, precision={precision!r}: expected whole "
            "numbers of at least 1, and one of fp32, bf16, auto."
        )
    if model is None:
        from helpers.profiles import load_profile

        model = load_profile().reranker_model
    model = Path(model).absolute()
    weights = sorted(model.glob("*.safetensors"))
    if not weights:
        raise JobError(f"{model} holds no safetensors weights: expected a model's folder.")
    sha256 = [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights]
    job = json.dumps({"precision": precision, "sha256": sha256})
    source, files = _find(pairs)
    target, folder = _locate(out)
    done = _settle(target, folder, job)
    ids = _check(source, files)
    missing = len(ids - done)
    if not missing:
        return Written(0, len(done))

    ray = _connect(workers)
    target.create_dir(folder, recursive=True)
    with target.open_output_stream(f"{folder}/_job.json") as stream:
        stream.write(job.encode())
    rows = min(PART_ROWS, -(-missing // (4 * workers)))  # small enough that each worker gets some
    try:
        with ray.data.DataContext.current(_context(ray, target, folder, progress)):
            table = _read(ray, source, files, ids).repartition(target_num_rows_per_block=rows)
            table.map_batches(
                Scorer,
                fn_constructor_args=(str(model), precision),
                batch_size=min(batch_size, rows),
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=1,
            ).write_parquet(folder, filesystem=target)
    except BaseException as error:
        # The traceback keeps the workers alive, and the next call would wait for their CPUs.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if _OURS:
            _OURS.clear()
            ray.shutdown()
        raise
    written = _settle(target, folder, job)
    if written != done | ids:
        raise RuntimeError(f"{out} holds {len(written)} ids, expected {len(done | ids)}.")
    return Written(missing, len(written))


def _context(ray: ModuleType, target: fs.FileSystem, folder: str, progress: bool) -> object:
    """Return Ray Data's settings for one run: where it notes what is done, what it prints."""
    checkpoint = ray.data.checkpoint.CheckpointConfig(
        "id",
        f"{folder}/_checkpoint",
        delete_checkpoint_on_success=False,  # a finished run, too, must be known as finished
        override_filesystem=target,
    )
    # By default Ray waits for 1 GiB, and takes up to ten CPUs, only to look ids up.
    checkpoint.checkpoint_actor_memory_bytes = 2**28
    checkpoint.checkpoint_actor_pool_max_size = 1
    context = ray.data.DataContext.get_current().copy()
    context.checkpoint_config = checkpoint
    context.enable_progress_bars = progress
    context.print_on_execution_start = False  # it names folders of this machine
    logging.getLogger("ray.data").setLevel(logging.INFO if progress else logging.ERROR)
    return context


def _read(ray: ModuleType, source: fs.FileSystem, files: list[str], ids: set) -> object:
    """Return the table as a Dataset; Ray drops the rows that are done as it reads."""
    if files[0].endswith(".parquet"):
        table = ray.data.read_parquet(files, filesystem=source, partitioning=None)
        return table.select_columns(COLUMNS)
    # Left to guess, the reader takes strings that look like times for times.
    id_type = pa.string() if isinstance(next(iter(ids)), str) else pa.int64()
    schema = pa.schema(zip(COLUMNS, [id_type, pa.string(), pa.string()], strict=True))
    options = pyarrow.json.ParseOptions(schema, unexpected_field_behavior="ignore")
    return ray.data.read_json(files, filesystem=source, partitioning=None, parse_options=options)


def _connect(workers: int) -> ModuleType:
    """Start or find Ray, and refuse one that the workers would fill: it would wait for ever."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data.checkpoint

    needed = workers + 2  # one reads and writes, one looks up what is done
    if not ray.is_initialized():
        local = {"address": "local", "num_cpus": needed, "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else local
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        _OURS.append(True)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < needed:
        raise JobError(
            f"Ray has {cpus} CPUs, but {workers} workers need {needed}: one each, and two to read, "
            "look up and write. Lower workers, or call ray.shutdown() so that a new Ray starts."
        )
    return ray


def _locate(path: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a path or of a URI such as s3://..., and the path on it."""
    if "://" in str(path):
        try:
            return fs.FileSystem.from_uri(str(path))
        except pa.ArrowInvalid as error:
            raise JobError(f"{path}: {error}. Expected a path, or s3://BUCKET/PATH.") from error
    return fs.LocalFileSystem(), Path(path).absolute().as_posix()


def _find(pairs: str | Path) -> tuple[fs.FileSystem, list[str]]:
    """Return the files of a table: all Parquet, or all JSON lines."""
    filesystem, path = _locate(pairs)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise JobError(f"{pairs} does not exist: expected a file of pairs, or a folder of them.")
    inside = [] if info.is_file else filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    found = [i for i in [info, *inside] if i.is_file and not i.base_name.startswith((".", "_"))]
    files = sorted(i.path for i in found)
    kinds = {Path(file).suffix for file in files}
    if kinds not in ({".jsonl"}, {".parquet"}):
        raise JobError(
            f"{pairs} holds {' and '.join(sorted(kinds)) or 'no'} files: expected .jsonl files or "
            ".parquet files, and no others."
        )
    return filesystem, files


def _rows(filesystem: fs.FileSystem, file: str) -> Iterator[dict]:
    """Read row after row; each has every column."""
    try:
        if file.endswith(".parquet"):
            with pq.ParquetFile(file, filesystem=filesystem) as table:
                _require(table.schema_arrow.names, file)
                for batch in table.iter_batches(columns=COLUMNS):
                    yield from batch.to_pylist()
            return
        with io.TextIOWrapper(filesystem.open_input_stream(file), "utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    _require(row if isinstance(row, dict) else [], f"{file}, line {number}")
                    yield row
    except JobError:
        raise
    except ValueError as error:
        raise JobError(f"{file} cannot be read: {error}. Write it again.") from error


def _require(found: Iterable[str], where: str) -> None:
    if missing := [name for name in COLUMNS if name not in found]:
        raise JobError(
            f"{where}: {', '.join(missing)} is missing, found {', '.join(found) or 'nothing'}; "
            f"expected the columns {', '.join(COLUMNS)}."
        )


def _check(filesystem: fs.FileSystem, files: list[str]) -> set:
    """Read the whole table once; return its ids."""
    ids, kind = set(), None
    for file in files:
        for row in _rows(filesystem, file):
            name = row["id"]
            kind = kind or type(name)
            if type(name) is not kind or kind not in (str, int):
                raise JobError(
                    f"{file}: id {name!r} is of type {type(name).__name__}: expected only strings "
                    "or only whole numbers in this column, and none missing."
                )
            if name in ids:
                raise JobError(f"{file}: id {name!r} occurs twice: expected each id once.")
            for column in COLUMNS[1:]:
                text = row[column]
                if not isinstance(text, str) or not text.strip() or HALF_CHARACTER.search(text):
                    raise JobError(
                        f"{file}: {column} of id {name!r} is {text!r:.40}: expected text, not "
                        "empty. Correct the row or drop it."
                    )
            ids.add(name)
    if not ids:
        raise JobError(f"{files[0]} holds no rows: expected at least one.")
    return ids


def _settle(filesystem: fs.FileSystem, out: str, job: str) -> set:
    """Delete what a killed run left unfinished in `out`; return the ids that it holds.

    Under `_checkpoint` Ray notes which ids a part holds: as `NAME.pending.parquet` before it
    writes `NAME-0.parquet`, renamed to `NAME.parquet` after.
    """
    if filesystem.get_file_info(out).is_file:
        raise JobError(f"{out} is a file: expected a folder, or a name that is not taken.")
    selector = fs.FileSelector(out, recursive=True, allow_not_found=True)
    found = [info.path for info in filesystem.get_file_info(selector) if info.is_file]
    if f"{out}/_job.json" in found:
        with filesystem.open_input_stream(f"{out}/_job.json") as stream:
            before = stream.read().decode()
        if before != job:
            raise JobError(
                f"{out} holds scores of another model or precision ({before}): expected {job}. "
                "Their scores share no scale; take another folder."
            )
    for mark in [path for path in found if path.endswith(".pending.parquet")]:
        name = Path(mark).name.removesuffix(".pending.parquet")
        for path in [path for path in found if Path(path).name.startswith(f"{name}-")] + [mark]:
            filesystem.delete_file(path)
            found.remove(path)
    tables = {path: Path(path).stem for path in found if path.endswith(".parquet")}
    marks = {path: name for path, name in tables.items() if path.startswith(f"{out}/_checkpoint/")}
    parts = {path: name.rpartition("-")[0] for path, name in tables.items() if path not in marks}
    if odd := sorted({*marks.values()} ^ {*parts.values()}):
        raise JobError(
            f"{out} and its notes under _checkpoint disagree about {len(odd)} parts ({odd[0]}, "
            "say): expected only what this command wrote. Take another folder, or delete this one."
        )
    ids, rows = set(), 0
    for path in parts:
        with pq.ParquetFile(path, filesystem=filesystem) as part:
            ids.update(part.read(["id"])["id"].to_pylist())
            rows += part.metadata.num_rows
    if len(ids) != rows:
        raise JobError(
            f"{out} holds {rows} rows with {len(ids)} ids: expected each id once. Two runs may "
            "have written to it at a time; delete it and start one."
        )
    return ids


def main() -> None:
    """Score a table of (query, passage) pairs on a pool of workers; start again to continue."""
    parser = argparse.ArgumentParser(prog="python -m helpers.bulk", description=main.__doc__)
    parser.add_argument(
        "pairs", help="JSON lines or Parquet, a file or a folder: id, query, passage"
    )
    parser.add_argument("out", help="folder of Parquet parts: id, score")
    parser.add_argument("--model", help="a model's folder; by default the profile's reranker")
    parser.add_argument("--workers", type=int, default=2, help="processes, each with one CPU")
    parser.add_argument("--precision", choices=["fp32", "bf16", "auto"], default="fp32")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="rows given to the model at once"
    )
    arguments = parser.parse_args()
    try:
        new, total = score_table(**vars(arguments), progress=True)
    except JobError as error:
        parser.error(str(error))
    done = f"scored {new} rows" if new else "nothing to do"
    print(f"{done}: {arguments.out} holds {total}")


if __name__ == "__main__":
    main()
