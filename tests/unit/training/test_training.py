import functools

import numpy as np
import pytest
import torch
from families import padded_batch, tiny_model
from scipy import stats
from sklearn import metrics as reference
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.optim import SGD
from transformers import PreTrainedTokenizerFast

import mimicry
from mimicry.attention import LinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.attention.feature_maps.performer import PerformerFeatureMap
from mimicry.training.budget import BudgetGrid
from mimicry.training.metrics import UNITS, LikelihoodScores, build_metrics, build_scores, update_metrics
from mimicry.training.optimization import lightning_optimizers, warmup_schedule
from mimicry.training.summaries import RougeScores
from mimicry.training.task import TaskModule

REFERENCES = {
    "accuracy": lambda y, p: reference.accuracy_score(y, p),
    "f1": lambda y, p: reference.f1_score(y, p),
    "matthews": lambda y, p: reference.matthews_corrcoef(y, p),
    "pearson": lambda y, p: stats.pearsonr(y, p).statistic,
    "spearman": lambda y, p: stats.spearmanr(y, p).statistic,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_metrics_equal_scikit_learn_and_scipy_over_several_batches(name: str) -> None:
    draw = np.random.default_rng(0)
    regression = name in ("pearson", "spearman")
    labels = draw.uniform(0, 5, 60) if regression else draw.integers(0, 2, 60)
    # Right two times out of three, so that no metric sits at an end of its range.
    guesses = labels + draw.normal(size=60) if regression else np.where(draw.random(60) < 0.66, labels, 1 - labels)
    metric = build_metrics((name,), num_labels=1 if regression else 2)
    for rows in np.array_split(np.arange(60), 7):
        metric.update(torch.tensor(guesses[rows]), torch.tensor(labels[rows]))
    assert float(metric.compute()[name]) == pytest.approx(REFERENCES[name](labels, guesses), abs=1e-5)
    assert name in UNITS


CONSTANT = np.ones(1043, dtype=int)
# CoLA's validation labels, in no order.
COLA = np.random.default_rng(0).permutation(np.repeat([1, 0], [721, 322]))


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize(
    ("labels", "guesses", "num_labels"),
    [
        (COLA, CONSTANT, 2),
        (COLA, 1 - CONSTANT, 2),
        (CONSTANT, COLA, 2),
        (CONSTANT, CONSTANT, 2),
        (CONSTANT, 1 - CONSTANT, 2),
        (COLA, COLA, 2),
        (COLA, 1 - COLA, 2),
        (COLA, np.roll(COLA, 1), 2),
        (COLA, CONSTANT, 3),
        (COLA + np.roll(COLA, 1), CONSTANT, 3),
        (COLA + np.roll(COLA, 1), COLA, 3),
        (COLA + np.roll(COLA, 1), COLA + np.roll(COLA, 2), 3),
    ],
)
def test_matthews_equals_scikit_learn_for_constant_and_other_guesses_over_several_batches(
    labels: np.ndarray, guesses: np.ndarray, num_labels: int
) -> None:
    metric = build_metrics(("matthews",), num_labels)
    for rows in np.array_split(np.arange(len(labels)), 7):
        metric.update(torch.tensor(guesses[rows]), torch.tensor(labels[rows]))
    score = metric.compute()["matthews"]
    assert score.dtype == torch.float32
    assert float(score) == pytest.approx(reference.matthews_corrcoef(labels, guesses), abs=1e-6)


def test_accuracy_over_three_classes_counts_examples_and_not_classes() -> None:
    metric = build_metrics(("accuracy",), num_labels=3)
    metric.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 2]))
    assert float(metric.compute()["accuracy"]) == 0.75


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(
        ValueError, match="metrics must be among accuracy, f1, matthews, pearson, spearman, top1, top5, got 'bleu'"
    ):
        build_metrics(("accuracy", "bleu"), 2)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_the_schedule_warms_up_to_the_peak_and_ends_at_zero(decay: str) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = warmup_schedule(optimizer, total_steps=100, decay=decay, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == 0
    assert rates[10] == pytest.approx(0.5)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-6)


def test_a_cosine_ends_at_its_floor_and_a_line_has_none() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = warmup_schedule(optimizer, total_steps=100, decay="cosine", warmup=0.1, floor=0.1)
    rates = []
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(0.5)
    # Half way between peak and floor in the middle of the decay.
    assert rates[54] == pytest.approx(0.275)
    assert rates[-1] == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"floor must be 0 where decay is linear, got 0\.1"):
        warmup_schedule(optimizer, total_steps=100, decay="linear", floor=0.1)


def test_the_optimizer_gets_trainable_parameters_only() -> None:
    frozen, free = torch.nn.Parameter(torch.zeros(1), requires_grad=False), torch.nn.Parameter(torch.zeros(1))
    built = lightning_optimizers(SGD, warmup_schedule, [frozen, free], learning_rate=0.1, total_steps=5)
    assert built["optimizer"].param_groups[0]["params"] == [free]
    assert built["lr_scheduler"]["interval"] == "step"


def test_random_maps_redraw_at_their_interval_of_training_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = functools.partial(LinearAttention, feature_map=functools.partial(PerformerFeatureMap, redraw_interval=2))
    student = mimicry.convert(tiny_model("bert"), factory)
    module = TaskModule(student, "recover", build_scores(("accuracy",), 3), SGD, warmup_schedule, 1e-3)
    rows = [layer.query_map.rows for layer in attention_layers(student).values()]
    drawn = []
    for step in range(4):
        monkeypatch.setattr(TaskModule, "global_step", step)
        module.on_train_batch_start(padded_batch(), 0)
        drawn.append([matrix.clone() for matrix in rows])
        for layer in attention_layers(student).values():
            assert torch.equal(layer.query_map.rows, layer.key_map.rows)
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[1], drawn[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(drawn[2], drawn[3], strict=True))


