"""Node perturbation: a state is jolted, and what the loss does says where to go.

Werfel, Xie and Seung, "Learning Curves for Stochastic Gradient Descent in Linear Feedforward
Networks", Neural Computation 17, 2005.
"""

from faeval_core import LocalMethod, register
from faeval_core.methods.base import rms


@register
class NodePerturbation(LocalMethod):
    """a_l = ξ (L(h_l + σξ) - L(h_l)) / σ, with one ξ of N(0, I) for each sample and level; σ is
    `sigma` times the RMS of the state. Its mean over ξ is the exact gradient as σ → 0, so that a
    diagnosis averages over `draws` of ξ; one draw has a cosine of about 1/√width.
    """

    name = "node_perturbation"
    options = {"sigma": 0.01}
    member_options = ("sigma",)
    draws = 128

    def noise(self, batch):
        return {f"xi.{l}": (batch, *level) for l, level in enumerate(self.model.levels)}

    def credit(self, p, s, hs, logits, y):
        before, found = self.model.losses(logits, y), []
        for l, h in enumerate(hs):
            size, xi = s["sigma"] * rms(h), s[f"xi.{l}"]
            change = self.tail_losses(p, h + size * xi, y, l) - before
            found.append(change.view(size.shape) / size * xi)
        return found
