"""What runs in the container: a request's bytes come in, one score a pair goes out as JSON.

SageMaker's toolkit calls `model_fn` once when a worker starts and `transform_fn` for every
request. The README beside this file has the table of settings and the table of bad inputs.
"""

import contextlib
import json
import math
import os
import re
import sys
import traceback
from pathlib import Path

import torch

with contextlib.suppress(ImportError):
    # The toolkit decodes JSON bodies before it calls us, and a body that is not UTF-8 then
    # ends in a traceback. With no type listed it hands over the bytes, which we decode.
    from sagemaker_inference import content_types

    content_types.UTF8_TYPES.clear()

try:
    from score import LocalCrossEncoder, check_precision  # beside this file in the archive
except ImportError:
    from helpers.score import LocalCrossEncoder, check_precision

JSON = "application/json"
PAIR_KEYS = ("text_pairs", "pairs")  # LangChain's name, and the LangChain page's own
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib"}


class RequestError(Exception):
    """The client's fault: an HTTP status, what was wrong, and in which pair (from 0)."""

    def __init__(self, status: int, message: str, pair: int | None = None):
        self.status, self.pair = status, pair
        self.message = message if pair is None else f"pair {pair}: {message}"
        super().__init__(self.message)

    def body(self) -> str:
        where = {} if self.pair is None else {"pair": self.pair}
        return json.dumps({"error": self.message} | where)

    __str__ = body  # a container that only reports str(error) then still answers with JSON


def setting(name: str, default: int | None = None) -> int | None:
    """A whole number of at least 1 from the environment."""
    text = os.environ.get(name)
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}: expected a whole number of at least 1.")
    return int(text)


def find_model(model_dir: str) -> str:
    """The archive's folder, or a pinned hub revision; in both cases weights are safetensors."""
    name = os.environ.get("RERANKER_MODEL")
    if name:
        revision = os.environ.get("RERANKER_REVISION", "")
        if not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError("RERANKER_MODEL needs RERANKER_REVISION: a commit of 40 hex digits.")
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return snapshot_download(name, revision=revision, allow_patterns=wanted)
    pickles = [p.name for p in Path(model_dir).rglob("*") if p.suffix in PICKLES]
    if pickles:
        raise ValueError(f"Only safetensors are loaded; remove {', '.join(sorted(pickles))}.")
    return str(model_dir)


class Reranker(LocalCrossEncoder):
    """The cross-encoder of `score.py` with the settings of this container."""

    def __init__(self, folder: str):
        if os.environ.get("RERANKER_THREADS"):
            torch.set_num_threads(setting("RERANKER_THREADS", 1))
        self.max_pairs = setting("RERANKER_MAX_PAIRS", 2000)
        precision = os.environ.get("RERANKER_PRECISION") or "fp32"
        check_precision(precision, "RERANKER_PRECISION")
        super().__init__(
            folder,
            precision=precision,
            batch_tokens=setting("RERANKER_BATCH_TOKENS"),
            max_length=setting("RERANKER_MAX_LENGTH"),
        )


def model_fn(model_dir: str) -> Reranker:
    """Load the model and score once, so that the first request does not pay for the start."""
    reranker = Reranker(find_model(model_dir))
    reranker.score([("ready?", "ready.")])
    return reranker


def read_pairs(body: bytes | str | None, max_pairs: int) -> list[tuple[str, str]]:
    """The request's pairs, or a RequestError that says what is wrong and where."""
    try:
        text = body if isinstance(body, str) else bytes(body or b"").decode("utf-8")
        payload = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON in UTF-8.") from None
    if not isinstance(payload, dict):
        raise RequestError(400, 'the body must be an object: {"text_pairs": [[query, passage]]}.')
    found = [key for key in PAIR_KEYS if key in payload]
    if len(found) != 1 or len(payload) != 1:
        had = ", ".join(sorted(ascii(key)[:40] for key in payload)[:5]) or "none"
        raise RequestError(400, f'expected one key, "text_pairs" (or "pairs"); got {had}.')
    pairs = payload[found[0]]
    if not isinstance(pairs, list):
        raise RequestError(400, f'"{found[0]}" must be a list of pairs, not {kind(pairs)}.')
    if len(pairs) > max_pairs:
        raise RequestError(413, f"{len(pairs)} pairs; a request may hold {max_pairs}: split it.")
    return [check_pair(pair, position) for position, pair in enumerate(pairs)]


def check_pair(pair: object, position: int) -> tuple[str, str]:
    """Two strings that can be encoded, or a RequestError with the pair's position."""
    if not isinstance(pair, list) or len(pair) != 2:
        got = f"a list of {len(pair)}" if isinstance(pair, list) else kind(pair)
        raise RequestError(400, f"expected [query, passage], got {got}.", position)
    for part, text in zip(("query", "passage"), pair, strict=True):
        if not isinstance(text, str):
            raise RequestError(400, f"the {part} must be a string, not {kind(text)}.", position)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            where = f"the {part} has a lone surrogate at character {error.start}"
            raise RequestError(400, f"{where}, which is no text.", position) from None
    return pair[0], pair[1]


def kind(value: object) -> str:
    """The JSON name of a value's type."""
    names = {str: "a string", bool: "a boolean", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "a number")


def check_headers(content_type: object, accept: object) -> None:
    """JSON in, JSON out; parameters such as `charset=utf-8` are fine."""
    if str(content_type or "").split(";")[0].strip().lower() != JSON:
        raise RequestError(415, f"Content-Type must be {JSON}.")
    ranges = {part.split(";")[0].strip().lower() for part in str(accept or "*/*").split(",")}
    if not ranges & {JSON, "application/*", "*/*"}:
        raise RequestError(406, f"only {JSON} can be returned: send it in Accept.")


def answer(text: str) -> str | tuple[str, str]:
    """SageMaker's own toolkit would label the answer with whatever Accept said; the Hugging
    Face toolkit, which would not take a tuple, is content with the text.
    """
    return text if "sagemaker_huggingface_inference_toolkit" in sys.modules else (text, JSON)


def transform_fn(model: Reranker, body, content_type, accept, context=None):
    """One request: `{"scores": [...]}`, or an error as JSON with a 4xx status."""
    try:
        check_headers(content_type, accept)
        scores = model.score(read_pairs(body, model.max_pairs))
        broken = next((i for i, score in enumerate(scores) if not math.isfinite(score)), None)
        if broken is not None:
            raise RequestError(500, "the model's score is not a finite number.", broken)
        return answer(json.dumps({"scores": scores}))
    except RequestError as error:
        failure = error
    except Exception:
        print(traceback.format_exc(), file=sys.stderr, flush=True)  # for the log alone
        failure = RequestError(500, "the model failed on this request; the log says why.")
    if context is None:  # a container whose toolkit passes no context
        raise failure
    # Raising would do too, but the toolkit adds the traceback to whatever is raised.
    context.set_response_status(failure.status, "client error" if failure.status < 500 else "error")
    return answer(failure.body())
