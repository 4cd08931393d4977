"""Objectives under which the student runs as a whole: hidden states and predictions."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from distilling import EVERY_OBJECTIVE, batch_of, distilling
from families import tiny_model
from memory import LargestTensor
from torch import Tensor, nn
from torch.optim import AdamW

import mimicry
from mimicry.attention import softmax
from mimicry.attention.capture import attention_layers
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.data.batches import ResumableLoader
from mimicry.data.sampler import LengthBucketSampler
from mimicry.objectives import DistillationObjectives
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule
from mimicry.training.resuming import StageCheckpoint

FAMILIES = pytest.mark.parametrize("family", ["bert", "llama"])


def logged(module: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The loss of a step, and what it logs."""
    values: dict[str, float] = {}
    module.log = lambda name, value, **_: values.update({name: float(value)})
    return module.training_step(batch, 0), values


def run(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**batch, output_hidden_states=True)


@FAMILIES
def test_the_hidden_term_compares_what_every_layer_puts_out_token_by_token(family: str) -> None:
    module, teacher, student = distilling(family, objectives=EVERY_OBJECTIVE["hidden"])
    batch = batch_of(family)
    kept = batch["attention_mask"].bool()
    theirs, ours = run(teacher, batch).hidden_states, run(student, batch).hidden_states
    assert len(theirs) == 3
    expected = [
        ((b - a)[kept].square().sum(-1) / a[kept].square().sum(-1)).mean()
        for a, b in zip(theirs[1:], ours[1:], strict=True)
    ]
    loss, values = logged(module, batch)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert loss > 1e-5
    assert values["distill/hidden"] == loss.item()


def test_the_logits_term_of_a_language_model_is_the_divergence_at_real_tokens() -> None:
    module, teacher, student = distilling("llama", objectives=EVERY_OBJECTIVE["logits"])
    batch = batch_of("llama")
    kept = batch["attention_mask"].bool()
    log_a, log_b = (run(model, batch).logits[kept].log_softmax(dim=-1) for model in (teacher, student))
    loss, values = logged(module, batch)
    expected = F.kl_div(log_b, log_a, log_target=True, reduction="batchmean")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
    assert loss > 1e-5
    assert values["distill/logits"] == loss.item()


def test_the_logits_term_of_a_classifier_is_the_divergence_of_its_rows() -> None:
    module, teacher, student = distilling("bert", objectives=EVERY_OBJECTIVE["logits"])
    batch = batch_of("bert")
    log_a, log_b = (run(model, batch).logits.log_softmax(dim=-1) for model in (teacher, student))
    loss, _ = logged(module, batch)
    expected = F.kl_div(log_b, log_a, log_target=True, reduction="batchmean")
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-7)
    assert loss > 1e-7


@FAMILIES
@pytest.mark.parametrize("objective", ["hidden", "logits"])
def test_gradients_of_the_maps_are_those_of_the_whole_student_in_float64(family: str, objective: str) -> None:
    module, _, _ = distilling(family, objectives=EVERY_OBJECTIVE[objective])
    module.double()
    batch = batch_of(family)
    parameter = next(module.students.parameters())
    (gradient,) = torch.autograd.grad(module.training_step(batch, 0), parameter)
    direction = torch.randn_like(parameter)
    ends = []
    for step in (1e-3, -2e-3):
        with torch.no_grad():
            parameter.add_(step * direction)
            ends.append(module.training_step(batch, 0).item())
    # Llama normalises its states in float32 whatever the weights are: smaller steps drown in that.
    assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)


@FAMILIES
def test_all_terms_add_up_by_their_weights(family: str) -> None:
    weights = EVERY_OBJECTIVE["all"]
    module, _, _ = distilling(family, objectives=weights)
    loss, values = logged(module, batch_of(family))
    terms = {"attention": "soft_xent", "output": "output", "hidden": "hidden", "logits": "logits"}
    total = sum(getattr(weights, name) * values[f"distill/{key}"] for name, key in terms.items())
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert values["distill/loss"] == loss.item()
    assert 0 < values["distill/kl"] < values["distill/soft_xent"]


@FAMILIES
@pytest.mark.parametrize("objective", ["hidden", "logits", "all"])
def test_nothing_but_maps_trains_while_the_student_runs(family: str, objective: str) -> None:
    module, teacher, student = distilling(family, objectives=EVERY_OBJECTIVE[objective])
    module.training_step(batch_of(family), 0).backward()
    touched = {name for name, p in student.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in student.named_parameters() if ATTRIBUTE in name}
    assert all(p.grad is None for p in teacher.parameters())
    assert {name for name, p in student.named_parameters() if p.requires_grad} == touched
    # What was frozen is given back when training ends.
    module.teardown("fit")
    assert all(p.requires_grad for p in student.parameters())


@FAMILIES
@pytest.mark.parametrize("objective", ["hidden", "logits"])
def test_imitating_lowers_the_loss_and_leaves_teacher_and_other_weights_alone(family: str, objective: str) -> None:
    module, _, _ = distilling(family, objectives=EVERY_OBJECTIVE[objective])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = batch_of(family)
    optimizer = torch.optim.AdamW(module.students.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(module.training_step(batch, 0))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("students.") or ATTRIBUTE in name for name in changed)
    assert not any(name.startswith("teacher.") for name in changed)


