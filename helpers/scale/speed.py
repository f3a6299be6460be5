"""Every way of scoring the same pairs, taking turns: variants and workloads in, a table out."""

import statistics

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from tqdm.auto import tqdm

from helpers.scale.machine import encoder_flops
from helpers.scale.worker import Variant
from helpers.scale.workloads import Pairs

ROUNDS = {"20 chunks": 7, "100 mixed": 3, "200 pairs": 1, "2,000 pairs": 1}
REFERENCE = "HuggingFaceCrossEncoder"


def measure(model: str, folder: str, names: list[str], work: dict[str, Pairs], rounds: dict):
    """Let the variants take turns at each workload.

    Returns:
        One dict for each variant and workload, and the overheads by variant.
    """
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    variants = {}
    for name in tqdm(names, desc=f"{model}: loading"):
        variants[name] = Variant(name, folder)
    rows = []
    for workload, pairs in work.items():
        tokens = tokenizer(pairs, truncation=True, max_length=512)["input_ids"]
        lengths = [len(ids) for ids in tokens]
        runs = {name: [] for name in names}
        turns = [name for _ in range(rounds[workload]) for name in names]
        for name in tqdm(turns, desc=f"{model}: {workload}"):
            if not runs[name] or "error" not in runs[name][0]:
                runs[name].append(variants[name].run(pairs))
        expected = np.array(runs[REFERENCE][0]["scores"])
        for name, found in runs.items():
            row = {"model": model, "workload": workload, "variant": name, "pairs": len(pairs)}
            row |= {"tokens": sum(lengths), "flops": encoder_flops(config, lengths)}
            if "error" in found[0]:
                rows.append(row | {"error": found[0]["error"]})
                continue
            seconds, scores = [r["seconds"] for r in found], np.array(found[0]["scores"])
            row |= {"seconds": statistics.median(seconds)}
            row |= {"fastest": min(seconds), "slowest": max(seconds), "rounds": len(seconds)}
            row |= {"peak bytes": max(r["peak"] for r in found)}
            row |= {"largest difference": float(np.abs(scores - expected).max())}
            row |= {"tau": float(kendalltau(scores, expected).statistic)}
            rows.append(row)
    twenty = next(iter(work.values()))
    classes = [name for name in (REFERENCE, "LocalCrossEncoder") if name in variants]
    overhead = {name: variants[name].overhead(twenty) for name in classes}
    load = {name: variant.load_seconds for name, variant in variants.items()}
    for variant in variants.values():
        variant.close()
    return rows, {"model": model, "overhead": overhead, "load seconds": load}


def table(result: dict) -> pd.DataFrame:
    """One line for each model, workload and variant, with ratios to the page's method."""
    rows = pd.DataFrame(result["rows"])
    limit = result["matmul GFLOP/s"]
    lines = []
    for _, group in rows.groupby(["model", "workload"], sort=False):
        page = group[group["variant"] == "the page's method"]["seconds"]
        for _, row in group.iterrows():
            precision = result["precisions"][row["variant"]]
            gflops = row["flops"] / row["seconds"] / 1e9
            lines.append(
                {key: row[key] for key in ("model", "workload", "variant")}
                | {
                    "precision": precision,
                    "seconds": row["seconds"],
                    "spread": row["slowest"] - row["fastest"],
                    "pairs/s": row["pairs"] / row["seconds"],
                    "times the page's": page.iloc[0] / row["seconds"],
                    "GFLOP/s": gflops,
                    "of the limit": gflops / limit[precision],
                    "peak GiB": row["peak bytes"] / 2**30,
                    "difference": row["largest difference"],
                    "tau": row["tau"],
                    "error": row.get("error"),
                }
            )
    return pd.DataFrame(lines)


def report(result: dict) -> None:
    """Print the machine, its limit, the table and what the classes add."""
    machine = result["machine"]
    print(f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['instructions'])}")
    print(", ".join(f"{name} {number}" for name, number in machine["versions"].items()))
    limits = result["matmul GFLOP/s"].items()
    print("matrix multiplication, GFLOP/s:", ", ".join(f"{n} {v:.0f}" for n, v in limits))
    print("GPU:", machine["gpu"] or "none here, not measured")
    print(table(result).round(3).to_string(index=False))
    for classes in result["classes"]:
        for name, share in classes["overhead"].items():
            print(f"{classes['model']}, {name}: {share:.1%} over its model's forward passes")
