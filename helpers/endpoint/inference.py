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
from sentence_transformers import CrossEncoder

with contextlib.suppress(ImportError):
    # The toolkit decodes JSON bodies before it calls us, and a body that is not UTF-8 then
    # ends in a traceback. With no type listed it hands over the bytes, which we decode.
    from sagemaker_inference import content_types

    content_types.UTF8_TYPES.clear()

with contextlib.suppress(ImportError):
    # Beside this file in the archive: registers the embedded cross-encoder's architecture, which
    # is then known to transformers like its own, with no remote code.
    import interaction_bert  # noqa: F401

JSON = "application/json"
PAIR_KEYS = ("text_pairs", "pairs")  # LangChain's name, and the LangChain page's own
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib"}
FAST_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # /proc/cpuinfo: x86, x86, Arm
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def setting(name: str, default: int) -> int:
    """A whole number of at least 1 from the environment."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}: expected a whole number of at least 1.")
    return int(text)


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """`auto` takes the 16-bit type that this device computes natively, else float32."""
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    if precision != "auto":
        expected = ", ".join([*PRECISIONS, "auto"])
        raise ValueError(f"RERANKER_PRECISION is {precision!r}: expected one of {expected}.")
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return torch.bfloat16 if device == "cpu" and words & FAST_BF16 else torch.float32


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


class Reranker:
    """A cross-encoder with its limits: `score` takes (query, passage) pairs, any number."""

    def __init__(self, folder: str):
        if os.environ.get("RERANKER_THREADS"):
            torch.set_num_threads(setting("RERANKER_THREADS", 1))
        self.batch_size = setting("RERANKER_BATCH_SIZE", 32)
        self.max_pairs = setting("RERANKER_MAX_PAIRS", 2000)
        self.model = CrossEncoder(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        if os.environ.get("RERANKER_MAX_LENGTH"):
            self.model.max_seq_length = setting("RERANKER_MAX_LENGTH", 512)
        self.device = self.model.device.type
        self.dtype = choose_dtype(os.environ.get("RERANKER_PRECISION") or "fp32", self.device)
        # Converted once: autocast would convert the weights again for every batch.
        self.model.to(self.dtype)

    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        """One finite float a pair, in order: what HuggingFaceCrossEncoder.score returns."""
        # predict sorts by length, so that a batch holds little padding, and keeps one batch
        # of tensors at a time: memory depends on the batch size and not on the request.
        scores = self.model.predict(
            [self.fit(*pair) for pair in pairs],
            batch_size=self.batch_size,
            show_progress_bar=False,
        )
        if scores.ndim > 1:  # two labels: (not relevant, relevant)
            scores = scores[:, 1]
        return scores.tolist()

    def fit(self, query: str, passage: str) -> tuple[str, str]:
        """Cut the passage so that the tokenizer, which cuts the longer text, spares the query."""
        tokenizer, limit = self.model.tokenizer, self.model.max_seq_length
        if limit is None or not tokenizer.is_fast:
            return query, passage
        room = limit - tokenizer.num_special_tokens_to_add(pair=True)
        if len(query.encode()) <= room // 2:  # a token has at least one byte
            return query, passage
        query, used = self.clip(query, room)
        if used > room // 2:
            passage, _ = self.clip(passage, room - used)
        return query, passage

    def clip(self, text: str, room: int) -> tuple[str, int]:
        """The text's beginning that fills at most `room` tokens, and how many it fills."""
        spans = self.model.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        if len(spans) <= room:
            return text, len(spans)
        return (text[: spans[room - 1][1]] if room else ""), room


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
