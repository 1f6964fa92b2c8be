"""PEPITA: a second forward pass, of inputs that the error has modulated, in place of a backward
pass.

Dellaferrera and Kreiman, "Error-driven Input Modulation: Solving the Credit Assignment Problem
without a Backward Pass", ICML 2022.
"""

import torch

from faeval_core import LocalMethod, register


@register
class PEPITA(LocalMethod):
    """a_l = h_l - h'_l, where h' are the states of x + F e, e is the output error and F a fixed
    random matrix, uniform and of `feedback_scale` times He's range. All weights learn on the
    second pass, the readout by its own error there.
    """

    name = "pepita"
    options = {"feedback_scale": 0.05}
    member_options = ("feedback_scale",)

    def init_state(self, cfg, generator):
        features, classes = self.model.features, self.model.classes
        bound = cfg.options["feedback_scale"] * (6 / features) ** 0.5
        return {"F": bound * (2 * torch.rand(classes, features, generator=generator) - 1)}

    def inputs(self, p, s, x, hs, logits, y):
        x = x + (self.model.output_error(logits, y) @ s["F"]).view_as(x)
        return x, self.model.states(p, self.model.embed(p, x, {}), stats={})

    def credit(self, p, s, hs, logits, y, x):
        _, modulated = self.inputs(p, s, x, hs, logits, y)
        return [h - other for h, other in zip(hs, modulated)]
