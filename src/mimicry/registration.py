"""Makes the host library's Auto classes know saved students once `mimicry` is imported, without importing either.

`AutoConfig` looks a folder's `model_type` up in one table, and is imported long after `mimicry` as a rule: so the entry
is made when that table comes into being. Without `mimicry` the type is unknown, and the Auto classes refuse to load.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

# The model type of every saved student, and the key in its config under which we keep what the host does not know.
MODEL_TYPE = "mimicry"
# Where the host library keeps its table of model types.
TABLE = "transformers.models.auto.configuration_auto"


def register() -> None:
    """Registers saved students with `AutoConfig`: now where it is imported already, otherwise as soon as it is."""
    if TABLE in sys.modules:
        _add_entry(sys.modules[TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the table's module like everybody else, to be told when it has been executed."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != TABLE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        _add_entry(module)


def _add_entry(table: Any) -> None:
    """Enters a config class that makes that of the model's family when a config is read, and not before."""

    def from_dict(cls: type, config_dict: dict[str, Any], **options: Any) -> Any:
        from mimicry.conversion.converted import read_config

        return read_config(config_dict, **options)

    members = {"model_type": MODEL_TYPE, "from_dict": classmethod(from_dict), "__module__": __name__}
    table.CONFIG_MAPPING.register(MODEL_TYPE, type("MimicryConfig", (table.PreTrainedConfig,), members), exist_ok=True)
