import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from families import TEXT_FAMILIES, tiny_model
from toy import save_toy_checkpoint

from mimicry.conversion.checkpoint import Checkpoint


def test_a_folder_loads_with_a_head_for_the_task(tmp_path: Path) -> None:
    model, tokenizer = Checkpoint(str(save_toy_checkpoint(tmp_path)), max_length=32).load(num_labels=5)
    assert model.config.num_labels == 5
    assert model.classifier.out_features == 5
    assert tokenizer.pad_token_id is not None


def test_a_decoder_without_a_pad_token_of_its_own_classifies_padded_texts(tmp_path: Path) -> None:
    save_toy_checkpoint(tmp_path)
    tiny_model("llama", classifier=True, vocab_size=40, pad_token_id=None).save_pretrained(tmp_path)
    source = Checkpoint(str(tmp_path), max_length=32)
    source.check()
    model, tokenizer = source.load(num_labels=2)
    batch = tokenizer(["w1 good", "w2 bad w3 w4"], padding=True, return_tensors="pt", return_token_type_ids=False)
    alone = tokenizer(["w1 good"], return_tensors="pt", return_token_type_ids=False)
    torch.testing.assert_close(model(**batch).logits[:1], model(**alone).logits)


def test_a_finished_donor_keeps_its_head(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    model, _ = Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=2)
    expected, _ = Checkpoint(str(folder), max_length=32).load(num_labels=2)
    assert torch.equal(model.classifier.weight, expected.classifier.weight)


def test_a_donor_whose_head_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    with pytest.raises(ValueError, match=r"model.teacher: its head must have 3 outputs, got 2"):
        Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=3)


def test_a_donor_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    tiny_model("bert", num_labels=2, vocab_size=40).bert.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"is not a finished classifier, it lacks classifier"):
        Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=2)


def test_weights_with_holes_are_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights of its encoder: bert.encoder.layer.2"):
        Checkpoint(str(folder), max_length=32).load(num_labels=2)


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "~/missing-model", "a/b/c"])
def test_a_missing_folder_is_refused_before_anything_is_loaded(path: str) -> None:
    with pytest.raises(ValueError, match=r"model\.path: no such folder"):
        Checkpoint(path).check()


def test_an_unknown_asset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.path must be one of asset:minilm when embedded, got 'asset:gpt'"):
        Checkpoint("asset:gpt").check()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{not json", "is not JSON"),
        ("{}", "no attention seam for architecture None"),
        ("[1]", "config.json must hold a JSON object, got list"),
        ('{"model_type": "gpt9"}', "no attention seam for architecture 'gpt9'"),
        ('{"model_type": "deberta"}', "'deberta' cannot be converted: disentangled relative-position terms"),
        ('{"model_type": "deberta-v2"}', "'deberta-v2' cannot be converted: disentangled relative-position terms"),
        ('{"model_type": "granite"}', "transformers has no classifier of sequences for 'granite'"),
        ('{"model_type": "mistral", "sliding_window": 4096}', "sliding_window must be null"),
        ('{"model_type": "bert", "max_position_embeddings": 64}', "max_length must be <= the model's 64 positions"),
        ('{"model_type": "roberta", "max_position_embeddings": 128}', "must be <= the model's 126 positions, got 128"),
        (
            '{"model_type": "xlm-roberta", "max_position_embeddings": 130, "pad_token_id": 3}',
            "must be <= the model's 126 positions, got 128",
        ),
        (
            '{"model_type": "camembert", "max_position_embeddings": 130, "pad_token_id": null}',
            "'camembert' counts positions from pad_token_id on, which must not be null",
        ),
    ],
)
def test_a_folder_that_cannot_work_is_refused_at_once(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        Checkpoint(str(tmp_path)).check()


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_longest_text_that_is_accepted_has_a_position_for_each_token(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    longest = model.config.max_position_embeddings
    longest -= 2 if family in ("roberta", "xlm-roberta", "camembert") else 0
    Checkpoint(str(tmp_path), max_length=longest).check()
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 5))
    with pytest.raises(ValueError, match=rf"max_length must be <= the model's {longest} positions, got {longest + 1}$"):
        Checkpoint(str(tmp_path), max_length=longest + 1).check()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


