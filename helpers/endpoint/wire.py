"""The wire: a request's bytes come in as checked pairs, scores go out as JSON; no torch.

The key that holds the texts tells the form: `text_pairs` or `pairs` is LangChain's, `texts` that of
text-embeddings-inference, `documents` that of Cohere and Jina. The README has a table of each.
"""

import json
import math
import uuid
from dataclasses import dataclass

JSON = "application/json"
RERANK = {"query": str, "model": str, "top_n": int}
FORMS: dict[str, dict[str, type]] = {  # key of the texts -> the keys that may stand beside it
    "text_pairs": {},
    "pairs": {},
    "texts": RERANK | {"raw_scores": bool, "return_text": bool, "truncate": bool}
    | {"truncation_direction": str},
    "documents": RERANK | {"return_documents": bool, "max_tokens_per_doc": int},
}  # fmt: skip
NOT_HERE = {
    "max_chunks_per_doc": "a document is scored whole, or cut",
    "rank_fields": "a document has one field, text",
    "relevant_spans": "a document has one score",
    "priority": "requests are served in turn",
}
KINDS = {str: "a string", int: "a number", float: "a number", bool: "a boolean"}
KINDS |= {list: "a list", dict: "an object", type(None): "null"}
MAX_CHARACTERS = 6_291_456  # a query counts once for each text: as many as pairs could have


class RequestError(Exception):
    """The client's fault: an HTTP status, what was wrong, and in which pair (from 0)."""

    def __init__(self, status: int, message: str, pair: int | None = None, kind: str = ""):
        self.status = status
        said = {"error": message} if pair is None else {"error": f"pair {pair}: {message}"}
        said |= {} if pair is None else {"pair": pair}
        # The text is JSON: a container that only reports str(error) then still answers with it.
        super().__init__(json.dumps(said | ({"error_type": kind} if kind else {})))


@dataclass(frozen=True)
class Request:
    """What was asked: the form's key, its (query, passage) pairs, and the other keys' values."""

    form: str
    pairs: list[tuple[str, str]]
    options: dict


def check_headers(content_type: object, accept: object) -> None:
    """JSON in, JSON out; parameters such as `charset=utf-8` are fine."""
    if str(content_type or "").split(";")[0].strip().lower() != JSON:
        raise RequestError(415, f"Content-Type must be {JSON}.")
    ranges = {part.split(";")[0].strip().lower() for part in str(accept or "*/*").split(",")}
    if not ranges & {JSON, "application/*", "*/*"}:
        raise RequestError(406, f"only {JSON} can be returned: send it in Accept.")


def read(body: bytes | str | None, max_pairs: int, max_length: int | None = None) -> Request:
    """The request, or a RequestError that says what is wrong and where; null counts as absent.

    `max_length` is what the model reads of a pair, in tokens.
    """
    try:
        text = body if isinstance(body, str) else bytes(body or b"").decode("utf-8")
        payload = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON in UTF-8.") from None
    if not isinstance(payload, dict):
        raise RequestError(400, 'the body must be an object: {"text_pairs": [[query, passage]]}.')
    options = {key: value for key, value in payload.items() if value is not None}
    held = [key for key in FORMS if key in options]
    if len(held) != 1:
        expected = ", ".join(f'"{key}"' for key in FORMS)
        raise RequestError(400, f"expected one of {expected}; got {' and '.join(held) or 'none'}.")
    form, items = held[0], options.pop(held[0])
    for key, value in options.items():
        check_option(form, key, value, max_length)
    if not isinstance(items, list):
        raise RequestError(400, f'"{form}" must be a list, not {KINDS[type(items)]}.')
    if len(items) > max_pairs:
        what = "pairs" if form.endswith("pairs") else form
        raise RequestError(413, f"{len(items)} {what}; a request may hold {max_pairs}: split it.")
    if form.endswith("pairs"):
        return Request(form, [check_pair(pair, at) for at, pair in enumerate(items)], options)
    if not items:
        raise RequestError(400, f'"{form}" is empty: expected one or more.', kind="Empty")
    query = check_text(options.get("query"), '"query"')
    if len(query) * len(items) > MAX_CHARACTERS:
        said = f"a query of {len(query)} characters for {len(items)} {form}; together they may be "
        raise RequestError(413, f"{said}{MAX_CHARACTERS}: shorten it, or split the request.")
    texts = [check_item(item, form, at) for at, item in enumerate(items)]
    return Request(form, [(query, text) for text in texts], options)


