"""Weights in blocks of queries are the layer's weights, for every shipped attention."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mimicry.analysis.rows import scaled_scores, weight_rows
from mimicry.attention import AttentionDims

VARIANTS = sorted((Path(__file__).parents[3] / "conf" / "attn").glob("*.yaml"))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("block", [1, 5, 64, None])
def test_blocks_of_rows_are_the_weights_and_say_what_is_visible(variant: Path, causal: bool, block: int | None) -> None:
    layer = instantiate(OmegaConf.load(variant))(dims=AttentionDims(2, 8, causal)).double().eval()
    q, k = torch.randn(2, 2, 2, 23, 8, dtype=torch.float64)
    key_mask = torch.ones(2, 23, dtype=torch.bool)
    key_mask[0, 17:] = False
    whole = layer.weights(q, k, key_mask)
    expected = layer.visible(q, k, key_mask).expand(2, 1, 23, 23)
    covered = 0
    for rows in weight_rows(layer, q, k, key_mask, block):
        assert rows.queries.start == covered
        covered = rows.queries.stop
        torch.testing.assert_close(rows.weights, whole[:, :, rows.queries, rows.keys], rtol=1e-9, atol=1e-12)
        assert torch.equal(rows.visible, expected[:, :, rows.queries, rows.keys])
        assert not expected[:, :, rows.queries, rows.keys.stop :].any()
    assert covered == 23


def test_without_a_mask_a_bidirectional_query_sees_all_keys() -> None:
    layer = instantiate(OmegaConf.load(VARIANTS[0].with_name("softmax.yaml")))(dims=AttentionDims(2, 8, False))
    (rows,) = weight_rows(layer, *torch.randn(2, 2, 2, 7, 8))
    assert rows.visible.all()
    assert rows.visible.shape == (2, 1, 7, 7)


def test_softmax_is_the_exponential_of_the_scores() -> None:
    layer = instantiate(OmegaConf.load(VARIANTS[0].with_name("softmax.yaml")))(dims=AttentionDims(2, 8, False))
    q, k = torch.randn(2, 2, 2, 7, 8)
    torch.testing.assert_close(layer.weights(q, k), scaled_scores(q, k).softmax(dim=-1))


def test_an_empty_block_is_refused() -> None:
    layer = instantiate(OmegaConf.load(VARIANTS[0].with_name("softmax.yaml")))(dims=AttentionDims(2, 8, False))
    with pytest.raises(ValueError, match="block must be >= 1, got 0"):
        next(weight_rows(layer, *torch.randn(2, 2, 2, 7, 8), block=0))
