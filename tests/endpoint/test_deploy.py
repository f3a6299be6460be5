"""Deployment under moto: all of it is made, all of it goes, whatever fails on the way."""

import tarfile

import boto3
import httpx
import numpy as np
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from moto import mock_aws

from helpers.endpoint import deploy as module
from helpers.endpoint import leftovers, resources
from helpers.endpoint.deploy import deploy, deployed_endpoint, package
from helpers.endpoint.resources import Deployment, DeploymentError, delete

pytestmark = pytest.mark.slow

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
        iam = session.client("iam")
        iam.create_role(RoleName=module.ROLE, AssumeRolePolicyDocument="{}")
        yield session


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "small.tar.gz").write_bytes(b"weights")
    return tmp_path / "small.tar.gz"


def everything(session) -> list[str]:
    """The names of whatever exists in the account, whoever made it."""
    sagemaker, s3 = session.client("sagemaker"), session.client("s3")
    scaling = session.client("application-autoscaling")
    buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    return [
        *(each["EndpointName"] for each in sagemaker.list_endpoints()["Endpoints"]),
        *(each["EndpointConfigName"]
          for each in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(each["ModelName"] for each in sagemaker.list_models()["Models"]),
        *(each["ResourceId"] for each in scaling.describe_scalable_targets(
            ServiceNamespace="sagemaker")["ScalableTargets"]),
        *(each["PolicyName"] for each in scaling.describe_scaling_policies(
            ServiceNamespace="sagemaker")["ScalingPolicies"]),
        *buckets,
        *(each["Key"] for bucket in buckets
          for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])),
    ]  # fmt: skip


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name, left_by_training in [("one", "README.md"), ("two", "optimizer.pt")]:
        folder = tmp_path / name
        (folder / "2_Dense").mkdir(parents=True)
        for file in ("model.safetensors", "config.json", "2_Dense/config.json", "README.md"):
            (folder / file).write_text(file)
        (folder / left_by_training).write_text("README.md")
        (folder / ".cache").mkdir()
        (folder / ".cache" / "lock").touch()
    archives = [package(tmp_path / "one", tmp_path / "a.tar.gz")]
    (tmp_path / "two" / "config.json").chmod(0o600)
    archives.append(package(tmp_path / "two", tmp_path / "b.tar.gz"))
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(tmp_path / "b.tar.gz") as packed:
        names = packed.getnames()
        assert all(entry.mtime == 0 and entry.uid == 0 for entry in packed)
    assert {"code/inference.py", "code/requirements.txt", "config.json"} <= set(names)
    assert "optimizer.pt" not in names
    assert names == sorted(names)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="safetensors"):
        package(tmp_path, tmp_path / "a.tar.gz")


