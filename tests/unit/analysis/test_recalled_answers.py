"""Scored predictions and their gaps, counted by hand."""

import torch

from mimicry.analysis.recall import query_gaps, scored_predictions

ROW_A = [5, 1, 5, 2, 6, 5, 1, 6]
ROW_B = [3, 3, 4, 3, 7, 7, 7, 4]


def test_labels_meet_the_logits_of_the_position_before_row_after_row() -> None:
    logits = torch.randn(2, 4, 9)
    labels = torch.tensor([[8, -100, 2, -100], [-100, 3, -100, 4]])
    chosen, targets = scored_predictions(logits, labels)
    # Nothing comes before the first token.
    assert targets.tolist() == [2, 3, 4]
    assert torch.equal(chosen, torch.stack([logits[0, 1], logits[1, 0], logits[1, 2]]))


def test_gaps_count_tokens_back_to_the_latest_earlier_one_of_the_same_kind() -> None:
    ids = torch.tensor([ROW_A, ROW_B])
    gaps = query_gaps(ids, ids)
    # Of positions 0 to 6 of either row.
    assert gaps.tolist() == [0, 0, 2, 0, 0, 3, 5, 0, 1, 0, 2, 0, 1, 1]


def test_gaps_stand_in_the_order_of_the_scored_labels() -> None:
    ids = torch.tensor([ROW_A, ROW_B])
    labels = torch.full_like(ids, -100)
    labels[0, 6], labels[0, 3], labels[1, 4] = 1, 2, 7
    assert query_gaps(ids, labels).tolist() == [2, 3, 2]
    assert scored_predictions(torch.randn(2, 8, 9), labels)[1].tolist() == [2, 1, 7]


def test_a_token_that_comes_later_is_no_earlier_one() -> None:
    ids = torch.tensor([[1, 2, 1, 3]])
    labels = torch.tensor([[-100, 2, -100, -100]])
    assert query_gaps(ids, labels).tolist() == [0]
