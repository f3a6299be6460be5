"""Every way of scoring the same pairs, in one run: `python -m helpers.scale.bench`.

Two models (the embedded one, and bge-reranker-base's shape with random weights, whose speed is the
real one's), four workloads, every variant a process of its own that loads its model once. The
variants take turns, round by round, so that a busy moment of the machine falls on all. Then the
index as it grows (`growth.py`). Writes `data/results/bench.json`, from which notebooks 06 and 07
draw, and prints the tables. Half an hour on two cores with AVX-512, which do nothing else.
"""

import argparse
import json
from pathlib import Path

from helpers.profiles import DATA
from helpers.scale.variants import PAGE, REFERENCE, VARIANTS
from helpers.scale.workloads import BIG

PARTS = ("speed", "growth")
MODELS = ("embedded", BIG)


def main() -> None:
    """Measure, write the result, print the table."""
    # Not above: each variant's process imports this file, and needs none of these.
    from helpers.scale import growth, speed
    from helpers.scale.machine import describe

    parser = argparse.ArgumentParser(prog="python -m helpers.scale.bench", description=main.__doc__)
    compared = f"beside {PAGE!r} and {REFERENCE!r}, with which all are compared"
    for name, known, text in (
        ("--variants", tuple(VARIANTS), compared),
        ("--parts", PARTS, "keep the others"),
        ("--models", MODELS, "keep the other"),
    ):
        parser.add_argument(name, nargs="+", choices=known, default=known, help=text)
    parser.add_argument("--data", type=Path, help="folder with qa/*.json, texts for the index")
    parser.add_argument("--small", action="store_true", help="a minute's work, to try the code")
    parser.add_argument("--out", type=Path, help="by default in data/results; if small, in build")
    asked = parser.parse_args()
    # What was only tried does not replace what the notebooks show.
    place = DATA.parent / "build" if asked.small else DATA / "results"
    out = asked.out or place / "bench.json"
    result = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    for part in asked.parts:
        if part == "speed":
            models = asked.models[-1:] if asked.small else asked.models
            names = [name for name in VARIANTS if name in {PAGE, REFERENCE, *asked.variants}]
            found, old = speed.measure_speed(names, models, asked.small), result.get("speed", {})
            found["rows"] += [row for row in old.get("rows", []) if row["model"] not in models]
            found["matmul GFLOP/s"] = old.get("matmul GFLOP/s", {}) | found["matmul GFLOP/s"]
        else:
            small = growth.SMALL if asked.small else {}
            found = growth.measure_growth(asked.data, **small)
        result[part] = {"machine": describe()} | found
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "speed" in result:
        speed.report(result["speed"])
    if "growth" in result:
        growth.report_growth(result["growth"])


if __name__ == "__main__":
    main()
