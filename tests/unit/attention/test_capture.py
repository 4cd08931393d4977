"""Capturing sees what each attention was given and leaves no trace."""

import pytest
import torch
from torch import Tensor, nn

from mimicry.attention import AttentionDims, LinearAttention, SoftmaxAttention
from mimicry.attention.capture import Captured, attention_layers, capture
from mimicry.attention.feature_maps.elu import EluFeatureMap

DIMS = AttentionDims(2, 4, causal=False)


class Block(nn.Module):
    """Doubles q and calls its attention in one of the ways a caller may."""

    def __init__(self, attn: nn.Module, style: str) -> None:
        super().__init__()
        self.attn = attn
        self.style = style

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        q, k, v = 2 * x, x + 1, x - 1
        if self.style == "positional":
            return self.attn(q, k, v, key_mask)
        if self.style == "keyword":
            return self.attn(q, k, v, key_mask=key_mask)
        if self.style == "all_keywords":
            return self.attn(v=v, k=k, q=q, key_mask=key_mask)
        return self.attn(q, k, v)


class Model(nn.Module):
    def __init__(self, *styles: str) -> None:
        super().__init__()
        kinds = (SoftmaxAttention(DIMS), LinearAttention(DIMS, EluFeatureMap))
        self.blocks = nn.ModuleList(Block(attn, style) for attn, style in zip(kinds, styles, strict=True))

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, key_mask)
        return x


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 2, 5, 4)


@pytest.fixture
def key_mask() -> Tensor:
    return torch.arange(5) < torch.tensor([[5], [3]])


def test_attention_layers_are_found_by_name_and_in_order() -> None:
    model = Model("positional", "positional")
    found = attention_layers(model)
    assert list(found) == ["blocks.0.attn", "blocks.1.attn"]
    assert list(found.values()) == [block.attn for block in model.blocks]
    assert attention_layers(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize("style", ["positional", "keyword", "all_keywords", "absent"])
def test_queries_keys_and_mask_of_each_layer_are_recorded(style: str, x: Tensor, key_mask: Tensor) -> None:
    model = Model(style, style)
    with capture(model) as captured:
        assert captured == {}
        model(x, key_mask)
    middle = model.blocks[0](x, key_mask)
    assert list(captured) == ["blocks.0.attn", "blocks.1.attn"]
    for seen, given in zip(captured.values(), (x, middle), strict=True):
        assert isinstance(seen, Captured)
        torch.testing.assert_close(seen.q, 2 * given, rtol=0, atol=0)
        torch.testing.assert_close(seen.k, given + 1, rtol=0, atol=0)
        if style == "absent":
            assert seen.key_mask is None
        else:
            assert seen.key_mask is key_mask


def test_a_mask_of_none_is_recorded_as_none(x: Tensor) -> None:
    model = Model("positional", "keyword")
    with capture(model) as captured:
        model(x, None)
    assert [seen.key_mask for seen in captured.values()] == [None, None]


def test_captured_weights_are_the_models_own(x: Tensor, key_mask: Tensor) -> None:
    model = Model("positional", "keyword")
    with capture(model) as captured:
        outputs = model(x, key_mask)
    seen, last = captured["blocks.1.attn"], model.blocks[1].attn
    v = model.blocks[0](x, key_mask) - 1
    torch.testing.assert_close(last.weights(seen.q, seen.k, seen.key_mask) @ v, outputs)


def test_capturing_does_not_change_the_outputs(x: Tensor, key_mask: Tensor) -> None:
    model = Model("positional", "keyword")
    expected = model(x, key_mask)
    with capture(model):
        assert torch.equal(model(x, key_mask), expected)


def test_each_forward_pass_replaces_what_the_last_one_left(x: Tensor) -> None:
    model = Model("positional", "keyword")
    with capture(model) as captured:
        model(x, None)
        model(3 * x, None)
    torch.testing.assert_close(captured["blocks.0.attn"].q, 6 * x, rtol=0, atol=0)


def test_captured_tensors_stay_part_of_the_graph(x: Tensor) -> None:
    model = Model("positional", "keyword")
    with capture(model) as captured:
        model(x.requires_grad_(), None)
    (gradient,) = torch.autograd.grad(captured["blocks.0.attn"].q.sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 2.0))
    with capture(model) as captured, torch.no_grad():
        model(x, None)
    assert not captured["blocks.1.attn"].q.requires_grad


def test_hooks_are_gone_after_the_block(x: Tensor) -> None:
    model = Model("positional", "keyword")
    with capture(model) as captured:
        assert hooks(model) == 2
    assert hooks(model) == 0
    model(x, None)
    assert captured == {}


def test_hooks_are_gone_after_an_exception(x: Tensor) -> None:
    model = Model("positional", "keyword")

    def interrupted() -> None:
        with capture(model):
            assert hooks(model) == 2
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        interrupted()
    assert hooks(model) == 0
