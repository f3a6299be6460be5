"""Every way of scoring the same pairs, taking turns: variants and workloads in, a table out."""

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer

from helpers.hardware import auto_precision
from helpers.profiles import DATA
from helpers.scale.machine import encoder_flops, matmul_gflops
from helpers.scale.variants import NOT_RUN, PAGE, REFERENCE, VARIANTS, load, process, run
from helpers.scale.workloads import BIG, Pairs, make_bge_shape, workloads

ROUNDS = {"20 chunks": 7, "100 real": 3, "100 random": 2, "2,000 pairs": 1}
# So that all ends in half an hour: fewer rounds, and who is left out of the table, and why.
FEWER = {BIG: {"20 chunks": 3, "100 real": 2, "2,000 pairs": 1}}
LONG = ("rerankers", "rerankers, auto", "torch.compile", "bounded", f"{REFERENCE}, auto")
LONG += ("LocalCrossEncoder, again",)
LEFT_OUT = dict.fromkeys(LONG, "left out: it takes minutes")
LEFT_OUT[PAGE] = "left out: it takes more than 8 GiB"
KEYS = ["model", "workload"]


def measure_speed(names: list[str], models: list[str], small: bool) -> dict:
    """Measure the variants `names`, `REFERENCE` among them, with each of `models`."""
    work, shape, matrix = workloads(6 if small else None), {}, {}
    if small:
        shape = {"num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 384}
        matrix = {"rows": 32}
    auto = auto_precision("cpu")
    precisions = {name: auto if kind == "auto" else kind for name, (_, kind) in VARIANTS.items()}
    result = {"precisions": precisions, "not run": NOT_RUN, "matmul GFLOP/s": {}, "rows": []}
    for model in models:
        rounds = dict.fromkeys(work, 1) if small else FEWER.get(model, ROUNDS)
        with tempfile.TemporaryDirectory() as folder:
            where = make_bge_shape(Path(folder), **shape) if model == BIG else DATA / "reranker"
            config, limits = AutoConfig.from_pretrained(where), []
            limits.append(matmul_gflops(config, **matrix))
            result["rows"] += measure(model, str(where), names, work, rounds)
            limits.append(matmul_gflops(config, **matrix))
        # A limit is the most that was ever reached.
        limit = {name: max(found[name] for found in limits) for name in limits[0]}
        result["matmul GFLOP/s"][model] = limit
    return result


def measure(model: str, folder: str, names: list[str], work: dict[str, Pairs], rounds: dict):
    """Let the variants take turns; return a dict for each of them and workload."""
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    with ExitStack() as stack:  # no process survives an error
        workers = {name: stack.enter_context(process()) for name in names}
        loading = {name: workers[name].submit(load, name, folder) for name in names}
        loading = tqdm(loading.items(), desc=f"{model}: loading")
        failed = {name: error for name, started in loading if (error := started.result())}
        for workload, pairs in ((name, work[name]) for name in rounds):
            tokens = tokenizer(pairs, truncation=True, max_length=512)["input_ids"]
            lengths = [len(ids) for ids in tokens]
            left_out = LEFT_OUT if model == BIG and len(pairs) == 2000 else {}
            left_out = {name: {"error": why} for name, why in left_out.items()} | failed
            runs = {name: [left_out[name]] if name in left_out else [] for name in names}
            turns = [name for _ in range(rounds[workload]) for name in names]
            for name in tqdm(turns, desc=f"{model}: {workload}"):
                if not any("error" in found for found in runs[name]):
                    runs[name].append(workers[name].submit(run, pairs).result())
            for name, found in runs.items():
                row = {"model": model, "workload": workload, "variant": name, "pairs": len(pairs)}
                row |= {"tokens": sum(lengths), "flops": encoder_flops(config, lengths)}
                rows.append(row | _summary(found, runs[REFERENCE][0].get("scores")))
    return rows


def _summary(found: list[dict], expected: list[float] | None) -> dict:
    if errors := [run["error"] for run in found if "error" in run]:
        return {"error": errors[0]}
    seconds, scores = [run["seconds"] for run in found], found[0]["scores"]
    row = {"seconds": statistics.median(seconds), "fastest": min(seconds)}
    row |= {"slowest": max(seconds), "runs": len(seconds)}
    if expected:
        row["largest difference"] = float(np.abs(np.subtract(scores, expected)).max())
        row["tau"] = float(kendalltau(scores, expected).statistic)
    return row


def table(result: dict) -> pd.DataFrame:
    """One line for each model, workload and variant, with ratios to the page's method.

    `spread` is the slowest run less the fastest, missing where there was but one of `runs`.
    """
    rows = pd.DataFrame(result["rows"])
    found = ["pairs", "flops", "seconds", "fastest", "slowest", "runs"]
    rows = rows.reindex(columns=[*KEYS, "variant", *found, "largest difference", "tau", "error"])
    page = rows[rows["variant"] == PAGE].set_index(KEYS)["seconds"]
    precision = rows["variant"].map(result["precisions"])
    limits = pd.DataFrame(result["matmul GFLOP/s"]).stack()
    limits = limits.reindex(pd.MultiIndex.from_arrays([precision, rows["model"]])).values
    lines = rows[[*KEYS, "variant"]].assign(precision=precision, seconds=rows["seconds"])
    lines["runs"] = rows["runs"].fillna(0).astype(int)
    lines["spread"] = (rows["slowest"] - rows["fastest"]).where(rows["runs"] > 1)
    lines["pairs/s"] = rows["pairs"] / rows["seconds"]
    lines["times the page's"] = page.reindex(rows.set_index(KEYS).index).values / rows["seconds"]
    lines["GFLOP/s"] = rows["flops"] / rows["seconds"] / 1e9
    lines["of the limit"] = lines["GFLOP/s"] / limits
    lines["difference"] = rows["largest difference"]
    return lines.assign(tau=rows["tau"], error=rows["error"])


def report(result: dict) -> None:
    """Print the machine, each model's limit, the table, and what could not be run."""
    for key, found in ({"machine": result["machine"]} | result["matmul GFLOP/s"]).items():
        print(f"{key}:", ", ".join(f"{name} {number}" for name, number in found.items()))
    print(table(result).round(3).to_string(index=False))
    for name, reason in result["not run"].items():
        print(f"not run: {name}: {reason}")