def check_option(form: str, key: str, value: object, max_length: int | None) -> None:
    """A key beside the texts: one that is known, of its type, and asks for what can be done."""
    shown, known = json.dumps(key[:40]), FORMS[form]
    if key in NOT_HERE and form == "documents":
        raise RequestError(400, f"{shown} cannot be had: {NOT_HERE[key]}. Leave it out.")
    if key not in known:
        beside = f"it takes {', '.join(known)}" if known else "it stands alone"
        raise RequestError(400, f'unknown key {shown} beside "{form}": {beside}.')
    if type(value) is not known[key]:
        said = f"must be {KINDS[known[key]]}, not {KINDS[type(value)]}"
        raise RequestError(400, f'"{key}" {said if type(value) is not float else "must be whole"}.')
    if key == "top_n" and value < 1:
        raise RequestError(400, '"top_n" must be 1 or more.')
    if key == "truncation_direction" and value.lower() != "right":
        raise RequestError(400, '"truncation_direction" can be "Right" alone: the end is cut.')
    if key == "max_tokens_per_doc" and value < (max_length or math.inf):
        said = f"the model reads {max_length or 'all'} tokens, query included, and is not cut short"
        raise RequestError(400, f'"{key}" cannot be had: {said}. Leave it out.')


def check_pair(pair: object, at: int) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2:
        got = f"a list of {len(pair)}" if isinstance(pair, list) else KINDS[type(pair)]
        raise RequestError(400, f"expected [query, passage], got {got}.", at)
    return check_text(pair[0], "the query", at), check_text(pair[1], "the passage", at)


def check_item(item: object, form: str, at: int) -> str:
    if form == "documents" and isinstance(item, dict) and item.keys() == {"text"}:
        item = item["text"]
    or_object = ' or {"text": string}' if form == "documents" else ""
    return check_text(item, f"{form[:-1]} {at}", or_object=or_object)


def check_text(text: object, what: str, pair: int | None = None, or_object: str = "") -> str:
    """The text, if it is one that can be encoded."""
    if not isinstance(text, str):
        said = f"{what} must be a string{or_object}, not {KINDS[type(text)]}."
        raise RequestError(400, said, pair)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"{what} has a lone surrogate at character {error.start}"
        raise RequestError(400, f"{where}, which is no text.", pair) from None
    return text


def sigmoid(logit: float) -> float:
    small = math.exp(-abs(logit))  # which cannot overflow
    return (1 if logit >= 0 else small) / (1 + small)


def write(request: Request, found: dict) -> str:
    """The answer in the request's form; `found` holds `scores`, `raw`, `cut`, maybe `tokens`."""
    ask, raw, cut = request.options.get, found["raw"], found["cut"]
    if request.form.endswith("pairs"):
        return json.dumps(
            {"scores": found["scores"]} | ({"cut": cut} if cut else {}), allow_nan=False
        )
    said = (
        f"{len(cut)} of {len(raw)} {request.form} are longer, with the query, than the model reads"
    )
    if cut and ask("truncate") is False:
        raise RequestError(422, f'{said}: shorten them, or leave "truncate" out.')
    best = sorted(range(len(raw)), key=lambda i: -raw[i])[: ask("top_n")]
    scores = raw if ask("raw_scores") else [sigmoid(logit) for logit in raw]
    texts = [text for _, text in request.pairs]
    if request.form == "texts":
        answer: object = [
            {"index": i, "score": scores[i]} | ({"text": texts[i]} if ask("return_text") else {})
            for i in best
        ]
    else:
        shown = [{"document": {"text": texts[i]}} if ask("return_documents") else {} for i in best]
        results = [{"index": i, "relevance_score": scores[i]} for i in best]
        answer = {"id": str(uuid.uuid4()), "model": ask("model") or "reranker"}
        answer |= {"results": [r | more for r, more in zip(results, shown, strict=True)]}
        answer |= {"usage": {"total_tokens": found["tokens"]}} if "tokens" in found else {}
        answer |= {"meta": {"warnings": [f"{said}, and were cut: {cut}"]} if cut else {}}
    return json.dumps(answer, allow_nan=False)
