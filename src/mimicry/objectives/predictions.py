"""The divergence of a student's predictions from its teacher's, a few tokens at a time."""

import torch

from mimicry.objectives.given import with_gradients
from mimicry.shapes import LogitMask, Logits, Scalar

# Numbers of a chunk: float32 copies of so many logits exist at a time, 16 MiB each.
CHUNK = 2**22


def logit_divergence(
    teacher: Logits, student: Logits, token_mask: LogitMask | None = None, temperature: float = 1.0
) -> Scalar:
    """T^2 KL(softmax(z / T) || softmax(z' / T)), mean over the predictions that count, in nats.

    The gradient is formed along with the value, chunk by chunk: beyond it, in the dtype of the student's logits, no
    tensor of the size of the logits is made. Sums are in float32 or more.

    Args:
        teacher: z, logits of tokens over a vocabulary or of rows over classes; no gradient flows into them.
        student: z'.
        token_mask: True for predictions that count.
        temperature: T, > 0.

    Returns:
        The divergence, >= 0, through which one may go backward once.

    Raises:
        ValueError: if there are fewer than two classes, or no prediction counts.

    Source: arXiv 1503.02531, Sec. 2; the factor T^2 keeps gradients the same size whatever T is.
    """
    classes = student.shape[-1]
    if classes < 2:
        raise ValueError(f"logits must be over at least 2 classes for a divergence of predictions, got {classes}")
    mask = student.new_ones(student.shape[:-1], dtype=torch.bool) if token_mask is None else token_mask
    count = int(mask.sum())
    if count == 0:
        raise ValueError("token_mask must keep at least one prediction, got none")
    dtype = torch.promote_types(student.dtype, torch.float32)
    trains = torch.is_grad_enabled() and student.requires_grad
    with torch.no_grad():
        total = torch.zeros((), dtype=dtype, device=student.device)
        gradient = torch.empty(student.shape, dtype=student.dtype, device=student.device) if trains else None
        rows = [x.reshape(-1, classes) for x in (teacher, student)]
        hidden = ~mask.reshape(-1, 1)
        for start in range(0, len(hidden), size := max(1, CHUNK // classes)):
            some = slice(start, start + size)
            log_a, log_b = ((x[some].to(dtype) / temperature).log_softmax(dim=-1) for x in rows)
            a = log_a.exp()
            # What stands in padded places may be NaN.
            total += log_a.sub_(log_b).mul_(a).masked_fill_(hidden[some], 0.0).sum()
            if gradient is not None:
                pull = log_b.exp_().sub_(a).masked_fill_(hidden[some], 0.0)
                gradient.view(-1, classes)[some] = pull.to(student.dtype)
    # Divided by the count on the way back: before, half precision might lose the smallest of the gradients.
    result = total if gradient is None else with_gradients(total, [student], [gradient.div_(temperature)])
    return result * (temperature**2 / count)
