"""Tiny models and data in place of those of a command, given by the options that a user has for his own."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from families import tiny_model
from language import TEXT, save_toy_decoder, toy_tokenizer
from PIL import Image
from toy import save_toy_checkpoint
from transformers import ViTImageProcessorPil

from mimicry import assets
from mimicry.data.glue_specs import GLUE_SPECS

ROWS = 4
# Enough for the embedded task, which scores 2,000 of its snippets.
REVIEWS = 2100
# Shorter than the tiny models' positions, as the host models' lengths are than theirs.
TOKENS = 16
# Every head is drawn in the figure that a run ends with.
HEADS = {"num_attention_heads": 2}
STAGES = ("teach", "distill", "recover", "train")
# Rows that make a text of the longer length together.
FILL = "w2 w3 w4 w5 w6"
TEXTS = {"text": f"a good w{ROWS} bad film", "dialogue": "A: how are you ?\nB: fine", "summary": "B is fine"}
# What a command writes for things that only its user has.
PLACEHOLDER = "path/to/"


class StandIns:
    """Made below one folder when they are asked for first, and shared by all commands.

    What they are made for is `overrides`: a command with these is the same with other models, data and budgets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def overrides(self, plain: Mapping[str, Any]) -> list[str]:
        """What makes the composed config `plain` a run of seconds without a network; fails where that is unknown."""
        fixed = ("logger.mode=disabled", "trainer.accelerator=cpu", "callbacks.progress=null", "analysis.rows=2")
        tasks = [("task", plain["task"]), ("maps_corpus", plain["maps_corpus"])]
        given = [option for name, task in tasks if task is not None for option in self._task(name, task)]
        lengths = (plain["analysis"].get("full") or {}).get("lengths", {}).get("tokens")
        # As the host models, the tiny ones have positions for the first length alone.
        given += [f"analysis.full.lengths.tokens=[{TOKENS},{TOKENS * 2}]"] if lengths else []
        return [*fixed, *self._model(plain), *self._budgets(plain["regime"]), *given]

    def _budgets(self, regime: Mapping[str, Any]) -> list[str]:
        stages = [stage for stage in STAGES if stage in regime]
        # A stage that a command leaves out stays out.
        some = [f"regime.{stage}.epochs=1" for stage in stages if regime[stage]["epochs"] != 0]
        sizes = [f"regime.{stage}.{option}" for stage in stages for option in ("batch_size=2", f"max_rows={ROWS}")]
        return [*some, *sizes, "regime.holdout_rows=2"]

    def _model(self, plain: Mapping[str, Any]) -> list[str]:
        model, kind = plain["model"], plain["model"]["_target_"].rpartition(".")[2]
        if kind.startswith("Native"):
            small = [f"model.sizes.{size}" for size in ("num_layers=1", "hidden_size=16", "num_heads=2", "mlp_size=16")]
            if kind == "NativeLanguageModel":
                # Compiling takes longer than all commands do; tests/unit/models/test_compiling.py does it.
                small += [f"model.max_length={TOKENS}", "model.vocab_size=300", "model.compile=false"]
                small += [] if model["tokenizer"] == "trained" else [f"model.tokenizer={self.made('tokenizer')}"]
            return small
        if kind == "LanguageCheckpoint":
            # A prompt is longer than a sentence.
            return [f"model.path={self.made('gpt2' if 'gpt2' in model['path'] else 'llama')}", "model.max_length=60"]
        if kind not in ("Checkpoint", "ImageCheckpoint"):
            pytest.fail(f"tests/standins.py has no stand-in for a model of the kind {model['_target_']}")
        family = "bert" if kind == "Checkpoint" else "vit"
        given = ["model.max_length=16"] if family == "bert" else []
        if model["path"] is not None:
            given.append(f"model.path={self.made(family)}")
        if model["teacher"] is not None:
            labels = GLUE_SPECS[plain["task"]["name"]].num_labels if family == "bert" else 2
            given += [f"model.teacher={self.made(family, labels)}", "model.known_scores=null"]
        return given

    def _task(self, group: str, task: Mapping[str, Any]) -> list[str]:
        name = task.get("name") or task["_target_"].rpartition(".")[2]
        # Rows of the embedded text are whole pages.
        rows = 1 if name == "Topics" else ROWS
        given = [f"{group}.{limit}={rows}" for limit in ("max_train_rows", "max_validation_rows")]
        if name == "AssociativeRecall":
            return [*given, f"{group}.num_symbols=8", f"{group}.length=8"]
        if name == "MultiQueryRecall":
            return [*given, f"{group}.num_symbols=16", f"{group}.settings=[[16,2]]"]
        if name in ("MovieReviews", "Topics", "Digits", "DigitsPixels"):
            return given
        if name == "Samsum":
            given.append(f"{group}.summary_tokens=8")
        if name in ("image_folder", "imagenet"):
            # Processes that decode images take seconds to start.
            given += [f"{group}.num_labels=2", f"{group}.workers=0"]
        makers = {**dict.fromkeys(GLUE_SPECS, "glue"), **dict.fromkeys(("wikitext2", "wikitext103"), "wikitext")}
        makers |= {"Samsum": "samsum", "image_folder": "images", "imagenet": "images", "ListOps": "listops"}
        if name not in makers:
            pytest.fail(f"tests/standins.py has no stand-in for the task {name}")
        return [*given, f"{group}.root={self.made(makers[name])}"]

    def made(self, what: str, labels: int = 2) -> Path:
        """The folder of a model or of data."""
        folder = self.folder / f"{what}-{labels}" / what
        if not folder.is_dir():
            folder.mkdir(parents=True)
            getattr(self, f"_{what}")(folder, labels)
        return folder

    def reviews(self, asset: assets.Asset) -> Path:
        """In place of the download of the embedded snippets; no other asset is asked for."""
        assert asset is assets.MOVIE_REVIEWS
        path = self.folder / "reviews" / "movie_reviews.tsv"
        if not path.is_file():
            path.parent.mkdir()
            path.write_text("".join(f"{row}\t{row % 2 * 4 - 2}\tw{row % 9} good {FILL}\n" for row in range(REVIEWS)))
        return path.parent

    def _bert(self, folder: Path, labels: int) -> None:
        save_toy_checkpoint(folder, labels)
        # With positions for the first of several lengths alone.
        changes = {"num_labels": labels, "vocab_size": 40, "max_position_embeddings": TOKENS}
        tiny_model("bert", **changes, **HEADS).save_pretrained(folder)

    def _vit(self, folder: Path, labels: int) -> None:
        tiny_model("vit", num_labels=labels, **HEADS).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folder)

    def _llama(self, folder: Path, labels: int) -> None:
        save_toy_decoder(folder, "llama", **HEADS)

    def _gpt2(self, folder: Path, labels: int) -> None:
        save_toy_decoder(folder, "gpt2", **HEADS)

    def _tokenizer(self, folder: Path, labels: int) -> None:
        toy_tokenizer().save_pretrained(folder)

    def _glue(self, folder: Path, labels: int) -> None:
        for spec in GLUE_SPECS.values():
            (folder / spec.folder).mkdir()
            columns = spec.columns or tuple(filter(None, (spec.text, spec.pair, spec.label)))
            for stem in ("train", *spec.validation.values()):
                rows = [
                    {spec.text: f"w1 good w{row} {FILL}", spec.pair: f"{stem[-1]} w{row}"} for row in range(2 * ROWS)
                ]
                for row, cells in enumerate(rows):
                    cells[spec.label] = spec.labels[row % len(spec.labels)] if spec.labels else row / 2
                with (folder / spec.folder / f"{stem}.tsv").open("w", newline="") as file:
                    write = csv.DictWriter(file, columns, delimiter="\t", restval="x", extrasaction="ignore")
                    if spec.columns is None:
                        write.writeheader()
                    write.writerows(rows)

    def _wikitext(self, folder: Path, labels: int) -> None:
        for split in ("train", "valid"):
            (folder / f"wiki.{split}.raw").write_text(f" \n = {split} = \n \n {TEXT * 9}\n" * ROWS)

    def _samsum(self, folder: Path, labels: int) -> None:
        for split in ("train", "val"):
            (folder / f"{split}.jsonl").write_text(f"{json.dumps(TEXTS)}\n" * ROWS)

    def _images(self, folder: Path, labels: int) -> None:
        for row in range(4 * ROWS):
            path = folder / ("train", "val")[row % 2] / ("cat", "dog")[row // 2 % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (row * 9, 40, 90)).save(path)

    def _listops(self, folder: Path, labels: int) -> None:
        for split in ("train", "val", "test"):
            rows = "( ( ( [MAX 1 ) 2 ) ] )\t2\n( ( ( [SM 7 ) 4 ) ] )\t1\n"
            (folder / f"basic_{split}.tsv").write_text(f"Source\tTarget\n{rows * ROWS}")
