"""Put the archive on AWS and take everything down again, in plain boto3.

`deploy` uploads, creates model, endpoint configuration and endpoint, waits, and adds autoscaling.
Whatever it makes has one name, PREFIX-8HEXDIGITS, and one tag, so that `delete` needs only that
name and this command finds what an interrupted run has left:

    python -m helpers.endpoint.deploy list
    python -m helpers.endpoint.deploy delete

An endpoint costs money for every second that it exists, asked or not.
"""

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3

from helpers.endpoint.archive import package
from helpers.endpoint.resources import (
    CHANGING,
    PREFIX,
    REGION,
    TAG,
    TAGS,
    Deployment,
    DeploymentError,
    delete,
    redact,
)

ROLE = "SageMakerExecutionRole"  # a role's name, or its ARN
INSTANCE_TYPE = "ml.m5.xlarge"
# AWS publishes its images from this registry in most regions; for the others see
# https://docs.aws.amazon.com/sagemaker/latest/dg-ecr-paths/sagemaker-algo-docker-registry-paths.html
IMAGE = (
    "763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-inference:"
    "2.6.0-transformers5.5.3-cpu-py312-ubuntu22.04"
)


def deploy(
    archive: str | Path,
    *,
    session: boto3.Session | None = None,
    region: str = REGION,
    role: str = ROLE,
    image_uri: str | None = None,
    instance_type: str = INSTANCE_TYPE,
    serverless_mb: int | None = None,
    max_instances: int = 2,
    calls_a_minute: float = 60.0,
    bucket: str | None = None,
    prefix: str = PREFIX,
    environment: dict[str, str] | None = None,
    wait_seconds: float = 1800.0,
    progress: Callable[[str], None] = print,
) -> Deployment:
    """Bring the archive up as an endpoint that answers, and return it.

    serverless_mb: memory of a serverless endpoint, in place of instances.
    max_instances, calls_a_minute: scale out to so many, at so many calls a minute on each.
    bucket: an existing one for the archive; without it one is made, and deleted by `delete`.
    Whatever fails, even Ctrl-C: all that was made is deleted before the error is raised.
    """
    session = session or boto3.Session()
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    made = Deployment(name, region, bucket or name, bucket is None, session)
    sagemaker = made.api("sagemaker")
    try:
        arn = get_role(made, role)
        upload(made, Path(archive), progress)
        progress(f"{name}: creating model, endpoint configuration and endpoint")
        create_model(made, arn, image_uri, environment)
        variant = {"VariantName": "AllTraffic", "ModelName": name}
        if serverless_mb:
            variant["ServerlessConfig"] = {"MemorySizeInMB": serverless_mb, "MaxConcurrency": 5}
        else:
            variant |= {"InstanceType": instance_type, "InitialInstanceCount": 1}
            variant["ContainerStartupHealthCheckTimeoutInSeconds"] = 600
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant], Tags=TAGS
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name, Tags=TAGS)
        wait_in_service(made, wait_seconds, progress)
        if not serverless_mb:
            scale(made, max_instances, calls_a_minute)
        progress(f"{name}: in service, and costs money until it is deleted")
    except BaseException:
        progress(f"{name}: failed, deleting what was made")
        delete(made, progress=progress)
        raise
    return made


def get_role(made: Deployment, role: str) -> str:
    """The ARN of a role, from its name or its ARN."""
    if role.startswith("arn:"):
        return role
    return made.api("iam").get_role(RoleName=role)["Role"]["Arn"]


