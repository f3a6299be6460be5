"""A cross-encoder that is a SageMaker endpoint: (query, passage) pairs go in, scores come out.

Built on langchain_core and boto3 alone. It goes wherever LangChain takes a cross-encoder:

    CrossEncoderReranker(model=EndpointCrossEncoder(endpoint_name="reranker"), top_n=3)
"""

import json
import math
import random
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import boto3
from botocore import exceptions as aws
from botocore.config import Config
from langchain_core.cross_encoders import BaseCrossEncoder

from helpers.fit import CutWarning

MAX_BYTES = 6_000_000  # of the 6,291,456 that a real-time endpoint takes; serverless takes 4 MiB
ENVELOPE = b'{"text_pairs": [%b]}'
LOST = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError)


class EndpointError(RuntimeError):
    """A request failed. `pairs` are the positions, in your list, of the failed part."""

    def __init__(self, message: str, pairs: Sequence[int]):
        self.pairs = pairs
        super().__init__(f"pairs {pairs[0]} to {pairs[-1]}: {message}")


class EndpointRefused(EndpointError):
    """The endpoint or AWS found the request wrong; sending it again would not help."""


class EndpointUnavailable(EndpointError):
    """Throttled, overloaded or broken, still so after every retry."""


class EndpointBadAnswer(EndpointError):
    """An answer came that is not one finite score a pair."""


class BaseOrderWarning(UserWarning):
    """The endpoint failed and the documents keep the base retriever's order."""


class EndpointCrossEncoder(BaseCrossEncoder):
    """Scores pairs on a SageMaker endpoint, in parts, in order, none lost.

    client: a "sagemaker-runtime" client to use as it is; or else
    session, region_name: where to make one from (default: boto3's usual look-up).
    max_pairs, max_bytes: the largest part. The endpoint waits 60 s for its scores: on two cores
        128 pairs of 512 tokens take the embedded model a fifth of that, and one of
        bge-reranker-base's size all of it, so lower max_pairs there.
    max_concurrency: parts under way at once.
    attempts: how often a part is tried while the trouble can pass.
    on_error: "raise", or "base_order" to warn and answer -1, -2, -3, ..., which keeps the
        documents in the order in which they came.
    """

    def __init__(
        self,
        endpoint_name: str,
        *,
        client: Any = None,
        session: boto3.Session | None = None,
        region_name: str | None = None,
        max_pairs: int = 128,
        max_bytes: int = MAX_BYTES,
        max_concurrency: int = 4,
        attempts: int = 4,
        on_error: str = "raise",
    ):
        if on_error not in ("raise", "base_order"):
            raise ValueError(f'on_error is {on_error!r}: expected "raise" or "base_order".')
        if min(max_pairs, max_bytes, max_concurrency, attempts) < 1:
            raise ValueError("max_pairs, max_bytes, max_concurrency and attempts start at 1.")
        self.endpoint_name, self.on_error = endpoint_name, on_error
        self.max_pairs, self.max_bytes = max_pairs, max_bytes
        self.max_concurrency, self.attempts = max_concurrency, attempts
        config = Config(
            # botocore retries throttling, 5xx and lost connections; what the container
            # itself answers comes as a 424, which `call` below retries.
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=max_concurrency,
            connect_timeout=5,
            read_timeout=70,  # the endpoint gives up after 60
        )
        self.client = client or (session or boto3.Session()).client(
            "sagemaker-runtime", region_name=region_name, config=config
        )

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair, in order. Raises EndpointError, or falls back: see on_error.

        Warns once (`CutWarning`) where pairs were longer than the endpoint's model reads.
        """
        pairs = [check(position, pair) for position, pair in enumerate(text_pairs)]
        given_up, pool = threading.Event(), ThreadPoolExecutor(self.max_concurrency)
        try:
            parts = list(split(pairs, self.max_pairs, self.max_bytes))
            calls = [pool.submit(self.call, *part, given_up) for part in parts]
            for call in as_completed(calls):
                call.result()  # the first failure stops what has not begun
            scores = [score for call in calls for score in call.result()[0]]
            if cut := sum(call.result()[1] for call in calls):
                said = f"{cut} of {len(pairs)} pairs are longer than the endpoint's model reads"
                warnings.warn(f"{said}, and were cut", CutWarning, stacklevel=2)
            return scores
        except EndpointError as error:
            if self.on_error == "raise":
                raise
            message = f"The reranker failed, documents keep the base order. {error}"
            warnings.warn(message, BaseOrderWarning, stacklevel=2)
            return [-float(position) for position in range(1, len(pairs) + 1)]
        finally:
            given_up.set()
            pool.shutdown(cancel_futures=True)

    def call(self, pairs: range, body: bytes, given_up: threading.Event) -> tuple[list[float], int]:
        """One part's scores and how many were cut, tried again while trouble can pass."""
        for attempt in range(1, self.attempts + 1):
            try:
                how = {"ContentType": "application/json", "Accept": "application/json"}
                answer = self.client.invoke_endpoint(
                    EndpointName=self.endpoint_name, Body=body, **how
                )
                return read_scores(answer["Body"].read(), pairs)
            except (aws.ClientError, aws.BotoCoreError) as error:
                failure, again = describe(error, pairs)
                if not again or attempt == self.attempts or given_up.wait(pause(attempt)):
                    raise failure from error
        raise AssertionError("unreachable: the last attempt returns or raises")


