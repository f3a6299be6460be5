"""Batch Transform under moto, which only records jobs: the lines go through the container's code.

`Transform` below is SageMaker's side. It takes the input from the bucket and its rules from the
job's own parameters, so what is written, split, read and joined is what AWS would see.
"""

import io
import tarfile
from types import SimpleNamespace

import boto3
import numpy as np
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.sagemaker.models import sagemaker_backends
from test_endpoint_deploy import everything, failing

from helpers.endpoint import batch, client, deploy, inference, leftovers, resources
from helpers.endpoint.batch import batch_transform, read_lines, write_lines
from helpers.endpoint.resources import DeploymentError
from helpers.score import LocalCrossEncoder

ACCOUNT, REGION = "123456789012", "us-east-1"
quiet = {"progress": lambda line: None}


class Transform:
    """Runs what `create_transform_job` asked for, at the second question about it.

    ends: how the job ends; None for one that runs until it is stopped.
    edit: changes an output's bytes. folder: lies between the output's place and its name.
    """

    def __init__(self, session, monkeypatch):
        self.s3, self.sagemaker = session.client("s3"), session.client("sagemaker")
        self.calls, self.questions, self.stopping = [], 0, 0
        self.ends, self.edit, self.folder = "Completed", lambda body: body, ""
        self.model = SimpleNamespace(
            max_pairs=2000, score=lambda pairs: [float(passage) for _, passage in pairs]
        )
        self.real = BaseClient._make_api_call
        monkeypatch.setattr(BaseClient, "_make_api_call", lambda *asked: self.call(*asked))

    @property
    def jobs(self) -> dict:
        return sagemaker_backends[ACCOUNT][REGION].transform_jobs

    @property
    def running(self) -> list[str]:
        return [n for n, j in self.jobs.items() if j.transform_job_status in resources.RUNNING]

    def call(self, client, name, arguments):
        self.calls.append(name)
        job = self.jobs.get(arguments.get("TransformJobName"))
        if name == "StopTransformJob":  # moto has no such operation
            assert job.transform_job_status == "InProgress"
            job.transform_job_status, self.stopping = "Stopping", 3
            return {}
        if name == "DescribeTransformJob" and job:
            self.advance(job)
        answer = self.real(client, name, arguments)
        if name == "CreateTransformJob":
            self.jobs[arguments["TransformJobName"]].transform_job_status = "InProgress"
        return answer

    def advance(self, job) -> None:
        self.questions, self.stopping = self.questions + 1, self.stopping - 1
        if job.transform_job_status == "Stopping" and not self.stopping:
            job.transform_job_status = "Stopped"
        elif job.transform_job_status == "InProgress" and self.questions > 1 and self.ends:
            job.transform_job_status = self.ends
            if self.ends == "Completed":
                self.run(job)

    def run(self, job) -> None:
        assert job.max_payload_in_mb * job.max_concurrent_transforms <= 100
        assert (job.batch_strategy, job.transform_input["SplitType"]) == ("SingleRecord", "Line")
        assert job.transform_output["AssembleWith"] == "Line"
        bucket, prefix = job.transform_input["DataSource"]["S3DataSource"]["S3Uri"][5:].split(
            "/", 1
        )
        found = self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        assert len(found) >= job.transform_resources["InstanceCount"], "an instance would be idle"
        _, place = job.transform_output["S3OutputPath"][5:].split("/", 1)
        for key in (each["Key"] for each in found):
            body = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            answers = [self.answer(job, line) for line in body.removesuffix(b"\n").split(b"\n")]
            if None in answers:
                job.transform_job_status = "Failed"
                job.failure_reason = f"ClientError: see the log of account {ACCOUNT}"
                return
            output = f"{place}/{self.folder}{key.rsplit('/', 1)[1]}.out"
            body = self.edit("".join(f"{answer}\n" for answer in answers).encode())
            self.s3.put_object(Bucket=bucket, Key=output, Body=body)
        self.s3.put_object(Bucket=bucket, Key=f"{place}/.another_file_of_theirs", Body=b"")

    def answer(self, job, line: bytes) -> str | None:
        assert len(line) < job.max_payload_in_mb * 10**6
        statuses = []
        context = SimpleNamespace(set_response_status=lambda code, phrase: statuses.append(code))
        kind, accept = job.transform_input["ContentType"], job.transform_output["Accept"]
        answer = inference.transform_fn(self.model, line, kind, accept, context)
        text = answer if isinstance(answer, str) else answer[0]
        return None if statuses else text


@pytest.fixture(scope="module")
def session():
    """One for all tests: it keeps the parsed descriptions of AWS's services."""
    return boto3.Session("test", "test", region_name=REGION)