def test_an_unreachable_hub_is_one_line_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"cannot load 'nobody/nothing'.*a local folder works too") as refused:
        Checkpoint("nobody/nothing").load(num_labels=2)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 7}, "model.max_length must be >= 8, got 7"),
        (
            {"known_scores": {"rte": 0.6, "cola": 58.8}},
            "model.known_scores.cola must be a fraction from -1 to 1, got 58.8",
        ),
        ({"known_scores": {"cola": float("nan")}}, "model.known_scores.cola must be a fraction from -1 to 1, got nan"),
        (
            {"known_scores": {"sst2": 0.99}},
            "model.known_scores needs model.teacher, whose scores they are, got sst2 alone",
        ),
        ({"score_tolerance": -0.01}, "model.score_tolerance must be >= 0, got -0.01"),
        ({"score_tolerance": float("nan")}, "model.score_tolerance must be >= 0, got nan"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Checkpoint("asset:minilm", **options)


DONOR = Checkpoint("asset:minilm", teacher="someone/donor-cola", known_scores={"cola": 0.588}, score_tolerance=0.01)


@pytest.mark.parametrize("score", [0.5781, 0.588, 0.7])
def test_a_donor_at_its_known_score_or_above_is_used(score: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        DONOR.check_score("cola", "matthews", score)
    assert caplog.text == ""


@pytest.mark.parametrize("score", [0.5779, -0.588, float("nan")])
def test_a_donor_below_its_known_score_is_refused_in_one_line_with_hints(score: float) -> None:
    with pytest.raises(ValueError, match=r"^model\.teacher: someone/donor-cola scores matthews ") as refused:
        DONOR.check_score("cola", "matthews", score)
    message = str(refused.value)
    assert f"{score:.4f} on cola here, but its known score is 0.5880 (model.score_tolerance=0.01)" in message
    assert "another task" in message
    assert "labels in another order" in message
    assert "subset of the validation rows is scored, raise model.score_tolerance" in message
    assert "\n" not in message


def test_a_wide_tolerance_admits_a_donor_scored_on_a_subset() -> None:
    dataclasses.replace(DONOR, score_tolerance=0.1).check_score("cola", "matthews", 0.49)


@pytest.mark.parametrize("known_scores", [None, {}])
def test_a_donor_without_a_known_score_is_said_to_be_unchecked(
    known_scores: dict[str, float] | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        dataclasses.replace(DONOR, known_scores=known_scores).check_score("cola", "matthews", 0.0)
    (line,) = caplog.messages
    assert line.startswith("someone/donor-cola: its score on cola is not checked, none is known")
    assert "model.known_scores={cola: 0.9}" in line


def test_known_scores_of_other_tasks_alone_are_refused() -> None:
    message = (
        "model.known_scores must name the task, sst2, got sst, rte; "
        "where the teacher's score on it is not known, set model.known_scores=null"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        dataclasses.replace(DONOR, known_scores={"sst": 0.9, "rte": 0.68}).check_score("sst2", "accuracy", 0.99)


def test_a_teacher_that_is_finetuned_here_has_no_known_score(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        Checkpoint("asset:minilm").check_score("cola", "matthews", 0.0)
    assert caplog.text == ""


ENTAILMENT = ("entailment", "neutral", "contradiction")


def donor_with_labels(folder: Path, names: Sequence[str]) -> Checkpoint:
    save_toy_checkpoint(folder, num_labels=len(names))
    config = json.loads((folder / "config.json").read_text())
    labels = {"id2label": {str(index): name for index, name in enumerate(names)}}
    labels["label2id"] = {name: index for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config | labels))
    return Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32)


def test_a_donor_with_the_task_s_labels_in_another_order_is_refused(tmp_path: Path) -> None:
    donor = donor_with_labels(tmp_path, ["CONTRADICTION", "Neutral", "entailment"])
    orders = r"in the task's order \(entailment, neutral, contradiction\), got contradiction, neutral, entailment"
    with pytest.raises(ValueError, match=rf"^model\.teacher: .* must have its labels {orders}$"):
        donor.load(num_labels=3, labels=ENTAILMENT)


def test_label_names_are_compared_whatever_their_case_and_hyphens(tmp_path: Path) -> None:
    donor = donor_with_labels(tmp_path, ["Not-Entailment", "ENTAILMENT"])
    with pytest.raises(ValueError, match=r"order \(entailment, not_entailment\), got not_entailment, entailment"):
        donor.load(num_labels=2, labels=("entailment", "not_entailment"))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["Entailment", "NEUTRAL", "contradiction"], ENTAILMENT),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ENTAILMENT),
        (["yes", "maybe", "no"], ENTAILMENT),
        (["contradiction", "neutral", "entailment"], ()),
    ],
    ids=["same order", "no names", "other names", "task without names"],
)
def test_labels_in_order_or_beyond_comparison_are_accepted(
    tmp_path: Path, names: list[str], labels: tuple[str, ...]
) -> None:
    model, _ = donor_with_labels(tmp_path, names).load(num_labels=3, labels=labels)
    assert model.config.num_labels == 3


