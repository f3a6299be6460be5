"""The SageMaker runtime's face on loopback: its path, its limits, its errors; nothing else.

A request to `/endpoints/NAME/invocations` comes in; what the container answered to
`/invocations` goes out, or the error that botocore parses into the exception AWS would raise.
Paths, codes and messages follow
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

import contextlib

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_BODY = 6_291_456  # bytes, of a real-time endpoint
MAX_SECONDS = 60.0  # that a real-time endpoint waits for its container
TIMED_OUT = "Your invocation timed out while waiting for a response from container primary."


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


async def read_body(request: Request) -> bytes | None:
    """The body, or None as soon as it is longer than an endpoint takes."""
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) <= MAX_BODY:
            body += chunk
        else:  # read on, so that the client is ready for an answer, but keep nothing
            body = bytearray(MAX_BODY + 1)
    return bytes(body) if len(body) <= MAX_BODY else None


def make_app(name: str, container: str) -> Starlette:
    """An ASGI app that answers for the endpoint `name` with the server at URL `container`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    client = httpx.AsyncClient(base_url=container, timeout=MAX_SECONDS, limits=limits)

    async def invoke(request: Request) -> Response:
        if request.path_params["name"] != name:
            message = f"Endpoint {request.path_params['name']} not found; here is {name}."
            return aws_error(400, "ValidationError", message)
        body = await read_body(request)
        if body is None:
            return aws_error(413, "", f"HTTP content length exceeded {MAX_BODY} bytes.")
        passed = ("content-type", "accept")
        headers = {key: request.headers[key] for key in passed if key in request.headers}
        try:
            answer = await client.post("/invocations", content=body, headers=headers)
        except httpx.TimeoutException:
            return model_error(0, TIMED_OUT)
        except httpx.HTTPError:
            return aws_error(503, "ServiceUnavailable", "The container cannot be reached.")
        if answer.status_code >= 400:
            return model_error(answer.status_code, answer.text)
        headers = {"x-Amzn-Invoked-Production-Variant": "AllTraffic"}
        media_type = answer.headers.get("content-type")
        return Response(answer.content, headers=headers, media_type=media_type)

    async def not_here(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return aws_error(error.status_code, "UnknownOperationException", error.detail)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        async with client:
            yield

    route = Route("/endpoints/{name}/invocations", invoke, methods=["POST"])
    return Starlette(
        routes=[route], lifespan=lifespan, exception_handlers={HTTPException: not_here}
    )
