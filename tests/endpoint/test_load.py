"""The short form of `python -m helpers.endpoint.load`, which runs for 60 s."""

import numpy as np
import pytest

from helpers.endpoint.client import EndpointCrossEncoder
from helpers.endpoint.load import measure, requests_of, summary

pytestmark = pytest.mark.slow


def test_eight_clients_at_once_get_right_answers_and_lose_none(endpoint, reference):
    requests = requests_of(20)
    scores = EndpointCrossEncoder(endpoint.name, client=endpoint.client()).score(requests[0])
    np.testing.assert_allclose(scores, reference.score(requests[0]), atol=1e-5)
    found = measure(endpoint, requests, clients=8, seconds=8.0)
    assert (found["wrong"], found["lost"]) == (0, [])
    assert len(found["waits"]) >= 8 and found["pairs"] == 20 * len(found["waits"])
    assert summary([found, found])["answers"] == 2 * len(found["waits"])
