"""What a deployment consists of, and how all of it is deleted: a Deployment comes in, and goes.

A deployment is an endpoint (deploy.py) or a batch job (batch.py); each has a model and files.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import boto3
from botocore.exceptions import ClientError

PREFIX = "rerank-tutorial"
REGION = "us-east-1"
TAG = {"created-by": "helpers.endpoint.deploy"}
TAGS = [{"Key": key, "Value": value} for key, value in TAG.items()]
CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack"}
RUNNING = {"InProgress", "Stopping"}  # a batch job that still costs money
GONE = (
    "could not find",  # SageMaker
    "not found",
    "does not exist",
    "no scalable target",  # Application Auto Scaling
    "no scaling policy",
    "objectnotfound",
    "resourcenotfound",
    "nosuchbucket",
)


class DeploymentError(RuntimeError):
    """An endpoint did not come up, a batch job did not end well, or something could not be
    deleted; the message says what.
    """


@dataclass(frozen=True)
class Deployment:
    """Something deployed under one name, in one region, with its archive in one bucket."""

    name: str
    region: str
    bucket: str
    own_bucket: bool  # made for this deployment, and deleted with it
    session: boto3.Session = field(repr=False)
    clients: dict = field(default_factory=dict, repr=False)

    def api(self, service: str):
        """A boto3 client, made once: making one takes longer than most calls."""
        if service not in self.clients:
            self.clients[service] = self.session.client(service, region_name=self.region)
        return self.clients[service]

    def client(self):
        """The boto3 client that EndpointCrossEncoder takes."""
        return self.api("sagemaker-runtime")

    @property
    def scaling(self) -> dict[str, str]:
        """How Application Auto Scaling calls the number of this endpoint's instances."""
        return {
            "ServiceNamespace": "sagemaker",
            "ResourceId": f"endpoint/{self.name}/variant/AllTraffic",
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }


def redact(text: object) -> str:
    """The text without account numbers: nobody's belongs in an output."""
    return re.sub(r"\b\d{12}\b", "ACCOUNT", str(text))


def delete(made: Deployment, *, progress: Callable[[str], None] = print) -> None:
    """Delete everything of this name, dearest first; what is gone already is no error.

    Goes on after a failure, and raises DeploymentError with whatever is then still there.
    """
    sagemaker, s3 = made.api("sagemaker"), made.api("s3")
    scaling = made.api("application-autoscaling")
    steps: dict[str, Callable] = {
        "batch job": lambda: stop_job(made, progress),
        "scaling policy": lambda: scaling.delete_scaling_policy(
            PolicyName=made.name, **made.scaling
        ),
        "scalable target": lambda: scaling.deregister_scalable_target(**made.scaling),
        "endpoint": lambda: delete_endpoint(made, progress),
        "endpoint configuration": lambda: sagemaker.delete_endpoint_config(
            EndpointConfigName=made.name
        ),
        "model": lambda: sagemaker.delete_model(ModelName=made.name),
        "files": lambda: delete_files(made),
    }
    if made.own_bucket:
        steps["bucket"] = lambda: s3.delete_bucket(Bucket=made.bucket)
    left = []
    for what, step in steps.items():
        try:
            step()
        except Exception as error:
            if not is_gone(error):
                left.append(f"{what} ({redact(error)})")
    if left:
        command = f"python -m helpers.endpoint.deploy delete --region {made.region}"
        raise DeploymentError(f"{made.name} left {'; '.join(left)}. Try again: {command}")
    progress(f"{made.name}: deleted")


def is_gone(error: Exception) -> bool:
    said = f"{error} {getattr(error, 'response', {}).get('Error', {}).get('Code', '')}".lower()
    return isinstance(error, ClientError) and any(words in said for words in GONE)


def delete_endpoint(made: Deployment, progress: Callable[[str], None], seconds=1800.0) -> None:
    """Delete it, once it can be: AWS refuses while it is being created or changed."""
    sagemaker, end = made.api("sagemaker"), time.monotonic() + seconds
    while time.monotonic() < end:
        status = sagemaker.describe_endpoint(EndpointName=made.name)["EndpointStatus"]
        if status not in CHANGING:
            break
        progress(f"{made.name}: {status}; it can be deleted after that, waiting")
        time.sleep(15)
    sagemaker.delete_endpoint(EndpointName=made.name)


def stop_job(made: Deployment, progress: Callable[[str], None], seconds=1800.0) -> None:
    """Stop the batch job and wait until it has: AWS keeps the record of it, which is free."""
    sagemaker, end = made.api("sagemaker"), time.monotonic() + seconds

    def status() -> str:
        return sagemaker.describe_transform_job(TransformJobName=made.name)["TransformJobStatus"]

    if status() == "InProgress":
        try:
            sagemaker.stop_transform_job(TransformJobName=made.name)
        except ClientError:
            if status() == "InProgress":  # else it ended by itself meanwhile
                raise
    while (now := status()) in RUNNING:
        if time.monotonic() > end:
            raise DeploymentError(f"still {now} after {seconds:.0f} s")
        progress(f"{made.name}: {now}; what it uses can be deleted after that, waiting")
        time.sleep(15)


def files(made: Deployment, folder: str = "") -> list[str]:
    """The keys of all objects under NAME/ in the bucket, or under NAME/FOLDER/."""
    pages = made.api("s3").get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=made.bucket, Prefix=f"{made.name}/{folder}")
    return [each["Key"] for page in found for each in page.get("Contents", [])]


def delete_files(made: Deployment) -> None:
    """Delete the archive last: in a bucket of yours its tag is how leftovers.py finds the rest."""
    for key in sorted(files(made), key=lambda key: key.endswith("/model.tar.gz")):
        made.api("s3").delete_object(Bucket=made.bucket, Key=key)
