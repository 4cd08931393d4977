"""Running text as rows of a classifier: one stream of tokens, cut into blocks with its special tokens around each."""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from mimicry.data.text import EncodedRow

# Lists of tokens are Python objects and large: so many documents are held in that form at once.
DOCUMENTS_AT_ONCE = 32


class PackedRows:
    """Blocks of a stream of tokens, four bytes a token in memory; a block becomes a row when it is asked for.

    Args:
        stream: token ids of shape (tokens,), int32, at least one.
        before: what stands before a block's tokens, for each field of the tokenizer.
        fill: what one token of the text has in each field but `input_ids`.
        after: what stands after a block's tokens.
        max_length: of a row in tokens, special ones included.
    """

    def __init__(
        self,
        stream: np.ndarray,
        before: dict[str, list[int]],
        fill: dict[str, int],
        after: dict[str, list[int]],
        max_length: int,
    ) -> None:
        self.stream, self.before, self.fill, self.after = stream, before, fill, after
        self._size = max_length - len(before["input_ids"]) - len(after["input_ids"])

    def __len__(self) -> int:
        return -(-len(self.stream) // self._size)

    def __getitem__(self, index: int) -> EncodedRow:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        ids = self.stream[index * self._size : (index + 1) * self._size].tolist()
        middle = {name: [value] * len(ids) for name, value in self.fill.items()} | {"input_ids": ids}
        # Nothing is classified here: maps alone learn on these rows.
        return EncodedRow({name: self.before[name] + middle[name] + self.after[name] for name in self.before}, 0)


def pack(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], max_length: int) -> PackedRows:
    """Rows of all tokens of the documents, in order, with nothing between one document and the next.

    Args:
        tokenizer: of the classifier that will read the rows.
        documents: running text; as many of its tokens as fit stand in each row, and none is left out.
        max_length: of a row in tokens, special ones included.

    Raises:
        ValueError: if there are no documents, or no tokens in them.
    """
    if not documents:
        raise ValueError("documents must not be empty, got 0")
    ids = []
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = list(documents[start : start + DOCUMENTS_AT_ONCE])
        # Documents are longer than the model's input, which is what blocks are for.
        encoded = tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids += [np.array(row, np.int32) for row in encoded["input_ids"]]
    stream = np.concatenate(ids)
    if not len(stream):
        raise ValueError(f"documents must have at least one token, got none in {len(documents)} documents")
    # Which special tokens a text has around it, and what each field says of them, one short text tells.
    framed = dict(tokenizer("a", return_special_tokens_mask=True))
    special = framed.pop("special_tokens_mask")
    first, last = special.index(0), len(special) - special[::-1].index(0)
    return PackedRows(
        stream,
        before={name: values[:first] for name, values in framed.items()},
        fill={name: values[first] for name, values in framed.items() if name != "input_ids"},
        after={name: values[last:] for name, values in framed.items()},
        max_length=max_length,
    )
