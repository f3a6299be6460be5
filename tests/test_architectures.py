"""Whatever sentence-transformers loads as a cross-encoder scores as it scores there."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from helpers.score import LocalCrossEncoder

pytestmark = pytest.mark.filterwarnings("ignore::helpers.fit.CutWarning")


def expected_of(folder, pairs, **how):
    """The last label's scores, each pair alone, so that no padding can matter."""
    model = CrossEncoder(str(folder), device="cpu")
    return np.stack([model.predict([pair], **how)[0] for pair in pairs]).reshape(len(pairs), -1)[
        :, -1
    ]


def test_scores_are_those_of_sentence_transformers(architecture, tiny_model, odd_pairs):
    folder = tiny_model(architecture)
    if architecture == "Qwen2":  # puts nothing around a pair, so that an empty one has no token
        odd_pairs = [pair for pair in odd_pairs if any(pair)]
    expected = expected_of(folder, odd_pairs)
    assert np.ptp(expected) > 0.01, "scores that are all alike show nothing"
    model = LocalCrossEncoder(folder, device="cpu", batch_tokens=300)
    np.testing.assert_allclose(model.score(odd_pairs), expected, atol=1e-5, rtol=0)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _: model.score(odd_pairs[::-1]), range(8)):
                np.testing.assert_allclose(found, expected[::-1], atol=1e-5, rtol=0)
    finally:
        sys.setswitchinterval(before)
