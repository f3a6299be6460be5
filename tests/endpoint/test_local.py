"""The local endpoint starts, says why when it does not, and leaves nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.endpoint.local import EndpointStartError, local_endpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
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

class CrossEncoder:
    def __call__(self, pairs):
        return {"scores": [0.0 for _ in pairs]}

def model_fn(model_dir):
    return CrossEncoder()

def transform_fn(cross_encoder, input_data, content_type, accept):
    payload = json.loads(input_data)
    return json.dumps(cross_encoder(**payload))
"""


def belonging_to(folder: str) -> list[psutil.Process]:
    """Every process that names the folder on its command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def is_listening(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


def what_is_left(folder: str, *urls: str) -> list:
    ports = [url for url in urls if is_listening(url)]
    return [*belonging_to(folder), *filter(os.path.exists, [folder]), *ports]


def assert_nothing_left(folder: str, *urls: str) -> None:
    end = time.monotonic() + 20
    while (left := what_is_left(folder, *urls)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


def test_two_run_side_by_side_and_an_exception_ends_only_its_own(model_dir, endpoint):
    with pytest.raises(KeyError), local_endpoint(model_dir, name="second") as second:
        request = {"Body": b'{"pairs": [["a", "b"]]}', "ContentType": "application/json"}
        answers = [
            json.load(each.client().invoke_endpoint(EndpointName=each.name, **request)["Body"])
            for each in (endpoint, second)
        ]
        assert answers[0] == answers[1]
        assert belonging_to(str(second.folder))
        assert second.folder.stat().st_mode & 0o077 == 0
        raise KeyError("inside the block")
    assert_nothing_left(str(second.folder), second.url, second.container_url)
    assert is_listening(endpoint.url)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_an_ended_owner_leaves_nothing(model_dir, how):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(model_dir)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder, *urls = owner.stdout.readline().split()
    assert all(is_listening(url) for url in urls)
    owner.send_signal(how)
    owner.wait(30)
    owner.stdout.close()
    assert_nothing_left(folder, *urls)


def test_a_killed_supervisor_leaves_nothing_after_the_block(model_dir):
    with local_endpoint(model_dir) as running:
        supervisors = [
            each
            for each in belonging_to(str(running.folder))
            if "supervisor" in str(each.cmdline())
        ]
        for each in supervisors:
            each.kill()
        assert supervisors
    assert_nothing_left(str(running.folder), running.url, running.container_url)


def test_interrupted_while_it_starts_it_leaves_nothing(model_dir, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(model_dir)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("rerank-*/server.log")):
        time.sleep(0.05)
    folder = next(tmp_path.glob("rerank-*"))
    owner.send_signal(signal.SIGINT)
    owner.wait(30)
    assert_nothing_left(str(folder))


def test_a_setting_that_stops_it_is_named_in_the_error(model_dir):
    wrong = {"RERANKER_PRECISION": "int7"}
    with (
        pytest.raises(EndpointStartError, match="RERANKER_PRECISION is 'int7'") as error,
        local_endpoint(model_dir, environment=wrong),
    ):
        pytest.fail("it should not start")
    assert "model_fn or transform_fn failed" in str(error.value)


def test_the_pages_own_code_cannot_answer_langchains_request(model_dir, tmp_path):
    """Served as the LangChain page has it: every request ends in this TypeError."""
    shutil.copytree(model_dir, tmp_path / "model", copy_function=os.symlink)
    (tmp_path / "model" / "code").mkdir()
    (tmp_path / "model" / "code" / "inference.py").write_text(PAGE)
    expected = "unexpected keyword argument 'text_pairs'"
    with (
        pytest.raises(EndpointStartError, match=expected),
        local_endpoint(tmp_path / "model"),
    ):
        pytest.fail("it should not start")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"), local_endpoint(tmp_path):
        pytest.fail("it should not start")


def test_a_folder_too_deep_for_a_socket_is_refused(model_dir, tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(EndpointStartError, match="shorter TMPDIR"), local_endpoint(model_dir):
        pytest.fail("it should not start")
    assert not list(deep.iterdir())


def test_the_environment_is_put_back(endpoint, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with endpoint.environment():
        assert os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] == endpoint.url
        assert "AWS_PROFILE" not in os.environ
    assert os.environ["AWS_PROFILE"] == "mine"
    assert "AWS_ACCESS_KEY_ID" not in os.environ
    assert "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME" not in os.environ
