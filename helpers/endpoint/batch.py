"""Score many requests on AWS without an endpoint: pairs come in, lists of scores go out.

SageMaker's Batch Transform starts instances, sends the container one line after another, keeps
the answers, and ends the instances; they cost money only in between. In the bucket it looks so:

    NAME/input/000.jsonl         {"text_pairs": [["query", "passage"], ...]}
    NAME/output/000.jsonl.out    {"scores": [0.93, ...]}    line for line, in the same order

An instance takes whole files, so each instance gets one. Parameters and their limits:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html
"""

import contextlib
import io
import re
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import boto3

from helpers.endpoint import deploy
from helpers.endpoint import resources as aws
from helpers.endpoint.client import EndpointBadAnswer, EndpointRefused, Part, read_scores, split
from helpers.endpoint.client import check as check_pair
from helpers.endpoint.resources import Deployment, DeploymentError

JSON = "application/json"
MAX_PAIRS = 2000  # of a line: inference.py's own default
PAYLOAD_MB = 7  # a line has at most client.MAX_BYTES; AWS takes no more than 100
LINE_SECONDS = 3600  # for one line's answer; neither AWS nor the container's server waits longer


def batch_transform(
    model: str | Path,
    requests: Iterable[Sequence[tuple[str, str]]],
    *,
    session: boto3.Session | None = None,
    region: str = aws.REGION,
    role: str = deploy.ROLE,
    image_uri: str | None = None,
    instance_type: str = deploy.INSTANCE_TYPE,
    instances: int = 1,
    bucket: str | None = None,
    prefix: str = aws.PREFIX,
    environment: dict[str, str] | None = None,
    wait_seconds: float = 86_400.0,
    progress: Callable[[str], None] = print,
) -> list[list[float]]:
    """Score every pair of every request in one batch job, and leave nothing behind.

    Whatever fails, even Ctrl-C: the job is stopped and all that was made is deleted before the
    error is raised.

    Args:
        model: A model's folder, or its archive.
        requests: Lists of (query, passage) pairs, such as one query's candidates each. Read once,
            to disk; what a line cannot hold is split, and joined again.
        session: Where the clients come from; by default boto3's usual look-up.
        region: Where the job runs.
        role: A role's name or ARN. It has to read the bucket, and write to it.
        image_uri: The container; by default `deploy`'s, for processors.
        instance_type: One of SageMaker's for batch jobs.
        instances: How many share the lines.
        bucket: An existing one for archive, input and output; without it one is made, and
            deleted. Yours stays, without our files.
        prefix: What the name of everything made begins with.
        environment: The container's settings, as for `deploy`.
        wait_seconds: When to give up.
        progress: Called with every step, and every minute while the job runs.

    Returns:
        One list a request, with one score a pair, all in order.

    Raises:
        TypeError, ValueError: Something in `requests` is no request; nothing was made on AWS.
        DeploymentError: The job failed, or a line's answer is not one finite score a pair.
    """
    max_pairs = str((environment or {}).get("RERANKER_MAX_PAIRS") or MAX_PAIRS)
    for what, number in {"instances": str(instances), "RERANKER_MAX_PAIRS": max_pairs}.items():
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{what} is {number}: expected a whole number of at least 1.")
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    made = Deployment(name, region, bucket or name, not bucket, session or boto3.Session())
    with tempfile.TemporaryDirectory() as folder:
        archive = deploy.as_archive(model, folder)
        inputs = [Path(folder) / f"{number:03}.jsonl" for number in range(instances)]
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(path.open("wb")) for path in inputs]
            lines = write_lines(requests, opened, int(max_pairs))
        inputs = inputs[: len(lines)]  # what has no line needs no instance
        try:
            arn = deploy.get_role(made, role)
            deploy.upload(made, archive, progress)
            for path in inputs:
                made.api("s3").upload_file(str(path), made.bucket, f"{name}/input/{path.name}")
            deploy.create_model(made, arn, image_uri, environment)
            progress(f"{name}: starting {len(inputs)} {instance_type} for {len(lines)} lines")
            create_job(made, instance_type, len(inputs))
            ask = lambda: describe_job(made)  # noqa: E731
            deploy.wait_for(made, ask, "Completed", aws.RUNNING, wait_seconds, progress)
            scores = read_lines(download(made, [path.name for path in inputs]), lines)
        except BaseException:
            progress(f"{name}: failed, deleting what was made")
            aws.delete(made, progress=progress)
            raise
    try:
        aws.delete(made, progress=progress)
    except DeploymentError as error:  # no reason to lose scores that are paid for
        warnings.warn(str(error), stacklevel=2)
    return scores


