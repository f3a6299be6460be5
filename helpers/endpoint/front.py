"""What clients talk to on loopback: the SageMaker runtime's path, and the rerank paths of others.

A request to `/endpoints/NAME/invocations` comes in; what the container answered to
`/invocations` goes out, or the error that botocore parses into the exception AWS would raise.
Paths, codes and messages follow
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html

`/rerank`, `/v1/rerank` and `/v2/rerank` answer clients of text-embeddings-inference, Cohere and
Jina: the container's own answer and status, its errors under the names that each of them reads.
"""

from importlib.metadata import version

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_BODY = 6_291_456  # bytes, of a real-time endpoint
MAX_SECONDS = 60.0  # that a real-time endpoint waits for its container
TOO_LARGE = f"HTTP content length exceeded {MAX_BODY} bytes."
TIMED_OUT = "Your invocation timed out while waiting for a response from container primary."
OUT_OF_REACH = "The container cannot be reached."
ONE_LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}


class NoAnswer(Exception):
    """The container was not asked, or did not answer: an HTTP status, and why."""

    def __init__(self, status: int, message: str):
        self.status = status
        super().__init__(message)


def aws_error(status: int, code: str, message: str, **fields: object) -> JSONResponse:
    """An error in the form of AWS's REST-JSON protocol."""
    headers = {"x-amzn-ErrorType": code} if code else {}
    return JSONResponse({"Message": message} | fields, status, headers=headers)


def model_error(status: int, answer: str) -> JSONResponse:
    """424: the container answered 4xx or 5xx, or (status 0) not in time."""
    side = "client" if 400 <= status < 500 else "server"
    message = f'Received {side} error ({status}) from primary with message "{answer}".'
    fields = {"OriginalStatusCode": status, "OriginalMessage": answer, "LogStreamArn": ""}
    return aws_error(424, "ModelError", message, **fields)


def rerank_error(status: int, said: dict) -> JSONResponse:
    """The same text for each kind of client: TEI reads `error`, Cohere `message`, Jina `detail`."""
    text = said.get("error") or said.get("message") or f"the container answered {status}"
    kind = {429: "Overloaded", 503: "Overloaded"}.get(status, "Backend")
    ours = {
        "error": text,
        "error_type": kind if status in (429, *range(500, 600)) else "Validation",
    }
    return JSONResponse(ours | {"message": text, "detail": text} | said, status)


def make_app(name: str, container: str, served: dict | None = None) -> Starlette:
    """An ASGI app that answers for the endpoint `name` with the server at URL `container`.

    `served` is what /info says of it beyond that, in text-embeddings-inference's names.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    # A proxy from the environment could not reach a container on loopback.
    client = httpx.AsyncClient(
        base_url=container, timeout=MAX_SECONDS, limits=limits, trust_env=False
    )

    async def ask(request: Request) -> httpx.Response:
        body = bytearray()
        async for chunk in request.stream():  # to its end, so that the client reads the answer
            body += chunk[: MAX_BODY + 1 - len(body)]
        if len(body) > MAX_BODY:
            raise NoAnswer(413, TOO_LARGE)
        passed = ("content-type", "accept")
        headers = {key: request.headers[key] for key in passed if key in request.headers}
        try:
            return await client.post("/invocations", content=bytes(body), headers=headers)
        except httpx.TimeoutException:
            raise NoAnswer(504, TIMED_OUT) from None
        except httpx.HTTPError:
            raise NoAnswer(503, OUT_OF_REACH) from None

    async def invoke(request: Request) -> Response:
        if request.path_params["name"] != name:
            message = f"Endpoint {request.path_params['name']} not found; here is {name}."
            return aws_error(400, "ValidationError", message)
        try:
            answer = await ask(request)
        except NoAnswer as error:
            if error.status == 504:
                return model_error(0, str(error))
            code = "ServiceUnavailable" if error.status == 503 else ""
            return aws_error(error.status, code, str(error))
        if answer.status_code >= 400:
            return model_error(answer.status_code, answer.text)
        headers = {"x-Amzn-Invoked-Production-Variant": "AllTraffic"}
        media_type = answer.headers.get("content-type")
        return Response(answer.content, headers=headers, media_type=media_type)

    async def rerank(request: Request) -> Response:
        try:
            answer = await ask(request)
        except NoAnswer as error:
            return rerank_error(error.status, {"error": str(error)})
        if answer.status_code < 400:
            return Response(answer.content, media_type="application/json")
        try:
            said = answer.json()
        except ValueError:  # of the model server itself, with a traceback maybe
            said = None
        return rerank_error(answer.status_code, said if isinstance(said, dict) else {})

    async def health(request: Request) -> Response:
        try:
            return Response(status_code=(await client.get("/ping")).status_code)
        except httpx.HTTPError:
            return Response(status_code=503)

    async def info(request: Request) -> Response:
        unknown = ["model_sha", "sha", "docker_label", "max_input_length", "max_batch_tokens"]
        unknown += ["max_batch_requests", "max_client_batch_size", "max_concurrent_requests"]
        said = dict.fromkeys([*unknown, "tokenization_workers"]) | {"model_id": name}
        said |= {"model_dtype": "float32", "model_type": {"reranker": ONE_LABEL}}
        return JSONResponse(said | {"version": version("multi-model-server")} | (served or {}))

    async def not_here(request: Request, error: HTTPException) -> Response:
        return aws_error(error.status_code, "UnknownOperationException", error.detail)

    routes = [Route("/endpoints/{name}/invocations", invoke, methods=["POST"])]
    routes += [
        Route(path, rerank, methods=["POST"]) for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ]
    routes += [Route("/info", info), Route("/health", health)]
    return Starlette(routes=routes, exception_handlers={HTTPException: not_here})
