"""How converted models are written and read: what the host library does, with the maps, and refusals where it warns."""

from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mimicry.conversion.adapter_files import FOLDER, check_adapter, drop_stale_adapter, save_adapter
from mimicry.conversion.fitting import fit, maps_dtype
from mimicry.conversion.model_card import is_foreign_card, restore_card, write_card
from mimicry.conversion.seam import IMPLEMENTATION
from mimicry.conversion.site import find_sites
from mimicry.conversion.spec import check_spec, layer_factories
from mimicry.conversion.weights import (
    check_complete,
    check_maps,
    check_weight_files,
    compute_tables,
    portable_state,
)


class SavedModel:
    """The part of a converted model's class that builds, writes and reads it; the rest is the host's."""

    host: ClassVar[Any]

    def __init__(self, config: Any, *inputs: Any, **options: Any) -> None:
        super().__init__(config, *inputs, **options)  # type: ignore[call-arg]
        model: Any = self
        dtype = getattr(torch, config.mimicry.get("dtype") or "float32")
        fit(model, layer_factories(config.mimicry["attention"], len(find_sites(model))), dtype)

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *,
        adapters: Literal["merged", "separate"] = "merged",
        **options: Any,
    ) -> None:
        """Writes a model that the Auto classes give back as it is, linear, once `mimicry` is imported.

        The model itself does not change. A model card is written, over one from here; a README.md of another origin, or
        that somebody has edited, stays. A separate adapter in the folder that is not for these weights is removed.

        Args:
            save_directory: made if needed.
            is_main_process: False where another process writes what all share.
            state_dict: weights to save in place of the model's own.
            adapters: what becomes of low-rank adapters, if there are any: added to the weights they adapt, which rounds
                (in bfloat16 coarsely), or written to the folder `adapter` as peft does, beside a model without them.
            options: those of the host library, such as `max_shard_size`, `push_to_hub` and `variant`.

        Raises:
            ValueError: if `save_directory` is a file, or some attention has no description.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"save_directory must be a folder, got the file {folder}")
        if adapters not in ("merged", "separate"):
            raise ValueError(f"adapters must be merged or separate, got {adapters!r}")
        model: Any = self
        check_spec(model.config.mimicry["attention"])
        dtype = maps_dtype(model)
        model.config.mimicry["dtype"] = None if dtype is None else str(dtype).removeprefix("torch.")
        state = portable_state(model, state_dict, merge=adapters == "merged")
        if is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            if adapters == "separate":
                save_adapter(model, folder / FOLDER, base=str(folder))
            else:
                drop_stale_adapter(folder / FOLDER, state)
            if not is_foreign_card(folder):
                write_card(model, folder)
        # The host library would write adapters alone, and lose the maps trained beside them.
        with_adapters, model._hf_peft_config_loaded = getattr(model, "_hf_peft_config_loaded", False), False
        try:
            super().save_pretrained(folder, is_main_process, state, **options)  # type: ignore[misc]
        finally:
            model._hf_peft_config_loaded = with_adapters

    @classmethod
    def from_pretrained(cls, source: Any, *inputs: Any, **options: Any) -> Any:
        """The saved model in evaluation mode; weights come from safetensors, and no code from anywhere.

        Args:
            source: folder or hub id.
            inputs: those of the host library.
            options: those of the host library, such as `dtype` and `device_map`.

        Raises:
            ValueError: if a file is missing, cut off or does not hold the model, or another attention is asked for.
        """
        check_implementation(options.get("attn_implementation"))
        check_weight_files(source, options.get("subfolder", ""), options.get("variant"))
        options |= {"use_safetensors": True, "trust_remote_code": False}
        return super().from_pretrained(source, *inputs, **options)  # type: ignore[misc]

    @classmethod
    def _finalize_model_loading(cls, model: Any, load_config: Any, report: Any) -> Any:
        """The host's last step of loading, between our checks of what it found; it would only warn."""
        source = load_config.pretrained_model_name_or_path
        check_maps(model, source, report)
        report = super()._finalize_model_loading(model, load_config, report)  # type: ignore[misc]
        check_complete(model, source, report)
        compute_tables(model)
        return report

    def load_adapter(self, peft_model_id: Any = None, *inputs: Any, **options: Any) -> Any:
        """Adds a low-rank adapter, as the host library does, if it was trained for this very model.

        Raises:
            ValueError: if it was trained for another model or does not fit, or a file is missing or cut off.
        """
        if peft_model_id is not None and Path(peft_model_id).is_dir():
            check_adapter(self, Path(peft_model_id))
        model: Any = self
        renamed = getattr(model, "_weight_conversions", None)
        report = super().load_adapter(peft_model_id, *inputs, **options)  # type: ignore[misc]
        # The host library notes how the adapter's weights were renamed, and would save the model's by that.
        model._weight_conversions = renamed
        return report

    def _upload_modified_files(self, working_dir: Any, *inputs: Any, **options: Any) -> Any:
        """What every way to the hub ends in; the host library has put a card there that cannot know what this is."""
        restore_card(self, Path(working_dir))
        return super()._upload_modified_files(working_dir, *inputs, **options)  # type: ignore[misc]

    @classmethod
    def is_custom_code(cls) -> bool:
        """As of the host: code that is not the host library's own gets its weights renamed and drawn otherwise."""
        return bool(cls.host.is_custom_code())

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # The host library reads it off the source of a class.
        return bool(cls.host._can_set_attn_implementation())

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return bool(cls.host._can_set_experts_implementation())


def check_implementation(asked: str | None) -> None:
    """Refuses to load a student with another attention: it would be softmax on weights that were trained otherwise."""
    if asked not in (None, IMPLEMENTATION):
        raise ValueError(
            f"attn_implementation must be {IMPLEMENTATION!r} or not given for a converted model, got {asked!r}; "
            f"for softmax on its weights call set_attn_implementation({asked!r}) once it is loaded"
        )
