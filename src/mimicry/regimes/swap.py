"""What both conversions share: swap the attention, then let its maps imitate softmax."""

import functools
from collections.abc import Callable, Generator

from torch import nn

from mimicry.attention import Attention
from mimicry.attention.capture import attention_layers
from mimicry.conversion import convert
from mimicry.conversion.layers import choose_layers
from mimicry.conversion.site import find_sites
from mimicry.regimes.stage import Stage
from mimicry.training.budget import BudgetGrid
from mimicry.training.distillation import DistillationModule


def check_depth(layers: str | int, model: nn.Module) -> None:
    """Refuses layers that the model does not have; called before anything trains.

    Raises:
        ValueError: naming `regime.layers`.
    """
    try:
        choose_layers(layers, len(find_sites(model)))
    except ValueError as error:
        raise ValueError(f"regime.{error}") from error


def swap_and_distill(
    model: nn.Module,
    teacher: nn.Module,
    attention: Callable[..., Attention],
    layers: str | int,
    distill: BudgetGrid,
    distillation_module: Callable[..., DistillationModule],
    share_weights: bool = False,
) -> Generator[Stage, None, nn.Module]:
    """The stages `convert` and `distill`; returns the student. Source: arXiv 2402.04347, Sec. 4.2.

    Args:
        model: the softmax model as the host library runs it.
        teacher: the same, canonicalised.
        attention: factory of the variant.
        layers: which layers are converted, as `convert` takes it.
        distill: its budgets; none, or an attention without parameters, skips the stage.
        distillation_module: called with teacher, student and `learning_rate`.
        share_weights: teacher and student hold the same frozen weights, one copy in memory.
    """
    student = convert(model, attention, layers, share_weights)
    yield Stage("convert", "swap the attention, train nothing", "no_train", student)
    if distill.candidates and any(True for layer in attention_layers(student).values() for _ in layer.parameters()):
        module = functools.partial(distillation_module, teacher, student)
        about = "train the feature maps on softmax's weights"
        yield Stage("distill", about, "distilled", student, module, distill.candidates)
    return student