@pytest.fixture
def aws(session, monkeypatch):
    """An empty account with the role that batch_transform expects."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with mock_aws():
        session.client("iam").create_role(RoleName=deploy.ROLE, AssumeRolePolicyDocument="{}")
        yield session


@pytest.fixture
def job(aws, monkeypatch):
    return Transform(aws, monkeypatch)


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "small.tar.gz").write_bytes(b"weights")
    return tmp_path / "small.tar.gz"


def numbered(*counts: int) -> list[list[tuple[str, str]]]:
    """Requests whose passages count up from 0: the stand-in's score is that number."""
    ends = np.cumsum(counts)
    return [
        [("a question", str(i)) for i in range(end - count, end)]
        for end, count in zip(ends, counts, strict=True)
    ]


def expected(requests) -> list[list[float]]:
    return [[float(passage) for _, passage in request] for request in requests]


@pytest.mark.slow
def test_scores_are_those_of_the_model_in_this_process(aws, job, model_dir, tmp_path, monkeypatch):
    """What moto received is unpacked, loaded and asked, line after line."""

    def run(started, real=job.run):
        name = started.model_name
        job.s3.download_file(name, f"{name}/model.tar.gz", str(tmp_path / "model.tar.gz"))
        with tarfile.open(tmp_path / "model.tar.gz") as packed:
            packed.extractall(tmp_path / "model", filter="data")
        container = job.sagemaker.describe_model(ModelName=name)["PrimaryContainer"]
        for variable, value in container["Environment"].items():
            monkeypatch.setenv(variable, value)
        job.model = inference.model_fn(str(tmp_path / "model"))
        assert job.model.max_pairs == 7
        real(started)

    job.run = run
    passages = ["a line\nand\r\nanother", "\u2028\u2029 \x85 \x0b", "日本語 😀", "", "x" * 5000]
    requests = [
        [("Who wrote it?", f"{passage} {i}") for i in range(count) for passage in passages]
        for count in (1, 3, 2)
    ]
    scores = batch_transform(
        model_dir,
        (tuple(request) for request in requests),
        session=aws,
        instances=2,
        environment={"RERANKER_MAX_PAIRS": "7"},
        **quiet,
    )
    here = LocalCrossEncoder(model_dir)
    for got, request in zip(scores, requests, strict=True):
        np.testing.assert_allclose(got, here.score(request), atol=1e-5)
    assert everything(aws) == job.running == []


@pytest.mark.parametrize("folder", ["", "input/"])
def test_large_requests_are_split_and_joined_in_order(aws, job, archive, folder):
    """The documentation's example of an output has the input's folder in it; both are read."""
    job.folder = folder
    requests = numbered(20, 4500, 1, 2000, 2001, 3)
    said = []
    scores = batch_transform(
        archive, iter(requests), session=aws, instances=3, progress=said.append
    )
    assert scores == expected(requests)
    assert any("starting 3 ml.m5.xlarge for 9 lines" in line for line in said)
    assert not any(ACCOUNT in line for line in said)
    assert everything(aws) == job.running == []
    assert "StopTransformJob" not in job.calls


def test_all_is_named_tagged_and_in_a_bucket_of_yours_which_stays(aws, job, archive):
    aws.client("s3").create_bucket(Bucket="mine")
    aws.client("s3").put_object(Bucket="mine", Key="rerank-tutorial.txt", Body=b"yours")
    seen = []

    def run(started, real=job.run):
        seen.append(everything(aws))
        kinds = ("transform-job", "model")
        for arn in (
            f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{k}/{started.model_name}" for k in kinds
        ):
            assert job.sagemaker.list_tags(ResourceArn=arn)["Tags"] == resources.TAGS
        model = job.sagemaker.describe_model(ModelName=started.model_name)["PrimaryContainer"]
        assert model["ModelDataUrl"] == f"s3://mine/{started.model_name}/model.tar.gz"
        assert model["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
        assert started.transform_resources == {"InstanceType": "ml.c5.xlarge", "InstanceCount": 2}
        real(started)

    job.run = run
    how = {"bucket": "mine", "instances": 9, "instance_type": "ml.c5.xlarge"}
    assert batch_transform(archive, numbered(2, 1), session=aws, **how, **quiet) == [[0, 1], [2]]
    (names,) = seen
    assert len(names) == 6  # the model, your bucket and your file, the archive, two inputs
    assert everything(aws) == ["mine", "rerank-tutorial.txt"]


def test_a_job_that_fails_says_why_and_leaves_nothing(aws, job, archive):
    job.model.max_pairs = 3  # so that the container refuses the second line
    words = "is Failed: ClientError: see the log of account ACCOUNT .*CloudWatch.*TransformJobs"
    with pytest.raises(DeploymentError, match=words):
        batch_transform(archive, numbered(3, 4), session=aws, **quiet)
    assert everything(aws) == job.running == []


def test_a_job_that_somebody_stops_is_an_error(aws, job, archive):
    job.ends = "Stopped"
    with pytest.raises(DeploymentError, match="is Stopped: no reason given"):
        batch_transform(archive, numbered(3), session=aws, **quiet)
    assert everything(aws) == job.running == []


def test_ctrl_c_while_waiting_stops_the_job_and_leaves_nothing(aws, job, archive, monkeypatch):
    job.ends, presses, said = None, [KeyboardInterrupt()], []

    def sleep(seconds):
        if presses:
            raise presses.pop()

    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        batch_transform(archive, numbered(3), session=aws, progress=said.append)
    assert job.calls.count("StopTransformJob") == 1
    assert any("Stopping; what it uses can be deleted after that" in line for line in said)
    assert [each.transform_job_status for each in job.jobs.values()] == ["Stopped"]
    assert everything(aws) == []


def test_a_job_that_takes_too_long_is_stopped(aws, job, archive):
    job.ends = None
    with pytest.raises(DeploymentError, match="still InProgress"):
        batch_transform(archive, numbered(3), session=aws, wait_seconds=-1.0, **quiet)
    assert everything(aws) == job.running == []


STEPS = [
    "GetRole",
    "CreateBucket",
    "PutObject",
    "CreateModel",
    "CreateTransformJob",
    "HeadObject",
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", STEPS)
def test_a_failure_half_way_leaves_nothing(aws, job, archive, monkeypatch, operation, after):
    with monkeypatch.context() as patch:
        failing(patch, operation, after)
        with pytest.raises((ClientError, S3UploadFailedError)):
            batch_transform(archive, numbered(3), session=aws, **quiet)
    assert everything(aws) == job.running == []


def test_a_job_that_ends_before_it_can_be_stopped_is_no_error(aws, job, archive, monkeypatch):
    monkeypatch.setattr(deploy, "wait_for", lambda *_: 1 / 0)
    real = job.call

    def call(client, name, arguments):
        if name == "StopTransformJob":
            for started in job.jobs.values():
                started.transform_job_status = "Completed"
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "status"}}, name)
        return real(client, name, arguments)

    job.call = call
    with pytest.raises(ZeroDivisionError):
        batch_transform(archive, numbered(3), session=aws, **quiet)
    assert everything(aws) == job.running == []


@pytest.mark.parametrize("bucket", [None, "mine"])
def test_what_an_interrupted_run_left_is_found_and_deleted(
    aws, job, archive, monkeypatch, capsys, bucket
):
    job.ends = None
    aws.client("s3").create_bucket(Bucket="mine")
    with monkeypatch.context() as patch:
        patch.setattr(resources, "delete", lambda *_, **__: None)  # killed, say
        patch.setattr(deploy, "wait_for", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batch_transform(archive, numbered(3), session=aws, bucket=bucket, **quiet)
    (name,) = job.running
    place = bucket or name
    aws.client("s3").put_object(Bucket=place, Key=f"{name}/output/000.jsonl.out", Body=b"{}")
    options = ["--bucket", bucket] if bucket else []
    leftovers.main(["list", *options], aws)
    kind = "archive" if bucket else "bucket"
    assert capsys.readouterr().out == f"{name}: batch job, model, {kind}\n"
    with monkeypatch.context() as patch:
        failing(patch, "StopTransformJob", False)
        with pytest.raises(SystemExit, match=f"{name} left batch job .*helpers.endpoint.deploy"):
            leftovers.main(["delete", *options], aws)
    leftovers.main(["delete", *options], aws)
    assert everything(aws) == ["mine"]
    assert job.running == []
    assert leftovers.find(session=aws, bucket=bucket) == {}


def test_scores_are_not_lost_if_something_cannot_be_deleted(aws, job, archive, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "DeleteModel", False)
        with pytest.warns(UserWarning, match="left model .*helpers.endpoint.deploy delete"):
            scores = batch_transform(archive, numbered(3), session=aws, **quiet)
    assert scores == [[0, 1, 2]]
    leftovers.main(["delete"], aws)
    assert everything(aws) == []


def test_a_line_that_is_missing_is_named_and_nothing_is_left(aws, job, archive):
    job.edit = lambda body: body[: body[:-1].rindex(b"\n") + 1]  # without the last line
    words = "request 2, pairs 0 to 3: .* line 3 of 000.jsonl.out: nothing"
    with pytest.raises(DeploymentError, match=words):
        batch_transform(archive, numbered(3, 2, 4), session=aws, **quiet)
    assert everything(aws) == job.running == []


def test_an_output_that_is_missing_is_an_error(aws, job, archive):
    job.run = lambda started: None
    with pytest.raises(DeploymentError, match="Completed, but there is no 000.jsonl.out"):
        batch_transform(archive, numbered(3), session=aws, **quiet)
    assert everything(aws) == []


GOOD = b'{"scores": [0.5, 1.5]}'


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b'{"scores": [0.5]}', "1 scores came for 2 pairs"),
        (b'{"scores": [0.5, 1.5, 2.5]}', "3 scores came for 2 pairs"),
        (b'{"scores": [0.5, NaN]}', "not a finite number"),
        (b'{"scores": [0.5, null]}', "no JSON"),
        (b'{"error": "the model failed"}', "no JSON .*the model failed"),
        (b'{"scores": [0.5', "no JSON"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_bad_line_is_named(bad, words):
    requests = numbered(2, 2, 4, 2)
    lines = write_lines(requests, [io.BytesIO()], max_pairs=2)
    assert read_lines([[GOOD] * 5], lines) == [[0.5, 1.5], [0.5, 1.5], [0.5, 1.5] * 2, [0.5, 1.5]]
    two = write_lines(requests, [io.BytesIO(), io.BytesIO()], max_pairs=2)
    with pytest.raises(DeploymentError, match=f"request 2, pairs 2 to 3: .*{words}.*") as error:
        read_lines([[GOOD] * 3, [GOOD, bad]], two)
    assert "line 2 of 001.jsonl.out" in str(error.value)
    with pytest.raises(DeploymentError, match="6 answers came for 5 lines"):
        read_lines([[GOOD] * 6], lines)


def test_lines_hold_what_a_request_may():
    assert inference.setting("RERANKER_MAX_PAIRS", batch.MAX_PAIRS) == batch.MAX_PAIRS
    files = [io.BytesIO(), io.BytesIO()]
    requests = [*numbered(4500), [("é", "x" * 1_000_000)] * 10, *numbered(1)]
    lines = write_lines(requests, files, max_pairs=batch.MAX_PAIRS)
    assert [(n, part.pairs) for _, n, part in lines] == [
        (0, range(2000)),
        (0, range(2000, 4000)),
        (0, range(4000, 4500)),
        (1, range(5)),
        (1, range(5, 10)),
        (2, range(1)),
    ]
    written = [file.getvalue().splitlines() for file in files]
    sizes = [sum(map(len, file)) for file in written]
    assert abs(sizes[0] - sizes[1]) <= client.MAX_BYTES  # a line goes to the shorter file
    waiting = [list(file) for file in written]
    joined = [[], [], []]
    for file, number, part in lines:
        line = waiting[file].pop(0)
        assert len(line) <= client.MAX_BYTES < batch.PAYLOAD_MB * 10**6
        pairs = inference.read_pairs(line, batch.MAX_PAIRS)
        assert len(pairs) == len(part.pairs)
        joined[number] += pairs
    assert joined == requests
    assert not any(waiting)


def test_machines_get_as_much_work_as_each_other():
    files = [io.BytesIO(), io.BytesIO()]
    write_lines(numbered(*[2001] * 20), files, max_pairs=2000)  # lines of 2,000 and of 1
    sizes = [len(file.getvalue()) for file in files]
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize(
    ("requests", "error", "words"),
    [
        ([], ValueError, "no requests"),
        ([[("q", "p")], []], ValueError, "request 1: it is empty"),
        ([[("q", "p")], [("q", "p"), ("q", None)]], TypeError, "request 1: pair 1 is"),
        ([[("q", "p", "r")]], TypeError, "request 0: pair 0 is"),
        ([["qp"]], TypeError, "request 0: pair 0 is 'qp'"),
        ([("q", "p")], TypeError, "request 0: pair 0 is 'q'"),
        ([[("q", "p")], 7], TypeError, "request 1: 'int' object is not iterable"),
        ([[("q", "a \ud800")]], ValueError, "request 0: pair 0 has a lone surrogate"),
        ([[("q", "p"), ("q", "x" * 6_000_000)]], ValueError, "request 0: pairs 1 to 1: 6,000,"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(archive, requests, error, words):
    with pytest.raises(error, match=words):
        batch_transform(archive, requests, session=object(), **quiet)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"instances": 0}, ValueError, "instances is 0"),
        ({"environment": {"RERANKER_MAX_PAIRS": "0"}}, ValueError, "RERANKER_MAX_PAIRS is 0"),
        ({"environment": {"RERANKER_MAX_PAIRS": "many"}}, ValueError, "is many: expected"),
        ({"model": "nowhere"}, FileNotFoundError, "nowhere is neither"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(archive, how, error, words):
    how = {"model": archive, "requests": numbered(1), "session": object()} | how
    with pytest.raises(error, match=words):
        batch_transform(**how, **quiet)
