"""ROUGE of generated summaries, by the package rouge-score."""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

ROUGES = ("rouge1", "rouge2", "rougeL")
# Labels that are not predicted: the prompt and padding.
IGNORED = -100


class RougeScores(nn.Module):
    """F-measures of what a language model writes after each prompt, greedily, against the summary that belongs there.

    The prompt is what a row does not predict. Words are stemmed, as the package's own command line advises for English.

    Args:
        tokenizer: of the model, with a pad token.
        new_tokens: written at most, >= 1; references are cut to as many by the task.

    Source: Lin 2004; arXiv 2402.04347, Table 11, which does not tell its decoding.
    """

    def __init__(self, tokenizer: Any, new_tokens: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.new_tokens = new_tokens
        self.scorer = _rouge_scorer()
        self.means = nn.ModuleDict({name: MeanMetric() for name in ROUGES})

    def update(self, model: Any, batch: dict[str, Tensor]) -> None:
        prompts, references = [], []
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            wanted = labels != IGNORED
            prompts.append(ids[: int(wanted.int().argmax())])
            references.append(self.tokenizer.decode(labels[wanted], skip_special_tokens=True))
        written = self._write(model, prompts)
        for text, reference in zip(written, references, strict=True):
            for name, score in self.scorer.score(reference, text).items():
                self.means[name].update(score.fmeasure)

    def compute(self) -> dict[str, Tensor]:
        return {name: metric.compute() for name, metric in self.means.items()}

    def reset(self) -> None:
        for metric in self.means.values():
            metric.reset()

    @torch.no_grad()
    def _write(self, model: Any, prompts: list[Tensor]) -> list[str]:
        """Padding goes to the left: what is written must follow its prompt."""
        longest, pad = max(map(len, prompts)), self.tokenizer.pad_token_id
        ids = torch.stack([nn.functional.pad(prompt, (longest - len(prompt), 0), value=pad) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=ids.device)
        mask = torch.arange(longest, device=ids.device) >= longest - lengths[:, None]
        out = model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
        texts: list[str] = self.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        return texts


def _rouge_scorer() -> Any:
    # Imported late, for what its logging library does: its handler keeps the standard error it finds, and closes that
    # when logging is configured anew, as Hydra does for each job; the process's own it leaves open.
    from absl import logging as absl_logging
    from rouge_score.rouge_scorer import RougeScorer

    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(list(ROUGES), use_stemmer=True)
