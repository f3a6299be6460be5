"""Many clients at once against an endpoint: requests a second, waiting times, and what went wrong.

python -m helpers.endpoint.load                 8 clients for 60 s against a local endpoint
python -m helpers.endpoint.load --precision auto --clients 2 --seconds 10
"""

import argparse
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from helpers.endpoint.client import EndpointCrossEncoder, EndpointError
from helpers.endpoint.local import LocalEndpoint, local_endpoint
from helpers.profiles import load_profile

WORDS = ["harbour", "council", "budget", "school", "library", "bridge", "water", "energy", "street"]


def requests_of(pairs: int) -> list[list[tuple[str, str]]]:
    """Eight seeded requests: one question each, and passages of 20 to 100 words."""
    choose = random.Random(0)

    def text(words: int) -> str:
        return " ".join(choose.choices(WORDS, k=words))

    queries = [text(8) for _ in range(8)]
    return [[(query, text(choose.randint(20, 100))) for _ in range(pairs)] for query in queries]


def measure(
    endpoint: LocalEndpoint, clients: int = 8, seconds: float = 60.0, pairs: int = 20
) -> tuple[list[float], int, list[str]]:
    """Let `clients` ask without a pause for `seconds`, and print a line about it.

    Returns the seconds until each answer, how many answers differ by more than 1e-5 from what the
    endpoint said when it was idle, and the errors of the requests that had none.
    """
    requests = requests_of(pairs)
    idle = EndpointCrossEncoder(endpoint.name, client=endpoint.client())
    expected = [idle.score(request) for request in requests]
    waits, right, lost, start = [], [], [], time.monotonic()

    def ask(turn: int) -> None:
        # One attempt: a request that needed a second one would count as lost.
        client = endpoint.client(retries={"total_max_attempts": 1})
        cross_encoder = EndpointCrossEncoder(endpoint.name, client=client, attempts=1)
        while (asked := time.monotonic()) < start + seconds:
            turn = (turn + 1) % len(requests)
            try:
                scores = cross_encoder.score(requests[turn])
                waits.append(time.monotonic() - asked)
                right.append(np.allclose(scores, expected[turn], rtol=0, atol=1e-5))
            except EndpointError as error:
                lost.append(str(error))

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    took, wrong = time.monotonic() - start, len(right) - sum(right)
    half, most = np.percentile(waits or [np.nan], [50, 95])
    print(
        f"{len(waits)} answers in {took:.0f} s, {wrong} wrong, {len(lost)} lost; "
        f"{len(waits) * pairs / took:.0f} pairs/s; p50 {half:.2f} s, p95 {most:.2f} s"
    )
    return waits, wrong, lost


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.endpoint.load")
    parser.add_argument("--model", help="a cross-encoder's folder; the profile's if not given")
    for name, default in {"clients": 8, "seconds": 60.0, "pairs": 20, "workers": 1}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--precision", default="fp32")
    how = parser.parse_args()
    model = how.model or load_profile().reranker_model
    precision = {"RERANKER_PRECISION": how.precision}
    with local_endpoint(model, workers=how.workers, environment=precision) as endpoint:
        _, wrong, lost = measure(endpoint, how.clients, how.seconds, how.pairs)
    raise SystemExit("\n".join(sorted(set(lost))[:5]) or bool(wrong))


if __name__ == "__main__":
    main()
