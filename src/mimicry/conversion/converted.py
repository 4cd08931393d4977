"""The classes of converted models: in memory their host's, on disk a type of our own that the Auto classes load.

A converted `LlamaForCausalLM` is an instance of a class of that name derived from it, made here when it is first
needed; its config is derived from `LlamaConfig` likewise. So what holds of the host holds of the student: it is saved,
pushed, copied, pickled, adapted and trained as users know it. The config says under one key what the host library
cannot know: which attention each layer has.

Written to disk, the config names a model type, an architecture and an attention implementation that the host library
lacks. Once `mimicry` is imported the Auto classes know the type, and give the student; without it the type
makes them fail. A host class that is called by its own name takes no notice of the type, and fails for want of the
implementation, or with `mimicry` imported at its first forward pass; unless it is given another implementation: then it
warns of unexpected weights and is softmax. The alternative, a type of its own in memory as well, would change how the
host library renames weights and chooses losses and defaults: all of that goes by a model's type and by the name of its
class.
"""

import functools
import json
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from mimicry.conversion.saving import SavedModel, check_implementation
from mimicry.conversion.seam import IMPLEMENTATION
from mimicry.conversion.site import adapter_of
from mimicry.conversion.spec import AttentionSpec, check_spec
from mimicry.registration import MODEL_TYPE

# Before the host's architecture on disk, for readers that go by the architecture alone.
PREFIX = "Mimicry"


class _Derived:
    """Pickles and copies by naming the host: classes that are made at run time cannot be imported."""

    host: ClassVar[Any]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced: Any = super().__reduce_ex__(protocol)
        return (_blank, (self.host,), *reduced[2:])


class ConvertedConfig(_Derived):
    """A host's config and what is ours, under `mimicry`: family, attention by layers, dtype of its maps, and base.

    `model_type` is the host's in memory, and ours in what is written.
    """

    mimicry: dict[str, Any]

    @classmethod
    def get_config_dict(cls, *args: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        fields, unused = super().get_config_dict(*args, **options)  # type: ignore[misc]
        return _in_memory(fields), unused

    def to_json_string(self, use_diff: bool = True) -> str:
        fields = json.loads(super().to_json_string(use_diff))  # type: ignore[misc]
        fields |= {"model_type": MODEL_TYPE, "attn_implementation": IMPLEMENTATION}
        if fields.get("architectures"):
            fields["architectures"] = [f"{PREFIX}{name}" for name in fields["architectures"]]
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"


class ConvertedModel(_Derived, SavedModel):
    """A host model whose attentions are ours, as `mimicry` in its config says."""


@functools.cache
def converted_config(host: Any) -> Any:
    """The config class of converted models whose hosts have the config class `host`."""
    if issubclass(host, ConvertedConfig):
        return host
    members = {"host": host, "__module__": __name__, "__doc__": ConvertedConfig.__doc__}
    return type(f"{PREFIX}{host.__name__}", (ConvertedConfig, host), members)


@functools.cache
def converted_class(host: Any) -> Any:
    """The class of converted models of the class `host`."""
    if issubclass(host, ConvertedModel):
        return host
    # Of the same name as the host: the host library finds by it how to rename weights, and a model's loss.
    members = {"host": host, "config_class": converted_config(host.config_class), "__module__": __name__}
    return type(host.__name__, (ConvertedModel, host), members | {"__doc__": ConvertedModel.__doc__})


@functools.cache
def register_models(host: Any) -> None:
    """Makes the Auto classes give converted models for configs derived from `host`, each its own kind."""
    for auto in auto_classes():
        heads = auto._model_mapping.get(host, None)
        if heads is not None:
            made = tuple(map(converted_class, heads)) if isinstance(heads, tuple) else converted_class(heads)
            auto._model_mapping.register(converted_config(host), made, exist_ok=True)


def auto_classes() -> list[Any]:
    """The host library's Auto classes of models, such as `AutoModelForCausalLM`."""
    members: list[Any] = [member for member in vars(modeling_auto).values() if isinstance(member, type)]
    # Compared, because the host's mappings import all models to tell whether they are empty.
    return [auto for auto in members if issubclass(auto, _BaseAutoModelClass) and auto._model_mapping is not None]


def mark_converted(student: Any, spec: AttentionSpec, base: str | None) -> None:
    """Makes a host model with attentions of ours an instance of its converted class, in place.

    Args:
        student: of any class; one that is converted already gets a new spec.
        spec: what its attentions are, see `mimicry.conversion.spec`.
        base: name of the model it was made from, for the record.
    """
    config: Any = student.config
    host: Any = type(student)
    config_host: Any = type(config)
    if not issubclass(config_host, ConvertedConfig):
        register_models(config_host)
    config.__class__, student.__class__ = converted_config(config_host), converted_class(host)
    config.mimicry = {"family": str(config.model_type), "attention": dict(spec), "base": base}


def read_config(fields: dict[str, Any], **options: Any) -> Any:
    """The config of a saved student, of its family's class.

    Raises:
        ValueError: if it lacks our entry or the entry is wrong, the family is unknown, or another attention is asked
            for.
    """
    check_implementation(options.pop("attn_implementation", None))
    fields = _in_memory(fields)
    host = CONFIG_MAPPING[fields["model_type"]]
    register_models(host)
    return converted_config(host).from_dict(fields, **options)


def _in_memory(fields: dict[str, Any]) -> dict[str, Any]:
    """What the config in memory is made from, of what was written; what is that already comes back as it is.

    Raises:
        ValueError: if our entry is missing or wrong, or its family unknown.
    """
    if fields.get("model_type") != MODEL_TYPE:
        return fields
    entry = fields.get(MODEL_TYPE)
    if not isinstance(entry, dict) or not isinstance(entry.get("family"), str):
        raise ValueError(f"config.json: a converted model must say what it is under {MODEL_TYPE!r}, got {entry!r}")
    adapter_of(SimpleNamespace(model_type=entry["family"]))
    check_spec(entry.get("attention"))
    dtype = getattr(torch, str(entry.get("dtype") or "float32"), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"config.json: {MODEL_TYPE}.dtype must be one such as float32 or null, got {entry['dtype']!r}")
    names = [name.removeprefix(PREFIX) for name in fields.get("architectures") or ()]
    return fields | {"model_type": entry["family"], "architectures": names}


def _blank(host: Any) -> Any:
    """An instance without a state, for pickle and copy to fill."""
    made = converted_config(host) if issubclass(host, PreTrainedConfig) else converted_class(host)
    return made.__new__(made)
