"""What the letters of the protocol ask, in words, with their thresholds and the claims that each
takes away.

Published (SCIENCE section 4): (a) growth > 50, (b) ‖g_L‖ < 1e-7, (c) stability > 0.30, (d) accuracy
less the frozen baseline < 2.0 points. Growth, stability and accuracy do not change when the
residual stream is rescaled without changing the function; ‖g_L‖ does. Its counterpart (b') asks
what (b) is meant to ask: is the reference gradient numerically valid? (e) asks what the published
protocol does not: is the credit better aligned than δ_L, copied to every level of the same net?
"""

THRESHOLDS = {"a": 50.0, "b": 1e-7, "c": 0.30, "d": 0.02, "e": 0.10}
TWIN_FLOOR = 0.99  # (b'): cosine of the fp32 gradient with its fp64 twin, at every level
RESCALE_DRIFT = 0.01  # (b'): change of exact Γ_l under function-preserving rescaling of the stream
# (e): what the exact gradient itself has to be ahead of the copied δ_L in Γ for a lead to tell
LEAST_ROOM = 0.02
# update and what credit makes are one above; cosines further apart than this differ
OWN_FLOOR, OWN_GAP = 0.99, 0.1
UPHILL = -0.1  # Γ below which credit is likely to have the wrong sign
UPHILL_AT_A_LEVEL = -0.5  # the same of one level, where random feedback may lean either way

PUBLISHED = ("a", "b", "c", "d")
COUNTERPART = ("a", "b'", "c", "d")  # what the published letters ask, whatever the scale
INVARIANT = (*COUNTERPART, "e")
ALL = ("a", "b", "b'", "c", "d", "e")

SPELLED = {
    "a": "runaway growth",
    "b": "gradient below the study's threshold",
    "b'": "invalid reference",
    "c": "shared gradient direction",
    "d": "depth not used",
    "e": "no better than broadcast δ_L",
}
MEANING = {
    "a": "growth: the scale of the residual stream runs away",
    "b": "floor: ‖g_L‖ is below the study's threshold of 1e-7",
    "twin": "reference: the fp32 gradient fails its fp64 twin",
    "rescaling": (
        "reference: Γ moves when the stream is rescaled and no logit changes; credit "
        "hangs on the scale in direction"
    ),
    "c": "stability: the gradient direction is shared across batches",
    "d": "depth: accuracy is less than 2 points above the frozen baseline",
    "e": (
        "copy: credit closes less than a tenth of what lies between δ_L, copied to every level of "
        "the same net, and the gradient"
    ),
}
WITHDRAW = {
    "a": "comparisons of norms or of unnormalised credit across levels or methods",
    "b": (
        "alignment figures taken with an eps-clamped cosine (exact cosines stand where b' is "
        "silent)"
    ),
    "b'": (
        "every alignment figure of this net: its reference is not valid, or depends on the "
        "scale of its stream"
    ),
    "twin": "every alignment figure of this net: its reference is not valid",
    "rescaling": (
        "alignment figures as a property of what the net computes (the gradient itself is valid)"
    ),
    "c": "that alignment on a batch says anything about single samples",
    "d": "that the method trains the hidden blocks to any use",
    "e": "that its alignment shows more than what skip connections give for nothing",
    "own": "every alignment figure as evidence of how the net was trained",
}
