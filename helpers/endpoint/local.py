"""A SageMaker endpoint on this machine: a model's folder comes in, an address comes out.

    with local_endpoint("data/reranker") as endpoint, endpoint.environment():
        cross_encoder = SagemakerEndpointCrossEncoder(
            endpoint_name=endpoint.name, region_name=endpoint.region
        )

It is the model server that the SageMaker containers run, with the code that they run, behind
a front that speaks like the SageMaker runtime. No Docker, no root, no AWS account.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers.endpoint.archive import CODE_FILES

SOCKET_PATH = 100  # bytes that a Unix socket's path may have, with room


class EndpointStartError(RuntimeError):
    """The local endpoint did not start; the message ends with the server's last lines."""


def read_logs(folder: Path, lines: int = 0) -> str:
    """What the servers and the model's worker have said, or the last `lines` of each."""
    files = [folder / name for name in ("supervisor.log", "server.log", "model_log.log")]
    said = [f.read_text(errors="replace").splitlines()[-lines:] for f in files if f.exists()]
    return "\n".join(line for each in said for line in each)


def past_proxies() -> dict[str, str]:
    """The variables that keep what is on 127.0.0.1 away from HTTP_PROXY, and all they held."""
    # Under two names, of which some readers prefer the one and some the other.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if not {"*", "127.0.0.1"} & set(direct.replace(" ", "").split(",")):
        direct = ",".join(filter(None, [direct, "127.0.0.1"]))
    return {"NO_PROXY": direct, "no_proxy": direct}


@contextlib.contextmanager
def set_for_a_while(variables: dict[str, str | None]) -> Iterator[None]:
    """Environment variables with these values, or (None) without one, until the block is left."""

    def put(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    before = {name: os.environ.get(name) for name in variables}
    put(variables)
    try:
        yield
    finally:
        put(before)


@dataclass(frozen=True)
class LocalEndpoint:
    """A running endpoint.

    url: what AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME (or boto3's endpoint_url) takes, and what clients
        of text-embeddings-inference, Cohere and Jina take: it answers on /rerank too.
    container_url: the model server itself, which answers on /invocations as in a container.
    """

    name: str
    url: str
    container_url: str
    folder: Path = field(repr=False)
    server: int = field(repr=False)
    region: str = "us-east-1"

    def client(self, **config):
        """A boto3 client for this endpoint, by no proxy; `config` goes to botocore's Config."""
        import boto3
        from botocore.config import Config

        session = boto3.Session("local", "local", region_name=self.region)
        config = Config(proxies={}, **config)
        return session.client("sagemaker-runtime", endpoint_url=self.url, config=config)

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """Within the block, boto3 clients that are made reach this endpoint and not AWS."""
        ours = {"AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": self.url, "AWS_PROFILE": None}
        ours |= {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false", "AWS_SESSION_TOKEN": None}
        ours |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        with set_for_a_while(ours | past_proxies()):
            yield

    def log(self) -> str:
        """What the model server and the model's worker have said so far."""
        return read_logs(self.folder)


def lay_out(model_dir: Path, folder: Path) -> None:
    """`folder/model` as an unpacked archive: links to the weights, and code/ beside them.

    A model_dir that is an unpacked archive is served with the code that it contains.
    """
    if not (model_dir / "config.json").exists() and not (model_dir / "modules.json").exists():
        raise FileNotFoundError(f"{model_dir} holds no model: expected config.json in it.")
    skip = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(model_dir.resolve(), folder / "model", copy_function=os.symlink, ignore=skip)
    code = folder / "model" / "code"
    if not (code / "inference.py").exists():
        for name, file in CODE_FILES.items():
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            (code / name).symlink_to(file)


def stop(supervisor: subprocess.Popen, server: int | None) -> None:
    """Let the supervisor clean up; if it does not or cannot, end the servers from here."""
    supervisor.terminate()
    try:
        supervisor.wait(30)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    supervisor.stdout.close()
    if server is not None and supervisor.returncode != 0:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server, signal.SIGKILL)


@contextlib.contextmanager
def local_endpoint(
    model_dir: str | os.PathLike,
    name: str = "reranker",
    *,
    workers: int = 8,
    environment: dict[str, str] | None = None,
    start_seconds: float = 300.0,
) -> Iterator[LocalEndpoint]:
    """Serve the cross-encoder in `model_dir` until the block is left, in whatever way.

    `environment` holds the container's settings (RERANKER_PRECISION and its like). `workers` is how
    many requests are under way at once; they share one copy of the model, and are scored together.
    Until then 127.0.0.1 is in NO_PROXY, so that whatever is asked there is asked of the endpoint.
    Raises EndpointStartError.
    """
    folder = Path(tempfile.mkdtemp(prefix="rerank-")).resolve()
    supervisor, report = None, {}
    try:
        if len(os.fsencode(folder / "scorer-01234567")) > SOCKET_PATH:
            raise EndpointStartError(f"{folder} is too long for a socket: set a shorter TMPDIR.")
        lay_out(Path(model_dir), folder)
        settings = {"folder": str(folder), "name": name, "owner": os.getpid(), "workers": workers}
        settings |= {"seconds": start_seconds, "environment": environment or {}}
        command = [sys.executable, "-m", "helpers.endpoint.supervisor", json.dumps(settings)]
        clone = Path(__file__).parents[2]  # where `-m` finds it
        with (folder / "supervisor.log").open("wb") as log:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
            # In a session of its own: Ctrl-C reaches us and not the servers, which we end.
            supervisor = subprocess.Popen(command, cwd=clone, start_new_session=True, **pipes)
        report = json.loads(supervisor.stdout.readline() or "{}")
        if "url" not in report:
            said = f"{report.get('problem', 'its process ended')}.\n{read_logs(folder, 15)}"
            raise EndpointStartError(f"The endpoint did not start: {said}")
        with set_for_a_while(past_proxies()):
            yield LocalEndpoint(name, folder=folder, **report)
    finally:
        if supervisor is not None:
            stop(supervisor, report.get("server"))
        shutil.rmtree(folder, ignore_errors=True)