def upload(made: Deployment, archive: Path, progress: Callable[[str], None]) -> None:
    """The archive to s3://BUCKET/NAME/model.tar.gz, in a bucket that is made if none was given."""
    s3 = made.api("s3")
    if made.own_bucket:
        where = {} if made.region == "us-east-1" else {"LocationConstraint": made.region}
        s3.create_bucket(
            Bucket=made.bucket, **({"CreateBucketConfiguration": where} if where else {})
        )
        s3.put_bucket_tagging(Bucket=made.bucket, Tagging={"TagSet": TAGS})
    progress(f"{made.name}: uploading {archive.stat().st_size / 1e6:.0f} MB")
    tagging = {"Tagging": "&".join(f"{key}={value}" for key, value in TAG.items())}
    s3.upload_file(str(archive), made.bucket, f"{made.name}/model.tar.gz", ExtraArgs=tagging)


def create_model(
    made: Deployment, arn: str, image_uri: str | None, environment: dict[str, str] | None
) -> None:
    """What SageMaker calls a model: the container's image, our archive, and the settings."""
    container = {
        "Image": image_uri or IMAGE.format(region=made.region),
        "ModelDataUrl": f"s3://{made.bucket}/{made.name}/model.tar.gz",
        "Environment": {
            # Unset, the container would ignore inference.py. One worker: each holds the
            # model and computes on all cores; the server's default is one for every core.
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
        }
        | (environment or {}),
    }
    made.api("sagemaker").create_model(
        ModelName=made.name, PrimaryContainer=container, ExecutionRoleArn=arn, Tags=TAGS
    )


def wait_in_service(made: Deployment, seconds: float, progress: Callable[[str], None]) -> None:
    """Until the endpoint is in service, saying every minute that it is not."""
    describe = made.api("sagemaker").describe_endpoint

    def ask() -> dict:
        answer = describe(EndpointName=made.name)
        return answer | {"Status": answer["EndpointStatus"]}

    wait_for(made, ask, "InService", CHANGING, seconds, progress)


def wait_for(
    made: Deployment,
    ask: Callable[[], dict],
    wanted: str,
    changing: set[str],
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Until `ask()["Status"]` is `wanted`; a DeploymentError if it can no longer become so."""
    start, said = time.monotonic(), -60.0
    while True:
        answer = ask()
        waited, status = time.monotonic() - start, answer["Status"]
        if status == wanted:
            return
        if status not in changing:
            reason = redact(answer.get("FailureReason") or "no reason given")
            raise DeploymentError(f"{made.name} is {status}: {reason}")
        if waited > seconds:
            raise DeploymentError(f"{made.name} is still {status} after {waited:.0f} s.")
        if waited - said >= 60:
            said = waited
            progress(f"{made.name}: {status}, {waited:.0f} s")
        time.sleep(5)


def scale(made: Deployment, max_instances: int, calls_a_minute: float) -> None:
    """As many instances as keep each near `calls_a_minute`, at least one."""
    scaling = made.api("application-autoscaling")
    scaling.register_scalable_target(
        **made.scaling, MinCapacity=1, MaxCapacity=max_instances, Tags=TAG
    )
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    scaling.put_scaling_policy(
        **made.scaling,
        PolicyName=made.name,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": calls_a_minute,
            "PredefinedMetricSpecification": metric,
            "ScaleInCooldown": 300,
            "ScaleOutCooldown": 60,
        },
    )


def as_archive(model: str | Path, folder: str | Path) -> Path:
    """An archive as it is, or a model's folder packaged into `folder`."""
    if Path(model).is_dir():
        return package(model, Path(folder) / "model.tar.gz")
    if not Path(model).is_file():
        raise FileNotFoundError(f"{model} is neither a model's folder nor an archive.")
    return Path(model)


@contextlib.contextmanager
def deployed_endpoint(
    model: str | Path, *, progress: Callable[[str], None] = print, **how
) -> Iterator[Deployment]:
    """Deploy a model's folder (or an archive) for the length of a block; `how` goes to deploy."""
    with tempfile.TemporaryDirectory() as folder:
        made = deploy(as_archive(model, folder), progress=progress, **how)
    try:
        yield made
    finally:
        delete(made, progress=progress)


if __name__ == "__main__":
    from helpers.endpoint.leftovers import main

    main()
