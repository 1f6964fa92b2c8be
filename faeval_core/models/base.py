"""What every model shares: an embedding, L blocks and a readout, as pure functions of a dict of
parameters.
"""

import math
import re

import torch
import torch.nn.functional as F


class Model:
    """A stack h_0 = embed(x), h_{l+1} = add(h_l, f_l(h_l)), logits = readout(h_L); parameters and
    shapes are one member's.

    Subclasses define `levels` (the shape of each state h_0..h_L of one sample), init, embed and
    block. `stats`: None takes normalisation statistics from the parameters (evaluation); a dict
    asks for those of the batch, and receives the parameters' new running values (training). Models
    without batch statistics ignore it; a rule gives {}, as its training step does.

    Names in p: `embed.…`; `blocks.<l>.<layer>.weight` and `.bias`, with the layers fc1, fc2 (after
    the LayerNorm ln) of resmlp and studentnet; `readout.ln.…` where the model has a terminal
    LayerNorm; `readout.head.weight`, (classes, features), and `.bias`; a method's own parameters
    are `aux.…`. A weight with a tensor `<layer>.feedback` beside it in p sends errors back through
    that. Public for rules: `levels`, `sizes`, `classes`, `states`, `block`, `add`, `readout`,
    `losses`, `output_error`, `linear`, and embed(p, x, stats) with x as the model receives it, and
    block(p, l, h, stats), f_l(h) before the residual add; all of them are functions of p.
    """

    version = 1  # raised when the model's meaning changes
    options: dict = {}  # model option -> default
    embedded = True  # False: h_0 is the input itself, and width must be its size
    terminal_ln = residual = True  # whether it has a LayerNorm before the head, and adds h_l to f_l
    controls = False  # whether terminal_ln=False and residual=False are available
    probe = 1024  # images of the fixed diagnostic batch, cut to what the dataset has
    writers = r"embed\.|blocks\.\d+\.fc2\."  # pattern of the parameters that write to the stream
    # how names of parameters end that are never trained, such as running statistics
    statistics: tuple = ()
    process_noise = 0.0  # standard deviation of noise added to every state while training

    def __init__(self, cfg, image_shape, classes):
        self.cfg, self.features, self.classes = cfg, math.prod(image_shape), classes
        self.width, self.depth = cfg.width, cfg.depth
        self.terminal_ln, self.residual = (
            self.terminal_ln and cfg.terminal_ln,
            self.residual and cfg.residual,
        )
        self.levels = [(self.width,)] * (self.depth + 1)
        if not (self.embedded or self.features == self.width):
            raise ValueError(
                f"model {cfg.model!r} needs width = the inputs' {self.features} features, not "
                f"{self.width}"
            )

    @classmethod
    def check(cls, cfg):
        """Raise ValueError for a config that this model cannot be built from."""
        for name in ("terminal_ln", "residual"):
            if not (cls.controls or getattr(cfg, name)):
                raise ValueError(f"model {cfg.model!r} has no control {name}=False; resmlp has")

    @property
    def sizes(self):
        """Numbers of features of the states h_0..h_L, each as one long vector."""
        return [math.prod(level) for level in self.levels]

    def add(self, h, f):
        """h_{l+1} from h_l and f_l."""
        return h + f if self.residual else f

    def states(self, p, h, start=0, stats=None):
        """States h_start..h_L from h at level `start`, differentiable end to end."""
        hs = [h]
        for l in range(start, self.depth):
            hs.append(self.add(hs[-1], self.block(p, l, hs[-1], stats)))
        return hs

    def logits(self, p, h, start=0, stats=None):
        """Logits from h at level `start`."""
        return self.readout(p, self.states(p, h, start, stats)[-1])

    def readout(self, p, h):
        """Logits from h_L."""
        return self.linear(
            p, "readout.head", self.layer_norm(p, "readout.ln", h) if self.terminal_ln else h
        )

    def losses(self, logits, y):
        """Loss of each sample, (batch,): the cross-entropy."""
        return F.cross_entropy(logits, y, reduction="none")

    def loss(self, logits, y):
        """Mean of the losses, fused."""
        return F.cross_entropy(logits, y)

    def output_error(self, logits, y):
        """e_T, the derivative of each sample's loss by its logits, (batch, C): softmax(logits) -
        onehot(y).
        """
        return torch.softmax(logits, -1) - (
            y[:, None] == torch.arange(logits.shape[-1], device=logits.device)
        ).to(logits.dtype)

    def vectors(self, h):
        """States, gradients or credit (batch, *level) as (batch, positions, features): Γ and norms
        are per position.

        Tokens are positions, (batch, tokens, width); vectors and feature maps have one.
        """
        return h if h.ndim == 3 else h.flatten(1)[:, None]

    def linear(self, p, name, x):
        """x W^T + b; where p has `name.feedback`, errors travel back through that matrix instead of
        W.
        """
        if f"{name}.feedback" not in p:
            w = p[f"{name}.weight"]
            # else W^T is cast, whose gradient torch.compile turns over twice
            if torch.is_autocast_enabled(w.device.type):
                w = w.to(torch.get_autocast_dtype(w.device.type))
            return F.linear(x, w, p[f"{name}.bias"])
        return through(lambda w, v: F.linear(v, w), p, name, x) + p[f"{name}.bias"]

    def layer_norm(self, p, name, h):
        return F.layer_norm(h, h.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"])

    def scaled(self, tensors, c: float) -> dict[str, torch.Tensor]:
        """`tensors` by name, c times as large where they write to the stream, or stand in for the
        weight of a layer
        that does: as Kolen-Pollack's `aux.<layer>`, or as `<layer>.feedback` in a rule's state."""
        writes = re.compile(rf"(?:aux\.)?(?:{self.writers})")
        return {
            k: v * c if self.embedded and writes.match(f"{k}.") else v for k, v in tensors.items()
        }

    def rescaled(self, p, c: float) -> dict[str, torch.Tensor]:
        """Parameters of the same function whose stream h_0..h_L is c times as large.

        Normalisation ignores the scale of its input (up to its eps of 1e-5), so scaling what writes
        to the stream changes no logit; without a terminal LN the head divides the factor out again.
        A stack without embedding stays as it is.
        """
        if not self.embedded:
            return dict(p)
        q = self.scaled(p, c)
        if not self.terminal_ln:
            q["readout.head.weight"] = p["readout.head.weight"] / c
        return q


def through(product, p: dict, name: str, x):
    """product(W, x), whose derivative by x is that of product(B, x) where p has feedback B for this
    weight.
    """
    out, back = product(p[f"{name}.weight"], x), p.get(f"{name}.feedback")
    if back is None:
        return out
    carried = product(back, x)
    return out.detach() + (carried - carried.detach())


class Init:
    """PyTorch's default inits drawn from one generator, collected in `p`."""

    def __init__(self, generator):
        self.generator, self.p = generator, {}

    def uniform(self, name, *shape):
        """Weight (and bias) uniform within 1/√fan_in: kaiming_uniform with a=√5, the default of
        Linear and Conv2d.
        """
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.p[f"{name}.weight"] = torch.empty(shape).uniform_(
            -bound, bound, generator=self.generator
        )
        self.p[f"{name}.bias"] = torch.empty(shape[0]).uniform_(
            -bound, bound, generator=self.generator
        )

    def normal(self, name, std, *shape):
        """Weight N(0, std²), zero bias."""
        self.p[f"{name}.weight"] = torch.empty(shape).normal_(0, std, generator=self.generator)
        self.p[f"{name}.bias"] = torch.zeros(shape[0])

    def norm(self, name, d):
        self.p[f"{name}.weight"], self.p[f"{name}.bias"] = torch.ones(d), torch.zeros(d)
