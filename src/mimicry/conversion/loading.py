"""One call for students of every kind."""

from os import PathLike
from typing import Any

from transformers import AutoConfig

from mimicry.conversion.converted import ConvertedConfig, auto_classes
from mimicry.conversion.donor import read_config


def load(source: str | PathLike[str]) -> Any:
    """A saved student in evaluation mode, with the head and in the dtype that it was saved with.

    `AutoModelForCausalLM.from_pretrained` and the other Auto classes give the same once `mimicry` is imported, and
    take the host library's options; this one needs not be told which of them it is.

    Args:
        source: folder or hub id.

    Raises:
        ValueError: if there is no such folder, it holds no converted model, or not all of one.
    """
    # Refuses a folder that is none; the host library would look for it on the hub.
    read_config("source", str(source))
    config: Any = AutoConfig.from_pretrained(source)
    if not issubclass(type(config), ConvertedConfig):
        raise ValueError(f"source must hold a converted model, got a {config.model_type} in {source}")
    for auto in auto_classes():
        heads = auto._model_mapping.get(type(config), ())
        for head in heads if isinstance(heads, tuple) else (heads,):
            if head.__name__ in (config.architectures or ()):
                return head.from_pretrained(source, config=config)
    raise ValueError(f"source: no class for architectures {config.architectures} of {config.model_type}, in {source}")