def test_the_order_of_labels_does_not_matter_where_the_head_is_finetuned(tmp_path: Path) -> None:
    donor_with_labels(tmp_path, ["contradiction", "neutral", "entailment"])
    Checkpoint(str(tmp_path), max_length=32).load(num_labels=3, labels=ENTAILMENT)


def finetuned_for(folder: Path, num_labels: int, problem_type: str) -> str:
    save_toy_checkpoint(folder, num_labels)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": problem_type}))
    return str(folder)


@pytest.mark.parametrize(
    ("before", "problem_type", "num_labels", "labels"),
    [
        (3, "single_label_classification", 1, torch.tensor([0.5, 4.0])),
        (1, "regression", 2, torch.tensor([1, 0])),
        (2, "multi_label_classification", 2, torch.tensor([1, 0])),
    ],
)
def test_a_model_finetuned_for_another_kind_of_task_is_trained_with_the_loss_of_this_one(
    tmp_path: Path, before: int, problem_type: str, num_labels: int, labels: torch.Tensor
) -> None:
    source = finetuned_for(tmp_path, before, problem_type)
    model, _ = Checkpoint(source, max_length=32).load(num_labels=num_labels)
    output = model(input_ids=torch.tensor([[2, 7, 3], [2, 8, 3]]), labels=labels)
    loss = torch.nn.functional.mse_loss if num_labels == 1 else torch.nn.functional.cross_entropy
    torch.testing.assert_close(output.loss, loss(output.logits.squeeze(-1), labels))


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_a_donor_finetuned_for_another_kind_of_task_is_refused(tmp_path: Path, problem_type: str) -> None:
    donor = Checkpoint("asset:minilm", teacher=finetuned_for(tmp_path, 2, problem_type), max_length=32)
    wanted = r"must be a model for single_label_classification"
    with pytest.raises(ValueError, match=rf"^model\.teacher: .* {wanted}, got its problem_type '{problem_type}'$"):
        donor.load(num_labels=2)


def test_a_donor_that_names_the_task_s_own_kind_is_used(tmp_path: Path) -> None:
    donor = finetuned_for(tmp_path, 1, "regression")
    model, _ = Checkpoint("asset:minilm", teacher=donor, max_length=32).load(num_labels=1)
    assert model.config.problem_type == "regression"
