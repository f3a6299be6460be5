"""Each architecture behind the real server scores as it does in this process."""

import numpy as np
import pytest

from helpers.endpoint.client import EndpointCrossEncoder
from helpers.endpoint.local import local_endpoint
from helpers.score import LocalCrossEncoder

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::helpers.fit.CutWarning")]


def test_scores_are_those_of_this_process(architecture, tiny_model, odd_pairs):
    folder = tiny_model(architecture)
    pairs = [pair for pair in odd_pairs if any(pair)]
    expected = LocalCrossEncoder(folder, device="cpu").score(pairs)
    with local_endpoint(folder, workers=1) as endpoint:
        served = EndpointCrossEncoder(endpoint.name, client=endpoint.client(), max_pairs=4)
        np.testing.assert_allclose(served.score(pairs), expected, atol=1e-5, rtol=0)
