"""The embedded language model itself: fetched and unpacked once, then read from the cache."""

import math

import pytest
import torch
from cli import REPO
from torch.nn.functional import cross_entropy

import mimicry
from mimicry.conversion.language_checkpoint import LanguageCheckpoint
from mimicry.data.batches import model_inputs
from mimicry.data.topics import Topics
from mimicry.data.wikitext import WikiText

pytestmark = pytest.mark.slow

WIKITEXT = REPO.parent / "shared" / "data" / "wikitext-2-raw"


@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="needs shared/data/wikitext-2-raw beside the repository")
def test_its_perplexity_on_wikitext_2_is_the_known_one() -> None:
    torch.set_num_threads(1)
    checkpoint = LanguageCheckpoint("asset:smollm2", max_length=1024)
    model, tokenizer = checkpoint.load()
    task = WikiText("wikitext2", root=str(WIKITEXT), train_file="wiki.train.head1MB.raw.gz")
    encoder = task.encoder(tokenizer, 1024)
    rows = encoder.encode(task.load().validation["validation"])
    losses = []
    # Every 16th block: all of them take half an hour on one core.
    for index in range(0, len(rows), 16):
        batch = encoder.collate([rows[index]])
        with torch.no_grad():
            logits = model(**model_inputs(batch)).logits[0, :-1]
        losses.append(cross_entropy(logits, batch["labels"][0, 1:], reduction="none"))
    # 18.9 over all blocks.
    assert math.exp(torch.cat(losses).double().mean()) == pytest.approx(18.9, rel=0.05)


def test_canonicalising_it_leaves_its_logits_on_the_default_text_unchanged() -> None:
    model, tokenizer = LanguageCheckpoint("asset:smollm2").load()
    encoder = Topics().encoder(tokenizer, 128)
    rows = encoder.encode(Topics().load().validation["validation"])
    inputs = model_inputs(encoder.collate([rows[0], rows[len(rows) - 1]]))
    assert "attention_mask" in inputs
    with torch.no_grad():
        difference = mimicry.canonicalise(model)(**inputs).logits - model(**inputs).logits
    # Logits reach 30; what stands at padded places is nobody's.
    assert difference[inputs["attention_mask"].bool()].abs().max() <= 1e-3
