"""Deployment under moto: all of it is made, all of it goes, whatever fails on the way."""

import tarfile
from types import SimpleNamespace

import boto3
import httpx
import numpy as np
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

import helpers.endpoint.deploy as module
from helpers.endpoint import resources
from helpers.endpoint.archive import CODE_FILES, package
from helpers.endpoint.deploy import deploy, deployed_endpoint
from helpers.endpoint.resources import DeploymentError, delete, find, main

pytestmark = pytest.mark.slow

ACCOUNT = "123456789012"
quiet = {"progress": lambda line: None}


@pytest.fixture(scope="module")
def session():
    """One for all tests: it keeps the parsed descriptions of AWS's services."""
    return boto3.Session("test", "test", region_name="us-east-1")


@pytest.fixture
def aws(session, monkeypatch):
    """An empty account with the role that deploy expects."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with mock_aws():
        session.client("iam").create_role(RoleName=module.ROLE, AssumeRolePolicyDocument="{}")
        yield session


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "small.tar.gz").write_bytes(b"weights")
    return tmp_path / "small.tar.gz"


SCALING = "application-autoscaling"
LISTINGS = [
    ("sagemaker", "list_endpoints", "Endpoints", "EndpointName"),
    ("sagemaker", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName"),
    ("sagemaker", "list_models", "Models", "ModelName"),
    (SCALING, "describe_scalable_targets", "ScalableTargets", "ResourceId"),
    (SCALING, "describe_scaling_policies", "ScalingPolicies", "PolicyName"),
    ("s3", "list_buckets", "Buckets", "Name"),
]


def everything(session) -> list[str]:
    """The names of whatever exists in the account, whoever made it."""
    found, s3 = [], session.client("s3")
    for service, listing, items, name in LISTINGS:
        how = {"ServiceNamespace": "sagemaker"} if service == SCALING else {}
        found += [each[name] for each in getattr(session.client(service), listing)(**how)[items]]
    for bucket in s3.list_buckets()["Buckets"]:
        files = s3.list_objects_v2(Bucket=bucket["Name"])
        found += [each["Key"] for each in files.get("Contents", [])]
    return found


def failing(monkeypatch, operation: str, after: bool = False, error=None) -> None:
    """Let one AWS operation fail, before it takes effect or after (its answer was lost)."""
    real = BaseClient._make_api_call

    def call(client, name, arguments):
        if name != operation:
            return real(client, name, arguments)
        if after:
            real(client, name, arguments)
        raise error or ClientError({"Error": {"Code": "Broken", "Message": "broken"}}, name)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


def statuses(monkeypatch, *told: str) -> None:
    """Let AWS tell these of the endpoint, the last one for good; its clock runs as we sleep."""
    real, told, clock = BaseClient._make_api_call, list(told), [0.0]

    def call(client, name, arguments):
        answer = real(client, name, arguments)
        if name == "DescribeEndpoint":
            answer["EndpointStatus"] = told.pop(0) if len(told) > 1 else told[0]
            answer["FailureReason"] = f"no image in account {ACCOUNT}"
        return answer

    def sleep(seconds):
        clock[0] += seconds

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    time = SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0])
    monkeypatch.setattr(resources, "time", time)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """Whatever an editor, a file manager or a training run has left beside the model."""
    for name, left in [("one", ".DS_Store"), ("two", "optimizer.pt")]:
        folder = tmp_path / name
        for file in ("model.safetensors", "config.json", "2_Dense/config.json", "chat.jinja"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(file)
        (folder / left).write_text(left)
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / ".ipynb_checkpoints" / "config-checkpoint.json").touch()
    archives = [package(tmp_path / "one", tmp_path / "a.tar.gz")]
    (tmp_path / "two" / "config.json").chmod(0o600)
    archives.append(package(tmp_path / "two", tmp_path / "b.tar.gz"))
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(tmp_path / "b.tar.gz") as packed:
        assert all(entry.mtime == 0 and entry.uid == 0 for entry in packed)
        code = sorted(f"code/{name}" for name in CODE_FILES)
        assert len(code) == 12 and "code/helpers/endpoint/scorer.py" in code
        model = ["config.json", "model.safetensors"]
        assert packed.getnames() == ["2_Dense/config.json", "chat.jinja", *code, *model]


def test_what_is_no_model_is_refused_before_anything_is_made(aws, tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        deploy(tmp_path, session=aws, **quiet)
    with pytest.raises(FileNotFoundError, match="nowhere is neither"):
        deploy(tmp_path / "nowhere", session=aws, **quiet)
    assert everything(aws) == []


def test_all_is_made_named_tagged_and_deleted(aws, archive):
    said = []
    made = deploy(archive, session=aws, progress=said.append)
    names = everything(aws)
    assert len(names) == 7
    assert all(made.name in name for name in names)
    sagemaker, s3 = aws.client("sagemaker"), aws.client("s3")
    for kind in ("endpoint", "endpoint-config", "model"):
        arn = f"arn:aws:sagemaker:us-east-1:{ACCOUNT}:{kind}/{made.name}"
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == resources.TAGS
    assert s3.get_bucket_tagging(Bucket=made.bucket)["TagSet"] == resources.TAGS
    key = f"{made.name}/model.tar.gz"
    assert s3.get_object_tagging(Bucket=made.bucket, Key=key)["TagSet"] == resources.TAGS
    container = sagemaker.describe_model(ModelName=made.name)["PrimaryContainer"]
    expected = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_MODEL_SERVER_WORKERS": "8"}
    assert container["Environment"] == expected
    delete(made, progress=said.append)
    assert everything(aws) == []
    delete(made, progress=said.append)  # and once more is no error
    assert not any(ACCOUNT in line for line in said)


def test_serverless_has_memory_no_autoscaling_and_a_bucket_of_yours_stays(aws, archive):
    aws.client("s3").create_bucket(Bucket="mine")
    made = deploy(archive, session=aws, serverless_mb=4096, bucket="mine", **quiet)
    config = aws.client("sagemaker").describe_endpoint_config(EndpointConfigName=made.name)
    assert config["ProductionVariants"][0]["ServerlessConfig"]["MemorySizeInMB"] == 4096
    kinds = ["endpoint", "endpoint configuration", "model", "archive"]
    assert find(bucket="mine", session=aws) == {made.name: kinds}
    delete(made, **quiet)
    assert everything(aws) == ["mine"]


STEPS = "GetRole CreateBucket PutBucketTagging PutObject CreateModel CreateEndpointConfig"
STEPS += " CreateEndpoint RegisterScalableTarget PutScalingPolicy"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", STEPS.split())
def test_a_failure_half_way_leaves_nothing(aws, archive, monkeypatch, operation, after):
    with monkeypatch.context() as patch:
        failing(patch, operation, after)
        with pytest.raises((ClientError, S3UploadFailedError)):
            deploy(archive, session=aws, **quiet)
    assert everything(aws) == []


def test_ctrl_c_leaves_nothing(aws, archive, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "RegisterScalableTarget", True, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            deploy(archive, session=aws, **quiet)
    assert everything(aws) == []


def test_an_endpoint_that_fails_says_why_and_goes(aws, archive, monkeypatch):
    statuses(monkeypatch, "Creating", "Creating", "Failed", "Updating", "Failed")
    said = []
    with pytest.raises(DeploymentError, match="is Failed: no image in account ACCOUNT"):
        deploy(archive, session=aws, progress=said.append)
    assert everything(aws) == []
    assert sum(": Creating, waiting" in line for line in said) == 1  # once a minute
    assert sum(": Updating, waiting" in line for line in said) == 1  # before it was deleted


def test_an_endpoint_that_never_comes_up_is_given_up(aws, archive, monkeypatch):
    statuses(monkeypatch, "Creating")
    with pytest.raises(DeploymentError, match="still Creating after 100 s"):
        deploy(archive, session=aws, wait_seconds=100.0, **quiet)
    assert everything(aws) == []


DELETIONS = "DeleteScalingPolicy DeregisterScalableTarget DeleteEndpoint DeleteEndpointConfig"
DELETIONS += " DeleteModel DeleteObject"


@pytest.mark.parametrize("operation", DELETIONS.split())
def test_what_could_not_be_deleted_is_named_found_and_deleted(aws, archive, monkeypatch, operation):
    made = deploy(archive, session=aws, **quiet)
    with monkeypatch.context() as patch:
        failing(patch, operation)
        with pytest.raises(DeploymentError, match=f"{made.name} left .*helpers.endpoint.deploy"):
            delete(made, **quiet)
    assert everything(aws) != []
    assert made.name in find(session=aws)
    main(["delete"], aws)
    assert everything(aws) == []


def test_the_command_lists_and_deletes_what_is_ours_alone(aws, archive, capsys):
    others = ["rerank-tutorial-deadbeef", "someone-elses-model"]  # ours in name, or not at all
    for name in others:
        role, image = f"arn:aws:iam::{ACCOUNT}:role/any", {"Image": "i"}
        aws.client("sagemaker").create_model(
            ModelName=name, ExecutionRoleArn=role, PrimaryContainer=image
        )
    aws.client("s3").create_bucket(Bucket="rerank-tutorial-0000beef")  # without any tag
    made = deploy(archive, session=aws, **quiet)
    far = deploy(archive, session=aws, region="eu-west-1", **quiet)
    main(["list"], aws)
    kinds = "endpoint, endpoint configuration, model, scaling policy, scalable target, bucket"
    assert capsys.readouterr().out == f"{made.name}: {kinds}\n"
    main(["delete"], aws)
    assert far.client().meta.region_name == "eu-west-1"
    assert len(find(region="eu-west-1", session=aws)[far.name]) == 6
    main(["delete", "--region", "eu-west-1"], aws)
    assert sorted(everything(aws)) == ["rerank-tutorial-0000beef", *others]
    capsys.readouterr()
    main(["list"], aws)
    assert capsys.readouterr().out == "Nothing named rerank-tutorial-* is left in us-east-1.\n"


@pytest.mark.parametrize("operation", ["ListEndpoints", "ListTags"])
def test_the_command_says_what_it_may_not_do_without_an_account_number(
    aws, archive, monkeypatch, operation
):
    """What it may not ask about could be ours: it does not say that nothing is left."""
    deploy(archive, session=aws, **quiet)
    said = f"User arn:aws:iam::{ACCOUNT}:user/me is not authorized"
    denied = {"Error": {"Code": "AccessDenied", "Message": said}}
    failing(monkeypatch, operation, error=ClientError(denied, operation))
    with pytest.raises(SystemExit, match="iam::ACCOUNT:user/me"):
        main(["list"], aws)


def test_the_block_always_deletes_and_the_two_halves_meet(
    aws, model_dir, tmp_path, reference, monkeypatch
):
    """What moto received, unpacked, is what the real server serves, with its own code."""
    from helpers.endpoint.local import local_endpoint

    with pytest.raises(KeyError), deployed_endpoint(model_dir, session=aws, **quiet) as made:
        key = f"{made.name}/model.tar.gz"
        aws.client("s3").download_file(made.bucket, key, str(tmp_path / "model.tar.gz"))
        raise KeyError("inside the block")
    assert everything(aws) == []
    monkeypatch.undo()
    with tarfile.open(tmp_path / "model.tar.gz") as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    pairs = [["a question", f"passage {i}"] for i in range(5)]
    with local_endpoint(tmp_path / "unpacked") as running:
        served = running.folder / "model" / "code" / "inference.py"
        assert served.resolve().is_relative_to(tmp_path)
        url, request = f"{running.container_url}/invocations", {"text_pairs": pairs}
        answer = httpx.post(url, json=request, timeout=600)
    np.testing.assert_allclose(answer.json()["scores"], reference.score(pairs), atol=1e-5)
