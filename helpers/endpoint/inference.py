"""What runs in the container: a request's bytes come in, one score a pair goes out as JSON.

SageMaker's toolkit calls `model_fn` once when a worker starts and `transform_fn` for every
request. The README beside this file has the table of settings and the table of bad inputs.
"""

import contextlib
import json
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

if Path(__file__).with_name("score.py").exists():  # in the archive
    from score import SURROGATE, LocalCrossEncoder, choose_dtype
else:
    from helpers.score import SURROGATE, LocalCrossEncoder, choose_dtype

JSON = "application/json"
PAIR_KEYS = ("text_pairs", "pairs")  # LangChain's name, and the LangChain page's own
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib"}
KINDS = {str: "a string", int: "a number", float: "a number", bool: "a boolean"}
KINDS |= {list: "a list", dict: "an object", type(None): "null"}


class RequestError(Exception):
    """The client's fault: an HTTP status, what was wrong, and in which pair (from 0)."""

    def __init__(self, status: int, message: str, pair: int | None = None):
        self.status = status
        said = {"error": message} if pair is None else {"error": f"pair {pair}: {message}"}
        # The text is JSON: a container that only reports str(error) then still answers with it.
        super().__init__(json.dumps(said if pair is None else said | {"pair": pair}))


def setting(name: str, default: int | None = None) -> int | None:
    """A whole number of at least 1 from the environment."""
    text = os.environ.get(name)
    if text and (not text.isdecimal() or int(text) < 1):
        raise ValueError(f"{name} is {text!r}: expected a whole number of at least 1.")
    return int(text) if text else default


def find_model(model_dir: str) -> str:
    """The archive's folder, or a pinned hub revision; in both cases weights are safetensors."""
    if name := os.environ.get("RERANKER_MODEL"):
        revision = os.environ.get("RERANKER_REVISION", "")
        if not re.fullmatch("[0-9a-f]{40}", revision):
            raise ValueError("RERANKER_MODEL needs RERANKER_REVISION: a commit of 40 hex digits.")
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        return snapshot_download(name, revision=revision, allow_patterns=wanted)
    pickles = sorted(path.name for path in Path(model_dir).rglob("*") if path.suffix in PICKLES)
    if pickles:
        raise ValueError(f"Only safetensors are loaded; remove {', '.join(pickles)}.")
    return str(model_dir)


def model_fn(model_dir: str) -> LocalCrossEncoder:
    """Load the model and score once, so that the first request does not pay for the start."""
    precision = os.environ.get("RERANKER_PRECISION") or "fp32"
    choose_dtype(precision, name="RERANKER_PRECISION")
    tokens, length = setting("RERANKER_BATCH_TOKENS"), setting("RERANKER_MAX_LENGTH")
    setting("RERANKER_MAX_PAIRS")  # read by each request; a wrong one is named here
    if threads := setting("RERANKER_THREADS"):
        torch.set_num_threads(threads)
    model = find_model(model_dir)
    reranker = LocalCrossEncoder(model, precision=precision, batch_tokens=tokens, max_length=length)
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
    if len(payload) != 1 or not payload.keys() <= set(PAIR_KEYS):
        had = ", ".join(sorted(ascii(key)[:40] for key in payload)[:5]) or "none"
        raise RequestError(400, f'expected one key, "text_pairs" (or "pairs"); got {had}.')
    ((key, pairs),) = payload.items()
    if not isinstance(pairs, list):
        raise RequestError(400, f'"{key}" must be a list of pairs, not {KINDS[type(pairs)]}.')
    if len(pairs) > max_pairs:
        raise RequestError(413, f"{len(pairs)} pairs; a request may hold {max_pairs}: split it.")
    return [check_pair(pair, position) for position, pair in enumerate(pairs)]


def check_pair(pair: object, position: int) -> tuple[str, str]:
    """Two strings that can be encoded, or a RequestError with the pair's position."""
    if not isinstance(pair, list) or len(pair) != 2:
        got = f"a list of {len(pair)}" if isinstance(pair, list) else KINDS[type(pair)]
        raise RequestError(400, f"expected [query, passage], got {got}.", position)
    for part, text in zip(("query", "passage"), pair, strict=True):
        if not isinstance(text, str):
            raise RequestError(
                400, f"the {part} must be a string, not {KINDS[type(text)]}.", position
            )
        if found := SURROGATE.search(text):
            where = f"the {part} has a lone surrogate at character {found.start()}"
            raise RequestError(400, f"{where}, which is no text.", position)
    return pair[0], pair[1]


def check_headers(content_type: object, accept: object) -> None:
    """JSON in, JSON out; parameters such as `charset=utf-8` are fine."""
    if str(content_type or "").split(";")[0].strip().lower() != JSON:
        raise RequestError(415, f"Content-Type must be {JSON}.")
    ranges = {part.split(";")[0].strip().lower() for part in str(accept or "*/*").split(",")}
    if not ranges & {JSON, "application/*", "*/*"}:
        raise RequestError(406, f"only {JSON} can be returned: send it in Accept.")


def transform_fn(model: LocalCrossEncoder, body, content_type, accept, context=None):
    """One request: `{"scores": [...]}`, or an error as JSON with a 4xx status."""
    try:
        check_headers(content_type, accept)
        scores = model.score(read_pairs(body, setting("RERANKER_MAX_PAIRS", 2000)))
        answer = json.dumps({"scores": scores}, allow_nan=False)
    except Exception as error:
        if not isinstance(error, RequestError):
            print(traceback.format_exc(), file=sys.stderr, flush=True)  # for the log alone
            error = RequestError(500, "the model failed on this request; the log says why.")
        if context is None:  # a container whose toolkit passes no context
            raise error from None
        # Raising would do too, but the toolkit adds the traceback to whatever is raised.
        phrase = "client error" if error.status < 500 else "error"
        context.set_response_status(error.status, phrase)
        answer = str(error)
    # SageMaker's own toolkit would label the answer with whatever Accept said; the Hugging Face
    # toolkit, which would not take a tuple, is content with the text.
    return answer if "sagemaker_huggingface_inference_toolkit" in sys.modules else (answer, JSON)
