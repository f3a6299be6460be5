"""Fixtures of the endpoint's tests: a model to serve, and one server for the whole run."""

from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The repository's own reranker."""
    return ROOT / "data" / "reranker"


@pytest.fixture(scope="session")
def endpoint(model_dir):
    """One local endpoint for all tests that do not break it."""
    from helpers.endpoint.local import local_endpoint

    with local_endpoint(model_dir) as running:
        yield running
    assert not running.folder.exists()
    assert not psutil.pid_exists(running.server)


@pytest.fixture(scope="session")
def reference(model_dir):
    """LangChain's own cross-encoder in this process: the scores to be equal to."""
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    return HuggingFaceCrossEncoder(model_name=str(model_dir))
