"""Forward-Forward: a pass of inputs under their true label, and one under a wrong one.

Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", 2022 (arXiv:2212.13345).
"""

import torch
import torch.nn.functional as F

from faeval_core import Method, register


@register
class ForwardForward(Method):
    """Each level raises its goodness, the mean square of its state, above `threshold` for images
    whose first pixels are marked with their label, and lowers it for the most likely wrong one. The
    class is that whose mark has the highest goodness, summed over levels 1..L; the readout learns
    beside. a_l of a diagnosis is the gradient of both passes' losses at their own states, summed.
    """

    name = "forward_forward"
    options = {"threshold": 1.0}

    def marked(self, x, *labels):
        classes, marks = self.model.classes, x.new_ones(self.model.classes).diag()
        images = [torch.cat([marks[y], x.flatten(1)[:, classes:]], 1) for y in labels]
        return torch.cat(images).view(-1, *x.shape[1:])

    def pairs(self, x, y, logits):
        return self.marked(x, y, logits.scatter(1, y[:, None], -torch.inf).argmax(1))

    def goodness(self, hs):
        return torch.stack([h.flatten(1).square().mean(1) for h in hs])

    def local_loss(self, hs):
        right, wrong = (self.goodness(hs) - self.cfg.options["threshold"]).chunk(2, 1)
        return F.softplus(-right).sum() + F.softplus(wrong).sum()

    def surrogate(self, p, s, x, y):
        changed = {}
        logits = self.model.readout(p, self.forward(p, s, x, changed, local=True)[2][-1])
        loss, pairs = self.model.loss(logits, y), self.pairs(x, y, logits.detach())
        h0, fs, hs = self.forward(p, s, pairs, {}, local=True)
        states = [h0, *map(self.model.add, hs, fs)]
        return loss + self.local_loss(states) / len(y), (loss.detach(), changed)

    def credit(self, p, s, hs, logits, y, x):
        h0 = self.model.embed(p, self.pairs(x, y, logits), {})
        slopes = torch.func.grad(self.local_loss)(self.model.states(p, h0, stats={}))
        return [sum(slope.chunk(2)) for slope in slopes]

    def predict(self, p, s, x):
        labels = torch.arange(self.model.classes, device=x.device)[:, None].expand(-1, len(x))
        hs = self.model.states(p, self.model.embed(p, self.marked(x, *labels)))
        return self.goodness(hs[1:]).sum(0).view(labels.shape).argmax(0)
