"""What every model family promises; `tests/families.py` has a tiny model of each."""

import copy

import pytest
import torch
from families import (
    DECODERS,
    FAMILIES,
    IMAGE_FAMILIES,
    NUM_LAYERS,
    TEXT_FAMILIES,
    batch_for,
    labels_for,
    left_padded_batch,
    padded_batch,
    tiny_model,
)
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig

import mimicry
from mimicry.attention import AttentionDims, LinearAttention, SoftmaxAttention
from mimicry.attention.capture import attention_layers
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.conversion.site import find_sites, supported_families

every_family = pytest.mark.parametrize("family", FAMILIES)
every_decoder = pytest.mark.parametrize("family", DECODERS)


def logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each row, or of each token that is no padding."""
    with torch.no_grad():
        out = model(**batch).logits
    return out[batch["attention_mask"].bool()] if out.ndim == 3 else out


def test_every_adapter_has_a_tiny_model_here() -> None:
    assert supported_families() == sorted(family.replace("-", "_") for family in FAMILIES)


@every_family
def test_each_layer_is_one_site_of_the_right_size(family: str) -> None:
    sites = find_sites(tiny_model(family))
    dims = AttentionDims(num_heads=4, head_dim=8, causal=family in DECODERS)
    assert [site.dims for site in sites] == [dims] * NUM_LAYERS
    assert len({site.name for site in sites}) == NUM_LAYERS


@pytest.mark.parametrize("family", TEXT_FAMILIES | IMAGE_FAMILIES)
def test_canonicalised_logits_equal_the_originals_padding_included(family: str) -> None:
    model, batch = tiny_model(family), batch_for(family)
    assert (logits(mimicry.canonicalise(model), batch) - logits(model, batch)).abs().max() <= 1e-6
    # The host's plain implementation rounds in another order: equal to it in float64.
    model.double().set_attn_implementation("eager")
    batch = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    # That of image families takes its softmax in float32 whatever the weights are.
    tolerance = 2e-6 if family in IMAGE_FAMILIES else 1e-12
    assert (logits(mimicry.canonicalise(model), batch) - logits(model, batch)).abs().max() <= tolerance


@every_decoder
def test_canonicalised_logits_of_a_decoder_equal_the_originals_padded_on_either_side(family: str) -> None:
    model, batch = tiny_model(family).double(), left_padded_batch()
    ours = logits(mimicry.canonicalise(model), batch)
    assert (ours - logits(model, batch)).abs().max() <= 1e-12
    # Each row alone and unpadded in the host's plain implementation, which takes its softmax in float32.
    model.set_attn_implementation("eager")
    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=ids[real][None]).logits[0] for ids, real in rows])
    assert (ours - alone).abs().max() <= 1e-5
    # The comparison would not see a mask that never arrived if padding made no difference.
    unmasked = {name: x for name, x in batch.items() if name == "input_ids"} | {"attention_mask": torch.ones(3, 12)}
    changed = model(**unmasked).logits[batch["attention_mask"].bool()]
    assert (changed - alone).abs().max() > 1e-2


@pytest.mark.parametrize("attn", ["softmax", "hedgehog", "cosformer"])
@pytest.mark.parametrize("family", TEXT_FAMILIES | DECODERS)
def test_what_stands_in_padded_places_does_not_matter(family: str, attn: str) -> None:
    student, batch = mimicry.convert(tiny_model(family), attn), batch_for(family)
    changed = copy.deepcopy(batch)
    changed["input_ids"][batch["attention_mask"] == 0] = 7
    # RoBERTa-like families count positions by which ids are padding; given outright, only attention can differ.
    if "roberta" in family or family == "camembert":
        batch["position_ids"] = changed["position_ids"] = torch.arange(2, 14).expand(3, -1)
    torch.testing.assert_close(logits(student, changed), logits(student, batch), atol=1e-6, rtol=0)


@pytest.mark.parametrize("attn", ["softmax", "hedgehog"])
@every_decoder
def test_later_tokens_do_not_change_the_logits_of_earlier_ones(family: str, attn: str) -> None:
    student, ids = mimicry.convert(tiny_model(family), attn), torch.randint(5, 99, (2, 12))
    changed = ids.clone()
    changed[:, 8:] = torch.randint(5, 99, (2, 4))
    with torch.no_grad():
        before, after = student(input_ids=ids).logits, student(input_ids=changed).logits
    torch.testing.assert_close(before[:, :8], after[:, :8], atol=1e-6, rtol=0)
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-2


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
def test_a_layer_can_be_converted_alone(family: str) -> None:
    model, batch = tiny_model(family), batch_for(family)
    student = mimicry.convert(model, "hedgehog", layers="1")
    assert [type(layer) for layer in attention_layers(student).values()] == [SoftmaxAttention, LinearAttention]
    whole = mimicry.convert(model, "hedgehog")
    assert (logits(student, batch) - logits(whole, batch)).abs().max() > 1e-4
    assert (logits(student, batch) - logits(model, batch)).abs().max() > 1e-4


@every_family
def test_a_converted_model_trains_with_its_maps(family: str) -> None:
    student, batch = mimicry.convert(tiny_model(family), "hedgehog").train(), batch_for(family)
    maps = {name: p for name, p in student.named_parameters() if ATTRIBUTE in name}
    assert len(maps) == NUM_LAYERS * 2 * 2
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    student(**batch, labels=labels_for(family, batch)).loss.backward()
    gradients = [p.grad for p in maps.values()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    before = {name: p.detach().clone() for name, p in maps.items()}
    optimizer.step()
    assert all(not torch.equal(maps[name], value) for name, value in before.items())
    assert torch.isfinite(logits(student, batch)).all()


def classifiers() -> list[str]:
    """Decoders for which the host library has a sequence classifier."""
    return [family for family in DECODERS if type(AutoConfig.for_model(family)) in classifier_configs()]


def classifier_configs() -> set[type]:
    return set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.keys())


@pytest.mark.parametrize("family", classifiers())
def test_a_decoder_that_classifies_converts_too(family: str) -> None:
    model, batch = tiny_model(family, classifier=True).double(), padded_batch()
    assert (logits(mimicry.canonicalise(model), batch) - logits(model, batch)).abs().max() <= 1e-12
    student = mimicry.convert(model, "hedgehog")
    student(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(p.grad is not None for name, p in student.named_parameters() if ATTRIBUTE in name)
