import copy
import functools

import pytest
import torch
from families import left_padded_batch, padded_batch, tiny_model
from torch.optim import AdamW, Optimizer

import mimicry
from mimicry.analysis import attention_entropy, attention_kl
from mimicry.attention import AttentionDims, backend
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.shipped import load_variant
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.objectives import soft_cross_entropy
from mimicry.training import forcing
from mimicry.training.attention_analysis import summarise_attention
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule


def distillation(attn: str = "hedgehog") -> tuple[DistillationModule, torch.nn.Module, torch.nn.Module]:
    teacher = mimicry.canonicalise(tiny_model("bert"))
    student = mimicry.convert(teacher, attn)
    module = DistillationModule(teacher, student, functools.partial(AdamW, lr=0.1), warmup_schedule, 1e-2)
    module.log = lambda *_, **__: None
    return module, teacher, student


def batch_with_labels() -> dict[str, torch.Tensor]:
    return padded_batch() | {"labels": torch.tensor([0, 1, 2])}


def test_only_the_maps_get_gradients_and_all_of_them_do() -> None:
    module, teacher, student = distillation()
    module.training_step(batch_with_labels(), 0).backward()
    touched = {name for name, p in student.named_parameters() if p.grad is not None}
    assert touched == {name for name, _ in student.named_parameters() if ATTRIBUTE in name}
    assert all(p.grad is None for p in teacher.parameters())


def test_the_optimizer_holds_the_maps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, student = distillation()
    monkeypatch.setattr(DistillationModule, "trainer", type("", (), {"estimated_stepping_batches": 10})())
    optimizer: Optimizer = module.configure_optimizers()["optimizer"]
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in student.named_parameters() if ATTRIBUTE in name}


def test_the_loss_is_the_mean_over_layers_of_the_loss_on_the_teacher_s_own_states() -> None:
    module, teacher, student = distillation()
    batch = batch_with_labels()
    with torch.no_grad(), capture(teacher) as captured:
        teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    expected = [
        soft_cross_entropy(
            attention_layers(teacher)[name].weights(seen.q, seen.k, seen.key_mask),
            layer.weights(seen.q, seen.k, seen.key_mask),
            seen.key_mask,
        )
        for (name, seen), layer in zip(captured.items(), attention_layers(student).values(), strict=True)
    ]
    torch.testing.assert_close(module.training_step(batch, 0), torch.stack(expected).mean())


@pytest.mark.parametrize("attn", ["hedgehog", "hedgehog_softmax", "t2r"])
def test_gradients_and_divergence_are_those_of_the_weights_written_out(attn: str) -> None:
    module, teacher, student = distillation(attn)
    module.double()
    module.students.double()
    batch, logged = batch_with_labels(), {}
    module.log = lambda name, value, **_: logged.update({name: float(value.detach())})
    with torch.no_grad(), capture(teacher) as captured:
        teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    expected, divergence = torch.zeros((), dtype=torch.float64), 0.0
    for name, layer in attention_layers(student).items():
        given = (captured[name].q, captured[name].k, captured[name].key_mask)
        a, b = attention_layers(teacher)[name].weights(*given), layer.weights(*given)
        expected = expected + soft_cross_entropy(a, b, given[2]) / 2
        divergence += float(attention_kl(a, b.detach(), given[2]).transpose(1, 2)[given[2]].mean()) / 2
    parameters = list(module.students.parameters())
    actual = module.training_step(batch, 0)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    assert logged["distill/kl"] == pytest.approx(divergence, abs=1e-12)
    references = torch.autograd.grad(expected, parameters)
    for gradient, reference in zip(torch.autograd.grad(actual, parameters), references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-14)


