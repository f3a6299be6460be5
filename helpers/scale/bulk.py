"""Pairs by the million, on as many machines as Ray has: (id, query, passage) -> (id, score).

`python -m helpers.scale.bulk PAIRS OUT` reads JSON lines or Parquet and writes Parquet parts into the
folder OUT. What is written stays: after a crash the same command scores only what OUT lacks. On a
machine of a Ray cluster, `RAY_ADDRESS=auto` takes all of it (from elsewhere: `ray job submit`); its
machines need this package, the model under the same path, and PAIRS and OUT on storage they all
reach (a shared folder, `s3://...`). It computes on processors; GPUs are left alone.
"""

import argparse
import gc
import hashlib
import json
import logging
import os
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.json
from pyarrow import fs

from helpers.scale.tables import COLUMNS, JobError, check_pairs, digest, find_pairs, locate, settle

PART_ROWS = 4096  # what a crash costs a worker at most

_started: set[str] = set()  # the nodes of Ray that were started here, and may be ended here


class Written(NamedTuple):
    """How many rows a call scored, and how many its folder holds now."""

    new: int
    total: int


class Scorer:
    """One worker of the pool: loads the model once, then scores batch after batch."""

    def __init__(self, model: str, precision: str):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else every worker would fill the same GPU
        import ray
        import torch

        from helpers.score import LocalCrossEncoder

        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
        self.cross_encoder = LocalCrossEncoder(model, precision=precision)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the columns id, score and digest of a batch with id, query and passage."""
        texts = (batch[name].to_pylist() for name in COLUMNS[1:])
        pairs = list(zip(*texts, strict=True))
        scores = pa.array(self.cross_encoder.score(pairs), pa.float32())
        digests = [digest(*pair) for pair in pairs]
        return pa.table({"id": batch["id"], "score": scores, "digest": digests})


def score_table(
    pairs: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    workers: int | None = None,
    precision: str = "fp32",
    batch_size: int = 256,
    progress: bool = False,
) -> Written:
    """Score the rows of `pairs` that `out` does not hold yet.

    Uses the Ray that runs or that `RAY_ADDRESS` names, else starts one, which stays for the next
    call, unless this one fails. After a failure in a Ray that you started, end it yourself
    (`ray.shutdown()`): it may keep the CPUs of workers that failed, and the next call waits for
    them. Only one call at a time may write to `out`. All ids must fit into memory, here and in a
    worker of Ray's; of the texts, only what is being scored.

    Args:
        pairs: A `.parquet` or `.jsonl` file, or a folder of one kind, with the columns id
            (unique; strings or integers), query and passage. Ray reads a JSON file at once: keep
            what is large as Parquet.
        out: The folder of Parquet parts with the columns id, score (32-bit float) and digest (of
            the pair), in no particular order. Delete it to start afresh.
        model: The model's folder; by default the profile's reranker.
        workers: Processes that score, each with one CPU and its own copy of the model. By default
            one for each CPU of this machine, or for all but two of a Ray that runs.
        precision: `fp32`, `bf16` or `auto`, as in `LocalCrossEncoder`; what `auto` is gets decided
            here, once for all workers.
        batch_size: Rows handed to the model at once.
        progress: Whether Ray reports its progress.

    Raises:
        JobError: `pairs`, `out` or an argument cannot be used, or Ray has too few CPUs. Nothing
            was scored.
    """
    numbers = [batch_size] if workers is None else [batch_size, workers]
    if min(numbers) < 1 or precision not in ("fp32", "bf16", "auto"):
        raise JobError(
            f"workers={workers}, batch_size={batch_size}, precision={precision!r}: expected whole "
            "numbers of at least 1, and one of fp32, bf16, auto."
        )
    if model is None:
        from helpers.profiles import load_profile

        model = load_profile().reranker_model
    model = Path(model).absolute()
    if not list(model.glob("*.safetensors")):
        raise JobError(f"{model} holds no safetensors weights: expected a model's folder.")
    if precision == "auto":
        from helpers.score import auto_precision

        precision = auto_precision("cpu")
    # Not the weights alone: the tokenizer and the scale of the scores lie in JSON files.
    sha256 = hashlib.sha256()
    for part in sorted([*model.glob("*.safetensors"), *model.glob("*.json"), *model.glob("*.txt")]):
        sha256.update(part.name.encode() + part.read_bytes())
    job = json.dumps({"precision": precision, "sha256": sha256.hexdigest()})
    source, files = find_pairs(pairs)
    target, folder = locate(out)
    done = settle(target, folder, job)
    place = locate(pairs)[1]
    if source == target and (
        Path(folder).is_relative_to(place) or Path(place).is_relative_to(folder)
    ):
        raise JobError(f"{pairs} and {out} lie one within the other: expected separate places.")
    ids = check_pairs(source, files)
    if other := sorted(name for name in ids.keys() & done.keys() if ids[name] != done[name]):
        raise JobError(
            f"{out} holds scores of other texts for {len(other)} ids ({other[0]!r}, say). An id "
            "stands for its texts: give what has changed new ids, or take another folder."
        )
    missing = len(ids.keys() - done.keys())
    if not missing:
        return Written(0, len(done))

    ray, workers = _connect(workers)
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
        if ray.is_initialized() and ray.get_runtime_context().get_node_id() in _started:
            ray.shutdown()
        raise
    written = settle(target, folder, job)
    if written != done | ids:
        raise RuntimeError(
            f"{out} holds {len(written)} ids, expected {len(done | ids)} and no others. Did "
            "another run write to it, or the table change meanwhile? Take another folder."
        )
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


def _read(ray: ModuleType, source: fs.FileSystem, files: list[str], ids: dict) -> object:
    """Return the table as a Dataset; Ray drops the rows that are done as it reads."""
    if files[0].endswith(".parquet"):
        table = ray.data.read_parquet(files, filesystem=source, partitioning=None)
        return table.select_columns(COLUMNS)
    # Left to guess, the reader takes strings that look like times for times.
    id_type = pa.string() if isinstance(next(iter(ids)), str) else pa.int64()
    schema = pa.schema(zip(COLUMNS, [id_type, pa.string(), pa.string()], strict=True))
    options = pyarrow.json.ParseOptions(schema, unexpected_field_behavior="ignore")
    return ray.data.read_json(files, filesystem=source, partitioning=None, parse_options=options)


def _connect(workers: int | None) -> tuple[ModuleType, int]:
    """Start or find Ray, and refuse one that the workers would fill: it would wait for ever.

    Returns:
        Ray, and the number of workers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data.checkpoint

    others = 2  # one reads and writes, one looks up what is done
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise JobError(
            "RAY_ADDRESS is a Ray Client's, over which Ray Data does not run: start this on a "
            "machine of the cluster with RAY_ADDRESS=auto, or send it there with `ray job submit`."
        )
    if not ray.is_initialized():
        cpus = (workers or os.cpu_count()) + others
        local = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else local
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        _started.add(ray.get_runtime_context().get_node_id())
    cpus = int(ray.cluster_resources().get("CPU", 0))
    workers = workers or max(1, cpus - others)
    if cpus < workers + others:
        raise JobError(
            f"Ray has {cpus} CPUs, but {workers} workers need {workers + others}: one each, and "
            "two to read, look up and write. Lower workers, or call ray.shutdown() so that a new "
            "Ray starts."
        )
    return ray, workers


def main() -> None:
    """Score a table of (query, passage) pairs on a pool of workers; start again to continue."""
    parser = argparse.ArgumentParser(prog="python -m helpers.scale.bulk", description=main.__doc__)
    parser.add_argument(
        "pairs", help="JSON lines or Parquet, a file or a folder: id, query, passage"
    )
    parser.add_argument("out", help="folder of Parquet parts: id, score")
    parser.add_argument("--model", help="a model's folder; by default the profile's reranker")
    parser.add_argument("--workers", type=int, help="processes; by default one for each CPU")
    parser.add_argument("--precision", choices=["fp32", "bf16", "auto"], default="fp32")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="rows given to the model at once"
    )
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        new, total = score_table(**vars(arguments), progress=True)
    except (JobError, OSError) as error:
        parser.error(str(error))
    seconds = time.perf_counter() - start
    done = f"scored {new} rows in {seconds:.0f} s" if new else "nothing to do"
    print(f"{done}: {arguments.out} holds {total}")


if __name__ == "__main__":
    main()