def test_finetuning_trains_every_weight_with_dropout_on() -> None:
    student = mimicry.convert(tiny_model("bert"), "hedgehog").eval()
    module = TaskModule(student, "recover", build_scores(("accuracy",), 3), SGD, warmup_schedule, 1e-3)
    module.on_train_start()
    assert all(part.training for part in student.modules())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be >= 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0 and finite, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be > 0 and finite, got nan"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"max_rows": 0}, "max_rows must be >= 1, got 0"),
    ],
)
def test_a_budget_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetGrid(**({"epochs": 1, "learning_rate": 1e-3, "batch_size": 8} | options))


def test_a_grid_is_every_combination_of_epochs_and_learning_rates() -> None:
    grid = BudgetGrid(epochs=[1, 2], learning_rate=[1e-4, 3e-4], batch_size=8, max_rows=5)
    assert [(budget.epochs, budget.learning_rate) for budget in grid.candidates] == [
        (1, 1e-4),
        (1, 3e-4),
        (2, 1e-4),
        (2, 3e-4),
    ]
    assert {(budget.batch_size, budget.max_rows) for budget in grid.candidates} == {(8, 5)}
    assert BudgetGrid(epochs=0, learning_rate=1e-4, batch_size=8).candidates == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": [0, 1]}, "epochs must be >= 1, got 0"),
        ({"epochs": []}, r"epochs must be a value or a list of different values, got \[\]"),
        ({"learning_rate": [1e-3, 1e-3]}, "learning_rate must be a value or a list of different values"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BudgetGrid(**({"epochs": 1, "learning_rate": 1e-3, "batch_size": 8} | options))


def test_top5_counts_a_label_among_the_five_largest_logits_and_top1_the_largest() -> None:
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]])
    metrics = build_metrics(("top1", "top5"), num_labels=6)
    update_metrics(metrics, logits, torch.tensor([0, 5, 1]))
    assert {name: float(value) for name, value in metrics.compute().items()} == pytest.approx(
        {"top1": 1 / 3, "top5": 2 / 3}
    )


def test_likelihoods_are_those_of_the_predicted_tokens_over_tokens_and_words() -> None:
    torch.manual_seed(0)
    model = tiny_model("llama").double()
    ids = torch.randint(5, 99, (3, 10))
    labels = ids.clone()
    # What stands in padding or in a prompt is not predicted.
    labels[0, 6:] = -100
    labels[1, :4] = -100
    batch = {"input_ids": ids, "labels": labels, "words": torch.tensor([2.0, 3.0, 4.0])}
    scores = LikelihoodScores()
    scores.update(model, batch)
    scores.reset()
    for rows in (slice(0, 2), slice(2, 3)):
        scores.update(model, {name: value[rows] for name, value in batch.items()})
    with torch.no_grad():
        log_probabilities = model(input_ids=ids).logits.log_softmax(dim=-1)
    total, count = 0.0, 0
    for row in range(3):
        for position in range(1, 10):
            if labels[row, position] != -100:
                total -= float(log_probabilities[row, position - 1, ids[row, position]])
                count += 1
    assert count == 5 + 6 + 9
    measured = {name: float(value) for name, value in scores.compute().items()}
    assert measured == pytest.approx({"nll_token": total / count, "nll_word": total / 9.0}, rel=1e-6)
    assert set(measured) <= set(UNITS)


def test_a_task_is_scored_by_likelihood_or_by_predictions_and_not_by_both() -> None:
    assert isinstance(build_scores(("nll_token", "nll_word"), 0), LikelihoodScores)
    with pytest.raises(ValueError, match=r"metrics must be among .*, got 'nll_token'"):
        build_scores(("accuracy", "nll_token"), 2)


def test_summaries_are_scored_as_written_after_their_prompts_whatever_the_padding() -> None:
    model = mimicry.convert(tiny_model("llama"), "hedgehog")
    tokenizer = word_tokenizer(99)
    scores = RougeScores(tokenizer, new_tokens=6)
    torch.manual_seed(0)
    prompts = [torch.randint(5, 99, (count,)) for count in (4, 9)]
    with torch.no_grad():
        written = [
            model.generate(prompt[None], max_new_tokens=6, do_sample=False, pad_token_id=0)[0, len(prompt) :]
            for prompt in prompts
        ]
    # The first summary is what the model writes; of the second every other word is.
    wanted = [written[0], written[1].clone()]
    wanted[1][::2] = 3
    rows = [torch.cat([prompt, summary]) for prompt, summary in zip(prompts, wanted, strict=True)]
    labels = [torch.cat([torch.full_like(p, -100), summary]) for p, summary in zip(prompts, wanted, strict=True)]
    batch = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    scores.update(model, batch)
    measured = {name: float(value) for name, value in scores.compute().items()}
    texts = [(tokenizer.decode(summary), tokenizer.decode(out)) for summary, out in zip(wanted, written, strict=True)]
    expected = [scores.scorer.score(*pair) for pair in texts]
    assert measured == pytest.approx(
        {name: (expected[0][name].fmeasure + expected[1][name].fmeasure) / 2 for name in measured}, abs=1e-6
    )
    assert expected[0]["rouge1"].fmeasure == 1.0
    assert 0.5 < measured["rouge1"] < 1.0


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One word per token id, the first of them padding."""
    model = WordLevel({f"word{index}": index for index in range(size)}, unk_token="word1")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="word0", eos_token="word2")
