"""The short form of `python -m helpers.endpoint.load`, which runs for 60 s."""

import numpy as np
import pytest

from helpers.endpoint.client import EndpointCrossEncoder
from helpers.endpoint.load import measure, requests_of

pytestmark = pytest.mark.slow


def test_eight_clients_at_once_get_right_answers_and_lose_none(endpoint, reference):
    request = requests_of(20)[0]
    scores = EndpointCrossEncoder(endpoint.name, client=endpoint.client()).score(request)
    np.testing.assert_allclose(scores, reference.score(request), atol=1e-5)
    waits, wrong, lost = measure(endpoint, clients=8, seconds=8.0)
    assert (wrong, lost) == (0, [])
    assert len(waits) >= 8
