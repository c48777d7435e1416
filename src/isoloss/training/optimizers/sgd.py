"""SGD with momentum beta1, as torch's: weight decay is added to the gradient."""

from __future__ import annotations

from isoloss.training.optimizers.update import Update


def step(update: Update) -> None:
    """Update every member."""
    if update.parameters.kernels.triton:
        update.fused("sgd")
        return
    flat_ExP, (momentum_ExP,) = update.parameters.flat_ExP, update.moments.values()
    grad_ExP = update.scaled_ExP + update.decay_ExP() * flat_ExP
    update.put(momentum_ExP, update.members[0].beta1 * momentum_ExP + grad_ExP)
    update.put(flat_ExP, flat_ExP - update.lr_E[:, None] * momentum_ExP)
    update.finish()
