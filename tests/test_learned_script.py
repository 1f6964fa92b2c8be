"""Learned credit and equilibrium propagation against an ordinary PyTorch script: modules, one torch
optimiser, backward().
"""

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, apart, tiny
from test_training import Net, script_batches, trained
from torch import nn

from faeval_core.ground.streams import stream
from faeval_core.training import build, initial

pytestmark = pytest.mark.numerical


class Trunk(nn.Module):
    """concat[LN(h), t, s] → MLP → out, its first layer split into the part of the state and the
    part of the rest.
    """

    def __init__(self, d, hidden, code, out):
        super().__init__()
        self.state, self.rest = nn.Linear(d, hidden), nn.Linear(1 + code, hidden)
        self.mid, self.out = (
            nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2)),
            nn.Linear(hidden, out),
        )

    def forward(self, h, t, s):
        z = F.gelu(
            self.state(F.layer_norm(h, h.shape[-1:]))
            + self.rest(torch.cat([torch.full((len(s), 1), t), s], -1))
        )
        for layer in self.mid:
            z = F.gelu(layer(z))
        return self.out(z)


def load(trunk, p):
    names = {
        "state": next(k for k in p if k.startswith("aux.in"))[4:].split(".")[0],
        "rest": "code",
        "mid.0": "mid0",
        "mid.1": "mid1",
        "out": next(k for k in p if k.startswith("aux.out"))[4:].split(".")[0],
    }
    trunk.load_state_dict(
        {
            f"{ours}.{w}": p[f"aux.{theirs}.{w}"]
            for ours, theirs in names.items()
            for w in ("weight", "bias")
        }
    )
    return {
        f"aux.{theirs}.{w}": f"{ours}.{w}"
        for ours, theirs in names.items()
        for w in ("weight", "bias")
    }


def gradient(scalar, h):
    return torch.autograd.grad(scalar, h)[0]


def state_bridge(net, trunk, hs, e, y, noise):
    """Credits, and the trunk's loss."""
    top, depth = hs[-1], len(hs) - 1
    unit, credits, loss = top.pow(2).mean().sqrt(), [], 0
    for l, h in enumerate(hs):
        h = h.clone().requires_grad_()
        guess = h + unit * trunk(h, l / depth, e)
        credits.append(gradient(F.cross_entropy(net.head(guess), y, reduction="sum"), h))
        guess = hs[l] + unit * trunk(hs[l], l / depth, e)
        loss = loss + F.mse_loss(guess, top) / top.pow(2).mean()
    return credits, loss


def credit_bridge(net, trunk, hs, e, y, noise, slow):
    depth, credits, loss = len(hs) - 1, [], 0
    for l, h in enumerate(hs):
        h = h.clone().requires_grad_()
        credits.append(gradient(trunk(h, l / depth, e).sum(), h))
        value = trunk(hs[l], l / depth, e)[:, 0]
        if l == depth:
            loss = loss + F.mse_loss(
                value, F.cross_entropy(net.head(h), y, reduction="none").detach()
            )
            h = hs[l].clone().requires_grad_()
            found = torch.autograd.grad(trunk(h, 1.0, e).sum(), h, create_graph=True)[0]
            exact = gradient(F.cross_entropy(net.head(h), y, reduction="sum"), h)
            loss = loss + (found - exact).pow(2).sum() / exact.pow(2).sum()
        else:
            ahead = [slow(hs[l + 1] + 0.1 * z, (l + 1) / depth, e)[:, 0] for z in noise[l]]
            soft = -0.1 * torch.stack([torch.exp(-v / 0.1) for v in ahead]).mean(0).log()
            loss = loss + F.mse_loss(value, soft.detach()) / depth
    return credits, loss


def vector_field(net, trunk, hs, e, y, noise):
    depth, credits, loss = len(hs) - 1, [], 0
    top = hs[-1].clone().requires_grad_()
    exact = gradient(F.cross_entropy(net.head(top), y, reduction="sum"), top)
    unit = exact.pow(2).mean().sqrt()

    def tail(h, l):
        for block in net.blocks[l:]:
            h = h + block(h)
        return F.cross_entropy(net.head(h), y, reduction="none").detach()

    for l, h in enumerate(hs):
        a = unit * trunk(h, l / depth, e)
        credits.append(a.detach())
        v = noise[l] / noise[l].norm(dim=-1, keepdim=True)
        eps = 0.01 * h.norm(dim=-1, keepdim=True)
        slopes = torch.stack(
            [(tail(h + eps * u, l) - tail(h - eps * u, l)) / (2 * eps[:, 0]) for u in v]
        )
        loss = loss + F.mse_loss((a * v).sum(-1), slopes) / slopes.pow(2).mean()
    return credits, loss + (a - exact).pow(2).sum() / exact.pow(2).sum()


