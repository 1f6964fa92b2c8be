"""Predictive coding: states settle between what is predicted and what is wanted, then weights
learn.

Whittington and Bogacz, "An Approximation of the Error Backpropagation Algorithm in a Predictive
Coding Network with Local Hebbian Synaptic Plasticity", Neural Computation 29, 2017.
"""

from faeval_core import register
from faeval_core.methods.ep import EP


@register
class PredictiveCoding(EP):
    """EP's layerwise energy is that of predictive coding, and what a settled state is away from its
    prediction, over -β, is a_l. Unlike EP's, weights learn on the settled states, so that a step
    descends the energy itself. At small β it is BP.
    """

    name = "predictive_coding"
    options = {"beta": 0.1, "steps": 10, "step": 0.5, "relax_h0": True}

    def common(self, p, s, hs, logits, y):
        # noise of the stream would be taken for a residual
        free = self.model.states(p, hs[0]) if self.model.process_noise else hs
        settled = self.relax(p, s, free, y, s["beta"])
        return {f"settled.{l}": h for l, h in enumerate(settled)}

    def settled(self, p, s, hs, logits, y):
        known = s if "settled.0" in s else self.common(p, s, hs, logits, y)
        return [known[f"settled.{l}"] for l in range(len(hs))]

    def credit(self, p, s, hs, logits, y):
        away = self.residuals(p, self.settled(p, s, hs, logits, y), hs[0])
        return [-r / s["beta"] for r in away]

    def inputs(self, p, s, x, hs, logits, y):
        return x, self.settled(p, s, hs, logits, y)
