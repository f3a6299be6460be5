"""The process with the model: what comes together is scored together, and nobody spoils it."""

import queue
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from helpers.endpoint import scorer, worker
from helpers.endpoint.local import lay_out, local_endpoint
from helpers.endpoint.scorer import answer, load_model, together

# Put behind the container's copy of helpers/score.py: says how it is called, takes its time.
COUNTED = """
def counted(self, pairs, logits=LocalCrossEncoder.logits):
    import time
    print("scored in one call:", len(pairs), flush=True)
    time.sleep(0.3)
    if any(passage == "poison" for _, passage in pairs):
        raise RuntimeError("poisoned")
    return logits(self, pairs)

LocalCrossEncoder.logits = counted
"""


class Model:
    """The logit of a pair is the number that is its passage; what is none is an error."""

    def logits(self, pairs):
        logits = np.array([[float(passage)] for _, passage in pairs], dtype=np.float32)
        return logits.reshape(-1, 1), [i for i, (_, passage) in enumerate(pairs) if passage == "7"]

    def activate(self, logits):
        if not np.isfinite(logits).all():
            raise ValueError("no finite number")
        return logits[:, -1].tolist()


def requests(*passages: str) -> list[tuple[dict, Future]]:
    return [
        ({"pairs": [["q", p] for p in each.split()], "count": False}, Future()) for each in passages
    ]


def test_what_waits_is_taken_together_whole_and_in_order():
    waiting, sizes = queue.Queue(), [1, 200, 300, 20, 2000, 3, 0]
    for size in sizes:
        waiting.put(({"pairs": [["q", "0"]] * size}, Future()))
    batches = together(waiting, [1e9])
    taken = [[len(request["pairs"]) for request, _ in next(batches)] for _ in range(4)]
    assert taken == [[1, 200, 300], [20], [2000], [3, 0]]


def test_no_more_joins_than_is_soon_done():
    """Ten characters a pair; at first nobody knows how long one takes."""
    waiting, pace = queue.Queue(), [0.0]
    for _ in range(9):
        waiting.put(({"pairs": [["query", "words"]]}, Future()))
    batches = together(waiting, pace)
    assert len(next(batches)) == 1
    pace[0] = 30 / scorer.SECONDS
    assert [len(next(batches)) for _ in range(2)] == [3, 3]


def test_as_many_as_came_the_last_time_are_waited_for(monkeypatch):
    monkeypatch.setattr(scorer, "COMPANY", 10.0)
    waiting = queue.Queue()
    batches = together(waiting, [1e9])
    for pair in "abc":
        waiting.put(requests(pair)[0])
    assert len(next(batches)) == 3
    waiting.put(requests("d")[0])
    threading.Timer(0.2, lambda: [waiting.put(one) for one in requests("e", "f")]).start()
    assert len(next(batches)) == 3, "two came later than the window of one that is alone"


def test_each_gets_its_own_part_and_one_that_fails_spoils_no_other():
    batch = requests("1 7", "2 nonsense", "3 nan", "", "4 5 7")
    answer(Model(), batch)
    said = [reply.result(0) for _, reply in batch]
    assert [each.get("scores") for each in said] == [[1.0, 7.0], None, None, [], [4.0, 5.0, 7.0]]
    assert [each.get("cut") for each in said] == [[1], None, None, [], [2]]
    assert "could not convert" in said[1]["problem"] and "no finite" in said[2]["problem"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RERANKER_PRECISION", "int8", "expected one of fp32"),
        ("RERANKER_BATCH_TOKENS", "0", "whole number of at least 1"),
        ("RERANKER_MAX_PAIRS", "many", "whole number of at least 1"),
        ("RERANKER_WINDOWS", "yes", "expected 0 or 1"),
        ("RERANKER_MODEL", "BAAI/bge-reranker-base", "RERANKER_REVISION"),
    ],
)
def test_a_wrong_setting_is_named_when_the_model_loads(model_dir, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}.*{said}"):
        load_model(str(model_dir))


def test_long_passages_are_read_in_windows_where_the_settings_say_so(model_dir, monkeypatch):
    long = [("how long?", "three weeks " * 600)]
    assert load_model(str(model_dir)).logits(long)[1] == [0]
    monkeypatch.setenv("RERANKER_WINDOWS", "1")
    assert load_model(str(model_dir)).logits(long)[1] == []


def test_pickled_weights_are_refused(model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ValueError, match="pytorch_model.bin"):
        load_model(str(tmp_path / "model"))


def test_a_hub_model_is_pinned(model_dir, monkeypatch):
    asked, revision = [], "0123456789abcdef0123456789abcdef01234567"

    def find_model(*what):
        asked.append(what)
        return model_dir

    monkeypatch.setattr("helpers.load.find_model", find_model)
    monkeypatch.setenv("RERANKER_MODEL", "BAAI/bge-reranker-base")
    monkeypatch.setenv("RERANKER_REVISION", revision)
    assert load_model("/nowhere").score([("a", "b")])
    assert asked == [("BAAI/bge-reranker-base", revision)]


