"""LocalMethod: what most rules are, each block trained by credit at its own level."""

import torch.nn.functional as F

from .base import Method
from .passes import penalties
from .shared import Phase, RuleError
from .tensors import inner, normalise, unit


class LocalMethod(Method):
    """Trains block l on <f_l(sg(h_l)), sg(a_{l+1})>, the embedding on <h_0, sg(a_0)>, the readout
    on the loss of sg(h_L).

    A rule of your own is a subclass with a `credit`. It may read the parameters p, its state s, the
    detached states hs, and of self.model `levels` (shapes of h_0..h_L without the batch), `sizes`
    (their numbers of elements), `classes`, and `output_error(logits, y)`, softmax less one-hot.
    Fixed tensors come from `init_state`, trained ones from `init_params` and `auxiliary`, random
    numbers from `noise`; an option named in `member_options` is read as s[name]. Public as well are
    `exact_credit`, `tail_losses`, model.block and the other parts of a model (models/base.py), and
    what methods/fa.py calls Structured; docs/cookbook.md shows them at work.
    Whole families need more: a parameter x of `credit`, `common` or `auxiliary` receives the
    inputs; `inputs` names other states for the weights to learn on; `rates` gives parameters a
    learning rate and a weight decay of their own; `predict` reads the class elsewhere than from the
    logits; `draws` lets a diagnosis average credit that is random. What a rule learns
    without a gradient, such as a running mean, begins in `init_state`, and `auxiliary` returns its
    changes. Credit has the sign of the gradient, and the per-sample gradient δ_l is exact; where
    its direction depends on the scale of the stream, (b') fires. Records are found by a rule's
    options and its code, with all that it uses (owncode.py): one that is changed trains anew.
    credit_level='input': block l hears a_l. embedding='shared': the embedding hears a_1, as block 0
    does otherwise.
    """

    def __init__(self, cfg, model):
        super().__init__(cfg, model)
        self.learns_elsewhere = type(self).inputs is not LocalMethod.inputs
        for name, value in (("embedding", "shared"), ("credit_level", "input")):
            if getattr(cfg, name) == value and len(set(model.levels)) > 1:
                raise ValueError(
                    f"model {cfg.model!r} has levels of different shapes, so {name}={value!r} "
                    "cannot train it"
                )

    def phase_of(self, cfg, epoch):
        """`auxiliary` is called wherever a rule has one: it may learn by what it changes in the
        state, without an `aux.`.
        """
        return Phase(fits=type(self).auxiliary is not LocalMethod.auxiliary)

    def surrogate(self, p, s, x, y):
        model, batch, changed = self.model, x.shape[0], {}
        h0, fs, hs = self.forward(p, s, x, changed, local=True)
        logits = model.readout(p, hs[-1])
        loss = model.loss(logits, y)
        fixed = {k: v.detach() for k, v in p.items()}
        opened = fixed | {k: v for k, v in p.items() if k.startswith("aux.")}
        given = hs, logits.detach(), y
        shared = {}
        if self.phase.fits or self.learns_elsewhere:
            shared = self.ask("common", x, opened, s, *given)
        known = s | {k: v.detach() for k, v in shared.items()}
        credit = [level.detach() for level in self.ask("credit", x, fixed, known, *given)]
        found, wanted = ([tuple(t.shape) for t in tensors] for tensors in (credit, hs))
        if found != wanted:
            told = f"credit of method {self.name!r} is of shapes {found}"
            raise RuleError(
                f"{told}; it needs one tensor for every level 0..L, in the shape of its state: "
                f"{wanted}"
            )
        how = self.cfg.credit_norm
        own_h0, own_fs, own_loss = h0, fs, loss
        if self.learns_elsewhere:
            own_h0, own_fs, top = self.elsewhere(p, fixed, known, x, *given)
            own_loss = model.loss(model.readout(p, top), y)
        scalar = (
            own_loss
            + self.push(s, own_fs, [normalise(a, how) for a in self.heard(credit)]) / batch
            + penalties(self.cfg, s, h0, fs)
        )
        if self.cfg.embedding == "exact":
            scalar = scalar + inner(own_h0, self.exact_credit(fixed, hs, y, 0).detach()) / batch
        elif self.cfg.embedding != "init":
            heard = credit[1 if self.cfg.embedding == "shared" else 0]
            scalar = (
                scalar
                + inner(own_h0, normalise(heard, how if self.cfg.norm_embedding else "raw")) / batch
            )
        if self.phase.fits:
            auxiliary, moved = self.ask("auxiliary", x, opened, s | shared, *given)
            scalar, changed = scalar + auxiliary, changed | moved
        return scalar, (loss.detach(), changed)

    def inputs(self, p, s, x, hs, logits, y):
        """(x, [h_0..h_L]) that the weights learn on, like those given: the embedding on x, block l
        on h_l, the readout on h_L. By default those of the forward pass.

        A rule whose weights learn on other states, such as those of a second pass, returns these;
        its credit, its penalties and its record stay those of the forward pass. It costs another
        passage through each block.
        """
        return x, hs

    def elsewhere(self, p, fixed, s, x, hs, logits, y):
        """(h_0, f_0..f_{L-1}, state of the readout) where the weights of p learn, as `inputs`
        says.
        """
        x, hs = self.inputs(fixed, s, x, hs, logits, y)
        hs = [h.detach() for h in hs]
        fs = [self.model.block(p, l, h, {}) for l, h in enumerate(hs[:-1])]
        return self.model.embed(p, x.detach(), {}), fs, hs[-1]

    def common(self, p, s, hs, logits, y):
        """Tensors by name that `credit` and `auxiliary` (or `inputs`) of one training step both
        need, and then find in s: made once for both.

        p is that of `auxiliary`; for the others they are detached. Elsewhere, as in a diagnosis,
        `credit` makes them itself.
        """
        return {}

    def auxiliary(self, p, s, hs, logits, y):
        """(scalar that trains the `aux.` parameters of p, changed state), everything else of p
        being detached.

        Called in each training step, after `credit`, and not in a diagnosis. s is changed by what
        it returns alone.
        """
        return 0.0, {}

    def push(self, s, fs, credits):
        """How credit a, (batch, …), moves a block with output f: the update rules of study 6,
        summed over batch and blocks.

        'inner': <f, a>. 'target': ½‖h + f - sg(h + f - η a_norm)‖², whose gradient here is η
        a_norm: one update differs from 'inner' with normalised credit by η alone. 'cosine': cos(f,
        a).
        """
        pairs = list(zip(fs, credits))
        if self.cfg.rule == "inner":
            return sum(inner(f, a) for f, a in pairs)
        if self.cfg.rule == "target":
            return 0.5 * sum(
                (f - (f - s["eta"] * normalise(a, "sample_rms")).detach()).square().sum()
                for f, a in pairs
            )
        return sum(
            F.cosine_similarity(f.flatten(1), unit(a).flatten(1), dim=-1).sum() for f, a in pairs
        )