def pause(attempt: int) -> float:
    """Seconds until the next try, by chance: clients that failed together shall not return so."""
    return random.uniform(0.5, 1.0) * min(0.5 * 2**attempt, 8.0)


def check(position: int, pair: object) -> tuple[str, str]:
    """The pair, if it is one: a string of two characters would unpack into one too."""
    if isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(t, str) for t in pair):
        return pair[0], pair[1]
    raise TypeError(f"pair {position} is {pair!r:.80}: expected (query, passage), two strings.")


def split(pairs: Sequence, max_pairs: int, max_bytes: int) -> Iterator[tuple[range, bytes]]:
    """Consecutive positions and their request, within both limits; each pair in exactly one."""
    start, texts, size = 0, [], len(ENVELOPE)
    for position, pair in enumerate(pairs):
        text = json.dumps(pair).encode()
        if len(ENVELOPE) + len(text) > max_bytes:
            message = f"{len(text):,} bytes of JSON; a request takes {max_bytes:,}."
            raise EndpointRefused(message, range(position, position + 1))
        if texts and (len(texts) == max_pairs or size + len(text) > max_bytes):
            yield range(start, position), ENVELOPE % b", ".join(texts)
            start, texts, size = position, [], len(ENVELOPE)
        texts.append(text)
        size += len(text) + len(b", ")
    if texts:
        yield range(start, len(pairs)), ENVELOPE % b", ".join(texts)


def read_scores(body: bytes, pairs: range) -> tuple[list[float], int]:
    """The scores, counted and checked, and how many pairs were cut.

    zip() in a reranker would lose documents silently.
    """
    try:
        answer = json.loads(body)
        scores, cut = [float(score) for score in answer["scores"]], len(answer.get("cut", ()))
    except (ValueError, KeyError, TypeError):
        raise EndpointBadAnswer('no JSON {"scores": [numbers]} came.', pairs) from None
    if len(scores) != len(pairs):
        raise EndpointBadAnswer(f"{len(scores)} scores came for {len(pairs)} pairs.", pairs)
    if not all(map(math.isfinite, scores)):
        raise EndpointBadAnswer("a score is not a finite number.", pairs)
    return scores, cut


def describe(error: Exception, pairs: range) -> tuple[EndpointError, bool]:
    """The error with the pairs that failed, and whether `call` should try again.

    It should where the container had the trouble, or lost the connection while it answered:
    botocore does not retry those. All else botocore has retried already, where that helps.
    """
    if not isinstance(error, aws.ClientError):
        kind = EndpointUnavailable if isinstance(error, LOST) else EndpointRefused
        return kind(str(error), pairs), isinstance(error, aws.IncompleteReadError)
    code, message = error.response["Error"]["Code"], str(error)
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "ModelError":
        status = error.response.get("OriginalStatusCode", 0)  # 0: no answer within 60 s
        message = f"the container answered {status}: {error.response.get('OriginalMessage', '')}"
    passing = status in (0, 429) or status >= 500 or "Throttl" in code
    kind = EndpointUnavailable if passing else EndpointRefused
    return kind(message, pairs), passing and code in ("ModelError", "ModelNotReadyException")
