"""The gradient of the surrogate scalar, which is the whole update of a member."""

import torch
from torch.func import grad, vmap

from ..methods.base import Method
from ..methods.shared import EVERYTHING, Phase
from .execution import by_onednn, compiled, first_that_works


class Gradients:
    """Gradients of one method, taken in its phases, of one member or of several at once.

    driver: 'loop' for one member, 'vmap' for members with a leading axis. fused: compile it.
    autocast: take its products in bfloat16; onednn: take them by oneDNN, which may round.
    """

    def __init__(self, method: Method, driver: str, fused: bool, autocast: bool, onednn: bool):
        self.method, self.driver, self.fused = method, driver, fused
        self.autocast, self.onednn = autocast, onednn
        self.gradients, self.methods = {}, {}  # by phase
        if fused:
            # else ensembles that came before would count against the limit of recompilations
            torch.compiler.reset()

    def during(self, phase: Phase) -> Method:
        """The method in a phase."""
        if phase not in self.methods:
            self.methods[phase] = self.method.during(phase)
        return self.methods[phase]

    def __call__(self, trained, fixed, state, x, y, phase=EVERYTHING):
        """(gradients of trained, (loss, changed tensors)), of one member or, by vmap, of all
        members that are in a phase.
        """
        if phase not in self.gradients:
            self.gradients[phase] = self._gradient(self.during(phase))
        return self.gradients[phase](trained, fixed, state, x, y)

    def _gradient(self, method):
        def scalar(trained, fixed, state, x, y):
            with torch.autocast(
                x.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False
            ):
                return method.surrogate({**fixed, **trained}, state, x, y)

        # on the CPU a tenth faster than grad, unless compiled
        def by_autograd(trained, fixed, state, x, y):
            leaves = {k: v.detach().requires_grad_() for k, v in trained.items()}
            value, rest = scalar(leaves, fixed, state, x, y)
            grads = ()
            if value.requires_grad:
                grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
            return dict(zip(leaves, grads)), rest

        gradient = by_autograd
        if self.driver == "vmap" or self.fused:
            gradient = grad(scalar, has_aux=True)
            gradient = vmap(gradient) if self.driver == "vmap" else gradient
            gradient = torch.no_grad()(compiled(gradient) if self.fused else gradient)
        if self.driver == "loop" and self.fused:
            told = (
                f"method {method.name!r} cannot be differentiated by torch.func, so "
                "training goes on uncompiled"
            )
            gradient = first_that_works(gradient, by_autograd, told)
        return by_onednn(gradient) if self.onednn else gradient