def equilibrium(net, trunk, hs, e, y, noise):
    """The residuals that relaxation on ½‖h_0 - free‖² + ½ Σ ‖h_{l+1} - h_l - f_l(h_l)‖² + CE
    leaves.
    """
    relaxed = [h.clone() for h in hs]

    def residuals(states):
        return [states[0] - hs[0]] + [
            b - a - block(a) for a, b, block in zip(states, states[1:], net.blocks)
        ]

    for _ in range(10):
        leaves = [h.requires_grad_() for h in relaxed]
        energy = sum(r.pow(2).sum() / 2 for r in residuals(leaves))
        energy = energy + F.cross_entropy(net.head(leaves[-1]), y, reduction="sum")
        relaxed = [
            (h - 0.5 * g).detach() for h, g in zip(leaves, torch.autograd.grad(energy, leaves))
        ]
    return [-r.detach() for r in residuals(relaxed)], 0


RULES = {"sb": state_bridge, "cb": credit_bridge, "vec": vector_field, "ep": equilibrium}


def script(cfg, pixels):
    method, model = build(cfg, (3, 8, 8), 4)
    (p, _), net, names = initial(cfg, method), Net(192, cfg.width, cfg.depth, 4), {}
    net.load_state_dict({k: v for k, v in p.items() if not k.startswith("aux.")})
    trunk = slow = None
    if "hidden" in method.options:
        trunk, slow = (
            Trunk(cfg.width, cfg.options["hidden"], 4, 1 if cfg.method == "cb" else cfg.width)
            for _ in "ab"
        )
        names = load(trunk, p)
        load(slow, p)
    modules = [m for m in (net, trunk) if m is not None]
    optimiser = torch.optim.AdamW(
        [q for m in modules for q in m.parameters()], lr=cfg.lr, weight_decay=cfg.weight_decay
    )
    generator = torch.Generator().manual_seed(stream(cfg.seed, "noise", 0).initial_seed())
    for x, y in script_batches(cfg, pixels, 0):
        noise = [torch.randn(s, generator=generator) for s in method.noise(len(x)).values()]
        h0 = net.embed(x.flatten(1))
        hs, fs = [h0.detach()], []
        for block in net.blocks:
            fs.append(block(hs[-1]))
            hs.append((hs[-1] + fs[-1]).detach())
        logits = net.head(hs[-1])
        e = (torch.softmax(logits, 1) - F.one_hot(y, 4)).detach()
        credits, fit = RULES[cfg.method](
            net, trunk, hs, e, y, noise, *([slow] if cfg.method == "cb" else [])
        )
        moved = sum((f * a).sum(1).mean() for f, a in zip([h0, *fs], credits))
        optimiser.zero_grad()
        net_only = torch.autograd.grad(F.cross_entropy(logits, y) + moved, list(net.parameters()))
        for q, g in zip(net.parameters(), net_only):
            q.grad = g
        if trunk is not None:
            for q, g in zip(trunk.parameters(), torch.autograd.grad(fit, list(trunk.parameters()))):
                q.grad = g
            for old, new in zip(slow.parameters(), trunk.parameters()):
                old.data.mul_(0.995).add_(new.data, alpha=0.005)
        optimiser.step()
    weights = {k: v.detach() for k, v in net.state_dict().items()}
    return weights | {theirs: trunk.state_dict()[ours].detach() for theirs, ours in names.items()}


@pytest.mark.parametrize("method", RULES)
def test_an_epoch_equals_a_plain_torch_script(pixels64, method):
    options = {"ep": {"beta": 1.0}, "sb": {"hidden": 16, "skip": True}}.get(method, {"hidden": 16})
    cfg = tiny(method, epochs=1, options=options | ({"wr": 0.0} if method == "cb" else {}))
    found, start = trained([cfg], pixels64)[0], initial(cfg, build(cfg, (3, 8, 8), 4)[0])[0]
    wanted = script(cfg, pixels64)
    assert found.keys() == wanted.keys() and apart(found, wanted) < ROUNDING
    assert min(apart({k: start[k]}, {k: v}) for k, v in wanted.items()) > 1e-3
