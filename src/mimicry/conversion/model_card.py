"""The README.md beside a saved student: what it is, how to load it, and what is not known of it."""

import hashlib
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import ModelCardData

from mimicry.conversion.adapter_files import FOLDER, trained_for
from mimicry.conversion.spec import variant_names

CARD = "README.md"
# How the hub calls what these models are for.
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForImageClassification": "image-classification",
}
# What the host library writes in the card it makes up on the way to the hub.
MADE_UP = "This model card has been automatically generated."
# In the front matter of our cards: a digest of what follows it, which no longer fits once somebody has edited that.
MARK = "mimicry_card"

_LOADING = """## Load it

```python
import mimicry
{call}{adapter}
```

Without `import mimicry` the Auto classes do not know the model's type and refuse to load it. A class of transformers
that is called by its own name with another `attn_implementation` does load these weights, as softmax attention and with
a warning that some are unexpected: that is another model. No code is taken from this folder.
"""


_ADAPTER = f"""
# What was trained beside the maps, in a file of its own: these weights are without it.
model.load_adapter("this folder/{FOLDER}")"""


def write_card(model: Any, folder: Path, measured: str = "", licence: str | None = None) -> Path:
    """Writes the card of a converted model, over one that is there.

    Args:
        model: as it is saved.
        folder: with its files.
        measured: Markdown on what it scores and where that is from.
        licence: of the base, as the hub abbreviates it; None says that it is not known.

    Returns:
        The path of the card.
    """
    path = folder / CARD
    path.write_text(_card(model, folder, measured, licence), encoding="utf-8")
    return path


def restore_card(model: Any, folder: Path) -> None:
    """Puts the model's card where the host library has made one up, or fetched that of an earlier student."""
    if (folder / CARD).is_file() and not is_foreign_card(folder):
        write_card(model, folder)


def is_foreign_card(folder: Path) -> bool:
    """Whether the folder's card is somebody's own: neither ours as we wrote it, nor made up by the host library."""
    path = folder / CARD
    if not path.is_file():
        return path.exists()
    text = path.read_text(encoding="utf-8", errors="replace")
    front, _, body = text.partition("\n---\n")
    return MADE_UP not in text and f"{MARK}: {_digest(body)}" not in front.splitlines()


def base_name(model: Any) -> str | None:
    """What a model to be converted is called: a hub id, the last part of a path, or None."""
    entry = getattr(model.config, "mimicry", None)
    if entry is not None:
        known: str | None = entry["base"]
        return known
    name = str(getattr(model, "name_or_path", ""))
    is_hub_id = name.count("/") == 1 and not Path(name).exists() and not name.startswith((".", "/", "~"))
    return name if is_hub_id else Path(name).name or None


def _card(model: Any, folder: Path, measured: str, licence: str | None) -> str:
    base = model.config.mimicry["base"]
    auto, names = _auto_class(model), variant_names(model.config.mimicry["attention"])
    layers = "; ".join(f"`{name}` in layers {which}" for which, name in names.items())
    known = base or f"a {model.config.model_type} model of unknown name"
    separate = trained_for(folder / FOLDER) is not None
    parts = [
        f"# {base or model.config.model_type}: {', '.join(names.values())} attention\n",
        f"`{type(model).__name__}` made from {known} by swapping its attention: {layers}.\n",
        measured,
        _LOADING.format(call=_call(auto), adapter=_ADAPTER if separate else ""),
        _licence(known, licence),
    ]
    body = "\n".join(part for part in parts if part)
    data = ModelCardData(
        # The hub takes ids alone.
        base_model=base if base and "/" in base else None,
        library_name="mimicry",
        license=licence or "unknown",
        pipeline_tag=None if auto is None else PIPELINES[auto],
        tags=sorted({"mimicry", "linear-attention", *(name for name in names.values() if " " not in name)}),
    )
    data[MARK] = _digest(body)
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _digest(body: str) -> str:
    # The prefix keeps YAML from taking digits for a number.
    return f"sha256-{hashlib.sha256(body.strip().encode()).hexdigest()[:16]}"


def _auto_class(model: Any) -> str | None:
    """The Auto class that gives this kind of model, of those everybody knows."""
    for name in PIPELINES:
        heads = getattr(transformers, name)._model_mapping.get(type(model.config), ())
        if type(model) in (heads if isinstance(heads, tuple) else (heads,)):
            return name
    return None


def _call(auto: str | None) -> str:
    where = '"this folder or repository"'
    if auto is None:
        return f"\nmodel = mimicry.load({where})"
    return f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({where})"


def _licence(base: str, licence: str | None) -> str:
    if licence is not None:
        return f"## Licence\n\nThat of {base}: {licence}.\n"
    return f"## Licence\n\nThat of {base}, which is not recorded here: look it up before you share these weights.\n"
