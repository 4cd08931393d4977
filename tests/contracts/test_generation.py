"""What generation promises for every decoder family, and for every attention variant: the tokens of full forwards."""

from typing import Any

import pytest
import torch
from families import DECODERS, NUM_LAYERS, tiny_model
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

import mimicry
from mimicry.attention.shipped import shipped_variants
from mimicry.conversion.cache import RecurrentLayer

PROMPT, NEW = 12, 8

every_decoder = pytest.mark.parametrize("family", DECODERS)


def prompts() -> dict[str, Tensor]:
    """Three prompts of 12, 8 and 5 tokens, padded on the left."""
    ids = torch.randint(5, 99, (3, PROMPT), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(PROMPT) >= torch.tensor([0, 4, 7])[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def generate(model: PreTrainedModel, **options: Any) -> Any:
    lengths = {"max_new_tokens": NEW, "min_new_tokens": NEW}
    return model.generate(**prompts(), **lengths, return_dict_in_generate=True, output_logits=True, **options)


def logits_at_once(model: PreTrainedModel, sequences: Tensor) -> Tensor:
    """Logits of every generated token, from one forward pass without a cache."""
    mask = torch.cat([prompts()["attention_mask"], torch.ones(3, NEW).long()], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        out = model(input_ids=sequences, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.logits[:, PROMPT - 1 : -1]


def check_greedy(student: PreTrainedModel, layers: list[type], tolerance: float = 1e-7, **options: Any) -> None:
    """Logits of greedy generation and of a full forward agree, relative to the largest; `layers` make up the cache."""
    out = generate(student, do_sample=False, **options)
    assert [type(layer) for layer in out.past_key_values.layers] == layers
    assert out.past_key_values.get_seq_length() == PROMPT + NEW - 1
    expected = logits_at_once(student, out.sequences)
    # The host hands logits out in float32, whatever the model computes in.
    gap = (torch.stack(out.logits, dim=1) - expected).abs().max() / expected.abs().max()
    assert gap.item() <= tolerance


@every_decoder
def test_greedy_logits_are_those_of_the_full_forward_padding_included(family: str) -> None:
    check_greedy(mimicry.convert(tiny_model(family).double(), "hedgehog"), [RecurrentLayer] * NUM_LAYERS)


@every_decoder
def test_in_float32_they_agree_to_rounding(family: str) -> None:
    check_greedy(mimicry.convert(tiny_model(family), "hedgehog"), [RecurrentLayer] * NUM_LAYERS, tolerance=3e-6)


@every_decoder
def test_a_prompt_may_come_in_chunks(family: str) -> None:
    student = mimicry.convert(tiny_model(family).double(), "hedgehog")
    check_greedy(student, [RecurrentLayer] * NUM_LAYERS, prefill_chunk_size=5)


@every_decoder
def test_softmax_layers_of_a_hybrid_keep_their_own_cache_in_the_same_call(family: str) -> None:
    student = mimicry.convert(tiny_model(family).double(), "hedgehog", layers="1")
    check_greedy(student, [DynamicLayer, RecurrentLayer], prefill_chunk_size=5)
    student = mimicry.convert(tiny_model(family).double(), "hedgehog", layers="0")
    check_greedy(student, [RecurrentLayer, DynamicLayer])


@every_decoder
def test_beams_are_those_found_without_a_cache(family: str) -> None:
    student = mimicry.convert(tiny_model(family).double(), "hedgehog")
    options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    found = generate(student, **options).sequences
    assert torch.equal(found, generate(student, **options, use_cache=False).sequences)
    assert len(found) == 6


@every_decoder
def test_samples_are_those_drawn_without_a_cache(family: str) -> None:
    student = mimicry.convert(tiny_model(family).double(), "hedgehog")
    found = []
    for cached in ({}, {"use_cache": False}):
        torch.manual_seed(0)
        found.append(generate(student, do_sample=True, temperature=1.5, num_return_sequences=3, **cached).sequences)
    assert torch.equal(*found)
    # Samples of one prompt differ, so each has a state of its own.
    assert not torch.equal(found[0][0], found[0][1])


@pytest.mark.parametrize("attn", shipped_variants())
def test_every_shipped_variant_generates_what_its_full_forward_says(attn: str) -> None:
    student = mimicry.convert(tiny_model("llama").double(), attn)
    layer = DynamicLayer if attn == "softmax" else RecurrentLayer
    check_greedy(student, [layer] * NUM_LAYERS)
    check_greedy(student, [layer] * NUM_LAYERS, prefill_chunk_size=5)
