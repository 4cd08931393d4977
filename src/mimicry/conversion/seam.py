"""The one place where attention is swapped: a function and a mask registered with the host library."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache, PreTrainedModel
from transformers.masking_utils import (
    AttentionMaskInterface,
    bidirectional_mask_function,
    causal_mask_function,
    flash_attention_mask,
)

from mimicry.attention import Attention
from mimicry.attention.state import Resumable
from mimicry.conversion.cache import layer_of, prepare_layer
from mimicry.registration import MODEL_TYPE

# The implementation name under which host models find us, and the submodule name our attentions carry in them.
IMPLEMENTATION = "mimicry"
ATTRIBUTE = "mimicry_attention"
# What a model can do whose states never go back to an earlier token.
GENERATION_MODES = ("greedy_search", "sample", "beam_search", "beam_sample")


def attach(module: nn.Module, attention: Attention) -> None:
    """Puts `attention` in the place of that of the host's attention module; `switch_on` makes the model use it.

    A causal module keeps its state in any cache it is called with. That takes a hook on the module and nothing else:
    the model keeps its class, its copies and pickles keep the hook, whoever builds the cache, and however it is passed
    down, it arrives here; and each layer of a hybrid decides for itself.
    """
    setattr(module, ATTRIBUTE, attention)
    if attention.dims.causal and _prepare_cache not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_prepare_cache, with_kwargs=True)


def switch_on(model: nn.Module) -> None:
    """Sends all attention of a Hugging Face model through the seam; every self-attention must have one attached."""
    host: Any = model
    host.set_attn_implementation(IMPLEMENTATION)
    for part in model.modules():
        # Of a model within a model too: the host library collects outputs at every level.
        if isinstance(part, PreTrainedModel) and _refuse_weights not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_refuse_weights, with_kwargs=True)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    if any(attention.dims.causal and isinstance(attention, Resumable) for attention in attentions):
        host._supported_generation_modes = list(GENERATION_MODES)
    else:
        vars(model).pop("_supported_generation_modes", None)


def _refuse_weights(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The host library would give an empty tuple for weights that are never formed."""
    if kwargs.get("output_attentions") and model.config._attn_implementation == IMPLEMENTATION:
        raise ValueError(
            "output_attentions must be False for a converted model, which forms no attention weights, got True; for "
            "those of each layer run it within mimicry.attention.capture.capture and call weights(q, k, key_mask) of "
            "the layer, or give a run analysis=full; for softmax call set_attn_implementation('eager')"
        )


def _prepare_cache(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    cache = next((given for given in (*args, *kwargs.values()) if isinstance(given, Cache)), None)
    # The host's own implementations may be switched on in a converted model: they need all keys.
    if cache is not None and module.config._attn_implementation == IMPLEMENTATION:
        prepare_layer(cache, module.layer_idx, getattr(module, ATTRIBUTE))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Runs the attention attached to the host's `module` on projected states.

    Shapes follow the host library: q is (batch, heads, tokens, head_dim), k and v may have fewer, grouped heads, the
    output is (batch, tokens, heads, head_dim). Dropout of attention weights is not applied: a linear attention forms
    no weights to drop, and teacher and student are treated alike. Where the host scales scores by other than
    1/sqrt(head_dim), q takes up the difference, so that the attention imitates the host's own weights.

    Raises:
        ValueError: if nothing is attached, the mask is not a padding mask, or the call asks for another causality.
    """
    attention = getattr(module, ATTRIBUTE, None)
    if not isinstance(attention, Attention):
        raise ValueError(f"{type(module).__name__} carries no converted attention: {_remedy(module)}")
    if is_causal not in (None, attention.dims.causal):
        raise ValueError(f"is_causal must be {attention.dims.causal}, as in the converted model, got {is_causal}")
    ratio = 1.0 if scaling is None else scaling * query.shape[-1] ** 0.5
    if abs(ratio - 1) > 1e-9:
        query = query * ratio
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(f"attention_mask must be a (batch, tokens) padding mask, got {tuple(attention_mask.shape)}")
    layer = layer_of(key)
    if query.dtype != value.dtype:
        # Under autocast rotations leave q and k in float32; the host's own attention would cast them too.
        query, key = query.to(value.dtype), key.to(value.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    key_mask = None if attention_mask is None else attention_mask.to(torch.bool)
    if layer is None:
        return attention(query, key, value, key_mask).transpose(1, 2), None
    # The mask is over all tokens so far, and the keys are new.
    new = None if key_mask is None else key_mask[:, key_mask.shape[1] - key.shape[2] :]
    return layer.attend(attention, query, key, value, new).transpose(1, 2), None


def _remedy(module: Any) -> str:
    config = getattr(module, "config", None)
    if getattr(config, MODEL_TYPE, None) is None:
        return "use mimicry.convert on the model"
    # A host's class was called by name on the files of a converted model, and has left its maps out.
    source = getattr(config, "name_or_path", "") or "what it was loaded from"
    return f"{source} holds a converted model; load it with mimicry.load or an Auto class such as AutoModelForCausalLM"


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    **kwargs: Any,
) -> Tensor | None:
    """The (batch, tokens) padding mask as it is, and None when nothing is padded.

    Raises:
        ValueError: if the host hides more than padding and the future: a window shorter than the text, or the other
            texts of a packed row.
    """
    if mask_function not in (causal_mask_function, bidirectional_mask_function):
        # All that models of supported families can add hides the first token from the last one, if anything.
        rows = torch.arange(batch_size, device=kwargs["device"])
        last, first = torch.full_like(rows, int(q_offset) + q_length - 1), torch.full_like(rows, int(kv_offset))
        if not bool(torch.as_tensor(mask_function(rows, 0, last, first)).all()):
            raise ValueError(
                f"attention_mask: the model hides earlier ones of {kv_length} tokens from later ones, which linear "
                "attention cannot: a sliding window, or position_ids of several texts packed into one row"
            )
    return flash_attention_mask(batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, **kwargs)


AttentionInterface.register(IMPLEMENTATION, attend)
# Without a mask function under the same name the host library passes no mask at all and padding would be attended to.
AttentionMaskInterface.register(IMPLEMENTATION, padding_mask)
