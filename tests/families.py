"""Tiny random models of every convertible family."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
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
DECODER = SIZES | {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = DECODER | {"num_key_value_heads": 2}
DECODERS = {
    "cohere": GROUPED,
    "gemma": GROUPED | {"head_dim": 8},
    "gpt2": DECODER,
    # All query heads share one head of keys and values.
    "gpt_bigcode": DECODER,
    "gpt_neox": DECODER,
    # Not 1/sqrt(head_dim), nor close to it.
    "granite": GROUPED | {"attention_multiplier": 0.2},
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": None},
    # The host library's fast experts take no float64 and no such narrow weights.
    "mixtral": GROUPED | {"num_local_experts": 4, "experts_implementation": "eager"},
    "olmo": GROUPED | {"clip_qkv": 1.5},
    "olmo2": GROUPED,
    "opt": DECODER | {"ffn_dim": 37, "word_embed_proj_dim": 32},
    "phi": GROUPED | {"qk_layernorm": True},
    "phi3": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    # One layer with rotary positions, one without.
    "smollm3": GROUPED | {"no_rope_layers": [1, 0]},
    "stablelm": GROUPED | {"qk_layernorm": True},
    "starcoder2": GROUPED,
}
# DeiT has two classifiers, and the host library needs to be told which.
IMAGE_FAMILIES = {"vit": IMAGE_SIZES, "deit": IMAGE_SIZES | {"architectures": ["DeiTForImageClassification"]}}
FAMILIES = TEXT_FAMILIES | DECODERS | IMAGE_FAMILIES
NUM_LAYERS = 2


def tiny_model(family: str, scale: float = 0.3, classifier: bool = False, **changes: object) -> PreTrainedModel:
    """A random model of the family, in evaluation mode; at the default scale its attention matters.

    Decoders predict the next token unless a classifier is asked for; the other families classify.
    """
    config = AutoConfig.for_model(family, **(FAMILIES[family] | changes))
    if family in IMAGE_FAMILIES:
        model = AutoModelForImageClassification.from_config(config)
    elif family in DECODERS and not classifier:
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=scale)
    return model.eval()


def padded_batch(rows: int = 3, tokens: int = 12) -> dict[str, torch.Tensor]:
    """Random token ids; the first row has padding at its end, the second none."""
    batch = {"input_ids": torch.randint(5, 99, (rows, tokens)), "attention_mask": torch.ones(rows, tokens).long()}
    batch["attention_mask"][0, tokens // 2 :] = 0
    batch["input_ids"][0, tokens // 2 :] = 1
    return batch


def left_padded_batch(rows: int = 3, tokens: int = 12) -> dict[str, torch.Tensor]:
    """As above, but the last row has padding at its start; positions count the tokens that are none."""
    batch = padded_batch(rows, tokens)
    batch["attention_mask"][-1, : tokens // 3] = 0
    batch["input_ids"][-1, : tokens // 3] = 1
    return batch | {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)}


def batch_for(family: str) -> dict[str, torch.Tensor]:
    """Three rows as the family takes them: padded token ids, or images."""
    if family in IMAGE_FAMILIES:
        return {"pixel_values": torch.randn(3, 3, 12, 12)}
    return left_padded_batch() if family in DECODERS else padded_batch()


def labels_for(family: str, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Targets of `batch`: its own tokens for decoders, classes for the others."""
    if family in DECODERS:
        return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return torch.tensor([0, 1, 2])
