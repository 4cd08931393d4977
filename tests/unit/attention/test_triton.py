"""The Triton kernels against attention written out in float64; without a GPU, under Triton's interpreter."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from mimicry.attention.triton.fused import LinearMap, hedgehog_attention
from mimicry.attention.triton.tiles import Plan, Tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Plan(Tiles(16, 16, 4, 1), Tiles(16, 16, 4, 1), segment=32)


def written_out(q, k, v, query_map, key_map, causal, key_mask=None):
    def features(x, linear):
        u = torch.einsum("bhnd,hfd->bhnf", x, linear.weight.expand(x.shape[1], -1, -1))
        u = u if linear.bias is None else u + linear.bias
        return torch.cat([u.exp(), (-u).exp()], dim=-1)
    scores = features(q, query_map) @ features(k, key_map).mT
    if causal:
        scores = scores.tril()
    if key_mask is not None:
        scores = scores * key_mask[:, None, None]
    return scores @ v / scores.sum(-1, keepdim=True).clamp(min=1e-30)

@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 70])
def test_try(causal, tokens):
    import time
    q, k, v = torch.randn(3, 2, 2, tokens, 16)
    w = [0.3 * torch.randn(2, 16, 16) for _ in range(2)]
    b = [0.3 * torch.randn(2, 1, 16) for _ in range(2)]
    mask = torch.rand(2, tokens) > 0.2
    leaves = [x.requires_grad_() for x in (q, k, v, *w, *b)]
    t = time.time()
    y = hedgehog_attention(q, k, v, LinearMap(w[0], b[0]), LinearMap(w[1], b[1]), causal=causal, key_mask=mask, plan=SMALL)
    print(tokens, "forward", time.time() - t)
    dy = torch.randn_like(y)
    t = time.time()
    grads = torch.autograd.grad(y, leaves, dy)
    print(tokens, "backward", time.time() - t)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    r = written_out(*exact[:3], LinearMap(exact[3], exact[5]), LinearMap(exact[4], exact[6]), causal, mask)
    torch.testing.assert_close(y.double(), r, rtol=1e-5, atol=1e-5)
    for g, e in zip(grads, torch.autograd.grad(r, exact, dy.double())):
        torch.testing.assert_close(g.double(), e, rtol=1e-5, atol=1e-5)
