"""Feedback alignment (Lillicrap et al., 2016) on a residual stack, and the rules that improve its
feedback.

FA: one fixed random matrix per block, in place of the block's whole Jacobian (the study's form).
The others keep the block's structure (skip connection, nonlinearity, normalisation, attention) and
send errors back through matrices B in place of its
weights W: sign-symmetric (Liao et al., 2016), B = sign(W) at W's scale; Kolen-Pollack (Akrout et
al., 2019), B learned by the update that W gets. On models whose states are not vectors FA takes
that form too, with fixed random B.
"""

import torch

from .local import LocalMethod


class Structured(LocalMethod):
    """a_L = δ_L exactly, then a_l = a_{l+1} through block l backwards with feedback B(W) in place
    of each weight W. Public: a rule with feedback of its own subclasses it.

    By default no weight has feedback of another value, so that credit is exact. A subclass defines
    `feedback`, from what it begins in `init_state` (fixed, or learned by what `auxiliary` changes)
    or `init_params` (trained); `back` for a block that it sends errors through otherwise.
    """

    def feedback(self, p, s) -> dict:
        """`name.feedback` -> tensor like the weight `name.weight`, the names being those of
        `weights`; a weight of a product inside a block that has none carries errors back itself.
        """
        return {}

    def weights(self, p) -> dict:
        """The weights that errors would travel back through, by name without '.weight': those of
        linear layers, (outputs, inputs), and of convolutions, (outputs, inputs, height, width).
        """
        told = {
            k.removesuffix(".weight"): v
            for k, v in p.items()
            if k.startswith("blocks.") and k.endswith(".weight")
        }
        return {k: w for k, w in told.items() if w.ndim > 1}

    def credit(self, p, s, hs, logits, y):
        p = p | self.feedback(p, s)
        a = [self.exact_credit(p, hs, y, self.model.depth)]  # through the readout only
        for l in reversed(range(self.model.depth)):
            a.append(self.back(p, s, l, hs[l], a[-1]))
        return a[::-1]

    def back(self, p, s, l, h, a):
        """a_l, (batch, *shape of level l), from a = a_{l+1}, given h = h_l; p holds feedback."""
        _, back = torch.func.vjp(lambda h: self.model.add(h, self.model.block(p, l, h, {})), h)
        return back(a)[0]


class FA(Structured):
    """a_L = δ_L exactly, then a_l = a_{l+1} B_l, B_l (width, width) with entries N(0,
    feedback_scale² / width).

    On tokens, feature maps and vectors of other sizes: back through the block with fixed random
    weights, a second draw of the model's own init. feedback='identity': B_l = feedback_scale · I,
    so that errors pass through the skip connections alone; at the default scale
    every level hears δ_L: what learned credit has to beat on residual nets, whose blocks are close
    to the identity.
    """

    name = "fa"
    options = {"feedback_scale": 1.0, "feedback": "random"}
    member_options = ("feedback_scale",)

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.options["feedback"] not in ("random", "identity"):
            raise ValueError(
                "option feedback of method 'fa' must be random or identity, not "
                f"{cfg.options['feedback']!r}"
            )

    def init_state(self, cfg, generator):
        d, scale = self.model.width, cfg.options["feedback_scale"]
        if cfg.options["feedback"] == "identity":
            if len(set(self.model.levels)) > 1:
                raise ValueError(
                    f"model {cfg.model!r} has levels of different shapes, which "
                    "feedback='identity' cannot pass on"
                )
            return {"feedback": scale * torch.eye(d).repeat(self.model.depth, 1, 1)}
        if all(tuple(level) == (d,) for level in self.model.levels):
            return {
                "feedback": torch.randn((self.model.depth, d, d), generator=generator)
                * (scale / d**0.5)
            }
        return {
            f"{k}.feedback": w * scale for k, w in self.weights(self.model.init(generator)).items()
        }

    def feedback(self, p, s):
        return {k: v for k, v in s.items() if k.endswith(".feedback")}

    def back(self, p, s, l, h, a):
        return a @ s["feedback"][l] if "feedback" in s else super().back(p, s, l, h, a)


class Oracle(Structured):
    """Exact credit in a local method's place: what a local update rule does with it. With the inner
    product it is BP.
    """

    name = "oracle"


class SignSymmetric(Structured):
    """B = sign(W) times the RMS of W: the transpose's signs, without its magnitudes."""

    name = "signsym"

    def feedback(self, p, s):
        return {
            f"{k}.feedback": w.sign() * w.square().mean().sqrt() for k, w in self.weights(p).items()
        }


class KolenPollack(Structured):
    """B starts as a second draw of the model's init and gets W's own updates; weight decay then
    draws B and W together.
    """

    name = "kp"

    def init_params(self, cfg, generator):
        return {f"aux.{k}": w for k, w in self.weights(self.model.init(generator)).items()}

    def feedback(self, p, s):
        return {f"{k}.feedback": p[f"aux.{k}"] for k in self.weights(p)}

    def surrogate(self, p, s, x, y):
        """B enters every block's weight with value zero, which gives it the gradient of W."""
        shared = {
            f"{k}.weight": w + (p[f"aux.{k}"] - p[f"aux.{k}"].detach())
            for k, w in self.weights(p).items()
        }
        return super().surrogate({**p, **shared}, s, x, y)