def write_lines(
    requests: Iterable[Sequence[tuple[str, str]]], opened: Sequence[BinaryIO], max_pairs: int
) -> list[tuple[int, int, Part]]:
    """Write the requests as lines, each to the shortest file: so all instances get as much.

    Returns:
        Where each line went and what it holds: the file's number, the request's number, and which
        of its pairs.

    Raises:
        TypeError, ValueError: There are no requests, one is empty, or a pair is not two strings
            or too long for a line.
    """
    lines: list[tuple[int, int, Part]] = []
    for number, request in enumerate(requests):
        try:
            pairs = [check_pair(position, pair) for position, pair in enumerate(request)]
            if not pairs:
                raise ValueError("it is empty; expected (query, passage) pairs.")
            for position, pair in enumerate(pairs):
                # The container would refuse it, and with one line the whole job fails.
                if re.search("[\ud800-\udfff]", "".join(pair)):
                    raise ValueError(f"pair {position} has a lone surrogate, which is no text.")
            for part in split(pairs, max_pairs):
                file = min(range(len(opened)), key=lambda file: opened[file].tell())
                opened[file].write(part.body + b"\n")
                lines.append((file, number, Part(part.pairs, b"")))
        except (TypeError, ValueError, EndpointRefused) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"request {number}: {error}") from None
    if not lines:
        raise ValueError("There are no requests; expected lists of (query, passage) pairs.")
    return lines


def create_job(made: Deployment, instance_type: str, instances: int) -> None:
    place = f"s3://{made.bucket}/{made.name}"
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{place}/input/"}}
    made.api("sagemaker").create_transform_job(
        TransformJobName=made.name,
        ModelName=made.name,
        BatchStrategy="SingleRecord",
        MaxConcurrentTransforms=1,  # the container has one worker, which uses all cores
        MaxPayloadInMB=PAYLOAD_MB,
        ModelClientConfig=dict(InvocationsTimeoutInSeconds=LINE_SECONDS, InvocationsMaxRetries=1),
        TransformInput={"DataSource": source, "ContentType": JSON, "SplitType": "Line"},
        TransformOutput={"S3OutputPath": f"{place}/output", "Accept": JSON, "AssembleWith": "Line"},
        TransformResources={"InstanceType": instance_type, "InstanceCount": instances},
        Tags=aws.TAGS,
    )


def describe_job(made: Deployment) -> dict[str, str]:
    answer = made.api("sagemaker").describe_transform_job(TransformJobName=made.name)
    reason = answer.get("FailureReason") or "no reason given"
    log = f"The log is in CloudWatch: /aws/sagemaker/TransformJobs, {made.name}."
    return {"Status": answer["TransformJobStatus"], "FailureReason": f"{reason} {log}"}


def download(made: Deployment, names: list[str]) -> list[list[bytes]]:
    """The answered lines of each input file. Found by name: AWS may put folders between."""
    keys = {key.rsplit("/", 1)[1]: key for key in aws.files(made, "output/")}
    answers = []
    for name in names:
        if f"{name}.out" not in keys:
            raise DeploymentError(f"{made.name} is Completed, but there is no {name}.out.")
        body = io.BytesIO()
        made.api("s3").download_fileobj(made.bucket, keys[f"{name}.out"], body)
        answers.append([line for line in body.getvalue().splitlines() if line])
    return answers


def read_lines(answers: list[list[bytes]], lines: list[tuple[int, int, Part]]) -> list[list[float]]:
    """The scores of each request, from the answers to what `write_lines` wrote."""
    scores: list[list[float]] = [[] for _ in range(lines[-1][1] + 1)]
    turns = [0] * len(answers)
    for file, number, part in lines:
        turn = turns[file]
        turns[file] += 1
        answer = answers[file][turn] if turn < len(answers[file]) else b"nothing: the file ended"
        try:
            scores[number] += read_scores(answer, part)
        except EndpointBadAnswer as error:
            found = answer[:200].decode(errors="replace")
            where = f"line {turn + 1} of {file:03}.jsonl.out: {found}"
            raise DeploymentError(f"request {number}, {error} {where}") from None
    if sum(map(len, answers)) > len(lines):
        raise DeploymentError(f"{sum(map(len, answers))} answers came for {len(lines)} lines.")
    return scores
