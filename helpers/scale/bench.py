"""How fast is fast: every way of scoring the same pairs, in one run: `python -m helpers.scale.bench`.

Two models (the profile's cross-encoder, and bge-reranker-base's shape with random weights, whose
speed is the real one's), four workloads, every variant a process of its own that loads its model
once. The variants take turns, round by round, so that a busy moment of the machine falls on all.
Beside the seconds: the peak memory, how far scores lie from fp32's and whether they keep its order,
and the share of the machine's own matrix multiplication that went into real tokens.

Then the index from a thousand chunks to a hundred thousand (`growth.py`). Writes
`data/results/bench.json`, from which notebook 06 draws, and prints the tables. About an hour on two
cores, on which nothing else should run.
"""

import argparse
import json
import tempfile
from pathlib import Path

from helpers.scale.growth import measure_growth, report_growth
from helpers.scale.machine import describe, matmul_gflops
from helpers.scale.speed import ROUNDS, measure, report
from helpers.scale.variants import VARIANTS
from helpers.scale.workloads import make_bge_shape, workloads
from helpers.profiles import DATA, load_profile
from helpers.score import auto_precision

PARTS = ("speed", "growth")
MODELS = ("embedded", "12 x 768")


def main() -> None:
    """Measure, write the result, print the table."""
    parser = argparse.ArgumentParser(prog="python -m helpers.scale.bench", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=DATA / "results" / "bench.json")
    parser.add_argument("--small", action="store_true", help="a minute's work, to try the code")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="keep the others")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=MODELS, help="keep the other"
    )
    arguments = parser.parse_args()

    result = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    if "speed" in arguments.parts:
        found = {"machine": describe()}
        found |= speed(arguments.variants, arguments.models, arguments.small)
        for kept in ("rows", "classes"):
            old = result.get("speed", {}).get(kept, [])
            found[kept] += [row for row in old if row["model"] not in arguments.models]
        result["speed"] = found
        save(result, arguments.out)
    if "growth" in arguments.parts:
        sizes = {"sizes": (300,), "questions": 40} if arguments.small else {}
        result["growth"] = {"machine": describe(), "rows": measure_growth(**sizes)}
        save(result, arguments.out)
    report(result["speed"])
    if "growth" in result:
        report_growth(result["growth"]["rows"])


def save(result: dict, out: Path) -> None:
    """Write the result so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def speed(names: list[str], wanted: list[str], small: bool) -> dict:
    """Measure the models that are `wanted`."""
    work, rounds, shape = workloads(), ROUNDS, {}
    if small:
        work = {name: pairs[:6] for name, pairs in work.items()}
        rounds = dict.fromkeys(ROUNDS, 1)
        shape = {"vocab_size": 31_000, "num_hidden_layers": 1}
    auto = auto_precision("cpu")
    limits = [matmul_gflops()]
    result = {
        "precisions": {n: auto if VARIANTS[n][1] == "auto" else VARIANTS[n][1] for n in names},
        "rows": [],
        "classes": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "embedded": load_profile("embedded").reranker_model,
            "12 x 768": str(make_bge_shape(Path(folder) / "bge", **shape)),
        }
        if small:
            wanted = ["12 x 768"]
        for model, where in ((name, models[name]) for name in wanted):
            rows, classes = measure(model, where, names, work, rounds)
            result["rows"] += rows
            result["classes"].append(classes)
            limits.append(matmul_gflops())
    # A limit is the most that was ever reached.
    result["matmul GFLOP/s"] = {name: max(run[name] for run in limits) for name in limits[0]}
    return result


if __name__ == "__main__":
    main()
