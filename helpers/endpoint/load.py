"""Many clients at once against an endpoint: requests a second, waiting times, and what went wrong.

python -m helpers.endpoint.load                 8 clients for 60 s against a local endpoint
python -m helpers.endpoint.load --precision auto --clients 2 --seconds 10
"""

import argparse
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from helpers.endpoint.client import EndpointCrossEncoder, EndpointError
from helpers.endpoint.local import LocalEndpoint, local_endpoint

WORDS = [
    "harbour",
    "council",
    "budget",
    "school",
    "library",
    "bridge",
    "water",
    "energy",
    "housing",
    "street",
]


@dataclass
class Load:
    """What `measure` saw. Seconds of each answered request, in the order of their ends."""

    pairs: int  # in each request
    clients: int
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    wrong: int = 0  # answers that differ from those of an idle endpoint
    lost: list[str] = field(default_factory=list)  # the errors of requests without an answer

    def percentile(self, share: float) -> float:
        """Seconds within which `share` of the requests were answered."""
        waits = sorted(self.waits)
        return waits[min(int(share * len(waits)), len(waits) - 1)] if waits else float("nan")

    def __str__(self) -> str:
        rate = len(self.waits) / self.seconds
        return (
            f"{self.clients} clients, {self.seconds:.0f} s, {self.pairs} pairs a request: "
            f"{len(self.waits)} answers, {self.wrong} wrong, {len(self.lost)} lost; "
            f"{rate:.1f} requests/s, {rate * self.pairs:.0f} pairs/s; "
            f"p50 {self.percentile(0.5) * 1000:.0f} ms, p95 {self.percentile(0.95) * 1000:.0f} ms"
        )


def requests_of(pairs: int, count: int = 8) -> list[list[tuple[str, str]]]:
    """Seeded requests: one question each, and passages of 20 to 100 words."""
    choose = random.Random(0)

    def text(words: int) -> str:
        return " ".join(choose.choices(WORDS, k=words))

    return [
        [(query, text(choose.randint(20, 100))) for _ in range(pairs)]
        for query in (text(8) for _ in range(count))
    ]


def measure(endpoint: LocalEndpoint, clients=8, seconds=60.0, pairs=20) -> Load:
    """Let `clients` ask without a pause for `seconds`; every answer is compared with one that
    the endpoint gave before, when it was idle.
    """
    prepared = requests_of(pairs)
    idle = EndpointCrossEncoder(endpoint.name, client=endpoint.client())
    expected = [idle.score(request) for request in prepared]
    load, lock = Load(pairs, clients), threading.Lock()
    start = time.monotonic()

    def ask(number: int) -> None:
        # One attempt: a request that needed a second one would count as lost.
        cross_encoder = EndpointCrossEncoder(
            endpoint.name, client=endpoint.client(retries={"total_max_attempts": 1}), attempts=1
        )
        turn = number
        while time.monotonic() < start + seconds:
            turn = (turn + 1) % len(prepared)
            asked = time.monotonic()
            try:
                scores = cross_encoder.score(prepared[turn])
            except EndpointError as error:
                with lock:
                    load.lost.append(str(error))
                continue
            same = max(abs(a - b) for a, b in zip(scores, expected[turn], strict=True)) < 1e-5
            with lock:
                load.waits.append(time.monotonic() - asked)
                load.wrong += not same

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(clients)))
    load.seconds = time.monotonic() - start
    return load


def main() -> None:
    from helpers.profiles import load_profile

    parser = argparse.ArgumentParser(prog="python -m helpers.endpoint.load")
    parser.add_argument("--model", help="a cross-encoder's folder; the profile's if not given")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    chosen = parser.parse_args()
    environment = {"RERANKER_PRECISION": chosen.precision}
    model = chosen.model or load_profile().reranker_model
    with local_endpoint(model, workers=chosen.workers, environment=environment) as endpoint:
        load = measure(endpoint, chosen.clients, chosen.seconds, chosen.pairs)
    print(load)
    for error in sorted(set(load.lost))[:5]:
        print(error)
    raise SystemExit(bool(load.wrong or load.lost))


if __name__ == "__main__":
    main()
