"""What deployments have left in an account: a prefix and a region come in, deployments go out.

Behind `python -m helpers.endpoint.deploy list` and `... delete`. Something is ours only if both
its name (PREFIX-8HEXDIGITS) and its tag say so.
"""

import argparse
import re

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from helpers.endpoint import resources as aws


def find(
    prefix: str = aws.PREFIX,
    region: str = aws.REGION,
    bucket: str | None = None,
    session: boto3.Session | None = None,
) -> dict[str, list[str]]:
    """Name of a deployment -> what is left of it. `bucket`: yours, if you deployed into one."""
    session = session or boto3.Session()
    name_of = re.compile(rf"({re.escape(prefix)}-[0-9a-f]{{8}})(/model\.tar\.gz)?")
    found: dict[str, list[str]] = {}

    def note(name: str, kind: str, tags) -> None:
        match = name_of.fullmatch(name)
        if match and has_our_tag(tags):
            found.setdefault(match[1], []).append(kind)

    sagemaker = session.client("sagemaker", region_name=region)
    listings = [
        ("batch job", "list_transform_jobs", "TransformJobSummaries", "TransformJob"),
        ("endpoint", "list_endpoints", "Endpoints", "Endpoint"),
        ("endpoint configuration", "list_endpoint_configs", "EndpointConfigs", "EndpointConfig"),
        ("model", "list_models", "Models", "Model"),
    ]
    for kind, listing, items, item in listings:
        for page in sagemaker.get_paginator(listing).paginate(NameContains=prefix):
            for each in page[items]:
                if each.get("TransformJobStatus", "InProgress") not in aws.RUNNING:
                    continue  # a record of a batch job, which stays for good
                arn = each[f"{item}Arn"]
                tags = lambda arn=arn: sagemaker.list_tags(ResourceArn=arn)["Tags"]  # noqa: E731
                note(each[f"{item}Name"], kind, tags)
    # These belong to their endpoint, whose name they carry.
    scaling = session.client("application-autoscaling", region_name=region)
    for kind, listing, items in [
        ("scaling policy", "describe_scaling_policies", "ScalingPolicies"),
        ("scalable target", "describe_scalable_targets", "ScalableTargets"),
    ]:
        for page in scaling.get_paginator(listing).paginate(ServiceNamespace="sagemaker"):
            for each in page[items]:
                note(each["ResourceId"].split("/")[1], kind, lambda: aws.TAGS)
    s3 = session.client("s3", region_name=region)
    for each in s3.list_buckets()["Buckets"]:
        name = each["Name"]
        tags = lambda name=name: s3.get_bucket_tagging(Bucket=name)["TagSet"]  # noqa: E731
        note(name, "bucket", tags)
    if bucket:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for each in page.get("Contents", []):
                key = each["Key"]
                where = {"Bucket": bucket, "Key": key}
                tags = lambda where=where: s3.get_object_tagging(**where)["TagSet"]  # noqa: E731
                note(key, "archive", tags)
    return dict(sorted(found.items()))


def has_our_tag(tags) -> bool:
    try:
        return {tag["Key"]: tag["Value"] for tag in tags()}.items() >= aws.TAG.items()
    except ClientError:  # no tags at all, or not ours to read
        return False


def main(arguments: list[str] | None = None, session: boto3.Session | None = None) -> None:
    """List, or delete, what is left; exits with 1 if something could not be deleted."""
    parser = argparse.ArgumentParser(prog="python -m helpers.endpoint.deploy")
    parser.add_argument("action", choices=["list", "delete"])
    parser.add_argument("--prefix", default=aws.PREFIX)
    parser.add_argument("--region", default=aws.REGION)
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
                own = "bucket" in kinds or not chosen.bucket
                place = name if own else chosen.bucket
                aws.delete(aws.Deployment(name, chosen.region, place, own, session))
    except (aws.DeploymentError, BotoCoreError, ClientError) as error:
        raise SystemExit(aws.redact(error)) from None
