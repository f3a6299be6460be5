"""Does the cross-encoder read both texts? `python -m helpers.measure.reading`.

The model and the contrast questions come in; `data/results/contrast.csv` goes out, a row a
comparison, which notebooks 04 and 05 show: what the cross-encoder gets right, beside controls, one
of which is the same model with the attention between the two texts closed.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch
from sentence_transformers import CrossEncoder

from helpers.judgements import read_jsonl
from helpers.measure import contrast
from helpers.measure.baselines import Remembering
from helpers.measure.command import load_embeddings, one_line, positive, write
from helpers.profiles import DATA, find_embedding, load_profile
from helpers.score import LocalCrossEncoder


class ClosedCrossEncoder(LocalCrossEncoder):
    """The same weights with the attention between question and passage closed.

    The tokens of each text attend to their own text alone; [CLS], from which the score is read,
    attends to both. What it then knows is what two texts say that were read apart.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self.client.model.base_model.register_forward_pre_hook(_close, with_kwargs=True)


def _close(_, args: tuple, features: dict) -> tuple[tuple, dict]:
    real, second = features["attention_mask"].bool(), features["token_type_ids"].bool()
    same = second[:, :, None] == second[:, None, :]
    same[:, :, 0] = False  # nobody sees [CLS] but itself: it would be a bridge
    same[:, 0, :] = True
    visible = (same & real[:, None, :])[:, None]
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
    return args, features | {"attention_mask": mask}


def untrained() -> LocalCrossEncoder:
    """Return what training started from: the backbone with a new head."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        start = CrossEncoder(str(find_embedding()), num_labels=1, device="cpu")
        start.save_pretrained(folder, create_model_card=False)
        return LocalCrossEncoder(folder)


def main() -> None:
    """Measure the contrast questions, print the shares that are right, and write the rows."""
    parser = argparse.ArgumentParser("python -m helpers.measure.reading", description=main.__doc__)
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument("--questions", type=positive, help="only the first so many (a quick look)")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "contrast.csv")
    arguments = parser.parse_args()

    with one_line(parser):
        profile = load_profile("embedded")
    embeddings = load_embeddings(profile)
    model = Remembering(LocalCrossEncoder(profile.reranker_model))
    scorers = {"few shared words": contrast.few_shared_words}
    scorers |= {"vectors": contrast.cosines(embeddings)}
    scorers |= {"passage alone": contrast.passage_alone(model.score)}
    scorers |= {"attention closed": ClosedCrossEncoder(profile.reranker_model).score}
    scorers |= {"cross-encoder": model.score}
    tables = []
    for split in arguments.splits:
        records = read_jsonl(contrast.CONTRAST, split)[: arguments.questions]
        rows = {name: contrast.judged(records, score) for name, score in scorers.items()}
        for name, found in rows.items():
            print(f"\n{split}, {name}\n{contrast.contrast_table(found).round(3)}")
        table = rows["cross-encoder"].drop(columns="right")
        tables.append(table.assign(split=split, **{n: found["right"] for n, found in rows.items()}))
    write(arguments.out, pd.concat(tables))


if __name__ == "__main__":
    main()
