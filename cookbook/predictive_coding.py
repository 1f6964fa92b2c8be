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
    options = EP.options | {"beta": 0.1}

    def inputs(self, p, s, x, hs, logits, y):
        return x, self.relax(p, s, hs, y, s["beta"])
