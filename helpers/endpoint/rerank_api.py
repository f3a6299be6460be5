"""A cross-encoder that is somebody's rerank server: (query, passage) pairs go in, scores come out.

`form` is what the server speaks: "tei" (text-embeddings-inference) or "cohere" (Cohere, Jina,
vLLM). The endpoint of this folder speaks both.

    CrossEncoderReranker(model=RerankAPICrossEncoder("http://127.0.0.1:8080/rerank"), top_n=3)
"""

import json
import math
import re
import time
import warnings
from collections.abc import Sequence

import httpx
from langchain_core.cross_encoders import BaseCrossEncoder

from helpers.endpoint.client import (
    EndpointBadAnswer,
    EndpointRefused,
    EndpointUnavailable,
    check,
    pause,
)
from helpers.fit import CutWarning

PASSING = {408, 424, 429, *range(500, 600)}  # 424: the server's own model failed
SCORE = {"tei": "score", "cohere": "relevance_score"}


class RerankAPICrossEncoder(BaseCrossEncoder):
    """Scores pairs on a rerank server, those of one query together, in order, none lost.

    url: the whole address, path included.
    model: the name to ask for, where the server has several.
    max_texts: texts a request; text-embeddings-inference takes 32 unless told otherwise.
    truncate: with "tei", whether the server may cut a text that is too long, which it does not
        tell; False has it refuse. With "cohere" its own warnings are passed on, once a call.
    timeout, attempts: seconds for an answer; how often a part is tried while trouble can pass.

    What the scores are is the server's matter: here, and with "tei", from 0 to 1.
    """

    def __init__(
        self,
        url: str,
        *,
        form: str = "tei",
        model: str | None = None,
        api_key: str | None = None,
        max_texts: int = 32,
        truncate: bool = True,
        timeout: float = 60.0,
        attempts: int = 4,
    ):
        if form not in SCORE:
            raise ValueError(f'form is {form!r}: expected "tei" or "cohere".')
        if min(max_texts, attempts) < 1:
            raise ValueError("max_texts and attempts start at 1.")
        self.url, self.form, self.model, self.truncate = url, form, model, truncate
        self.max_texts, self.attempts = max_texts, attempts
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.client = httpx.Client(timeout=timeout, headers=headers)

    def score(self, text_pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair, in order. Raises EndpointError with the positions that failed."""
        pairs = [check(position, pair) for position, pair in enumerate(text_pairs)]
        of_query: dict[str, list[int]] = {}
        for position, (query, _) in enumerate(pairs):
            of_query.setdefault(query, []).append(position)
        scores, said = [math.nan] * len(pairs), []
        for query, positions in of_query.items():
            for start in range(0, len(positions), self.max_texts):
                part = positions[start : start + self.max_texts]
                found, warned = self.call(query, [pairs[i][1] for i in part], part)
                said += [text for text in warned if text not in said]
                for position, score in zip(part, found, strict=True):
                    scores[position] = score
        if said:
            of_cut = re.search("cut|trunc|longer|too long", " ".join(said))
            kind = CutWarning if of_cut else UserWarning
            warnings.warn(f"the server says: {'; '.join(said)}", kind, stacklevel=2)
        return scores

    def call(self, query: str, texts: list[str], part: list[int]) -> tuple[list, list]:
        """One request's scores and the server's warnings, tried again while trouble can pass."""
        body: dict = {"query": query} | ({"model": self.model} if self.model else {})
        if self.form == "tei":
            body |= {"texts": texts, "raw_scores": False, "truncate": self.truncate}
        else:
            body |= {"documents": texts, "top_n": len(texts)}
        content = json.dumps(body).encode()
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self.client.post(self.url, content=content)
                if answer.status_code == 200:
                    return self.read(answer, part)
                said = f"the server answered {answer.status_code}: {answer.text:.300}"
                kind = EndpointUnavailable if answer.status_code in PASSING else EndpointRefused
                failure, cause = kind(said, part), None
            except httpx.TransportError as error:
                failure, cause = EndpointUnavailable(f"{self.url}: {error!r}", part), error
            if isinstance(failure, EndpointRefused) or attempt == self.attempts:
                raise failure from cause
            time.sleep(pause(attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def read(self, answer: httpx.Response, part: list[int]) -> tuple[list, list]:
        """The scores by index, each exactly once (a server's order is by score), and warnings."""
        try:
            said = answer.json()
            results = said if self.form == "tei" else said["results"]
            found = sorted((each["index"], float(each[SCORE[self.form]])) for each in results)
        except (ValueError, KeyError, TypeError):
            raise EndpointBadAnswer(
                f"no {self.form} answer came: {answer.text:.300}", part
            ) from None
        if [index for index, _ in found] != list(range(len(part))):
            said = f"expected one result for each of {len(part)} texts, {len(found)} came"
            raise EndpointBadAnswer(f"{said}, or an index twice.", part)
        if not all(math.isfinite(score) for _, score in found):
            raise EndpointBadAnswer("a score is not a finite number.", part)
        meta = (said.get("meta") if self.form == "cohere" else None) or {}
        return [score for _, score in found], list(map(str, meta.get("warnings") or ()))
