"""Equilibrium propagation (Scellier and Bengio, 2017) on the residual stack's layerwise energy."""

import torch

from .local import LocalMethod


class EP(LocalMethod):
    """Energy E = ½‖h_0 - embed(x)‖² + ½ Σ ‖h_{l+1} - add(h_l, f_l(h_l))‖², whose free minimum is
    the forward pass.

    From there the states relax by `steps` simultaneous gradient steps of size `step` on E + β·loss,
    of which the first reaches the top level and each further one a level more; a level that none
    has reached gets no credit. The residual left at level l, over -β, is credit: a_l = -(h_l -
    (what the level below sends)) / β, which at the fixed point as β → 0 is the BP gradient. β
    weighs each sample's loss: the default is a β of 1 on the mean loss of a batch of 128. The
    residual is a difference of states that are far larger, so in float32 rounding drowns it where
    the stream has grown; double=True relaxes in float64. symmetric: half the difference of a phase
    nudged by +β and one by -β. relax_h0=False holds h_0, and a_0 is 0.
    """

    name = "ep"
    options = {
        "beta": 1 / 128,
        "steps": 10,
        "step": 0.5,
        "symmetric": False,
        "relax_h0": True,
        "double": False,
    }
    member_options = ("beta", "step")

    @classmethod
    def check(cls, cfg):
        o = cfg.options
        if not o["beta"] or not o["steps"] or not o["step"]:
            raise ValueError(f"method {cfg.method!r} needs beta and step above 0 and 1 step: {o}")
        if not o["relax_h0"] and cfg.embedding == "rule":
            raise ValueError(
                f"method {cfg.method!r} with relax_h0=False gives the embedding no credit; set "
                "embedding to 'init' or 'exact'"
            )

    def residuals(self, p, hs, below, start=0):
        """h_l minus what the level below sends, for levels start.. whose states are hs; `below` is
        what h_start gets.
        """
        below = [below] + [
            self.model.add(h, self.model.block(p, l, h, {})) for l, h in enumerate(hs[:-1], start)
        ]
        return [h - b for h, b in zip(hs, below)]

    def relax(self, p, s, free, y, beta):
        """States after relaxation from the free phase, which are those of the forward pass."""
        hs, top = list(free), self.model.depth

        def energy(hs, start):
            stretched = sum(
                0.5 * r.square().sum() for r in self.residuals(p, hs, free[start], start)
            )
            return stretched + beta * self.model.losses(self.model.readout(p, hs[-1]), y).sum()

        slope = torch.func.grad(energy)
        for step in range(self.cfg.options["steps"]):
            # the nudge goes down a level a step: below, all is as in the free phase
            start = max(0, top - step)
            moves = slope(hs[start:], start)
            for l, g in enumerate(moves, start):
                if l or self.cfg.options["relax_h0"]:
                    hs[l] = hs[l] - s["step"] * g
        return hs

    def credit(self, p, s, hs, logits, y):
        if self.cfg.options["double"]:
            p, hs = {k: v.double() for k, v in p.items()}, [hs[0].double()]
        # else noise, or rounding, would be residual
        if self.model.process_noise or self.cfg.options["double"]:
            hs = self.model.states(p, hs[0])
        betas = (s["beta"], -s["beta"]) if self.cfg.options["symmetric"] else (s["beta"],)
        left = [
            [-r / b for r in self.residuals(p, self.relax(p, s, hs, y, b), hs[0])] for b in betas
        ]
        return [(sum(level) / len(betas)).to(logits.dtype) for level in zip(*left)]
