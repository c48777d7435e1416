"""Lion (Chen et al. 2023): the sign of a momentum, with decoupled weight decay of matrices and embeddings."""

from __future__ import annotations

from isoloss.training.optimizers.update import Update


def step(update: Update) -> None:
    """Update every member; beta1 mixes the update, beta2 the momentum."""
    if update.parameters.kernels.triton:
        update.fused("lion")
        return
    grad_ExP, (exp_avg_ExP,) = update.scaled_ExP, update.moments.values()
    flat_ExP, lr_ExP, config = update.parameters.flat_ExP, update.lr_ExP(), update.members[0]
    sign_ExP = exp_avg_ExP.lerp(grad_ExP, 1 - config.beta1).sign_()
    update.put(flat_ExP, flat_ExP * (1 - lr_ExP * update.decay_ExP()) - lr_ExP * sign_ExP)
    update.put(exp_avg_ExP, exp_avg_ExP.lerp(grad_ExP, 1 - config.beta2))
    update.finish()
