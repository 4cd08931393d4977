"""A toy task that is learnt in seconds: the label says which of two words a sentence holds."""

import random
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

from families import tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

WORDS = [f"w{index}" for index in range(20)]
CLUES = ("good", "bad")


def save_toy_checkpoint(folder: Path, num_labels: int = 2) -> Path:
    """A tiny random BERT and a word-level tokenizer, in Hugging Face layout."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CLUES, *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny_model("bert", scale=0.1, num_labels=num_labels, vocab_size=40, **no_dropout).save_pretrained(folder)
    return folder


def save_toy_language_model(folder: Path) -> Path:
    """A tiny random Llama and a word-level tokenizer of the Python reference, in Hugging Face layout."""
    words = Counter(topics["compound"].split())
    vocabulary = ["[UNK]", "<|endoftext|>", *(word for word, _ in words.most_common(60))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    tiny_model("llama", scale=0.3, vocab_size=len(vocabulary), eos_token_id=1).save_pretrained(folder)
    return folder


def write_toy_pairs(root: Path) -> Path:
    """A handful of sentence pairs as MRPC's files in the layout of the GLUE release."""
    folder = root / "MRPC"
    folder.mkdir(parents=True)
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    for name in ("train.tsv", "dev.tsv"):
        rows = [f"{index % 2}\t1\t2\tw1 good w{index}\tw2 {CLUES[index % 2]} {name[0]}\n" for index in range(16)]
        (folder / name).write_text(header + "".join(rows))
    return root


def write_toy_task(root: Path, train_rows: int = 256, validation_rows: int = 64) -> Path:
    """The toy task as SST-2's files in the layout of the GLUE release."""
    draw = random.Random(0)
    folder = root / "SST-2"
    folder.mkdir(parents=True)
    for name, count in (("train.tsv", train_rows), ("dev.tsv", validation_rows)):
        lines = ["sentence\tlabel"]
        for _ in range(count):
            label = draw.randrange(2)
            words = draw.choices(WORDS, k=draw.randrange(3, 12))
            words.insert(draw.randrange(len(words)), CLUES[label])
            lines.append(f"{' '.join(words)}\t{label}")
        (folder / name).write_text("\n".join(lines) + "\n")
    return root


def write_toy_mnli(root: Path) -> Path:
    """A handful of sentence pairs as MNLI's files in the layout of the GLUE release, with both validation sets."""
    folder = root / "MNLI"
    folder.mkdir(parents=True)
    labels = ("entailment", "neutral", "contradiction")
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        rows = [f"w1 good w{index}\tw2 bad {name[4]}\t{labels[index % 3]}\n" for index in range(18)]
        (folder / name).write_text("sentence1\tsentence2\tgold_label\n" + "".join(rows))
    return root