class CausalModel(torch.nn.Module):
    """One causal attention over two of its inputs."""

    def __init__(self, attn: str, size: float) -> None:
        super().__init__()
        self.attn = load_variant(attn)(dims=AttentionDims(4, 8, causal=True))
        self.size = size

    def forward(self, states: torch.Tensor, key_mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k = states.unbind()
        return self.attn(q, self.size * k, k, key_mask)


def causal_distillation(attn: str, size: float = 1.0) -> DistillationModule:
    parts = CausalModel("softmax", size), CausalModel(attn, size)
    return DistillationModule(*parts, functools.partial(AdamW, lr=0.1), warmup_schedule, 1e-2)


def both_forms(
    module: DistillationModule, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], dict[str, float]]:
    """What a step logs and gives as gradients, with weights of all pairs stored and streamed."""
    module.double()
    with torch.no_grad():
        for parameter in module.students.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    results = []
    for fewest in (10**9, 1):
        monkeypatch.setattr(forcing, "STREAMED_TOKENS", fewest)
        logged: dict[str, float] = {}
        monkeypatch.setattr(module, "log", lambda name, value, logged=logged, **_: logged.update({name: value.item()}))
        module.zero_grad()
        module.training_step(batch, 0).backward()
        gradients = {name: parameter.grad.clone() for name, parameter in module.students.named_parameters()}
        results.append(logged | gradients)
    return results[0], results[1]


