"""The models of a finished run, from what it has left on disk."""

import logging
from pathlib import Path

from safetensors.torch import load_model
from torch import nn

from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise
from mimicry.conversion.adapter_files import FOLDER as ADAPTER
from mimicry.conversion.loading import load
from mimicry.regimes.job import ConversionJob
from mimicry.regimes.progress import is_kept, take

log = logging.getLogger(__name__)


def reload(job: ConversionJob, folder: Path) -> None:
    """Fills `job.student`, and `job.teacher` where there was one and it can still be had.

    Args:
        job: of the run's own settings; its rows are prepared on the way.
        folder: of the student, as the run saved it.

    Raises:
        ValueError: if the student is not there, not whole, or not of these settings.
    """
    model, data, _ = job.prepare()
    if attention_layers(model):
        # Built around its attention, from scratch: weights are all that was saved.
        _load_weights(model, folder / "model.safetensors")
        job.student = model.eval()
        return
    student = load(folder)
    if (folder / ADAPTER).is_dir():
        student.load_adapter(folder / ADAPTER)
    job.student = student.eval()
    teach = job.regime.grids.get("teach")
    if teach is not None and teach.candidates:
        kept = job.teacher_folder(data)
        if not is_kept(kept):
            log.warning("The teacher of this run is not kept any more in %s: its student is analysed alone.", kept)
            return
        take(kept, model)
    job.teacher = canonicalise(model).requires_grad_(False).eval()


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"from must hold the weights of its student, got no {path}")
    try:
        load_model(model, path)
    except RuntimeError as error:
        raise ValueError(f"{path} must hold the weights of the run's model: {' '.join(str(error).split())}") from error
