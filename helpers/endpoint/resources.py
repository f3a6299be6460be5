"""What a deployment consists of, how it is found again, and how all of it is deleted.

Whatever `deploy.py` makes has one name, PREFIX-8HEXDIGITS, and one tag. Something is ours only
if both say so.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import boto3
from botocore.exceptions import BotoCoreError, ClientError

PREFIX = "rerank-tutorial"
REGION = "us-east-1"
TAG = {"created-by": "helpers.endpoint.deploy"}
TAGS = [{"Key": key, "Value": value} for key, value in TAG.items()]
CHANGING = {"Creating", "Updating", "SystemUpdating", "RollingBack"}
# How SageMaker, Application Auto Scaling and S3 say, in words or code, that something is gone.
GONE = "could not find|not ?found|does not exist|no scalable target|no scaling policy|nosuchbucket"


class DeploymentError(RuntimeError):
    """An endpoint did not come up, or something could not be deleted; the message says what."""


@dataclass(frozen=True)
class Deployment:
    """Something deployed under one name, in one region, with its archive in one bucket."""

    name: str
    region: str
    bucket: str
    own_bucket: bool  # made for this deployment, and deleted with it
    session: boto3.Session = field(repr=False)

    def api(self, service: str):
        """A boto3 client in the deployment's region."""
        return self.session.client(service, region_name=self.region)

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


def is_gone(error: Exception) -> bool:
    return isinstance(error, ClientError) and bool(re.search(GONE, str(error), re.IGNORECASE))


def settle(made: Deployment, seconds: float, progress: Callable[[str], None]) -> dict:
    """The endpoint's description once AWS has stopped changing it, or after `seconds`."""
    sagemaker, start = made.api("sagemaker"), time.monotonic()
    said = start - 60
    while True:
        answer = sagemaker.describe_endpoint(EndpointName=made.name)
        now, status = time.monotonic(), answer["EndpointStatus"]
        if status not in CHANGING or now - start >= seconds:
            return answer
        if now - said >= 60:
            said = now
            progress(f"{made.name}: {status}, waiting for {now - start:.0f} s")
        time.sleep(5)


def delete(made: Deployment, *, progress: Callable[[str], None] = print) -> None:
    """Delete everything of this name, dearest first; what is gone already is no error.

    Goes on after a failure, and raises DeploymentError with whatever is then still there.
    """
    name, bucket, archive = made.name, made.bucket, f"{made.name}/model.tar.gz"
    scaling, sagemaker, s3 = map(made.api, ("application-autoscaling", "sagemaker", "s3"))

    def delete_endpoint() -> None:
        settle(made, 1800.0, progress)  # AWS refuses while it is being created or changed
        sagemaker.delete_endpoint(EndpointName=name)

    steps: dict[str, Callable] = {
        "scaling policy": lambda: scaling.delete_scaling_policy(PolicyName=name, **made.scaling),
        "scalable target": lambda: scaling.deregister_scalable_target(**made.scaling),
        "endpoint": delete_endpoint,
        "endpoint configuration": lambda: sagemaker.delete_endpoint_config(EndpointConfigName=name),
        "model": lambda: sagemaker.delete_model(ModelName=name),
        "archive": lambda: s3.delete_object(Bucket=bucket, Key=archive),
    }
    if made.own_bucket:
        steps["bucket"] = lambda: s3.delete_bucket(Bucket=bucket)
    left = []
    for what, step in steps.items():
        try:
            step()
        except Exception as error:
            if not is_gone(error):
                left.append(f"{what} ({redact(error)})")
    if left:
        command = f"python -m helpers.endpoint.deploy delete --region {made.region}"
        raise DeploymentError(f"{name} left {'; '.join(left)}. Try again: {command}")
    progress(f"{name}: deleted")


def find(prefix=PREFIX, region=REGION, bucket=None, session=None) -> dict[str, list[str]]:
    """Name of a deployment -> what is left of it. `bucket`: yours, if you deployed into one."""
    services = ("application-autoscaling", "sagemaker", "s3")
    session = session or boto3.Session()
    scaling, sagemaker, s3 = (session.client(name, region_name=region) for name in services)
    name_of = re.compile(rf"({re.escape(prefix)}-[0-9a-f]{{8}})(/model\.tar\.gz)?")
    found: dict[str, list[str]] = {}

    def note(kind: str, name: str, read_tags: Callable | None = None, **of: str) -> None:
        match = name_of.fullmatch(name)
        if match and (read_tags is None or has_our_tag(read_tags, of)):
            found.setdefault(match[1], []).append(kind)

    def each(service, listing: str, items: str, **how: str) -> Iterator[dict]:
        for page in service.get_paginator(listing).paginate(**how):
            yield from page.get(items, [])

    listings = {"Endpoint": "endpoints", "EndpointConfig": "endpoint_configs", "Model": "models"}
    for item, listing in listings.items():
        kind = listing[:-1].replace("_config", " configuration")
        for one in each(sagemaker, f"list_{listing}", f"{item}s"):
            note(kind, one[f"{item}Name"], sagemaker.list_tags, ResourceArn=one[f"{item}Arn"])
    # These two have no tag to ask for; they belong to their endpoint, whose name they carry.
    ours = {"ServiceNamespace": "sagemaker"}
    for one in each(scaling, "describe_scaling_policies", "ScalingPolicies", **ours):
        note("scaling policy", one["ResourceId"].split("/")[1])
    for one in each(scaling, "describe_scalable_targets", "ScalableTargets", **ours):
        note("scalable target", one["ResourceId"].split("/")[1])
    for one in s3.list_buckets(BucketRegion=region)["Buckets"]:
        note("bucket", one["Name"], s3.get_bucket_tagging, Bucket=one["Name"])
    for one in each(s3, "list_objects_v2", "Contents", Bucket=bucket) if bucket else []:
        note("archive", one["Key"], s3.get_object_tagging, Bucket=bucket, Key=one["Key"])
    return dict(sorted(found.items()))


def has_our_tag(read_tags: Callable, of: dict[str, str]) -> bool:
    try:
        answer = read_tags(**of)
    except ClientError as error:
        if is_gone(error):  # S3 says so of a bucket without tags
            return False
        raise  # what may not be asked may be ours, and cost money
    return TAGS[0] in (answer.get("Tags") or answer.get("TagSet") or [])


def main(arguments: list[str] | None = None, session: boto3.Session | None = None) -> None:
    """List, or delete, what is left; exits with 1 if something could not be deleted."""
    parser = argparse.ArgumentParser(prog="python -m helpers.endpoint.deploy")
    parser.add_argument("action", choices=["list", "delete"])
    parser.add_argument("--prefix", default=PREFIX)
    parser.add_argument("--region", default=REGION)
    parser.add_argument("--bucket", help="a bucket of yours that you deployed into")
    chosen = parser.parse_args(arguments)
    session = session or boto3.Session()
    try:
        found = find(chosen.prefix, chosen.region, chosen.bucket, session)
        if not found:
            print(f"Nothing named {chosen.prefix}-* is left in {chosen.region}.")
        for name, kinds in found.items():
            print(f"{name}: {', '.join(kinds)}")
            if chosen.action == "delete":
                yours = None if "bucket" in kinds else chosen.bucket
                delete(Deployment(name, chosen.region, yours or name, not yours, session))
    except (DeploymentError, BotoCoreError, ClientError) as error:
        raise SystemExit(redact(error)) from None
