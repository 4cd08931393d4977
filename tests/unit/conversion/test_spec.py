"""Attention as plain data and back."""

import functools
import json
import sys

import pytest

from mimicry.attention import AttentionDims, LinearAttention, SoftmaxAttention
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.conversion.spec import check_spec, describe, describe_layers, layer_factories, variant_names

DIMS = AttentionDims(num_heads=2, head_dim=4, causal=True)
HEDGEHOG = {"_target_": "mimicry.attention.feature_maps.hedgehog.HedgehogFeatureMap", "_partial_": True}


@pytest.mark.parametrize("name", shipped_variants())
def test_every_shipped_variant_survives_being_written_down(name: str) -> None:
    written = json.loads(json.dumps(describe_layers([load_variant(name)])))
    (factory,) = layer_factories(written, depth=1)
    assert describe(factory) == describe(load_variant(name))
    assert repr(factory(dims=DIMS)) == repr(load_variant(name)(dims=DIMS))
    assert variant_names(written) == {"0": name}


def test_defaults_are_written_too() -> None:
    described = describe(
        functools.partial(LinearAttention, feature_map=functools.partial(HedgehogFeatureMap, bias=False))
    )
    assert described["eps"] == 1e-30
    assert described["feature_map"]["bias"] is False
    assert described["feature_map"]["identity_init"] is True
    assert "dims" not in described


def test_what_only_some_machines_can_run_is_not_part_of_a_model() -> None:
    fused, plain = load_variant("hedgehog"), functools.partial(load_variant("hedgehog"), backend="chunked")
    assert describe(functools.partial(fused, backend="triton")) == describe(fused)
    assert describe(plain)["backend"] == "chunked"


def test_equal_layers_are_written_once() -> None:
    hedgehog, elu = load_variant("hedgehog"), load_variant("elu")
    spec = describe_layers([hedgehog, hedgehog, SoftmaxAttention, load_variant("hedgehog"), elu])
    assert list(spec) == ["0-1,3", "2", "4"]
    assert variant_names(spec) == {"0-1,3": "hedgehog", "2": "softmax", "4": "elu"}


def test_a_changed_variant_is_called_by_its_classes() -> None:
    spec = describe_layers([functools.partial(load_variant("hedgehog"), tie_maps=True)])
    assert variant_names(spec) == {"0": "LinearAttention with HedgehogFeatureMap"}


class OwnAttention(SoftmaxAttention):
    """As a user might define one."""


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda dims: SoftmaxAttention(dims), r"<lambda> is no class of mimicry.attention, so that it cannot be saved"),
        (OwnAttention, r"test_spec.OwnAttention is no class of mimicry.attention"),
        (
            functools.partial(LinearAttention, feature_map=lambda dims: HedgehogFeatureMap(dims)),
            r"<lambda> is no class",
        ),
        (
            functools.partial(SoftmaxAttention, DIMS),
            r"SoftmaxAttention.dims must be a plain value to be saved, got Att",
        ),
    ],
)
def test_what_cannot_be_written_down_is_refused(factory: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(factory)


def test_a_layer_that_cannot_be_written_down_says_so_when_it_is_to_be_saved() -> None:
    spec = describe_layers([load_variant("elu"), lambda dims: SoftmaxAttention(dims)])
    with pytest.raises(ValueError, match=r"attention of layers 1: .*<lambda> is no class of mimicry.attention"):
        check_spec(spec)


@pytest.mark.parametrize(
    "target",
    [
        "this.s",
        "os.system",
        "mimicry.conversion.convert.convert",
        "mimicry.attention.shipped.load_variant",
        "mimicry.attention.base.nn.Module",
        "mimicry.attention.Attention",
        "mimicry.attention.AttentionDims",
        "mimicry.attention.feature_maps.hedgehog.HedgehogFeatureMap",
        "mimicry.attention.NoSuchAttention",
        "mimicry.attention.no_such_module.LinearAttention",
        "mimicry.attentions.LinearAttention",
        "mimicry.attention..linear.LinearAttention",
        "LinearAttention",
        "",
    ],
)
def test_targets_that_are_no_attention_of_ours_are_refused_and_not_imported(target: str) -> None:
    with pytest.raises(ValueError, match=r"_target_ must be a class derived from Attention in mimicry.attention, got"):
        check_spec({"0": {"_target_": target, "_partial_": True}})
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "attention must map layers to what they are, got None"),
        ({}, "attention must map layers to what they are, got {}"),
        ({"0": 3}, "attention of layers 0 must have a _target_, got 3"),
        ({"0": {"_partial_": True}}, "attention of layers 0 must have a _target_"),
        (
            {"0": {"_target_": "mimicry.attention.LinearAttention", "feature_map": {"_target_": "os.system"}}},
            r"0.feature_map._target_ must be a class derived from FeatureMap in mimicry.attention, got 'os.system'",
        ),
        (
            {"0": {"_target_": "mimicry.attention.LinearAttention", "feature_map": HEDGEHOG, "epsilon": 1.0}},
            "attention of layers 0.epsilon: LinearAttention has no such option; it has dims, feature_map",
        ),
        (
            {"0": {"_target_": "mimicry.attention.LinearAttention", "feature_map": HEDGEHOG, "eps": "tiny"}},
            "attention of layers 0.eps must be float, got 'tiny'",
        ),
    ],
)
def test_other_specs_are_refused_by_what_is_wrong_with_them(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_spec(spec)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (2, "layers must be within 0-1, those of the model, got '0-2'"),
        (4, "attention must be given for all 4 layers of the model, got 0-2"),
    ],
)
def test_a_spec_for_another_depth_is_refused(depth: int, message: str) -> None:
    spec = describe_layers([load_variant("elu")] * 3)
    with pytest.raises(ValueError, match=message):
        layer_factories(spec, depth)
