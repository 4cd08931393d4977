"""The shipped variant files say everything there is to say, to Hydra and to the library alike."""

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn

from mimicry.attention import AttentionDims, feature_maps
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.shipped import FOLDER, load_variant, shipped_variants

CONF = Path(__file__).parents[2] / "conf" / "attn"
every_variant = pytest.mark.parametrize("name", shipped_variants())
DIMS = AttentionDims(num_heads=3, head_dim=8, causal=False)


def options_of(path: str) -> set[str]:
    return set(inspect.signature(get_class(path)).parameters) - {"dims"}


def plain(module: nn.Module) -> dict[str, Any]:
    """Every option a module and its submodules remember, by dotted name."""
    return {
        f"{name}.{key}": value
        for name, child in module.named_modules()
        for key, value in vars(child).items()
        if not key.startswith("_")
    }


def test_the_configuration_shows_exactly_the_shipped_files() -> None:
    shown = {path.name: path.read_text(encoding="utf-8") for path in CONF.iterdir()}
    assert shown == {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert sorted(shown) == [f"{name}.yaml" for name in shipped_variants()]


@every_variant
def test_a_file_names_every_option_of_its_attention_and_feature_map(name: str) -> None:
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert node["_partial_"] is True
    assert set(node) - {"_target_", "_partial_"} == options_of(node["_target_"])
    if "feature_map" in node:
        inner = node["feature_map"]
        assert inner["_partial_"] is True
        assert set(inner) - {"_target_", "_partial_"} == options_of(inner["_target_"])


@every_variant
def test_a_file_stands_alone(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert "${" not in text
    assert "defaults:" not in text
    assert text.startswith("# "), "the first line says what the variant is"


@every_variant
@pytest.mark.parametrize("causal", [False, True])
def test_the_library_builds_what_hydra_builds(name: str, causal: bool) -> None:
    dims = AttentionDims(3, 8, causal)
    torch.manual_seed(7)
    ours = load_variant(name)(dims=dims)
    torch.manual_seed(7)
    hydras = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))(dims=dims)
    assert [(n, type(m)) for n, m in ours.named_modules()] == [(n, type(m)) for n, m in hydras.named_modules()]
    assert plain(ours) == plain(hydras)
    torch.testing.assert_close(ours.state_dict(), hydras.state_dict(), rtol=0, atol=0)
    q, k, v = torch.randn(3, 2, 3, 6, 8)
    torch.testing.assert_close(ours(q, k, v), hydras(q, k, v), rtol=0, atol=0)


def test_every_feature_map_ships_as_a_variant() -> None:
    found = set()
    for module in pkgutil.iter_modules(feature_maps.__path__, f"{feature_maps.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, FeatureMap) and not inspect.isabstract(kind):
                found.add(kind)
    layers = [load_variant(name)(dims=DIMS) for name in shipped_variants()]
    assert found == {type(layer.query_map) for layer in layers if hasattr(layer, "query_map")}


@pytest.mark.parametrize("name", ["hedgehogs", "", "../attn/elu", "elu.yaml"])
def test_an_unknown_name_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^attn must be one of cosformer, [^\n]*hedgehog, [^\n]*taylor, [^\n]*; got '"
    ) as raised:
        load_variant(name)
    assert str(raised.value).endswith(repr(name))
    assert all(known in str(raised.value) for known in shipped_variants())
