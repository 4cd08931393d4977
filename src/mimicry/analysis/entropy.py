"""How spiky attention is."""

import torch

from mimicry.shapes import KeyMask, PerQuery, Visible, Weights


def check_rows(name: str, weights: Weights, key_mask: KeyMask | None) -> Weights:
    """The weights in at least float32 with masked keys at zero; ValueError unless every row is a distribution.

    Rows of zeros pass: they are those of queries that see no key, such as padding before a text.
    """
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    if key_mask is not None:
        weights = weights.masked_fill(~key_mask[:, None, None, :], 0.0)
    if weights.numel() == 0:
        return weights
    if float(weights.detach().min()) < 0:
        raise ValueError(f"{name} must be non-negative, got {float(weights.detach().min()):.3g}")
    sums = weights.detach().sum(dim=-1)
    worst = float((sums - 1.0).masked_fill(sums == 0, 0.0).abs().max())
    # `not <=` so that NaN is refused too.
    if not worst <= 1e-4:
        raise ValueError(f"{name} must sum to 1 over visible keys within 1e-4 in every row, off by {worst:.3g}")
    return weights


def attention_entropy(weights: Weights, key_mask: KeyMask | None = None) -> PerQuery:
    """Shannon entropy of each query's attention distribution, H(a) = -sum_j a_j log a_j.

    Args:
        weights: non-negative, rows sum to 1 over keys; used as given, not re-normalised.
        key_mask: True where a key may be attended to; masked keys contribute nothing.

    Returns:
        Entropy in nats, between 0 (one-hot) and log(number of unmasked keys).

    Raises:
        ValueError: if a weight is negative or a row does not sum to 1 within 1e-4.

    Source: arXiv 2402.04347, Sec. 3.2 (spikiness is low entropy).
    """
    weights = check_rows("weights", weights, key_mask)
    return -torch.special.xlogy(weights, weights).sum(dim=-1)


def normalised_entropy(weights: Weights, visible: Visible) -> PerQuery:
    """Entropy as a share of the largest possible one, H(a) / log(number of visible keys): lengths compare.

    Args:
        weights: non-negative, rows sum to 1 over the visible keys.
        visible: keys that each query may attend to.

    Returns:
        Between 0 (one-hot) and 1 (uniform); NaN for queries that see fewer than two keys, which have nothing to choose.

    Raises:
        ValueError: if a weight is negative or a row does not sum to 1 within 1e-4.
    """
    entropy = attention_entropy(weights)
    seen = visible.sum(dim=-1).to(entropy.dtype)
    return torch.where(seen > 1, entropy / seen.clamp(min=2).log(), torch.nan)
