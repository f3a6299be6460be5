"""How fast is fast: every way of scoring the same pairs, in one run: `python -m helpers.bench`.

Two models (the profile's cross-encoder, and bge-reranker-base's shape with random weights, whose
speed is the real one's), three workloads, every variant a process of its own that loads its model
once. The variants take turns, round by round, so that a busy moment of the machine falls on all.
Beside the seconds: the peak memory, how far scores lie from fp32's and whether they keep its order,
and the share of the machine's own matrix multiplication that went into real tokens.

Writes `data/results/bench.json`, from which notebook 06 draws, and prints the table. About forty
minutes on two cores; nothing else should run.
"""

import argparse
import json
import tempfile
from pathlib import Path

from helpers.bench.machine import describe, matmul_gflops
from helpers.bench.speed import ROUNDS, measure, report
from helpers.bench.variants import VARIANTS
from helpers.bench.workloads import make_bge_shape, workloads
from helpers.profiles import DATA, load_profile
from helpers.score import choose_dtype


def main() -> None:
    """Measure, write the result, print the table."""
    parser = argparse.ArgumentParser(prog="python -m helpers.bench", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "bench.json")
    parser.add_argument("--small", action="store_true", help="a minute's work, to try the code")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()

    work, rounds, shape, names = workloads(), ROUNDS, {}, arguments.variants
    if arguments.small:
        work = {name: pairs[:6] for name, pairs in work.items()}
        rounds = dict.fromkeys(ROUNDS, 1)
        shape = {"vocab_size": 31_000, "num_hidden_layers": 1}
    native = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}
    auto = native[str(choose_dtype("auto", "cpu"))]
    result = {
        "command": "python -m helpers.bench",
        "machine": describe(),
        "matmul GFLOP/s": matmul_gflops(),
        "precisions": {n: auto if VARIANTS[n][1] == "auto" else VARIANTS[n][1] for n in names},
        "rows": [],
        "classes": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "embedded": load_profile("embedded").reranker_model,
            "12 x 768": str(make_bge_shape(Path(folder) / "bge", **shape)),
        }
        for model, where in models.items():
            rows, classes = measure(model, where, names, work, rounds)
            result["rows"] += rows
            result["classes"].append(classes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    report(result)


if __name__ == "__main__":
    main()
