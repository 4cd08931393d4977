"""What the libraries below may say in the terminal."""

import logging
import warnings

import transformers

from mimicry.ranks import is_main_process


def quieten() -> None:
    """Keeps the terminal for progress and results: other libraries speak only when something is wrong."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Batches are made of tokenised rows in memory: worker processes would only cost start-up time.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*smaller than the logging interval.*")
    # The teacher stays in evaluation mode on purpose, and stages are measured after training rather than during it.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*defined a `validation_step` but have no `val_dataloader`.*")
    # An interrupted attempt has left its checkpoint there, from which this one goes on.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.")
    # Every process measures all rows: there is nothing to bring together, and no row counts twice.
    warnings.filterwarnings("ignore", message=".*when logging on epoch level in distributed setting.*")
    warnings.filterwarnings("ignore", message=".*it is recommended to use `Trainer\\(devices=1.*")
    if not is_main_process():
        logging.getLogger("mimicry").setLevel(logging.WARNING)
    # Lightning 2.6 under torch 2.13.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*", category=FutureWarning)
