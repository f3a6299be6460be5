"""One local endpoint for the whole run."""

import psutil
import pytest

from helpers.endpoint.local import local_endpoint


@pytest.fixture(scope="session")
def endpoint(model_dir):
    """For all tests that do not break it."""
    with local_endpoint(model_dir) as running:
        yield running
    assert not running.folder.exists()
    assert not psutil.pid_exists(running.server)
