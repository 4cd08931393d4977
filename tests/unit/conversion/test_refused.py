"""Which attention is refused, and how that is said."""

import re
from types import SimpleNamespace

import pytest
from families import tiny_model
from transformers import AutoConfig

import mimicry
from mimicry.conversion.refused import REFUSED, check_attention
from mimicry.conversion.site import adapter_of, supported_families


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_no_adapter_can_help_is_known_to_the_host_library_and_refused_in_a_line(family: str) -> None:
    with pytest.raises(ValueError, match=f"^model: architecture '{family}' cannot be converted: ") as refused:
        adapter_of(AutoConfig.for_model(family))
    assert REFUSED[family] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert family.replace("-", "_") not in supported_families()


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("deberta-v2", "disentangled relative-position terms"),
        ("bloom", "ALiBi"),
        ("falcon", "ALiBi"),
        ("gemma2", "soft-capped"),
        ("gemma3_text", "sliding window"),
        ("gpt_oss", "learnt sinks"),
        ("deepseek_v3", "share a latent"),
        ("t5", "bias of the relative position"),
        ("bart", "attends to its encoder"),
    ],
)
def test_the_reason_for_a_refusal_is_given(family: str, reason: str) -> None:
    assert reason in REFUSED[family]


@pytest.mark.parametrize(
    ("family", "options", "reason"),
    [
        ("mistral", {"sliding_window": 8}, "sliding_window must be null or span all 64 positions, got 8"),
        ("mixtral", {"sliding_window": 8}, "sliding_window must be null or span all 64 positions, got 8"),
        ("phi3", {"sliding_window": 63}, "sliding_window must be null or span all 64 positions, got 63"),
        ("starcoder2", {"sliding_window": 8}, "sliding_window must be null or span all 64 positions, got 8"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding_window must be null or span all 64 positions, got 8",
        ),
        (
            "qwen3",
            {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]},
            "sliding_window must be null or span all 64 positions, got 8",
        ),
        (
            "smollm3",
            {"sliding_window": 8, "use_sliding_window": True},
            "sliding_window must be null or span all 64 positions, got 8",
        ),
        ("gpt2", {"add_cross_attention": True}, "cross-attention cannot be converted, got add_cross_attention=True"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention cannot be converted"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type must be absolute"),
    ],
)
def test_an_option_that_linear_attention_cannot_honour_is_refused_before_anything_runs(
    family: str, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^model: {re.escape(reason)}"):
        mimicry.convert(tiny_model(family, **options), "hedgehog")


@pytest.mark.parametrize(
    "options",
    [
        {"sliding_window": 32768, "use_sliding_window": False},
        {"sliding_window": 4096, "max_position_embeddings": 4096},
        {"sliding_window": 8, "layer_types": ["full_attention", "full_attention"]},
    ],
)
def test_a_window_that_nothing_heeds_is_no_reason_in_a_file_of_options_either(options: dict[str, object]) -> None:
    check_attention(SimpleNamespace(**options))
