"""Many clients at once against an endpoint: pairs a second, waiting times, and what went wrong.

python -m helpers.endpoint.load                 8 clients, then one with all their pairs, 60 s each
python -m helpers.endpoint.load --precision auto --clients 2 --seconds 10 --out
"""

import argparse
import json
import os
import platform
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from helpers.endpoint.client import EndpointCrossEncoder, EndpointError
from helpers.endpoint.local import LocalEndpoint, local_endpoint
from helpers.profiles import DATA, load_profile

OUT = DATA / "results" / "load.json"
TURNS = 2  # of each load; the first and the last requests of a turn have less company
WORDS = ["harbour", "council", "budget", "school", "library", "bridge", "water", "energy", "street"]
Request = list[tuple[str, str]]


def requests_of(pairs: int, count: int = 8) -> list[Request]:
    """Seeded requests: one question each, and passages of 20 to 100 words."""
    choose = random.Random(0)

    def text(words: int) -> str:
        return " ".join(choose.choices(WORDS, k=words))

    queries = [text(8) for _ in range(count)]
    return [[(query, text(choose.randint(20, 100))) for _ in range(pairs)] for query in queries]


def measure(
    endpoint: LocalEndpoint, requests: list[Request], clients: int = 8, seconds: float = 60.0
) -> dict:
    """Let `clients` ask without a pause for `seconds`, each beginning with another request.

    Returns the `seconds` that it took, the `waits` until each answer, how many `pairs` they had,
    how many answers are `wrong`, that is, off by more than 1e-5 from what the endpoint said when
    it was idle, and the errors of the `lost`, which had none.
    """
    most = max(map(len, requests))

    def encoder(**how) -> EndpointCrossEncoder:
        # One attempt: a request that needed a second one would count as lost.
        client = endpoint.client(**how)
        return EndpointCrossEncoder(endpoint.name, client=client, attempts=1, max_pairs=most)

    idle = encoder()
    expected = [idle.score(request) for request in requests]
    encoders = [encoder(retries={"total_max_attempts": 1}) for _ in range(clients)]
    answers: list[tuple[float, int, bool]] = []
    lost, start = [], time.monotonic()

    def ask(turn: int) -> None:
        cross_encoder = encoders[turn]
        while (asked := time.monotonic()) < start + seconds:
            turn = (turn + 1) % len(requests)
            try:
                scores = cross_encoder.score(requests[turn])
                wait = time.monotonic() - asked
                right = np.allclose(scores, expected[turn], rtol=0, atol=1e-5)
                answers.append((wait, len(scores), bool(right)))
            except EndpointError as error:
                lost.append(str(error))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    found = {"seconds": time.monotonic() - start, "waits": [wait for wait, _, _ in answers]}
    found["pairs"] = sum(pairs for _, pairs, _ in answers)
    return found | {"wrong": sum(not right for _, _, right in answers), "lost": lost}


def summary(parts: list[dict]) -> dict:
    """What several measurements of one load say together."""
    waits = [wait for part in parts for wait in part["waits"]]
    half, late = np.percentile(waits or [np.nan], [50, 95]).round(3).tolist()
    speed = sum(part["pairs"] for part in parts) / sum(part["seconds"] for part in parts)
    said = {"answers": len(waits), "pairs a second": round(speed, 1), "p50 s": half, "p95 s": late}
    lost = [error for part in parts for error in part["lost"]]
    return said | {"wrong": sum(part["wrong"] for part in parts), "lost": len(lost)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.endpoint.load")
    parser.add_argument("--model", help="a cross-encoder's folder; the profile's if not given")
    for name, default in {"clients": 8, "seconds": 60.0, "pairs": 20, "workers": 8}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", nargs="?", const=OUT, help=f"a JSON file; {OUT.name} if not named")
    how = parser.parse_args()
    model = how.model or load_profile().reranker_model
    few = requests_of(how.pairs, how.clients)
    loads = {f"{how.clients} clients of {how.pairs} pairs": (few, how.clients)}
    every = [pair for request in few for pair in request]
    loads[f"1 client of {len(every)} pairs"] = ([every], 1)
    record: dict = {"precision": how.precision, "workers": how.workers}
    record["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    setting = {"RERANKER_PRECISION": how.precision}
    parts: dict[str, list[dict]] = {name: [] for name in loads}
    with local_endpoint(model, workers=how.workers, environment=setting) as endpoint:
        for _ in range(TURNS):  # by turns: what else the machine does meets both
            for name, (requests, clients) in loads.items():
                parts[name].append(measure(endpoint, requests, clients, how.seconds / TURNS))
    for name in loads:
        record[name] = summary(parts[name])
        print(f"{name}: {json.dumps(record[name])}")
    if how.out:
        Path(how.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lost = {error for each in parts.values() for part in each for error in part["lost"]}
    raise SystemExit("\n".join(sorted(lost)[:5]) or any(record[name]["wrong"] for name in loads))


if __name__ == "__main__":
    main()
