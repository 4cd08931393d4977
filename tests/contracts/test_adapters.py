"""What every model family promises; `tests/families.py` has a tiny model of each."""

import copy

import pytest
import torch
from families import FAMILIES, IMAGE_FAMILIES, NUM_LAYERS, TEXT_FAMILIES, batch_for, padded_batch, tiny_model

import mimicry
from mimicry.attention import AttentionDims
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.conversion.site import find_sites, supported_families

every_family = pytest.mark.parametrize("family", FAMILIES)


def logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def test_every_adapter_has_a_tiny_model_here() -> None:
    assert supported_families() == sorted(family.replace("-", "_") for family in FAMILIES)


@every_family
def test_each_layer_is_one_site_of_the_right_size(family: str) -> None:
    sites = find_sites(tiny_model(family))
    assert [site.dims for site in sites] == [AttentionDims(num_heads=4, head_dim=8, causal=False)] * NUM_LAYERS
    assert len({site.name for site in sites}) == NUM_LAYERS


@every_family
def test_canonicalised_logits_equal_the_originals_padding_included(family: str) -> None:
    model, batch = tiny_model(family), batch_for(family)
    assert (logits(mimicry.canonicalise(model), batch) - logits(model, batch)).abs().max() <= 1e-6
    # The host's plain implementation rounds in another order: equal to it in float64.
    model.double().set_attn_implementation("eager")
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    # That of image families takes its softmax in float32 whatever the weights are.
    tolerance = 2e-6 if family in IMAGE_FAMILIES else 1e-12
    assert (logits(mimicry.canonicalise(model), batch) - logits(model, batch)).abs().max() <= tolerance


@pytest.mark.parametrize("family", TEXT_FAMILIES)
@pytest.mark.parametrize("attn", ["softmax", "hedgehog", "cosformer"])
def test_what_stands_in_padded_places_does_not_matter(family: str, attn: str) -> None:
    student, batch = mimicry.convert(tiny_model(family), attn), padded_batch()
    changed = copy.deepcopy(batch)
    changed["input_ids"][0, 6:] = 7
    # RoBERTa-like families count positions by which ids are padding; given outright, only attention can differ.
    if "roberta" in family or family == "camembert":
        batch["position_ids"] = changed["position_ids"] = torch.arange(2, 14).expand(3, -1)
    torch.testing.assert_close(logits(student, changed), logits(student, batch), atol=1e-6, rtol=0)


@every_family
def test_conversion_changes_attention_and_nothing_else(family: str) -> None:
    model, batch = tiny_model(family), batch_for(family)
    before, expected = copy.deepcopy(model.state_dict()), logits(model, batch)
    student = mimicry.convert(model, "hedgehog")
    after = student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(ATTRIBUTE in name for name in after.keys() - before.keys())
    assert (logits(student, batch) - expected).abs().max() > 1e-4
    # The original is as it was: weights, modules, configuration and outputs.
    assert model.state_dict().keys() == before.keys()
    assert model.config._attn_implementation != student.config._attn_implementation
    assert torch.equal(logits(model, batch), expected)
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in student.parameters()}


@every_family
def test_a_converted_model_trains_with_its_maps(family: str) -> None:
    student = mimicry.convert(tiny_model(family), "hedgehog").train()
    student(**batch_for(family), labels=torch.tensor([0, 1, 2])).loss.backward()
    maps = {name: p.grad for name, p in student.named_parameters() if ATTRIBUTE in name}
    assert len(maps) == NUM_LAYERS * 2 * 2
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in maps.values())
