"""The student of a run on disk: a folder that loads by itself, with what the run has measured in its card."""

from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_model

from mimicry.assets import ORIGINS
from mimicry.conversion.converted import ConvertedModel
from mimicry.conversion.model_card import write_card
from mimicry.regimes.job import ConversionJob
from mimicry.regimes.progress import discard
from mimicry.reporting.model_card import measured_section
from mimicry.reporting.run_record import RunRecord


def save_student(
    conversion: ConversionJob, record: RunRecord, adapters: Literal["merged", "separate"], folder: Path
) -> Path:
    """Writes weights, config, tokenizer or image processor, and the card, over what an earlier attempt has left.

    A model that was trained from scratch has no config but the run's, which is in the record beside: its weights are
    written, and its tokenizer if it has one.

    Args:
        conversion: finished.
        record: of the run so far.
        adapters: what becomes of low-rank adapters, where there are any; see `save_pretrained` of converted models.
        folder: of the student.

    Returns:
        The folder.
    """
    student: Any = conversion.student
    discard(folder)
    folder.mkdir(parents=True)
    if not isinstance(student, ConvertedModel):
        save_model(student, str(folder / "model.safetensors"))
        if conversion.processor is not None:
            conversion.processor.save_pretrained(folder)
        return folder
    checkpoint: Any = conversion.parts.checkpoint
    source = getattr(checkpoint, "teacher", None) or checkpoint.path
    base, licence = ORIGINS.get(source, (student.config.mimicry["base"], None))
    student.config.mimicry["base"] = base
    student.save_pretrained(folder, adapters=adapters if hasattr(student, "peft_config") else "merged")
    conversion.processor.save_pretrained(folder)
    write_card(student, folder, measured_section(record), licence)
    return folder
