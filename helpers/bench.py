"""Time the reranking of twenty chunks: `python -m helpers.bench`.

Prints the median of twenty runs for the profile's cross-encoder and, for scale, for the
architecture of BAAI/bge-reranker-base with random weights (a processor's time does not depend on
what the weights are).
"""

import statistics
import time
import warnings

import torch
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

RUNS = 20
# https://huggingface.co/BAAI/bge-reranker-base/blob/2cfc18c9415c912f9d8155881c133215df768a70/config.json
BGE_RERANKER_BASE = XLMRobertaConfig(
    vocab_size=250_002,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    max_position_embeddings=514,
    type_vocab_size=1,
    num_labels=1,
)


def median_seconds(function) -> float:
    """Return the median wall-clock seconds of `RUNS` calls, after one that is not counted."""
    function()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    from helpers import load_profile, split_text

    profile = load_profile()
    query = "What is the plan for the economy?"
    pairs = [(query, chunk.page_content) for chunk in split_text(profile.corpus)[:20]]
    cross_encoder = HuggingFaceCrossEncoder(model_name=profile.reranker_model)
    ours = median_seconds(lambda: cross_encoder.score(pairs))

    tokens = cross_encoder.client.tokenizer(*zip(*pairs, strict=True), padding=True)["input_ids"]
    tokens = torch.tensor(tokens)
    bge = XLMRobertaForSequenceClassification(BGE_RERANKER_BASE).eval()
    with torch.inference_mode():
        theirs = median_seconds(lambda: bge(input_ids=tokens, attention_mask=tokens * 0 + 1))

    print(f"20 chunks of at most 500 characters, {torch.get_num_threads()} threads, fp32,")
    print(f"median of {RUNS} runs:")
    print(f"  {profile.name} reranker                       {ours:.2f} s")
    print(f"  bge-reranker-base's shape, random weights  {theirs:.2f} s")


if __name__ == "__main__":
    main()
