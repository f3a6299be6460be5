"""The local endpoint starts, says why when it does not, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import uvicorn

from helpers.endpoint import supervisor
from helpers.endpoint.archive import CODE_FILES
from helpers.endpoint.client import EndpointCrossEncoder, EndpointUnavailable
from helpers.endpoint.local import EndpointStartError, lay_out, local_endpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OWNER = """
import signal, sys, time
from helpers.endpoint.local import local_endpoint
# A shell that starts a job in the background has it ignore Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
with local_endpoint(sys.argv[1]) as endpoint:
    print(endpoint.folder, endpoint.url, endpoint.container_url, flush=True)
    time.sleep(600)
"""

PAGE = """
import json

def model_fn(model_dir):
    return lambda pairs: {"scores": [0.0 for _ in pairs]}

def transform_fn(cross_encoder, input_data, content_type, accept):
    return json.dumps(cross_encoder(**json.loads(input_data)))
"""


def belonging_to(folder: str, word: str = "") -> list[psutil.Process]:
    """Every process that names the folder, and the word, on its command line."""
    lines = {
        each: " ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])
    }
    return [each for each, line in lines.items() if folder in line and word in line]


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


def assert_nothing_left(folder: str, *urls: str) -> None:
    def left() -> list:
        ports = [url for url in urls if is_listening(url)]
        return [*belonging_to(folder), *filter(os.path.exists, [folder]), *ports]

    end = time.monotonic() + 600
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    assert not left()


def test_two_run_side_by_side_and_an_exception_ends_only_its_own(
    model_dir, endpoint, reference, monkeypatch
):
    """The second behind a proxy at which nobody answers: nothing that is asked of it goes there."""
    from langchain_community.cross_encoders import SagemakerEndpointCrossEncoder

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "corp.example")
    pairs, before = [("How long?", "Three weeks."), ("How long?", "The harbour.")], dict(os.environ)
    with pytest.raises(KeyError), local_endpoint(model_dir, name="second") as second:
        url = f"{second.container_url}/invocations"
        by_hand = httpx.post(url, json={"pairs": pairs}, timeout=600).json()["scores"]
        monkeypatch.delenv("NO_PROXY")  # and without it each of these still finds its way
        monkeypatch.delenv("no_proxy")
        with second.environment():
            theirs = SagemakerEndpointCrossEncoder(
                endpoint_name=second.name, region_name=second.region
            )
            ours = EndpointCrossEncoder(second.name, region_name=second.region)
        direct = [EndpointCrossEncoder(e.name, client=e.client()) for e in (endpoint, second)]
        for scores in (by_hand, *(each.score(pairs) for each in (theirs, ours, *direct))):
            np.testing.assert_allclose(scores, reference.score(pairs), atol=1e-5)
        assert belonging_to(str(second.folder))
        assert second.folder.stat().st_mode & 0o077 == 0
        raise KeyError("inside the block")
    assert dict(os.environ) == before
    assert_nothing_left(str(second.folder), second.url, second.container_url)
    assert is_listening(endpoint.url)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
@pytest.mark.parametrize("when", ["running", "starting"])
def test_an_ended_owner_leaves_nothing(model_dir, how, when, request):
    tmp_path = Path(tempfile.mkdtemp())  # short, since a socket lies in it: at most 108 bytes
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(model_dir)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not list(tmp_path.glob("rerank-*/server.log")):
        assert owner.poll() is None
        time.sleep(0.05)
    folder, urls = str(next(tmp_path.glob("rerank-*"))), []
    if when == "running":
        folder, *urls = owner.stdout.readline().split()
        assert all(is_listening(url) for url in urls)
    owner.send_signal(how)
    owner.wait(30)
    owner.stdout.close()
    assert_nothing_left(folder, *urls)


@pytest.mark.parametrize("victim", ["supervisor", "java"])
def test_when_a_part_is_killed_the_rest_ends_and_nothing_hangs(model_dir, victim):
    with local_endpoint(model_dir) as running:
        for each in belonging_to(str(running.folder), victim):
            each.kill()
        end = time.monotonic() + 600
        while is_listening(running.url) and time.monotonic() < end:
            time.sleep(0.1)
        client = running.client(retries={"total_max_attempts": 1})
        with pytest.raises(EndpointUnavailable, match="Could not connect"):
            EndpointCrossEncoder(running.name, client=client).score([("a", "b")])
        assert victim == "supervisor" or "ends, as the model server has" in running.log()
    assert_nothing_left(str(running.folder), running.url, running.container_url)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("started", [False, True])
def test_a_front_that_ends_ends_the_endpoint(tmp_path, monkeypatch, capfd, started):
    def run(front, sockets):
        front.started = started
        time.sleep(0.3)
        raise OSError("no more files may be opened")

    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(supervisor, "watch_owner", lambda owner: lambda: False)
    monkeypatch.setattr(supervisor, "start_model_server", lambda *_: server)
    monkeypatch.setattr(supervisor, "why_not_scoring", lambda *_: None)
    supervisor.serve(tmp_path, "reranker", os.getppid(), 1, 60.0, {})
    report, said = capfd.readouterr()
    assert ("problem" in json.loads(report)) is not started
    assert ("its front" in json.loads(report).get("problem", said)) is True
    assert server.poll() is not None


def test_a_setting_that_stops_it_is_named_in_the_error(model_dir, monkeypatch):
    monkeypatch.setenv("RERANKER_MODEL", "of/notebooks")  # is not served, and does not matter
    wrong = {"RERANKER_PRECISION": "int7"}
    said = "(?s)model_fn or transform_fn failed.*RERANKER_PRECISION is 'int7'"
    served = local_endpoint(model_dir, environment=wrong)
    with pytest.raises(EndpointStartError, match=said), served:
        pytest.fail("it should not start")


def test_the_pages_own_code_cannot_answer_langchains_request(model_dir, tmp_path):
    """Served as the LangChain page has it: every request ends in this TypeError."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model, copy_function=os.symlink)
    (model / "code").mkdir()
    (model / "code" / "inference.py").write_text(PAGE)
    said = "unexpected keyword argument 'text_pairs'"
    with pytest.raises(EndpointStartError, match=said), local_endpoint(model):
        pytest.fail("it should not start")


def test_what_no_loader_reads_is_not_served(tmp_path):
    (tmp_path / "model" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("config.json", ".DS_Store", ".ipynb_checkpoints/config-checkpoint.json"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "served").mkdir()
    lay_out(tmp_path / "model", tmp_path / "served")
    served = {path.name for path in (tmp_path / "served" / "model").rglob("*")}
    ours = {Path(name).name for name in CODE_FILES} | {"code", "helpers", "endpoint"}
    assert served == ours | {"config.json"}


def test_a_folder_without_a_model_or_too_deep_for_a_socket_is_refused(
    model_dir, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match="config.json"), local_endpoint(tmp_path):
        pytest.fail("it should not start")
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(EndpointStartError, match="shorter TMPDIR"), local_endpoint(model_dir):
        pytest.fail("it should not start")
    assert not list(deep.iterdir())


def test_the_environment_is_put_back(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("no_proxy", "*")
    before = dict(os.environ)
    with endpoint.environment():
        assert os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] == endpoint.url
        assert os.environ["NO_PROXY"] == "*"  # which would mean less in a list
        assert "AWS_PROFILE" not in os.environ
    assert dict(os.environ) == before
