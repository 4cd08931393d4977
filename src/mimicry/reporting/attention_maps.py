"""Attention maps of one text as a file that a page can draw: weights in 255 steps, beside the record."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FILE_NAME = "attention_maps.json"


def write_attention_maps(teacher: np.ndarray | None, student: np.ndarray, tokens: Sequence[str], folder: Path) -> Path:
    """Writes `attention_maps.json`: tokens, `shape`, and the weights round(255 w) as base64 of bytes in C order.

    Args:
        teacher: weights of shape (layers, heads, n, n) in [0, 1]; None for a model that imitates none.
        student: the same for the student.
        tokens: the n tokens.
        folder: where to write; it is made.

    Raises:
        ValueError: when shapes or tokens do not fit together, or a weight is not in [0, 1].
    """
    if student.ndim != 4 or student.shape[2:] != (len(tokens), len(tokens)):
        raise ValueError(f"student must be (layers, heads, {len(tokens)}, {len(tokens)}), got {student.shape}")
    if teacher is not None and teacher.shape != student.shape:
        raise ValueError(f"teacher must have the shape of student, {student.shape}, got {teacher.shape}")
    content = {
        "tokens": list(tokens),
        "shape": list(student.shape),
        "teacher": None if teacher is None else _encoded("teacher", teacher),
        "student": _encoded("student", student),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def read_attention_maps(path: Path) -> tuple[np.ndarray | None, np.ndarray, list[str]]:
    """Teacher, student and tokens as they were written, weights to within 1/510; ValueError for a broken file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        teacher = None if content["teacher"] is None else _decoded(content["teacher"], content["shape"])
        return teacher, _decoded(content["student"], content["shape"]), content["tokens"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold attention maps, got {error!r}") from error


def _encoded(name: str, weights: np.ndarray) -> str:
    # Sums of float32 weights may exceed 1 by rounding.
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() <= 1 + 1e-4):
        raise ValueError(f"{name} must be weights in [0, 1], got {weights.min():.3g} to {weights.max():.3g}")
    return base64.b64encode(np.rint(255 * weights.clip(0, 1)).astype(np.uint8).tobytes()).decode()


def _decoded(text: str, shape: Sequence[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(shape).astype(np.float32) / 255
