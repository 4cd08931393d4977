"""Tiny random models of every convertible family."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

# What each family calls its sizes; everything else is shared.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37, "vocab_size": 99, "num_labels": 3}
IMAGE_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "image_size": 12,
    "patch_size": 4,
    "num_labels": 3,
}
TEXT_FAMILIES = {
    "bert": SIZES,
    "roberta": SIZES | {"pad_token_id": 1},
    "xlm-roberta": SIZES | {"pad_token_id": 1},
    "camembert": SIZES | {"pad_token_id": 1},
    "electra": SIZES | {"embedding_size": 16},
    "distilbert": DISTILBERT,
}
# DeiT has two classifiers, and the host library needs to be told which.
IMAGE_FAMILIES = {"vit": IMAGE_SIZES, "deit": IMAGE_SIZES | {"architectures": ["DeiTForImageClassification"]}}
FAMILIES = TEXT_FAMILIES | IMAGE_FAMILIES
NUM_LAYERS = 2


def tiny_model(family: str, scale: float = 0.3, **changes: object) -> PreTrainedModel:
    """A random classifier of the family, in evaluation mode; at the default scale its attention matters."""
    config = AutoConfig.for_model(family, **(FAMILIES[family] | changes))
    auto = AutoModelForImageClassification if family in IMAGE_FAMILIES else AutoModelForSequenceClassification
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=scale)
    return model


def padded_batch(rows: int = 3, tokens: int = 12) -> dict[str, torch.Tensor]:
    """Random token ids; the first row has padding at its end, the second none."""
    batch = {"input_ids": torch.randint(5, 99, (rows, tokens)), "attention_mask": torch.ones(rows, tokens).long()}
    batch["attention_mask"][0, tokens // 2 :] = 0
    batch["input_ids"][0, tokens // 2 :] = 1
    return batch


def batch_for(family: str) -> dict[str, torch.Tensor]:
    """Three rows as the family takes them: padded token ids, or images."""
    return {"pixel_values": torch.randn(3, 3, 12, 12)} if family in IMAGE_FAMILIES else padded_batch()