def test_all_is_made_named_tagged_and_deleted(aws, archive):
    said = []
    made = deploy(archive, session=aws, progress=said.append)
    names = everything(aws)
    assert len(names) == 7
    assert all(made.name in name for name in names)
    sagemaker, s3 = aws.client("sagemaker"), aws.client("s3")
    for kind in ("endpoint", "endpoint-config", "model"):
        arn = f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/{made.name}"
        assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == resources.TAGS
    assert s3.get_bucket_tagging(Bucket=made.bucket)["TagSet"] == resources.TAGS
    key = f"{made.name}/model.tar.gz"
    assert s3.get_object_tagging(Bucket=made.bucket, Key=key)["TagSet"] == resources.TAGS
    container = sagemaker.describe_model(ModelName=made.name)["PrimaryContainer"]
    assert container["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
    delete(made, progress=said.append)
    assert everything(aws) == []
    delete(made, progress=said.append)  # and once more is no error
    assert not any("123456789012" in line for line in said)


def test_serverless_has_memory_and_no_autoscaling(aws, archive):
    made = deploy(archive, session=aws, serverless_mb=4096, **quiet)
    config = aws.client("sagemaker").describe_endpoint_config(EndpointConfigName=made.name)
    assert config["ProductionVariants"][0]["ServerlessConfig"]["MemorySizeInMB"] == 4096
    assert len(everything(aws)) == 5
    delete(made, **quiet)
    assert everything(aws) == []


def test_a_bucket_of_yours_stays(aws, archive):
    aws.client("s3").create_bucket(Bucket="mine")
    made = deploy(archive, session=aws, bucket="mine", **quiet)
    assert leftovers.find(bucket="mine", session=aws)[made.name][-1] == "archive"
    delete(made, **quiet)
    assert everything(aws) == ["mine"]


def failing(monkeypatch, operation: str, after: bool, error: BaseException | None = None) -> None:
    """Let one AWS operation fail, before it takes effect or after (its answer was lost)."""
    real = BaseClient._make_api_call

    def call(client, name, arguments):
        if name != operation:
            return real(client, name, arguments)
        if after:
            real(client, name, arguments)
        raise error or ClientError({"Error": {"Code": "Broken", "Message": "broken"}}, name)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


STEPS = [
    "GetRole",
    "CreateBucket",
    "PutBucketTagging",
    "PutObject",
    "CreateModel",
    "CreateEndpointConfig",
    "CreateEndpoint",
    "DescribeEndpoint",
    "RegisterScalableTarget",
    "PutScalingPolicy",
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", STEPS)
def test_a_failure_half_way_leaves_nothing(aws, archive, monkeypatch, operation, after):
    with monkeypatch.context() as patch:
        # The step's own deletion needs DescribeEndpoint too: let that fail in deploy alone.
        if operation == "DescribeEndpoint":
            patch.setattr(module, "wait_in_service", lambda *_: 1 / 0)
            kind = ZeroDivisionError
        else:
            failing(patch, operation, after)
            kind = (ClientError, S3UploadFailedError)
        with pytest.raises(kind):
            deploy(archive, session=aws, **quiet)
    assert everything(aws) == []


def test_ctrl_c_leaves_nothing(aws, archive, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "RegisterScalableTarget", True, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            deploy(archive, session=aws, **quiet)
    assert everything(aws) == []


def test_an_endpoint_that_fails_says_why_and_goes(aws, archive, monkeypatch):
    real = BaseClient._make_api_call
    statuses = iter(["Creating", "Creating", "Failed", "Creating", "Failed"])

    def call(client, name, arguments):
        answer = real(client, name, arguments)
        if name == "DescribeEndpoint":
            answer["EndpointStatus"] = next(statuses)
            answer["FailureReason"] = "no image in account 123456789012"
        return answer

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    said = []
    with pytest.raises(DeploymentError, match="is Failed: no image in account ACCOUNT"):
        deploy(archive, session=aws, progress=said.append)
    assert everything(aws) == []
    assert next(statuses, None) is None
    assert any("Creating; it can be deleted after that" in line for line in said)


def test_an_endpoint_that_never_comes_up_is_given_up(aws, archive, monkeypatch):
    monkeypatch.setattr(resources, "CHANGING", set())
    monkeypatch.setattr(module, "CHANGING", {"InService", "Creating"})
    real = BaseClient._make_api_call

    def call(client, name, arguments):
        answer = real(client, name, arguments)
        return answer | {"EndpointStatus": "Creating"} if name == "DescribeEndpoint" else answer

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    with pytest.raises(DeploymentError, match="still Creating"):
        deploy(archive, session=aws, wait_seconds=0.0, **quiet)
    assert everything(aws) == []


DELETIONS = [
    "DeleteScalingPolicy",
    "DeregisterScalableTarget",
    "DeleteEndpoint",
    "DeleteEndpointConfig",
    "DeleteModel",
    "DeleteObject",
]


@pytest.mark.parametrize("operation", DELETIONS)
def test_what_could_not_be_deleted_is_named_found_and_deleted(
    aws, archive, monkeypatch, capsys, operation
):
    made = deploy(archive, session=aws, **quiet)
    with monkeypatch.context() as patch:
        failing(patch, operation, False)
        with pytest.raises(DeploymentError, match=f"{made.name} left .*helpers.endpoint.deploy"):
            delete(made, **quiet)
    assert everything(aws) != []
    assert made.name in leftovers.find(session=aws)
    leftovers.main(["delete"], aws)
    assert everything(aws) == []


def test_the_command_lists_and_deletes_what_is_ours_alone(aws, archive, capsys):
    sagemaker = aws.client("sagemaker")
    others = ["rerank-tutorial-deadbeef", "someone-elses-model"]  # ours in name, or not at all
    for name in others:
        arn = "arn:aws:iam::123456789012:role/any"
        sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=arn, PrimaryContainer={"Image": "i"}
        )
    made = deploy(archive, session=aws, **quiet)
    leftovers.main(["list"], aws)
    kinds = "endpoint, endpoint configuration, model, scaling policy, scalable target, bucket"
    assert capsys.readouterr().out == f"{made.name}: {kinds}\n"
    leftovers.main(["delete"], aws)
    assert sorted(everything(aws)) == others
    leftovers.main(["list"], aws)
    assert capsys.readouterr().out.endswith(
        "Nothing named rerank-tutorial-* is left in us-east-1.\n"
    )


def test_the_command_says_what_it_could_not_do_without_an_account_number(aws, monkeypatch):
    said = "User arn:aws:iam::123456789012:user/me is not authorized"
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": said}}, "ListEndpoints")
    failing(monkeypatch, "ListEndpoints", False, denied)
    with pytest.raises(SystemExit, match="iam::ACCOUNT:user/me"):
        leftovers.main(["list"], aws)


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
        request = {"text_pairs": pairs}
        answer = httpx.post(f"{running.container_url}/invocations", json=request)
    np.testing.assert_allclose(answer.json()["scores"], reference.score(pairs), atol=1e-5)


def test_a_deployment_gives_the_client_that_the_cross_encoder_takes(aws):
    made = Deployment("name", "eu-west-1", "bucket", False, aws)
    assert made.client().meta.region_name == "eu-west-1"
    assert made.client().meta.service_model.service_name == "sagemaker-runtime"
