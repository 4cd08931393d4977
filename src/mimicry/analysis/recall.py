"""What a decoder recalls: its predictions where they are scored, and how far back the answers stood."""

import torch

from mimicry.shapes import Labels, ScoredIds, ScoredLogits, TokenIds, TokenLogits

# A label that is not scored.
IGNORED = -100


def scored_predictions(logits: TokenLogits, labels: Labels) -> tuple[ScoredLogits, ScoredIds]:
    """Logits of the positions before each scored label, and these labels, row after row.

    Args:
        logits: of the token after each position.
        labels: not shifted, -100 where nothing is scored. The first of a row is not: nothing comes before it.
    """
    scored = labels[:, 1:] != IGNORED
    return logits[:, :-1][scored], labels[:, 1:][scored]


def query_gaps(input_ids: TokenIds, labels: Labels) -> ScoredIds:
    """For each scored label, in the same order, how many tokens ago the token before it stood last.

    In recall that token is the key asked for. Rows of n tokens take memory for n x n booleans each.

    Returns:
        Gaps in tokens, >= 1; 0 where the token is new.
    """
    queries = input_ids[:, :-1]
    position = torch.arange(queries.shape[1], device=queries.device)
    same = (queries[:, :, None] == queries[:, None, :]) & (position[:, None] > position)
    latest = torch.where(same, position, -1).amax(dim=-1)
    gaps = torch.where(latest < 0, 0, position - latest)
    return gaps[labels[:, 1:] != IGNORED]
