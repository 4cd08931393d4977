"""Row orders that put texts of similar length into the same batch, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

# Longer windows pad less but mix lengths less; at 50 batches little is left to gain.
WINDOW_BATCHES = 50
# Seeds times this plus the epoch never meet: epoch 1 of seed 0 must not repeat epoch 0 of seed 1.
EPOCHS_PER_SEED = 1_000_003


class LengthBucketSampler(Sampler[int]):
    """Random order of rows in which every `batch_size` neighbours, taken from the start, have similar lengths.

    Each epoch shuffles all rows, sorts them by length within windows of 50 batches, and shuffles the batches. The rows
    left over when `batch_size` does not divide their number are a random draw and come last. It is a sampler and not a
    batch sampler because Lightning calls `set_epoch` on a loader's sampler only.

    Args:
        lengths: of each row, in tokens.
        batch_size: of the loader that uses this order.
        seed: the order is a function of seed and epoch.

    Attributes:
        skip: rows that the next pass leaves out at its start, because an interrupted pass has dealt them.

    Raises:
        ValueError: if the batch size is below 1.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * EPOCHS_PER_SEED + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        num_batches = len(self) // self.batch_size
        whole, rest = order[: num_batches * self.batch_size], order[num_batches * self.batch_size :]
        windows = whole.split(WINDOW_BATCHES * self.batch_size)
        batches = torch.cat([window[self.lengths[window].argsort(stable=True)] for window in windows])
        batches = batches.view(num_batches, self.batch_size)
        batches = batches[torch.randperm(num_batches, generator=generator)]
        rows = [*batches.flatten().tolist(), *rest.tolist()]
        start, self.skip = self.skip, 0
        return iter(rows[start:])