@pytest.mark.parametrize("attn", ["hedgehog", "hedgehog_softmax", "t2r"])
def test_streamed_losses_train_the_maps_as_stored_weights_do(attn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, _ = distillation(attn)
    stored, streamed = both_forms(module, batch_with_labels(), monkeypatch)
    torch.testing.assert_close(streamed, stored, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("attn", ["hedgehog", "hedgehog_softmax", "t2r"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_causal_streamed_losses_train_the_maps_as_stored_weights_do(
    attn: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"states": torch.randn(2, 3, 4, 150, 8, dtype=torch.float64)}
    if padded:
        left, right, holes = torch.arange(150) >= 20, torch.arange(150) < 90, torch.rand(150) < 0.7
        batch["key_mask"] = torch.stack([left, right, holes])
    called = []
    original = forcing.streamed_soft_cross_entropy
    monkeypatch.setattr(forcing, "streamed_soft_cross_entropy", lambda *given: called.append(1) or original(*given))
    stored, streamed = both_forms(causal_distillation(attn), batch, monkeypatch)
    assert len(called) == 1
    torch.testing.assert_close(streamed, stored, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_exponents_out_of_a_common_range_are_distilled_in_blocks_of_queries_and_said_so_once(
    padded: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forcing, "streamed_soft_cross_entropy", None)
    monkeypatch.setattr(forcing, "ROWS", 8)
    monkeypatch.setattr(backend, "_announced", set())
    batch = {"states": torch.randn(2, 3, 4, 21, 8, dtype=torch.float64)}
    if padded:
        # The last block holds nothing but padding.
        batch["key_mask"] = (torch.arange(21) < torch.tensor([[16], [9], [3]])) & (torch.arange(21) != 1)
    module = causal_distillation("hedgehog", size=100.0)
    with caplog.at_level("INFO"):
        stored, streamed = both_forms(module, batch, monkeypatch)
        module.training_step(batch, 1)
    torch.testing.assert_close(streamed, stored, rtol=1e-10, atol=1e-13)
    assert [record.message for record in caplog.records] == [
        "distill: exponents of keys grow too far for one pass, so the loss is formed in blocks of queries"
    ]


@pytest.mark.parametrize(("tokens", "streams"), [(127, False), (128, True)])
def test_long_sequences_are_streamed(tokens: int, streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    original = forcing.streamed_soft_cross_entropy
    monkeypatch.setattr(forcing, "streamed_soft_cross_entropy", lambda *given: called.append(1) or original(*given))
    module = causal_distillation("hedgehog")
    module.log = lambda *_, **__: None
    module.training_step({"states": torch.randn(2, 1, 4, tokens, 8)}, 0)
    assert bool(called) == streams


def test_the_teacher_runs_no_further_than_its_last_attention() -> None:
    module, teacher, _ = distillation()
    ran: list[str] = []
    for name, layer in teacher.named_modules():
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    first, last = attention_layers(teacher)
    module.training_step(batch_with_labels(), 0)
    assert {first, last} <= set(ran)
    assert "bert.encoder.layer.1.attention.output.dense" not in ran
    # The next forward pass, outside of distillation, is a whole one.
    teacher(input_ids=batch_with_labels()["input_ids"])
    assert "classifier" in ran


def test_errors_of_one_layer_do_not_reach_the_next() -> None:
    module, _, student = distillation()
    batch = batch_with_labels()
    first, second = attention_layers(student).values()
    module.training_step(batch, 0).backward()
    before = second.query_map.projection.weight.grad.clone()
    # A ruined first layer changes its own loss and nothing of the second's.
    torch.nn.init.normal_(first.query_map.projection.weight)
    module.zero_grad()
    module.training_step(batch, 0).backward()
    torch.testing.assert_close(second.query_map.projection.weight.grad, before)


def test_padding_does_not_enter_the_loss() -> None:
    module, _, _ = distillation()
    batch = batch_with_labels()
    longer = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 5), value=9),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 5)),
        "labels": batch["labels"],
    }
    torch.testing.assert_close(module.training_step(longer, 0), module.training_step(batch, 0))


def test_distilling_lowers_the_divergence_and_leaves_the_teacher_alone() -> None:
    module, teacher, student = distillation()
    batch, before = batch_with_labels(), copy.deepcopy(teacher.state_dict())
    first = summarise_attention(teacher, student, [batch])
    optimizer = AdamW(module.students.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()
    assert summarise_attention(teacher, student, [batch]).kl < 0.5 * first.kl
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_loss_that_is_not_finite_stops_the_stage() -> None:
    module, _, student = distillation()
    with torch.no_grad():
        next(iter(attention_layers(student).values())).query_map.projection.weight.fill_(torch.nan)
    with pytest.raises(
        FloatingPointError, match=r"distill: loss is nan at step 0; lower learning_rate \(of a run: regime.distill"
    ):
        module.training_step(batch_with_labels(), 0)


def test_the_summary_weighs_every_real_query_the_same_however_it_is_batched() -> None:
    teacher = mimicry.canonicalise(tiny_model("bert"))
    student = mimicry.convert(teacher, "elu")
    batch = padded_batch()
    rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(3)]
    whole, split = summarise_attention(teacher, student, [batch]), summarise_attention(teacher, student, rows)
    assert split.kl == pytest.approx(whole.kl, rel=1e-5)
    assert split.student_entropy == pytest.approx(whole.student_entropy, rel=1e-5)
    assert split.teacher_entropy == pytest.approx(whole.teacher_entropy, rel=1e-5)


def test_padding_before_a_text_that_sees_no_key_does_not_enter_the_summary() -> None:
    teacher = mimicry.canonicalise(tiny_model("llama"))
    student, batch = mimicry.convert(teacher, "elu"), left_padded_batch(rows=2)
    batch = {name: value[1:] for name, value in batch.items()}
    whole = summarise_attention(teacher, student, [batch])
    cut = summarise_attention(teacher, student, [{name: value[:, 4:] for name, value in batch.items()}])
    assert batch["attention_mask"][0].tolist() == [0] * 4 + [1] * 8
    assert whole.kl == pytest.approx(cut.kl, rel=1e-4)
    assert whole.teacher_entropy == pytest.approx(cut.teacher_entropy, rel=1e-4)
    assert whole.student_entropy == pytest.approx(cut.student_entropy, rel=1e-4)


def test_a_teacher_against_itself_has_no_divergence() -> None:
    teacher = mimicry.canonicalise(tiny_model("bert"))
    summary = summarise_attention(teacher, teacher, [padded_batch()])
    assert summary.kl == pytest.approx(0, abs=1e-6)
    assert summary.student_entropy == summary.teacher_entropy


def test_cross_entropy_minus_entropy_is_divergence() -> None:
    a, b = torch.rand(2, 3, 4, 5).softmax(-1), torch.rand(2, 3, 4, 5).softmax(-1)
    gap = soft_cross_entropy(a, b) - attention_entropy(a).mean()
    torch.testing.assert_close(gap, attention_kl(a, b).mean())
