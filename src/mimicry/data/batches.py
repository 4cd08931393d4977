"""From rows to batches: encoded once, then dealt out by each stage in its own batch size and order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mimicry.data.sampler import LengthBucketSampler
from mimicry.data.task import check_limit, draw_indices
from mimicry.ranks import have_met

# Scores do not depend on them; without gradients such batches fit wherever training fits.
MEASURING_BATCH_SIZE = 64
MEASURING_TOKENS = 8192
# What a batch carries beside the model's inputs: `words` counts those that a row's predicted tokens stand for.
NOT_INPUTS = ("labels", "words")


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch a host model takes as its inputs."""
    return {name: value for name, value in batch.items() if name not in NOT_INPUTS}


@runtime_checkable
class Rows(Protocol):
    """Encoded rows: a list of them, or something that reads or draws them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class Encoder(Protocol):
    """Turns the examples of a task into rows, and rows into the batches that a host model takes.

    Attributes:
        workers: processes that collate batches; 0 where that takes no time.
    """

    workers: int

    def encode(self, examples: Sequence[Any]) -> Rows:
        """One row for each example, in order."""

    def lengths(self, rows: Rows) -> list[int]:
        """Tokens of each row as the model sees it, special ones included, padding not."""

    def collate(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """The model's inputs for these rows, and their `labels`: integer class ids, or float32 scores."""

    def position_names(self, row: Any) -> list[str]:
        """What stands at each position of a row, for figures."""


class Share:
    """Makes batches of the rows that fall to this process, where several train together; of all rows where one does.

    A loader's batch is that of all processes, so that steps, epochs and places in the data do not depend on their
    number. A batch with fewer rows than processes goes to each of them whole.

    Args:
        collate: makes a batch of rows.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], dict[str, Tensor]]) -> None:
        self.collate = collate
        self.rank, self.processes = 0, 1

    def meet(self) -> None:
        """Looks which process this is: known once training has begun."""
        if have_met():
            self.rank, self.processes = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        return self.collate(rows[self.rank :: self.processes] if len(rows) >= self.processes else rows)


class ResumableLoader(DataLoader):
    """A loader over a `LengthBucketSampler` that tells how much of a pass it has dealt, and can go on from there."""

    dealt = 0

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.collate_fn, Share):
            self.collate_fn.meet()
        self.dealt = getattr(self.sampler, "skip", 0) // (self.batch_size or 1)
        for batch in super().__iter__():
            self.dealt += 1
            yield batch
        self.dealt = 0

    def state_dict(self) -> dict[str, int]:
        """Batches dealt in the pass that is under way."""
        # After the last batch of a pass the next one starts from its beginning.
        return {"dealt": self.dealt % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass leaves out what was dealt."""
        assert isinstance(self.sampler, LengthBucketSampler)
        self.sampler.skip = state["dealt"] * (self.batch_size or 1)


@dataclass(frozen=True)
class TaskBatches:
    """The encoded rows of a task, dealt out in the batches that training and measuring want.

    Args:
        encoder: made the rows.
        train: rows to train on.
        distill: rows whose inputs the feature maps learn on; usually `train`, or another corpus.
        held_out: rows set aside to choose settings on; empty when there is nothing to choose.
        validation: rows to score on, by split, the primary one first.
        seed: draws subsets and orders of training rows.
        measuring_tokens: at most so many, padding included, are measured in one batch.
    """

    encoder: Encoder
    train: Rows
    distill: Rows
    held_out: Rows
    validation: Mapping[str, Rows]
    seed: int
    measuring_tokens: int = MEASURING_TOKENS

    def training(self, stage: str, batch_size: int, max_rows: int | None = None) -> ResumableLoader:
        """Batches of rows with similar lengths, in an order of their own for each epoch.

        Args:
            stage: `distill` takes the rows for distillation, any other those to train on.
            batch_size: rows of a batch, >= 1, over all processes that train together.
            max_rows: deal out this many rows, drawn by the seed, >= 1; None deals out all.

        Raises:
            ValueError: if there are no rows, or the batch size or the limit is below 1.
        """
        rows = self.distill if stage == "distill" else self.train
        if not len(rows):
            raise ValueError("rows must not be empty, got 0")
        check_limit("max_rows", max_rows)
        chosen = draw_indices(len(rows), max_rows, self.seed)
        lengths = self.encoder.lengths(rows)
        sampler = LengthBucketSampler([lengths[index] for index in chosen], batch_size, self.seed)
        options = self._options() | {"collate_fn": Share(self.encoder.collate)}
        return ResumableLoader(Subset(rows, chosen), batch_size, sampler=sampler, **options)

    def measuring(self, rows: Rows) -> DataLoader:
        """Every one of `rows` once, shortest first.

        Raises:
            ValueError: if there are none.
        """
        if not len(rows):
            raise ValueError("rows must not be empty, got 0")
        lengths = self.encoder.lengths(rows)
        shortest_first = sorted(range(len(rows)), key=lengths.__getitem__)
        batch_size = min(MEASURING_BATCH_SIZE, max(1, self.measuring_tokens // max(lengths)))
        return DataLoader(Subset(rows, shortest_first), batch_size, **self._options())

    def tokens(self, loader: DataLoader) -> int:
        """Tokens of one pass over one of our loaders, padding not counted."""
        return sum(self.row_lengths(loader))

    def row_lengths(self, loader: DataLoader) -> list[int]:
        """Tokens of each row of one of our loaders."""
        rows: Any = loader.dataset
        lengths = self.encoder.lengths(rows.dataset)
        return [lengths[index] for index in rows.indices]

    def _options(self) -> dict[str, Any]:
        workers = self.encoder.workers
        return {"collate_fn": self.encoder.collate, "num_workers": workers, "persistent_workers": workers > 0}
