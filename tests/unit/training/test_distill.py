"""`mimicry.distill` end to end on a tiny encoder and a tiny decoder, and what it refuses."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import EVERY_OBJECTIVE
from families import padded_batch, tiny_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import BatchEncoding

import mimicry
from mimicry.attention.capture import attention_layers
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.training import distill as distill_code
from mimicry.training.attention_analysis import summarise_attention
from mimicry.training.distillation import DistillationModule

FAMILIES = pytest.mark.parametrize("family", ["bert", "llama"])


def batches(count: int = 8) -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    return [padded_batch() for _ in range(count)]


def distil(student: nn.Module, teacher: nn.Module, dataloader: Any, **options: Any) -> mimicry.DistillationResult:
    return mimicry.distill(student, teacher, dataloader, progress=False, **options)


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Weights, what trains, and modes."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    return weights, [p.requires_grad for p in model.parameters()], modes


def assert_same(before: tuple[Any, ...], after: tuple[Any, ...], but: str | None = None) -> None:
    assert before[0].keys() == after[0].keys()
    assert all(
        torch.equal(value, after[0][name]) for name, value in before[0].items() if but is None or but not in name
    )
    assert before[1:] == after[1:]


@FAMILIES
@pytest.mark.parametrize("canonical", [False, True], ids=["plain", "canonicalised"])
def test_a_converted_model_learns_its_teachers_attention_and_nothing_else_changes(family: str, canonical: bool) -> None:
    model = tiny_model(family)
    teacher = mimicry.canonicalise(model) if canonical else model
    teacher.train()
    student = mimicry.convert(model, attn="hedgehog")
    student.eval()
    of_teacher, of_student, implementation = state_of(teacher), state_of(student), teacher.config._attn_implementation
    data = batches(count=1)
    measured = mimicry.canonicalise(model)
    first = summarise_attention(measured, student, data).kl
    result = distil(student, teacher, data, epochs=12, learning_rate=3e-2)
    assert result.steps == 12
    assert result.seconds > 0
    # On the teacher's states, and on the student's own, where errors of one layer reach the next.
    assert result.kl_last < 0.85 * result.kl_first
    assert summarise_attention(measured, student, data).kl < 0.9 * first
    assert result.loss_last < result.loss_first
    assert_same(of_teacher, state_of(teacher))
    assert teacher.config._attn_implementation == implementation
    assert_same(of_student, state_of(student), but=ATTRIBUTE)
    changed = [n for n, value in student.state_dict().items() if not torch.equal(value, of_student[0][n])]
    assert changed == [name for name, _ in student.named_parameters() if ATTRIBUTE in name]
    assert not student.training


@FAMILIES
@pytest.mark.parametrize("objective", [name for name in EVERY_OBJECTIVE if name != "attention"])
def test_every_objective_falls_and_moves_maps_alone(family: str, objective: str) -> None:
    model = tiny_model(family)
    student = mimicry.convert(model, "hedgehog")
    before = state_of(student)
    data = batches(count=1)
    result = distil(student, model, data, epochs=10, learning_rate=3e-2, objectives=EVERY_OBJECTIVE[objective])
    assert result.loss_last < 0.9 * result.loss_first
    assert (result.kl_first is None) == (EVERY_OBJECTIVE[objective].attention == 0)
    assert_same(before, state_of(student), but=ATTRIBUTE)


def test_the_teacher_s_weights_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert")
    student = mimicry.convert(model, "hedgehog")
    built: list[DistillationModule] = []
    original = distill_code.DistillationModule

    def build(*given: Any) -> DistillationModule:
        built.append(original(*given))
        return built[0]

    monkeypatch.setattr(distill_code, "DistillationModule", build)
    monkeypatch.setattr(build, "stage", "distill", raising=False)
    distil(student, model, batches(count=1))
    theirs = {p.data_ptr() for p in built[0].teacher.parameters()}
    assert theirs == {p.data_ptr() for p in model.parameters()}


def test_models_that_share_weights_are_distilled_and_go_on_sharing() -> None:
    model = tiny_model("llama").requires_grad_(False)
    student = mimicry.convert(model, "hedgehog", share_weights=True)
    data = batches()
    before = model(**data[0]).logits
    distil(student, model, data, objectives=EVERY_OBJECTIVE["all"])
    assert torch.equal(model(**data[0]).logits, before)
    shared = {p.data_ptr() for p in model.parameters()}
    assert shared == {p.data_ptr() for p in student.parameters() if not p.requires_grad}


def test_the_same_batches_from_a_loader_give_the_same_result_and_labels_are_ignored(tmp_path: Path) -> None:
    model, data = tiny_model("bert"), batches(count=4)
    results = []
    for dataloader in (data, DataLoader(data, batch_size=None), [b | {"labels": torch.zeros(3).long()} for b in data]):
        student = mimicry.convert(model, "hedgehog")
        results.append((distil(student, model, dataloader, epochs=2), state_of(student)[0]))
    for result, weights in results[1:]:
        assert result.loss_last == results[0][0].loss_last
        assert all(torch.equal(value, results[0][1][name]) for name, value in weights.items())


def test_layers_that_stay_softmax_are_left_alone() -> None:
    model = tiny_model("llama")
    student = mimicry.convert(model, "hedgehog", layers="1")
    result = distil(student, model, batches(count=1), epochs=6, learning_rate=3e-2)
    assert result.kl_last < result.kl_first


def test_bf16_gives_nearly_the_losses_of_float32_and_leaves_weights_in_float32() -> None:
    model, data = tiny_model("llama"), batches()
    results = []
    for precision in ("32-true", "bf16-mixed"):
        student = mimicry.convert(model, "hedgehog")
        results.append(distil(student, model, data, precision=precision))
        assert {p.dtype for p in student.parameters()} == {torch.float32}
    exact, rounded = results
    assert rounded.loss_first == pytest.approx(exact.loss_first, rel=0.01)
    assert rounded.loss_last == pytest.approx(exact.loss_last, rel=0.02)


def test_both_models_come_back_as_they_were_when_training_fails() -> None:
    model = tiny_model("bert").train()
    student = mimicry.convert(model, "hedgehog")
    with torch.no_grad():
        next(iter(attention_layers(student).values())).query_map.projection.weight.fill_(torch.nan)
    before = [state_of(model), state_of(student)]
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        distil(student, model, batches(), objectives=EVERY_OBJECTIVE["all"])
    assert_same(before[0], state_of(model))
    assert before[1][1:] == state_of(student)[1:]


def test_a_progress_bar_names_the_stage_and_no_file_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model("bert")
    mimicry.distill(mimicry.convert(model, "hedgehog"), model, batches(count=2))
    shown = capsys.readouterr()
    assert "distill 1/1" in shown.out
    assert "GPU available" not in shown.out + shown.err
    assert not list(tmp_path.iterdir())
    distil(mimicry.convert(model, "hedgehog"), model, batches(count=2))
    assert not capsys.readouterr().out


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield padded_batch()


def refuse(message: str, student: nn.Module, teacher: nn.Module, dataloader: Any, **options: Any) -> None:
    """Asserts that distilling is refused in a line before anything is trained or changed."""
    before = [state_of(student), state_of(teacher)]
    with pytest.raises(ValueError, match=message) as refused:
        distil(student, teacher, dataloader, **options)
    assert "\n" not in str(refused.value)
    assert_same(before[0], state_of(student))
    assert_same(before[1], state_of(teacher))


def test_a_student_without_maps_is_refused() -> None:
    model, data = tiny_model("bert"), batches(count=1)
    refuse(r"^student must have attentions with parameters to train, got \w+ with no converted", model, model, data)
    student = mimicry.convert(model, "elu")
    refuse(
        r"^student must have attentions with parameters to train, got .* with LinearAttention$", student, model, data
    )
    student = mimicry.convert(model, "hedgehog").requires_grad_(False)
    refuse(
        r"^student must have attentions with parameters to train, got .* with LinearAttention$", student, model, data
    )


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    model, data = tiny_model("bert"), batches(count=1)
    student = mimicry.convert(model, "hedgehog")
    deeper, other = tiny_model("bert", num_hidden_layers=3), tiny_model("bert", num_attention_heads=2)
    refuse(
        r"^teacher must .* have the 2 attention layers of the student, got .* with 3 of ours$", student, deeper, data
    )
    refuse(r"^teacher must have the student's AttentionDims\(num_heads=4.* got .*num_heads=2", student, other, data)
    refuse(r"^teacher must attend by softmax, got LinearAttention$", student, mimicry.convert(model, "elu"), data)
    refuse(r"^teacher must attend by softmax, got LinearAttention$", student, student, data)


def test_batches_that_are_none_or_no_dicts_are_refused() -> None:
    model = tiny_model("bert")
    student = mimicry.convert(model, "hedgehog")
    refuse(r"^dataloader must hold at least one batch, got none$", student, model, [])
    refuse(r"^dataloader must hold at least one batch, got none$", student, model, DataLoader([]))
    refuse(r"^dataloader must have a length, .* got DataLoader without$", student, model, DataLoader(Endless()))
    refuse(r"^dataloader must have a length, .* got generator without$", student, model, (b for b in batches()))
    pairs = DataLoader([(torch.zeros(2), torch.zeros(2))])
    refuse(r"^dataloader must yield dicts of what the model takes, got list$", student, model, pairs)


@pytest.mark.usefixtures("without_shape_hook")
def test_one_batch_in_place_of_several_is_refused() -> None:
    model = tiny_model("bert")
    student, batch = mimicry.convert(model, "hedgehog"), padded_batch()
    refuse(r"^dataloader must yield batches, got one batch \(dict\): pass \[batch\]$", student, model, batch)
    refuse(r"^dataloader must yield batches, got one batch \(BatchEncoding\)", student, model, BatchEncoding(batch))


@pytest.mark.usefixtures("without_shape_hook")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"^epochs must be a whole number >= 1, got 0$"),
        ({"epochs": 1.5}, r"^epochs must be a whole number >= 1, got 1.5$"),
        ({"learning_rate": 0.0}, r"^learning_rate must be a number > 0 and finite, got 0.0$"),
        ({"learning_rate": float("nan")}, r"^learning_rate must be a number > 0 and finite, got nan$"),
        ({"learning_rate": float("inf")}, r"^learning_rate must be a number > 0 and finite, got inf$"),
        ({"learning_rate": "1e-3"}, r"^learning_rate must be a number > 0 and finite, got '1e-3'$"),
        ({"objectives": "output"}, r"^objectives must be DistillationObjectives or None, got 'output'$"),
        ({"objectives": {"output": 1.0}}, r"^objectives must be DistillationObjectives or None, got {'output': 1.0}$"),
        ({"precision": "bf16-true"}, r"^precision must be one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'$"),
    ],
)
def test_arguments_of_the_wrong_type_or_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    model = tiny_model("bert")
    refuse(message, mimicry.convert(model, "hedgehog"), model, batches(count=1), **options)


def test_warnings_of_users_are_not_swallowed() -> None:
    model = tiny_model("bert")

    class Warns(list):
        def __getitem__(self, index: Any) -> Any:
            warnings.warn("mine", stacklevel=1)
            return super().__getitem__(index)

    with pytest.warns(UserWarning, match="mine"):
        distil(mimicry.convert(model, "hedgehog"), model, Warns(batches(count=1)))


def test_public_names_are_found_without_loading_torch_first() -> None:
    assert set(mimicry.__all__) <= set(dir(mimicry))
    assert all(getattr(mimicry, name) is not None for name in mimicry.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        mimicry.distil  # noqa: B018