@FAMILIES
@pytest.mark.parametrize("objective", ["hidden", "logits"])
def test_padding_does_not_enter_the_losses(family: str, objective: str) -> None:
    module, _, _ = distilling(family, objectives=EVERY_OBJECTIVE[objective])
    batch = batch_of(family)
    longer = {name: F.pad(value, (0, 5)) for name, value in batch.items()}
    longer["input_ids"][:, -5:] = 9
    torch.testing.assert_close(module.training_step(longer, 0), module.training_step(batch, 0), rtol=1e-4, atol=1e-8)


def test_dropout_of_the_host_stays_out_of_the_comparison() -> None:
    module, _, _ = distilling("bert", objectives=EVERY_OBJECTIVE["hidden"])
    assert any(isinstance(part, nn.Dropout) and part.p > 0 for part in module.student.modules())
    batch = batch_of("bert")
    assert torch.equal(module.training_step(batch, 0), module.training_step(batch, 0))


@FAMILIES
@pytest.mark.parametrize("objective", ["hidden", "logits", "all"])
def test_gradient_checkpointing_runs_layers_twice_and_changes_nothing(family: str, objective: str) -> None:
    results, runs = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        module, _, student = distilling(family, objectives=EVERY_OBJECTIVE[objective])
        if checkpointing:
            student.activation_checkpointing_enable()
        module.on_train_start()
        counted: list[int] = []
        for layer in attention_layers(student).values():
            layer.register_forward_hook(lambda *_, counted=counted: counted.append(1))
        loss = module.training_step(batch_of(family), 0)
        before = len(counted)
        loss.backward()
        runs.append(len(counted) - before)
        results.append([loss.detach()] + [p.grad for p in module.students.parameters()])
    assert runs == [0, 2]
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-9)


# bf16 has 8 bits: products of weights and states are off by about 1 % after two layers.
@FAMILIES
@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_bf16_autocast_gives_nearly_the_losses_of_float32(family: str, objective: str) -> None:
    module, _, _ = distilling(family, objectives=EVERY_OBJECTIVE[objective])
    batch = batch_of(family)
    expected = module.training_step(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = module.training_step(batch, 0)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=2e-3)
    actual.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in module.students.parameters())


def test_no_cache_of_keys_and_values_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    module, teacher, student = distilling("llama", objectives=EVERY_OBJECTIVE["all"])
    said = []
    for model in (teacher, student):
        model.register_forward_hook(lambda _, __, outputs: said.append(outputs.past_key_values))
    module.training_step(batch_of("llama"), 0)
    assert said == [None, None]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start", "ignore:.*isinstance.treespec:FutureWarning")
def test_a_checkpoint_of_a_student_that_shares_its_teachers_weights_holds_maps_alone(tmp_path: Path) -> None:
    teacher = mimicry.canonicalise(tiny_model("llama")).requires_grad_(False)
    student = mimicry.convert(teacher, "hedgehog", share_weights=True)
    module = DistillationModule(teacher, student, AdamW, warmup_schedule, 1e-2, EVERY_OBJECTIVE["all"])
    rows = [{name: value[0] for name, value in batch_of("llama").items()}] * 4
    loader = ResumableLoader(rows, batch_size=2, sampler=LengthBucketSampler([12] * 4, 2, 0))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StageCheckpoint(tmp_path, 1e-9, 0, loader)],
    )
    trainer.fit(module, loader)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert kept
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    assert all(name.startswith("students.") or ATTRIBUTE in name or name in buffers for name in kept)


@FAMILIES
def test_no_tensor_holds_all_pairs_of_a_long_text(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = 2048
    sizes = {"max_position_embeddings": tokens, "intermediate_size": 32, "scale": 0.1}
    module, _, _ = distilling(family, objectives=EVERY_OBJECTIVE["all"], **sizes)
    monkeypatch.setattr("mimicry.objectives.tiles.PAIRS", 2**16)
    batch = {"input_ids": torch.randint(5, 99, (2, tokens)), "attention_mask": torch.ones(2, tokens).long()}
    # Padding on the right of one row and, for decoders, on the left of the other.
    batch["attention_mask"][0, -300:] = 0
    if family == "llama":
        batch["attention_mask"][1, :300] = 0
    with LargestTensor() as record:
        module.training_step(batch, 0).backward()
    # The mask of a block of queries for both rows; a quarter of what the pairs of one head of one row would take.
    assert record.largest <= 2 * softmax.ROWS * tokens
    assert all(p.grad.isfinite().all() for p in module.students.parameters())


def test_a_model_without_logits_is_refused_when_they_are_to_be_compared() -> None:
    bare = tiny_model("bert").bert
    teacher = mimicry.canonicalise(bare)
    module, _, _ = distilling("bert", objectives=EVERY_OBJECTIVE["logits"])
    module.teacher, module.student = teacher, mimicry.convert(bare, "hedgehog")
    with pytest.raises(ValueError, match=r"^objectives.logits needs a model with logits, got BertModel$"):
        module.training_step(batch_of("bert"), 0)


def test_a_regression_model_is_refused_when_its_predictions_are_to_be_compared() -> None:
    module, _, _ = distilling("bert", objectives=EVERY_OBJECTIVE["logits"], num_labels=1)
    with pytest.raises(ValueError, match=r"^logits must be over at least 2 classes .*, got 1$"):
        module.training_step(batch_of("bert"), 0)


def test_teacher_forcing_alone_does_not_hold_the_student() -> None:
    module, _, student = distilling("bert", objectives=DistillationObjectives(output=1.0))
    assert module.student is None
    assert not module.frozen
    assert all(p.requires_grad for p in student.parameters())
