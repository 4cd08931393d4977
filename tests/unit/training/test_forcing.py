"""Teacher-forced losses of single layers against their definitions, and what they keep in memory."""

import gc
import weakref

import pytest
import torch
from distilling import EVERY_OBJECTIVE, batch_of, distilling
from torch import Tensor, nn

from mimicry.attention import SoftmaxAttention
from mimicry.attention.capture import Captured, attention_layers, capture
from mimicry.objectives import DistillationObjectives, soft_cross_entropy, unexplained_variance
from mimicry.training import forcing
from mimicry.training.distillation import DistillationModule
from mimicry.training.forcing import forced_layer


def in_float64(family: str, objectives: DistillationObjectives) -> tuple[DistillationModule, nn.Module, nn.Module]:
    module, teacher, student = distilling(family, objectives=objectives)
    return module.double(), teacher.double(), student.double()


def written_out(
    teacher: nn.Module, student: nn.Module, batch: dict[str, Tensor], weights: tuple[float, float]
) -> Tensor:
    """Mean over layers of both terms, from weights of all pairs."""
    with torch.no_grad(), capture(teacher) as captured:
        teacher(**batch)
    losses = []
    for name, layer in attention_layers(student).items():
        seen = captured[name]
        a = attention_layers(teacher)[name].weights(seen.q, seen.k, seen.key_mask)
        b = layer.weights(seen.q, seen.k, seen.key_mask)
        losses.append(
            weights[0] * soft_cross_entropy(a, b, seen.key_mask)
            + weights[1] * unexplained_variance(a @ seen.v, b @ seen.v, seen.key_mask)
        )
    return torch.stack(losses).mean()


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("streamed", [False, True], ids=["stored", "streamed"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 3.0)], ids=["attention", "output", "both"])
def test_losses_and_gradients_are_those_written_out_in_float64(
    family: str, streamed: bool, weights: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forcing, "STREAMED_TOKENS", 1 if streamed else 10**9)
    module, teacher, student = in_float64(family, DistillationObjectives(attention=weights[0], output=weights[1]))
    batch = batch_of(family)
    expected = written_out(teacher, student, batch, weights)
    actual = module.training_step(batch, 0)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    maps = list(module.students.parameters())
    references = torch.autograd.grad(7 * expected, maps)
    for gradient, reference in zip(torch.autograd.grad(7 * actual, maps), references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-13)


def test_distilling_outputs_lowers_their_error_on_the_teachers_own_states() -> None:
    module, teacher, student = distilling(objectives=EVERY_OBJECTIVE["output"])
    batch = batch_of("bert")
    first = written_out(teacher, student, batch, (0.0, 1.0)).item()
    optimizer = torch.optim.AdamW(module.students.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    assert written_out(teacher, student, batch, (0.0, 1.0)).item() < 0.5 * first


@pytest.mark.parametrize("objective", ["attention", "output"])
def test_each_loss_touches_its_own_layer_only(objective: str) -> None:
    module, _, student = distilling(objectives=EVERY_OBJECTIVE[objective])
    first, second = attention_layers(student).values()
    gradients = []
    for _ in range(2):
        module.zero_grad()
        module.training_step(batch_of("bert") | {"input_ids": torch.arange(36).view(3, 12) + 5}, 0).backward()
        gradients.append([p.grad.clone() for p in second.parameters()])
        # A ruined first layer changes its own loss and nothing of the second's.
        torch.nn.init.normal_(first.query_map.projection.weight)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("objective", ["attention", "output"])
def test_states_of_a_layer_are_let_go_before_the_next_one_runs(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, teacher, _ = distilling(objectives=EVERY_OBJECTIVE[objective], num_hidden_layers=4)
    alive: list[int] = []
    kept: list[weakref.ref[Tensor]] = []
    original = SoftmaxAttention.forward

    def forward(self: SoftmaxAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        # Frames of earlier layers are gone; what is alive is held by the distillation.
        alive.append(sum(reference() is not None for reference in kept))
        kept.extend(weakref.ref(x) for x in (q, k, v))
        return original(self, q, k, v, key_mask)

    monkeypatch.setattr(SoftmaxAttention, "forward", forward)
    gc.disable()
    try:
        loss = module.training_step(batch_of("bert"), 0)
    finally:
        gc.enable()
    assert len(attention_layers(teacher)) == 4
    assert alive == [0, 0, 0, 0]
    assert all(reference() is None for reference in kept)
    loss.backward()


def test_layers_that_stay_softmax_are_left_out_and_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, teacher, student = distilling(layers="0", objectives=EVERY_OBJECTIVE["all"])
    formed: list[Captured] = []
    monkeypatch.setattr(
        "mimicry.training.distillation.forced_layer",
        lambda *given: formed.append(given[2]) or forced_layer(*given),
    )
    module.training_step(batch_of("bert"), 0).backward()
    assert len(formed) == 1
    first, second = attention_layers(student)
    assert module.names == [first]
    assert all(p.grad is not None for p in module.students.parameters())
    # The teacher runs no further than the last layer that trains.
    only, teacher, _ = distilling(layers="0")
    ran: list[str] = []
    attention_layers(teacher)[second].register_forward_hook(lambda *_: ran.append(second))
    only.training_step(batch_of("bert"), 0)
    assert not ran


def test_parameters_that_do_not_train_get_no_gradient() -> None:
    module, _, student = distilling(objectives=EVERY_OBJECTIVE["attention"])
    first, *_ = attention_layers(student).values()
    first.query_map.projection.bias.requires_grad_(False)
    module.training_step(batch_of("bert"), 0).backward()
    assert first.query_map.projection.bias.grad is None
    assert first.query_map.projection.weight.grad is not None


@pytest.mark.parametrize("streamed", [False, True], ids=["stored", "streamed"])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_autocast_rounds_neither_losses_nor_gradients_of_states_in_float32(
    family: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forcing, "STREAMED_TOKENS", 1 if streamed else 10**9)
    _, teacher, student = distilling(family)
    with torch.no_grad(), capture(teacher) as captured:
        teacher(**batch_of(family))
    for name, layer in attention_layers(student).items():
        given = attention_layers(teacher)[name], layer, captured[name], DistillationObjectives(output=1.0)
        expected = forced_layer(*given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = forced_layer(*given)
        torch.testing.assert_close(actual.terms, expected.terms, rtol=1e-6, atol=0)
        torch.testing.assert_close(actual.gradients, expected.gradients, rtol=1e-5, atol=1e-8)
