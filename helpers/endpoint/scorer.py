"""The process that holds the model: what workers send together is scored in one call.

`worker.py` starts it and has the other end of each connection. JSON travels, never a pickle.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from helpers.endpoint.worker import LOST, locked, setting

WINDOW = 0.005  # seconds that a request waits for one that may come just behind it,
COMPANY = 0.05  # and for as many as came together the last time
MOST = 512  # pairs scored together, and as many seconds of work, at the pace of the last call,
SECONDS = 5.0  # beyond which no request joins: all of them wait for the last pair
IDLE = 5.0  # seconds without a worker until the process ends
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".joblib"}


def load_model(model_dir: str):
    """The model that the settings name, once it has scored, so that no request pays for that."""
    import torch

    from helpers.hardware import choose_dtype
    from helpers.score import LocalCrossEncoder

    precision = os.environ.get("RERANKER_PRECISION") or "fp32"
    choose_dtype(precision, name="RERANKER_PRECISION")
    tokens, length = setting("RERANKER_BATCH_TOKENS"), setting("RERANKER_MAX_LENGTH")
    setting("RERANKER_MAX_PAIRS")  # read by each request; a wrong one is named here
    if threads := setting("RERANKER_THREADS"):
        torch.set_num_threads(threads)
    model, revision = os.environ.get("RERANKER_MODEL"), os.environ.get("RERANKER_REVISION", "")
    if model and not (len(revision) == 40 and set(revision) <= set("0123456789abcdef")):
        raise ValueError("RERANKER_MODEL needs RERANKER_REVISION: a commit of 40 hex digits.")
    found = [] if model else [p.name for p in Path(model_dir).rglob("*") if p.suffix in PICKLES]
    if found:
        raise ValueError(f"Only safetensors are loaded; remove {', '.join(sorted(found))}.")
    how = {"precision": precision, "batch_tokens": tokens, "max_length": length}
    if (windows := os.environ.get("RERANKER_WINDOWS") or "0") not in ("0", "1"):
        raise ValueError(f"RERANKER_WINDOWS is {windows!r}: expected 0 or 1.")
    how["windows"] = windows == "1"
    reranker = LocalCrossEncoder(model or model_dir, revision=revision or None, **how)
    reranker.score([("ready?", "ready.")])
    return reranker


def work(request: dict) -> int:
    """What there is to read, in characters."""
    return sum(len(text) for pair in request["pairs"] for text in pair)


def together(waiting: queue.Queue, pace: list[float]) -> Iterator[list]:
    """Without end: requests that came together, up to MOST pairs and SECONDS; none is split.

    `pace` holds the characters a second of the last call, 0 before there was one.
    """
    request, last = waiting.get(), 1
    while True:
        batch, size, request = [request], len(request[0]["pairs"]), None
        load = work(batch[0][0])
        with contextlib.suppress(queue.Empty):
            while size < MOST and load < SECONDS * pace[0]:
                request = waiting.get(timeout=COMPANY if len(batch) < last else WINDOW)
                size, load = size + len(request[0]["pairs"]), load + work(request[0])
                if size <= MOST and load <= SECONDS * pace[0]:
                    batch.append(request)
                    request = None
        yield batch
        request, last = request or waiting.get(), len(batch)


def answer(model, batch: list[tuple[dict, Future]]) -> None:
    """Score the requests in one call, and each by itself if that fails: one may be at fault."""
    try:
        logits, cut = model.logits([pair for request, _ in batch for pair in request["pairs"]])
    except Exception:
        if len(batch) == 1:
            batch[0][1].set_result({"problem": traceback.format_exc()})
        else:
            for one in batch:
                answer(model, [one])
        return
    start = 0
    for request, reply in batch:
        stop = start + len(request["pairs"])
        part, of_it = logits[start:stop], [i - start for i in cut if start <= i < stop]
        try:
            found = {"scores": model.activate(part), "raw": part[:, -1].tolist(), "cut": of_it}
            if request["count"]:
                found["tokens"] = model.count_tokens(request["pairs"])
        except Exception:
            found = {"problem": traceback.format_exc()}
        reply.set_result(found)
        start = stop


def attend(line: Connection, loaded: Future, waiting: queue.Queue, lines: list) -> None:
    """One worker, until it is gone."""
    with contextlib.suppress(*LOST):
        line.send_bytes(json.dumps(loaded.result()).encode())
        while "problem" not in loaded.result():
            reply: Future = Future()
            waiting.put((json.loads(line.recv_bytes()), reply))
            line.send_bytes(json.dumps(reply.result()).encode())
    lines.remove(line)
    line.close()


def accept(listener: Listener, loaded: Future, waiting: queue.Queue, lines: list) -> None:
    while True:
        lines.append(line := listener.accept())
        threading.Thread(target=attend, args=(line, loaded, waiting, lines), daemon=True).start()


def watch(address: str, owner: int, lines: list) -> None:
    """End the process, whatever it does, when nobody is left whom it could answer."""
    last = time.monotonic()
    while is_there(owner) and time.monotonic() - last < IDLE:
        time.sleep(0.2)
        last = time.monotonic() if lines else last
    with locked(address):
        Path(address).unlink(missing_ok=True)
        os._exit(0)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def serve(model_dir: str, address: str, owner: int) -> None:
    """Answer whoever connects to the socket `address`, while `owner` runs and asks."""
    Path(address).unlink(missing_ok=True)  # of one that was killed
    listener, model = Listener(address, "AF_UNIX", backlog=64), None
    loaded, waiting, lines = Future(), queue.Queue(), []
    for target, args in ((accept, (listener, loaded, waiting)), (watch, (address, owner))):
        threading.Thread(target=target, args=(*args, lines), daemon=True).start()
    try:
        model = load_model(model_dir)
        loaded.set_result({"max_length": model.client.max_seq_length})
    except Exception as error:
        traceback.print_exc()
        loaded.set_result({"problem": f"{type(error).__name__}: {error}"})
    pace = [0.0]
    for batch in together(waiting, pace):
        start = time.perf_counter()
        answer(model, batch)
        if load := sum(work(request) for request, _ in batch):
            pace[0] = load / (time.perf_counter() - start)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
