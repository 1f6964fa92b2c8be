"""Direct random target projection: hidden layers hear the target, not the error.

Frenkel, Lefebvre and Bol, "Learning Without Feedback: Fixed Random Learning Signals Allow for
Feedforward Training of Deep Neural Networks", Frontiers in Neuroscience 15, 2021.
"""

import torch

from faeval_core import register
from faeval_core.methods.dfa import DFA


@register
class DRTP(DFA):
    """a_l = -y B_l, y being the one-hot target: DFA's credit of a net that gives no class any
    probability. Nothing of the output is waited for.
    """

    name = "drtp"

    def credit(self, p, s, hs, logits, y):
        target = y[:, None] == torch.arange(logits.shape[1], device=y.device)
        return self.sent(s, -target.to(logits.dtype))
