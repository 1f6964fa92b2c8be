"""The passage of a training batch through a net, and the penalties on what it meets there."""

from .tensors import inner


def forward(model, p, s, x, changed, local=False):
    """(h_0, block outputs f_0..f_{L-1}, states h_0..h_L) of a training batch; local: every state is
    cut from the graph.

    x: (batch, C, H, W); each h_l and f_l: (batch, *level shape). `changed` receives the running
    statistics that the passage moves.
    """
    h0 = model.embed(p, x, changed)
    hs, fs = [h0.detach() if local else h0], []
    for l in range(model.depth):
        fs.append(model.block(p, l, hs[-1], changed))
        h = model.add(hs[-1], fs[-1])
        h = h + model.process_noise * s["process"][l] if model.process_noise else h
        hs.append(h.detach() if local else h)
    return h0, fs, hs


def penalties(cfg, s, h0, fs):
    """λ‖f_l‖² over the blocks and λ‖h_0‖², batch means, summed or averaged over features as
    cfg.penalty_reduction says; λ is that of the state s.
    """
    total = 0.0
    for key, tensors in (("penalty", fs), ("penalty_h0", [h0])):
        if key in cfg.active:
            mean = cfg.penalty_reduction == "mean"
            terms = [inner(t, t) / (t.shape[0] * (t[0].numel() if mean else 1)) for t in tensors]
            total = total + s[key] * sum(terms)
    return total