def scorers(word: object) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    lines = {each: " ".join(each.info["cmdline"] or []) for each in found}
    return [p for p, line in lines.items() if "endpoint.scorer" in line and str(word) in line]


def wait_for(condition, seconds: float = 600.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
def test_it_ends_when_no_worker_is_left_and_one_that_comes_back_starts_it_again(tiny_bert):
    folder = tiny_bert()
    first, second = worker.Scorer(folder), worker.Scorer(folder)
    assert len(scorers(folder)) == 1
    scores = first.ask([("a", "b")])["scores"]
    np.testing.assert_allclose(scores, load_model(str(folder)).score([("a", "b")]), atol=1e-5)
    first.line.close()
    time.sleep(scorer.IDLE + 1)
    assert second.ask([("a", "b")])["scores"] == scores
    second.line.close()
    assert wait_for(lambda: not scorers(folder) and not Path(first.address).exists())
    assert first.ask([("a", "b")], count=True)["tokens"] == 5
    first.line.close()


@pytest.mark.slow
def test_it_ends_with_whoever_started_it_even_while_it_loads(model_dir, tmp_path):
    command = [sys.executable, "-m", "helpers.endpoint.scorer", str(model_dir)]
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = subprocess.Popen([*command, str(tmp_path / "socket"), str(gone.pid)])
    assert left.wait(30) == 0
    assert not (tmp_path / "socket").exists()


@pytest.mark.slow
def test_a_process_that_cannot_load_says_why_to_every_worker(tiny_bert, monkeypatch):
    monkeypatch.setenv("RERANKER_MAX_LENGTH", "999")
    folder = tiny_bert()
    for _ in range(2):
        with pytest.raises(worker.ScorerError, match="max_length is 999"):
            worker.Scorer(folder)
    monkeypatch.setattr(sys, "executable", "false")
    monkeypatch.setenv("RERANKER_MAX_LENGTH", "99")
    with pytest.raises(worker.ScorerError, match="exit status 1"):
        worker.Scorer(folder)


@pytest.fixture(scope="module")
def counting(tiny_bert, tmp_path_factory):
    """A served model whose log says how many pairs each of its calls had, and how it is asked."""
    folder = tmp_path_factory.mktemp("counting")
    lay_out(tiny_bert(), folder)
    score = folder / "model" / "code" / "helpers" / "score.py"
    text = score.read_text()
    score.unlink()
    score.write_text(text + COUNTED)
    with local_endpoint(folder / "model") as endpoint:

        def ask(passage: str) -> httpx.Response:
            url, pairs = f"{endpoint.container_url}/invocations", [("what?", passage)] * 3
            return httpx.post(url, json={"pairs": pairs}, timeout=600)

        yield endpoint, ask
    assert not scorers(endpoint.folder)


def calls(endpoint) -> list[int]:
    return [
        int(line.rsplit(":", 1)[1])
        for line in endpoint.log().splitlines()
        if "in one call:" in line
    ]


@pytest.mark.slow
def test_requests_that_arrive_together_are_scored_together(counting):
    endpoint, ask = counting
    before = len(calls(endpoint))
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(ask, [f"passage {i}" for i in range(8)])]
    assert [len(each.json()["scores"]) for each in answers] == [3] * 8
    assert wait_for(lambda: sum(calls(endpoint)[before:]) == 24)  # the log is written behind
    assert len(calls(endpoint)[before:]) <= 4 and max(calls(endpoint)[before:]) >= 9


@pytest.mark.slow
def test_a_request_that_fails_in_company_fails_alone(counting):
    _, ask = counting
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(ask, ["one", "two", "poison", "three"])]
    assert [each.status_code for each in answers] == [200, 200, 500, 200]
    assert answers[2].json() == {"error": "the model failed on this request; the log says why."}


@pytest.mark.slow
def test_workers_are_light_and_a_killed_scorer_is_replaced_under_a_request(counting):
    endpoint, ask = counting
    expected = ask("again").json()
    family = psutil.Process(endpoint.server).children(recursive=True)
    workers = [each for each in family if "model_service_worker" in " ".join(each.cmdline())]
    assert len(workers) == 9  # eight, and the process that they are forked from
    for each in workers:
        assert not [m.path for m in each.memory_maps() if "torch" in m.path]
    (victim,) = scorers(endpoint.folder)
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(ask, "again")
        time.sleep(0.15)
        victim.kill()
        assert answered.result().json() == expected
    assert [ask("again").json() for _ in range(4)] == [expected] * 4
    assert len(scorers(endpoint.folder)) == 1
    family = psutil.Process(endpoint.server).children(recursive=True)
    assert not [each for each in family if each.status() == psutil.STATUS_ZOMBIE]
