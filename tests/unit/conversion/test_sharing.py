"""One copy of frozen weights in memory for a teacher and its student, and what ends it."""

import functools

import pytest
import torch
from families import DECODERS, FAMILIES, batch_for, tiny_model
from torch import nn
from torch.optim import AdamW

import mimicry
from mimicry.conversion import unshare
from mimicry.conversion.lora import LoRASettings, add_lora
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule

every_family = pytest.mark.parametrize("family", FAMILIES)


def sharing(family: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A frozen model, its canonical form and its student, which hold the same weights."""
    model = tiny_model(family).requires_grad_(False)
    teacher = mimicry.canonicalise(model, share_weights=True)
    return model, teacher, mimicry.convert(teacher, "hedgehog", share_weights=True)


def pointers(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items() if ATTRIBUTE not in name}


@every_family
def test_model_teacher_and_student_hold_the_same_tensors_and_only_maps_are_new(family: str) -> None:
    model, teacher, student = sharing(family)
    assert pointers(model) == pointers(teacher) == pointers(student)
    own = {name for name, p in student.named_parameters() if p.data_ptr() not in pointers(model).values()}
    assert own == {name for name, _ in student.named_parameters() if ATTRIBUTE in name}
    assert {name for name, p in student.named_parameters() if p.requires_grad} == own
    # A move or a change of precision takes all of them along, as one copy.
    student.double()
    assert pointers(model) == pointers(teacher) == pointers(student)


@every_family
def test_sharing_changes_no_output_and_nothing_of_the_original(family: str) -> None:
    model, batch = tiny_model(family).requires_grad_(False), batch_for(family)
    apart = mimicry.convert(model, "hedgehog")
    expected = model(**batch).logits
    together = mimicry.convert(model, "hedgehog", share_weights=True)
    assert torch.equal(together(**batch).logits, apart(**batch).logits)
    assert torch.equal(model(**batch).logits, expected)
    assert not any(ATTRIBUTE in name for name, _ in model.named_modules())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_training_maps_leaves_the_teachers_outputs_equal_to_the_bit(family: str) -> None:
    model, teacher, student = sharing(family)
    batch = batch_for(family)
    before, first = [m(**batch).logits for m in (model, teacher)], student(**batch).logits
    optimizer = functools.partial(AdamW, weight_decay=0.1)
    module = DistillationModule(teacher, student, optimizer, warmup_schedule, 1e-2)
    module.log = lambda *_, **__: None
    optimizer = AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    assert all(torch.equal(m(**batch).logits, logits) for m, logits in zip((model, teacher), before, strict=True))
    assert not torch.equal(student(**batch).logits, first)


def test_weights_that_train_are_not_shared() -> None:
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=r"^share_weights=True needs frozen weights, got \d+ that train"):
        mimicry.convert(model, "hedgehog", share_weights=True)
    model.requires_grad_(False).classifier.bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"^share_weights=True needs frozen weights, got 1 that train: call model.req"):
        mimicry.canonicalise(model, share_weights=True)


def test_maps_that_train_in_the_original_do_not_keep_it_from_sharing() -> None:
    first = mimicry.convert(tiny_model("bert").requires_grad_(False), "hedgehog")
    second = mimicry.convert(first, "t2r", share_weights=True)
    assert pointers(first) == pointers(second)
    maps = [{p.data_ptr() for name, p in m.named_parameters() if ATTRIBUTE in name} for m in (first, second)]
    assert not maps[0] & maps[1]


@every_family
def test_an_unshared_student_trains_whole_and_touches_nothing_else(family: str) -> None:
    model, teacher, student = sharing(family)
    batch = batch_for(family)
    before, expected = teacher(**batch).logits, student(**batch).logits
    maps = {name: p for name, p in student.named_parameters() if ATTRIBUTE in name}
    assert unshare(student) is student
    assert torch.equal(student(**batch).logits, expected)
    assert not set(pointers(student).values()) & set(pointers(model).values())
    # Optimizers that hold maps go on holding them.
    assert all(p is maps[name] for name, p in student.named_parameters() if ATTRIBUTE in name)
    # Weights that were tied are tied.
    assert len(set(pointers(student).values())) == len(set(pointers(model).values()))
    student.requires_grad_(True)
    student(**batch).logits.square().sum().backward()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    assert torch.equal(teacher(**batch).logits, before)
    assert all(p.grad is None and not p.requires_grad for p in (*model.parameters(), *teacher.parameters()))


@pytest.mark.parametrize("family", ["bert", *DECODERS])
def test_low_rank_adapters_go_on_sharing(family: str) -> None:
    model, teacher, student = sharing(family)
    batch = batch_for(family)
    before, shared = teacher(**batch).logits, set(pointers(model).values())
    add_lora(student, LoRASettings(r=2, alpha=4))
    assert {p.data_ptr() for p in student.parameters() if not p.requires_grad} <= shared
    trained = [p for p in student.parameters() if p.requires_grad]
    assert not {p.data_ptr() for p in trained} & shared
    student(**batch).logits.square().sum().backward()
    AdamW(trained, lr=0.1).step()
    assert torch.equal(teacher(**batch).logits, before)
