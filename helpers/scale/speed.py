"""Every way of scoring the same pairs, taking turns: variants and workloads in, a table out."""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from tqdm.auto import tqdm

from helpers.hardware import auto_precision
from helpers.profiles import DATA
from helpers.scale.machine import encoder_flops, matmul_gflops
from helpers.scale.variants import PAGE, REFERENCE, VARIANTS, load, overhead, process, run
from helpers.scale.workloads import Pairs, make_bge_shape, workloads

ROUNDS = {"20 chunks": 7, "100 mixed": 3, "200 pairs": 1, "2,000 pairs": 1}
KEYS = ["model", "workload"]


def measure_speed(names: list[str], models: list[str], small: bool) -> dict:
    """Measure the variants `names`, `REFERENCE` among them, with each of `models`."""
    work, rounds, shape, matrix = workloads(6 if small else None), ROUNDS, {}, {}
    if small:
        shape = {"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 384}
        shape, matrix, rounds = shape | {"vocab_size": 31_000}, {"rows": 32}, dict.fromkeys(work, 1)
    auto = auto_precision("cpu")
    precisions = {name: auto if kind == "auto" else kind for name, (_, kind) in VARIANTS.items()}
    result = {"precisions": precisions, "rows": [], "classes": []}
    limits = [matmul_gflops(**matrix)]
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            where = DATA / "reranker"
            if model != "embedded":
                where = make_bge_shape(Path(folder) / "bge", **shape)
            rows, classes = measure(model, str(where), names, work, rounds)
        result["rows"] += rows
        result["classes"].append(classes)
        limits.append(matmul_gflops(**matrix))
    # A limit is the most that was ever reached.
    return result | {"matmul GFLOP/s": {n: max(run[n] for run in limits) for n in limits[0]}}


def measure(model: str, folder: str, names: list[str], work: dict[str, Pairs], rounds: dict):
    """Let the variants take turns; return a dict for each of them and workload, and overheads."""
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    with ExitStack() as stack:  # no process survives an error
        workers = {name: stack.enter_context(process()) for name in names}
        loading = [workers[name].submit(load, name, folder) for name in names]
        for started in tqdm(loading, desc=f"{model}: loading"):
            started.result()
        for workload, pairs in work.items():
            tokens = tokenizer(pairs, truncation=True, max_length=512)["input_ids"]
            lengths = [len(ids) for ids in tokens]
            runs = {name: [] for name in names}
            turns = [name for _ in range(rounds[workload]) for name in names]
            for name in tqdm(turns, desc=f"{model}: {workload}"):
                if not any("error" in found for found in runs[name]):
                    runs[name].append(workers[name].submit(run, pairs).result())
            for name, found in runs.items():
                row = {"model": model, "workload": workload, "variant": name, "pairs": len(pairs)}
                row |= {"tokens": sum(lengths), "flops": encoder_flops(config, lengths)}
                rows.append(row | _summary(found, runs[REFERENCE][0].get("scores")))
        twenty = next(iter(work.values()))
        classes = [name for name in (REFERENCE, "LocalCrossEncoder") if name in names]
        shares = {name: workers[name].submit(overhead, twenty).result() for name in classes}
    return rows, {"model": model, "overhead": shares}


def _summary(found: list[dict], expected: list[float] | None) -> dict:
    if errors := [run["error"] for run in found if "error" in run]:
        return {"error": errors[0]}
    seconds, scores = [run["seconds"] for run in found], found[0]["scores"]
    row = {"seconds": statistics.median(seconds), "fastest": min(seconds)}
    row |= {"slowest": max(seconds), "rounds": len(seconds)}
    row |= {"peak bytes": max(run["peak"] for run in found)}
    if expected:
        row["largest difference"] = float(np.abs(np.subtract(scores, expected)).max())
        row["tau"] = float(kendalltau(scores, expected).statistic)
    return row


def table(result: dict) -> pd.DataFrame:
    """One line for each model, workload and variant, with ratios to the page's method."""
    rows = pd.DataFrame(result["rows"])
    found = ["pairs", "flops", "seconds", "fastest", "slowest", "peak bytes"]
    rows = rows.reindex(columns=[*KEYS, "variant", *found, "largest difference", "tau", "error"])
    page = rows[rows["variant"] == PAGE].set_index(KEYS)["seconds"]
    precision = rows["variant"].map(result["precisions"])
    gflops = rows["flops"] / rows["seconds"] / 1e9
    lines = rows[[*KEYS, "variant"]].assign(precision=precision, seconds=rows["seconds"])
    lines["spread"] = rows["slowest"] - rows["fastest"]
    lines["pairs/s"] = rows["pairs"] / rows["seconds"]
    lines["times the page's"] = page.reindex(rows.set_index(KEYS).index).values / rows["seconds"]
    lines["GFLOP/s"] = gflops
    lines["of the limit"] = gflops / precision.map(result["matmul GFLOP/s"])
    lines["peak GiB"] = rows["peak bytes"] / 2**30
    lines["difference"] = rows["largest difference"]
    return lines.assign(tau=rows["tau"], error=rows["error"])


def report(result: dict) -> None:
    """Print the machine, its limit, the table and what the classes add."""
    for key in ("machine", "matmul GFLOP/s"):
        print(f"{key}:", ", ".join(f"{name} {found}" for name, found in result[key].items()))
    print(table(result).round(3).to_string(index=False))
    for classes in result["classes"]:
        for name, share in classes["overhead"].items():
            print(f"{classes['model']}, {name}: {share:.1%} over its model's forward passes")
