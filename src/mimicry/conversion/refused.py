"""Attention that cannot be converted: whole families, and what a configuration may ask for in the others."""

from typing import Any

_DISENTANGLED = "disentangled relative-position terms are added to q.k"
_RELATIVE_BIAS = "a learnt bias of the relative position is added to q.k"
_ALIBI = "ALiBi biases of the distance are added to q.k"
_WINDOW = "its tokens attend within a sliding window, and to a few global ones"
_SLIDING = "some of its layers attend within a sliding window"
_CHUNKS = "some of its layers attend within chunks of the text"
_SOFT_CAP = "its scores are soft-capped, a tanh of q.k"
_LATENT = "its keys and values share a latent, and the cache receives that instead of them"
_CROSS = "its decoder also attends to its encoder"
_OWN_CODE = "its own code computes attention and leaves no place to swap it"
# Families that no adapter can help, by Hugging Face model type, and why; read in the sources of transformers 5.23.0.
REFUSED = {
    "bart": _CROSS,
    "beit": _RELATIVE_BIAS,
    "big_bird": "its attention is block-sparse",
    "bloom": _ALIBI,
    "codegen": _OWN_CODE,
    "cohere2": _SLIDING,
    "data2vec-vision": _RELATIVE_BIAS,
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "falcon": f"{_OWN_CODE}; in some checkpoints {_ALIBI}",
    "fnet": "it mixes tokens by Fourier transforms and has no attention",
    "funnel": "relative-position and token-type terms are added to q.k",
    "gemma2": f"{_SOFT_CAP}, and {_SLIDING}",
    "gemma3": _SLIDING,
    "gemma3_text": _SLIDING,
    "gemma3n": _SLIDING,
    "gemma3n_text": _SLIDING,
    "gpt_neo": f"{_OWN_CODE}, and {_SLIDING}",
    "gpt_oss": f"learnt sinks take a share of each row of weights, and {_SLIDING}",
    "gptj": _OWN_CODE,
    "led": _WINDOW,
    "llama4": _CHUNKS,
    "llama4_text": _CHUNKS,
    "longformer": _WINDOW,
    "longt5": _RELATIVE_BIAS,
    "marian": _CROSS,
    "mbart": _CROSS,
    "modernbert": _SLIDING,
    "modernbert-decoder": _SLIDING,
    "mpnet": _RELATIVE_BIAS,
    "mpt": _ALIBI,
    "mt5": _RELATIVE_BIAS,
    "olmo3": _SLIDING,
    "pegasus": _CROSS,
    "reformer": "hashing and windows decide which tokens attend to which",
    "sew-d": _DISENTANGLED,
    "swin": "its tokens attend within shifted windows, with a learnt bias of the position",
    "switch_transformers": _RELATIVE_BIAS,
    "t5": _RELATIVE_BIAS,
    "t5gemma": _SOFT_CAP,
    "umt5": _RELATIVE_BIAS,
    "vaultgemma": _SOFT_CAP,
    "whisper": _CROSS,
    "xlnet": "relative-position and segment terms are added to q.k",
}


def check_attention(config: Any) -> None:
    """Refuses what a Hugging Face config asks for beyond q.k, padding and causality over all tokens.

    Raises:
        ValueError: naming the option and its value.
    """
    position = getattr(config, "position_embedding_type", None) or "absolute"
    if position != "absolute":
        raise ValueError(f"model: position_embedding_type must be absolute (scores from q.k alone), got {position!r}")
    if getattr(config, "add_cross_attention", False):
        raise ValueError("model: cross-attention cannot be converted, got add_cross_attention=True")
    if getattr(config, "use_bidirectional_attention", None):
        # The host library's own implementations disagree on what it means in a causal model.
        raise ValueError("model: use_bidirectional_attention cannot be converted in a causal model, got True")
    positions = getattr(config, "max_position_embeddings", None)
    window = getattr(config, "sliding_window", None)
    if window is not None and _is_sliding(config) and (positions is None or window < positions):
        raise ValueError(
            f"model: sliding_window must be null or span all {positions} positions, got {window}; where no text is "
            "longer than the window, set sliding_window to null in the model's config"
        )


def _is_sliding(config: Any) -> bool:
    """Whether any layer heeds the window: some families say so layer by layer, or switch all of it off."""
    kinds = getattr(config, "layer_types", None)
    return "sliding_attention" in kinds if kinds else bool(getattr(config, "use_sliding_window", True))
