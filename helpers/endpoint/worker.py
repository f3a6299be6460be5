"""A worker's line to the process that holds the model: pairs go in, scores and logits come out.

The model server's workers answer one request at a time. So several stand ready, none of them with
a model, and what they bring at the same time is scored together, in `scorer.py`'s process. The
first worker starts that; one that finds it gone starts it again.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection
from pathlib import Path

LOST = (EOFError, OSError)  # of a connection whose other end is gone


class ScorerError(RuntimeError):
    """The model did not load, or failed on a request; the message is for the log."""


def setting(name: str, default: int | None = None) -> int | None:
    """A whole number of at least 1 from the environment."""
    text = os.environ.get(name)
    if text and (not text.isdecimal() or int(text) < 1):
        raise ValueError(f"{name} is {text!r}: expected a whole number of at least 1.")
    return int(text) if text else default


@contextlib.contextmanager
def locked(address: str) -> Iterator[None]:
    """One process at a time looks for the scorer, starts it, or takes it away."""
    with Path(f"{address}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Scorer:
    """A worker's line to the process with the model; `max_length` is the tokens that it reads."""

    def __init__(self, model_dir: str):
        settings = sorted(item for item in os.environ.items() if item[0].startswith("RERANKER_"))
        # Workers have the same parent, model and settings. Paths of sockets have to be short.
        key = zlib.crc32(repr((os.getppid(), str(model_dir), settings)).encode())
        self.address = str(Path(tempfile.gettempdir()) / f"scorer-{key:08x}")
        arguments = [str(model_dir), self.address, str(os.getppid())]
        self.command = [sys.executable, "-m", "helpers.endpoint.scorer", *arguments]
        self.connect()

    def connect(self) -> None:
        for again in (True, False):
            try:
                with locked(self.address):
                    try:
                        self.line = Client(self.address, "AF_UNIX")
                    except (FileNotFoundError, ConnectionRefusedError):
                        self.line = self.start()
                said = json.loads(self.line.recv_bytes())  # once the model is loaded
                break
            except LOST as error:  # it was about to end; or it ended as it loaded
                if not again:
                    raise ScorerError("the process ended while it loaded the model") from error
                time.sleep(0.2)
        if "problem" in said:
            raise ScorerError(said["problem"])
        self.max_length = said["max_length"]

    def start(self) -> Connection:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if env.get("OMP_NUM_THREADS") == "1":  # the model server's, for each of its workers
            del env["OMP_NUM_THREADS"]
        process = subprocess.Popen(self.command, env=env, stdin=subprocess.DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie stays
        while process.poll() is None:
            with contextlib.suppress(OSError):
                return Client(self.address, "AF_UNIX")
            time.sleep(0.02)
        raise ScorerError(f"the process with the model ended: exit status {process.returncode}")

    def ask(self, pairs: list[tuple[str, str]], count: bool = False) -> dict:
        """`scores`, `raw` (the logits) and `cut` (positions) of the pairs; on demand `tokens`."""
        body = json.dumps({"pairs": pairs, "count": count}).encode()
        for again in (True, False):
            try:
                self.line.send_bytes(body)
                said = json.loads(self.line.recv_bytes())
                break
            except LOST as error:
                if not again:
                    raise ScorerError("the process with the model ended twice") from error
                self.line.close()
                self.connect()
        if "problem" in said:
            raise ScorerError(said["problem"])
        return said
