"""What a deployment consists of, and how all of it is deleted: a Deployment comes in, and goes."""

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
GONE = (
    "could not find",  # SageMaker
    "not found",
    "does not exist",
    "no scalable target",  # Application Auto Scaling
    "no scaling policy",
    "objectnotfound",
    "nosuchbucket",
)


class DeploymentError(RuntimeError):
    """The endpoint did not come up, or something could not be deleted; the message says what."""


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
    scaling, key = made.api("application-autoscaling"), f"{made.name}/model.tar.gz"
    steps: dict[str, Callable] = {
        "scaling policy": lambda: scaling.delete_scaling_policy(
            PolicyName=made.name, **made.scaling
        ),
        "scalable target": lambda: scaling.deregister_scalable_target(**made.scaling),
        "endpoint": lambda: delete_endpoint(made, progress),
        "endpoint configuration": lambda: sagemaker.delete_endpoint_config(
            EndpointConfigName=made.name
        ),
        "model": lambda: sagemaker.delete_model(ModelName=made.name),
        "archive": lambda: s3.delete_object(Bucket=made.bucket, Key=key),
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
