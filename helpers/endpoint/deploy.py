"""Put the archive on AWS and take everything down again, in plain boto3.

`deploy` uploads, creates model, endpoint configuration and endpoint, waits, and adds autoscaling.
`delete` needs only the name, and this command finds what an interrupted run has left:

    python -m helpers.endpoint.deploy list
    python -m helpers.endpoint.deploy delete

An endpoint costs money for every second that it exists, asked or not.
"""

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3

import helpers.endpoint.resources as aws
from helpers.endpoint.archive import package
from helpers.endpoint.resources import PREFIX, REGION, TAGS, Deployment, DeploymentError, delete

ROLE = "SageMakerExecutionRole"  # a role's name, or its ARN
INSTANCE_TYPE = "ml.m5.xlarge"
# AWS publishes its images from this registry in most regions; for the others see
# https://docs.aws.amazon.com/sagemaker/latest/dg-ecr-paths/sagemaker-algo-docker-registry-paths.html
IMAGE = (
    "763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-inference:"
    "2.6.0-transformers5.5.3-cpu-py312-ubuntu22.04"
)


def deploy(
    model: str | Path,
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
    """Bring a model's folder, or its archive, up as an endpoint that answers, and return it.

    serverless_mb: memory of a serverless endpoint, in place of instances.
    max_instances, calls_a_minute: scale out to so many, at so many calls a minute on each.
    bucket: an existing one for the archive; without it one is made, and deleted by `delete`.
    Whatever fails, even Ctrl-C: all that was made is deleted before the error is raised.
    """
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    made = Deployment(name, region, bucket or name, bucket is None, session or boto3.Session())
    sagemaker = made.api("sagemaker")
    try:
        if not role.startswith("arn:"):
            role = made.api("iam").get_role(RoleName=role)["Role"]["Arn"]
        upload(made, Path(model), progress)
        progress(f"{name}: creating model, endpoint configuration and endpoint")
        # Unset, the container would ignore inference.py. Workers are requests under way at once,
        # which one copy of the model scores together (serverless sends one); the server's default
        # is one a core.
        settings = {"SAGEMAKER_PROGRAM": "inference.py"}
        settings["SAGEMAKER_MODEL_SERVER_WORKERS"] = "1" if serverless_mb else "8"
        container = {
            "Image": image_uri or IMAGE.format(region=region),
            "ModelDataUrl": f"s3://{made.bucket}/{name}/model.tar.gz",
            "Environment": settings | (environment or {}),
        }
        sagemaker.create_model(
            ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role, Tags=TAGS
        )
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


def upload(made: Deployment, model: Path, progress: Callable[[str], None]) -> None:
    """The archive to s3://BUCKET/NAME/model.tar.gz, in a bucket that is made if none was given."""
    if not model.exists():
        raise FileNotFoundError(f"{model} is neither a model's folder nor an archive.")
    s3, key = made.api("s3"), f"{made.name}/model.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        archive = package(model, f"{folder}/model.tar.gz") if model.is_dir() else model
        size = archive.stat().st_size / 1e6
        if made.own_bucket:
            where = {"CreateBucketConfiguration": {"LocationConstraint": made.region}}
            # S3 knows its oldest region by the absence of a name.
            s3.create_bucket(Bucket=made.bucket, **({} if made.region == "us-east-1" else where))
            s3.put_bucket_tagging(Bucket=made.bucket, Tagging={"TagSet": TAGS})
        progress(f"{made.name}: uploading {size:.0f} MB")
        tagging = {"Tagging": "&".join(f"{key}={value}" for key, value in aws.TAG.items())}
        s3.upload_file(str(archive), made.bucket, key, ExtraArgs=tagging)


def wait_in_service(made: Deployment, seconds: float, progress: Callable[[str], None]) -> None:
    """Until the endpoint is in service; DeploymentError if it fails, or takes longer."""
    answer = aws.settle(made, seconds, progress)
    status = answer["EndpointStatus"]
    if status in aws.CHANGING:
        raise DeploymentError(f"{made.name} is still {status} after {seconds:.0f} s.")
    if status != "InService":
        reason = aws.redact(answer.get("FailureReason") or "no reason given")
        raise DeploymentError(f"{made.name} is {status}: {reason}")


def scale(made: Deployment, max_instances: int, calls_a_minute: float) -> None:
    """As many instances as keep each near `calls_a_minute`, at least one."""
    scaling = made.api("application-autoscaling")
    scaling.register_scalable_target(
        **made.scaling, MinCapacity=1, MaxCapacity=max_instances, Tags=aws.TAG
    )
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    policy = {"TargetValue": calls_a_minute, "PredefinedMetricSpecification": metric}
    policy |= {"ScaleInCooldown": 300, "ScaleOutCooldown": 60}
    scaling.put_scaling_policy(
        PolicyName=made.name,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=policy,
        **made.scaling,
    )


@contextlib.contextmanager
def deployed_endpoint(model: str | Path, **how) -> Iterator[Deployment]:
    """Deploy a model's folder, or its archive, for the length of a block; `how` as for deploy."""
    made = deploy(model, **how)
    try:
        yield made
    finally:
        delete(made, progress=how.get("progress", print))


if __name__ == "__main__":
    aws.main()
