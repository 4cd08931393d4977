"""Softmax attention: the teacher and the baseline."""

import torch
import torch.nn.functional as F

from mimicry.attention.base import Attention
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values, Weights

# Queries per call of the fused kernel where it needs a mask: a mask of all pairs would outgrow everything else.
ROWS = 256


class SoftmaxAttention(Attention):
    """a_ij = softmax_j(q_i . k_j / sqrt(d)); y_i = sum_j a_ij v_j.

    `forward` runs torch's fused kernel and never stores the weights, nor a mask of all pairs.
    Source: arXiv 2402.04347, Eq. 1.
    """

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask, v)
        if key_mask is None and (not self.dims.causal or q.shape[2] == k.shape[2]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.dims.causal)
        if not self.dims.causal or q.shape[2] <= ROWS:
            return self._masked(q, k, v, key_mask)
        past, outputs = k.shape[2] - q.shape[2], []
        for start in range(0, q.shape[2], ROWS):
            rows = slice(start, min(start + ROWS, q.shape[2]))
            # No row of the block sees a key beyond its last one.
            keys = slice(0, past + rows.stop)
            mask = None if key_mask is None else key_mask[:, keys]
            outputs.append(self._masked(q[:, :, rows], k[:, :, keys], v[:, :, keys], mask))
        return torch.cat(outputs, dim=2)

    def _masked(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None) -> Outputs:
        visible = self.visible(q, k, key_mask)
        if visible is None:
            return F.scaled_dot_product_attention(q, k, v)
        # A row without any visible key would be 0/0: let it attend everywhere, then clear its output.
        seeing = visible.any(dim=-1, keepdim=True)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible | ~seeing)
        return out.masked_fill(~seeing, 0.0)

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        self.check(q, k, key_mask)
        # Scores in at least float32: half precision cannot normalise a long row.
        dtype = torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            scores = torch.einsum("bhnd,bhmd->bhnm", q.to(dtype) * self.dims.head_dim**-0.5, k.to(dtype))
        visible = self.visible(q, k, key_mask)
        if visible is None:
            return scores.softmax(dim=-1)
        # The smallest finite value, not -inf: rows without a visible key stay free of NaN and are cleared here.
        weights = scores.masked_fill_(~visible, torch.finfo(dtype).min).softmax(dim=-1)
        return weights * visible.any(dim=-1, keepdim=True)
