"""The SageMaker runtime's face on loopback: its path, its limits, its errors; nothing else.

A request to `/endpoints/NAME/invocations` comes in; what the container answered to
`/invocations` goes out, or the error that botocore parses into the exception AWS would raise.
Paths, codes and messages follow
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
"""

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


def make_app(name: str, container: str) -> Starlette:
    """An ASGI app that answers for the endpoint `name` with the server at URL `container`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    # A proxy from the environment could not reach a container on loopback.
    client = httpx.AsyncClient(
        base_url=container, timeout=MAX_SECONDS, limits=limits, trust_env=False
    )

    async def invoke(request: Request) -> Response:
        if request.path_params["name"] != name:
            message = f"Endpoint {request.path_params['name']} not found; here is {name}."
            return aws_error(400, "ValidationError", message)
        body = bytearray()
        async for chunk in request.stream():  # to its end, so that the client reads the answer
            body += chunk[: MAX_BODY + 1 - len(body)]
        if len(body) > MAX_BODY:
            return aws_error(413, "", f"HTTP content length exceeded {MAX_BODY} bytes.")
        passed = ("content-type", "accept")
        headers = {key: request.headers[key] for key in passed if key in request.headers}
        try:
            answer = await client.post("/invocations", content=bytes(body), headers=headers)
        except httpx.TimeoutException:
            return model_error(0, TIMED_OUT)
        except httpx.HTTPError:
            return aws_error(503, "ServiceUnavailable", "The container cannot be reached.")
        if answer.status_code >= 400:
            return model_error(answer.status_code, answer.text)
        headers = {"x-Amzn-Invoked-Production-Variant": "AllTraffic"}
        media_type = answer.headers.get("content-type")
        return Response(answer.content, headers=headers, media_type=media_type)

    async def not_here(request: Request, error: HTTPException) -> Response:
        return aws_error(error.status_code, "UnknownOperationException", error.detail)

    route = Route("/endpoints/{name}/invocations", invoke, methods=["POST"])
    return Starlette(routes=[route], exception_handlers={HTTPException: not_here})
