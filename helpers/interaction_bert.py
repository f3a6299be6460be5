"""The embedded cross-encoder's architecture: it starts as the bi-encoder it was made from.

A cross-encoder made in the usual way, by putting question and passage through BERT as one sequence,
forgets much of what a bi-encoder knows about paraphrase before training has begun: the weights have
never seen two texts at once. This one keeps that knowledge.

- The lower layers read question and passage side by side, each attending to itself alone, so they
  compute exactly what the bi-encoder computes.
- The upper layers are opened: each attention head has a learned bias towards the other text.
- The score compares every question token with its best passage token (MaxSim, as in ColBERT:
  Khattab and Zaharia, 2020, https://arxiv.org/abs/2004.12832), weighs the question tokens, and adds
  the cosine of the two mean vectors, which is the bi-encoder's own score.

Importing this module registers the architecture with `transformers`, after which
`CrossEncoder(path)` and `HuggingFaceCrossEncoder(model_name=path)` load it like any other, with no
remote code.
"""

from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from torch import nn
from torch.nn.functional import normalize
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertPreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class InteractionBertConfig(BertConfig):
    """A BERT configuration with the shape of the interaction between question and passage.

    Args:
        open_layers: How many of the upper layers let question and passage attend to each other.
        open_bias: What is added to attention logits across the two texts before training; at -4 a
            head begins with about a fiftieth of its usual weight on each token of the other text.
        cosine_weight: The weight of the mean vectors' cosine beside MaxSim, before training.
        shift: What is added to the similarity before training, so that scores start around 0.5;
            without it they all round to 1.
        scale: What the sum is multiplied by to make a logit, before training.
    """

    model_type = "interaction-bert"

    def __init__(
        self, open_layers=3, open_bias=-4.0, cosine_weight=0.25, shift=-0.7, scale=25.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.open_layers = open_layers
        self.open_bias = open_bias
        self.cosine_weight = cosine_weight
        self.shift = shift
        self.scale = scale


class InteractionBertForSequenceClassification(BertPreTrainedModel):
    """Score (question, passage) pairs: one logit a pair."""

    config_class = InteractionBertConfig
    # The bias across texts is added to attention logits: flash and flex kernels do not take that.
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: InteractionBertConfig):
        super().__init__(config)
        self.num_labels = 1
        self.bert = BertModel(config, add_pooling_layer=False)
        self.open_bias = nn.Parameter(torch.empty(config.open_layers, config.num_attention_heads))
        self.token_weight = nn.Linear(config.hidden_size, 1)
        self.joint = nn.Linear(config.hidden_size, 1, bias=False)
        self.cosine_weight = nn.Parameter(torch.empty(1))
        self.scale = nn.Parameter(torch.empty(1))
        self.shift = nn.Parameter(torch.empty(1))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            nn.init.zeros_(self.open_bias)
            nn.init.constant_(self.cosine_weight, self.config.cosine_weight)
            nn.init.constant_(self.scale, 1.0)
            nn.init.constant_(self.shift, self.config.shift)
        elif module in (self.token_weight, self.joint):
            nn.init.zeros_(module.weight)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        **kwargs,
    ) -> SequenceClassifierOutput:
        """Score a batch of tokenized pairs, `[CLS] question [SEP] passage [SEP]`.

        Args:
            input_ids: Shape (pairs, tokens).
            attention_mask: 1 for a token, 0 for padding; the same shape.
            token_type_ids: 0 for the question's part, 1 for the passage's; the same shape.
            kwargs: Ignored; what else a trainer passes.

        Returns:
            `logits` of shape (pairs, 1).
        """
        input_ids, question, passage, positions = self._lay_out(
            input_ids, attention_mask.bool(), token_type_ids.bool()
        )
        hidden = self.bert.embeddings(input_ids=input_ids, position_ids=positions)

        within = (question[:, :, None] & question[:, None]) | (
            passage[:, :, None] & passage[:, None]
        )
        across = (question[:, :, None] & passage[:, None]) | (
            passage[:, :, None] & question[:, None]
        )
        closed = torch.where(within, 0.0, -1e4)[:, None]
        layers = self.bert.encoder.layer
        for number, layer in enumerate(layers):
            mask = closed
            opened = number - (len(layers) - len(self.open_bias))
            if opened >= 0:
                # The parameter moves by small steps; the factor lets the bias follow in time.
                bias = self.config.open_bias + 20 * self.open_bias[opened][None, :, None, None]
                mask = torch.where(across[:, None], bias, closed)
            hidden = layer(hidden, mask.to(hidden.dtype))

        return SequenceClassifierOutput(logits=self._score(hidden, question, passage))

    def rescale(self, factor: float, offset: float) -> None:
        """Make every future logit `factor * logit + offset`: calibration, kept in the weights."""
        with torch.no_grad():
            self.scale.mul_(factor)
            self.shift.add_(offset / (self.config.scale * self.scale))

    def _lay_out(self, input_ids, real, second):
        """Give the passage a [CLS] and positions of its own, as the bi-encoder saw it."""
        cut = (real & ~second).sum(1, keepdim=True)
        order = torch.arange(input_ids.shape[1] + 1, device=input_ids.device)[None]
        source = order - (order > cut).long()
        source = source.clamp(max=input_ids.shape[1] - 1)
        ids = input_ids.gather(1, source).masked_fill(order == cut, input_ids[0, 0])
        length = real.sum(1, keepdim=True) + 1
        question = order < cut
        passage = (order >= cut) & (order < length)
        positions = torch.where(order < cut, order, order - cut)
        positions = positions.clamp(max=self.config.max_position_embeddings - 1)
        return (
            ids.masked_fill(order >= length, self.config.pad_token_id),
            question,
            passage,
            positions,
        )

    def _score(self, hidden, question, passage):
        weight = self.token_weight(hidden).squeeze(-1).float()
        joint = self.joint(hidden[:, 0]).squeeze(-1).float()
        hidden = hidden.float()
        unit = normalize(hidden, dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        best = similarity.masked_fill(~passage[:, None], -1.0).max(2).values
        weight = weight.masked_fill(~question, -1e4).softmax(1)
        max_similarity = (weight * best).sum(1)
        first, second = (
            normalize((hidden * part[..., None]).sum(1), dim=-1) for part in (question, passage)
        )
        cosine = (first * second).sum(1)
        # One factor, so that a temperature found later is set in one place.
        similarity = max_similarity + self.cosine_weight * cosine + joint
        return (self.config.scale * self.scale * (similarity + self.shift))[:, None]


def from_bi_encoder(bi_encoder: str | Path, folder: str | Path, **shape) -> CrossEncoder:
    """Make an untrained cross-encoder out of a BERT bi-encoder, save it to `folder` and load it.

    Args:
        bi_encoder: A sentence-transformers folder whose backbone is BERT with mean pooling.
        folder: Where the cross-encoder goes.
        shape: Settings of `InteractionBertConfig`.
    """
    backbone = AutoModel.from_pretrained(bi_encoder, add_pooling_layer=False)
    settings = {
        k: v
        for k, v in backbone.config.to_dict().items()
        if k not in ("model_type", "architectures", "id2label", "label2id")
    }
    model = InteractionBertForSequenceClassification(
        InteractionBertConfig(**settings, **shape, num_labels=1)
    )
    model.bert.load_state_dict(backbone.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bi_encoder).save_pretrained(folder)
    return CrossEncoder(str(folder), max_length=512)


AutoConfig.register("interaction-bert", InteractionBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    InteractionBertConfig, InteractionBertForSequenceClassification, exist_ok=True
)
