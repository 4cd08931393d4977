"""A tiny tokenizer and decoders that read its tokens."""

from pathlib import Path

from families import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "the cat sat on the mat . the dog ran to the cat and sat down . a chat : hello , how are you ?"
# As in GPT-2; the reader of GGUF files adds it to tokenizers that lack it.
END = "<|endoftext|>"


def toy_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, an end-of-text token and no pad token, in the manner of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"eos_token": END} | special))


def padded_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a pad token, as a checkpoint hands it over."""
    return toy_tokenizer(pad_token=END)


def save_toy_decoder(folder: Path, family: str = "llama", **changes: object) -> Path:
    """A tiny random decoder and the tokenizer, in Hugging Face layout."""
    tiny_model(
        family, scale=0.1, **({"vocab_size": 300, "eos_token_id": 0, "bos_token_id": 0} | changes)
    ).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder
