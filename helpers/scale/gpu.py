"""Pairs a second on a GPU, where there is one: `python -m helpers.scale.gpu`.

Both models of `bench.py`, the same 2,000 pairs, three classes, three precisions; each scores all
pairs once to warm up and three times for the median. Writes `data/results/gpu.json`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from helpers.hardware import PRECISIONS, check_device
from helpers.profiles import DATA
from helpers.scale.machine import describe
from helpers.scale.variants import Score, langchain_class, local
from helpers.scale.workloads import BIG, make_bge_shape, workloads

BATCH = 256  # pairs; sentence-transformers' documentation says to try several


def sentence_transformers(folder: str, precision: str, device: str) -> Score:
    """Score with sentence-transformers' own class, in larger batches than LangChain's can."""
    from sentence_transformers import CrossEncoder

    how = {"local_files_only": True, "model_kwargs": {"dtype": PRECISIONS[precision]}}
    model = CrossEncoder(folder, device=device, **how)
    return lambda pairs: model.predict(pairs, batch_size=BATCH)


CLASSES = {"LocalCrossEncoder": local, "HuggingFaceCrossEncoder": langchain_class}
CLASSES[f"sentence-transformers, {BATCH} a batch"] = sentence_transformers


def measure_gpu(device: str, most: int | None = None, runs: int = 3, **shape) -> dict:
    """Return the card's name and a row for each model, class and precision."""
    pairs, rows = workloads(most)["2,000 pairs"], []
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    with tempfile.TemporaryDirectory() as folder:
        models = {"embedded": DATA / "reranker", BIG: make_bge_shape(Path(folder), **shape)}
        work = [(model, name, kind) for model in models for name in CLASSES for kind in PRECISIONS]
        for model, name, precision in tqdm(work, desc=card):
            score = CLASSES[name](str(models[model]), precision=precision, device=device)
            seconds = []
            for _ in range(runs + 1):
                start = time.perf_counter()
                score(pairs)
                seconds.append(time.perf_counter() - start)
            row = {"model": model, "class": name, "precision": precision, "pairs": len(pairs)}
            rows.append(row | {"pairs/s": len(pairs) / statistics.median(seconds[1:])})
    return {"card": card, "machine": describe(), "runs": runs, "rows": rows}


def main() -> None:
    """Measure and write the result; without such a device, say so and end with 1."""
    parser = argparse.ArgumentParser(prog="python -m helpers.scale.gpu", description=main.__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or mps")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "gpu.json")
    asked = parser.parse_args()
    try:
        found = measure_gpu(check_device(asked.device))
    except ValueError as error:
        sys.exit(f"nothing was measured: {error}")
    asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found["card"], *found["rows"], sep="\n")


if __name__ == "__main__":
    main()
