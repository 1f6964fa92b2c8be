"""One style for every figure: one colour and marker per method throughout, uncertainty shown,
vector PDF and PNG.
"""

import io
import re

import matplotlib.pyplot as plt
import numpy as np

from ..ground.files import publish
from ..measure.stats import mean_sd

COLUMN, FULL = 3.4, 7.0  # inches: one column and the text width of the paper
# Okabe and Ito's colour-blind-safe palette; method -> (name, colour, marker)
LOOK = {
    "bp": ("BP", "#000000", "o"),
    "frozen": ("frozen", "#999999", "s"),
    "dfa": ("DFA", "#D55E00", "v"),
    "fa": ("FA", "#0072B2", "^"),
    "ep": ("EP", "#CC79A7", "P"),
    "sb": ("State Bridge", "#009E73", "D"),
    "cb": ("Credit Bridge", "#E69F00", "X"),
    "vec": ("Vector field", "#56B4E9", "*"),
    "kp": ("Kolen–Pollack", "#882255", "p"),
    "signsym": ("sign-symmetric", "#117733", "<"),
    "local": ("local loss", "#44AA99", ">"),
    "oracle": ("oracle", "#332288", "d"),
    "frozen_dfa": ("frozen, DFA credit", "#666633", "8"),
    "broadcast": ("broadcast δ_L", "#8B5A2B", "h"),
    "noise": ("noise", "#AA4499", "8"),
}
# for what is no method: Tol's bright scheme, whose colours LOOK does not use
CYCLE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#222222")
SPARE = [("#F0E442", "h"), ("#661100", "H"), ("#DDCC77", "8")]
STUDY = {"color": "black", "linewidth": 1.4}  # the mark of a value of the original study
THRESHOLD = {"color": "black", "linestyle": ":", "linewidth": 1}
MUTED = "#888888"  # what is beside the point: laws, baselines, the moment of a switch
# label of a record or of the reference table, as a pattern -> what a reader sees
NAMES = {
    "continue_DFA": "DFA continued",
    "DFA[ _]only": "DFA throughout",
    "(?:blend_)?random_trainable(?:_075)?": "field, trained throughout",
    "(?:blend_)?random_frozen": "field, never trained",
    "(?:blend_)?shuffled_trainable": "field, shuffled targets",
    "fresh_random_target": "field, random targets",
    "zero_target": "field, zero targets",
    "zero_target_normmatched": "field, zero targets, norm matched",
    "time_only": "field that sees its level alone",
    "constant_input": "field with a constant input",
    "perlayer_vector": "one learned vector per level",
    "(?:blend_)?gaussian_noise": "fresh Gaussian noise",
    "scaled_DFA(?:_norm_match)?": "DFA at the norm of the blend",
    r"fit(\d+)": r"fit of \1 epochs",
    r"prefit(\d+)": r"field, fitted for \1 epochs",
    r"prefit(\d+)_trainable": r"field, fitted for \1 epochs, then trained",
    r"prefit(\d+)_frozen": r"field, fitted for \1 epochs, then held",
    r"freeze_after_1|freeze1_fixed075": "field, held after 1 epoch",
    r"freeze_after_(\d+)": r"field, held after \1 epochs",
    "freeze1_decay_to_000": "field, held after 1 epoch, faded out",
    r"freeze(\d+)_decay_to_000": r"field, held after \1 epochs, faded out",
    "handoff_to_Vec": "handed over to the field",
    r"blend_0(\d+)": r"blend, α = 0.\1",
    r"last(\d)_vec": r"field in the last \1 blocks",
    "Vec_only_from_0": "field from the start",
    r"Vec_T(\d+)_then_DFA": r"field to epoch \1, then DFA",
    r"DFA_T(\d+)_then_Vec": r"DFA to epoch \1, then the field",
    "sb_eT": "State Bridge, code e_T",
    "cb_eT": "Credit Bridge, code e_T",
    "cb_deltaL": "Credit Bridge, code δ_L",
    r"vec(?:_eT)?_M(\d+)": r"Vector field, M = \1",
    "vec_shuffleCtrl": "Vector field, shuffled targets",
    "vec_noTerm": "Vector field, tw = 0",
    "vec_onesided": "Vector field, one-sided differences",
    "oracle_bp": "exact gradient",
    "random_target": "random labels",
    "target_shift": "target shift",
    "inner_product": "inner product",
    "best eta": "best η",
    "d": "width",
    "L": "depth",
    "lambda": "λ",
    "alpha": "α",
    "eta": "η",
    "t0": "from epoch",
    "s": "code",
    "E_prefit": "epochs of fit",
    "norm": "normalised",
    "all": "all blocks",
    "eT": "e_T",
    "deltaL": "δ_L",
    "eT_hL": "e_T and h_L",
    "deltaL_hL": "δ_L and h_L",
}
# without dates
METADATA = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None},
    "png": {"Software": None},
}


def use_style():
    """Set the style for the figures that follow."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.labelsize": 8,
            "legend.fontsize": 7,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=CYCLE),
            "axes.grid": True,
            "grid.alpha": 0.25,
            "lines.linewidth": 1.3,
            "lines.markersize": 4,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
            "pdf.fonttype": 42,
            "svg.hashsalt": "faeval",
        }
    )


def look(method: str):
    """(colour, marker) of a method; a rule that is not faeval's own takes a spare one, always the
    same.
    """
    return LOOK[method][1:] if method in LOOK else SPARE[sum(map(ord, method)) % len(SPARE)]


def title(label: str) -> str:
    """What a reader sees in place of a method or of a label of a record; a label that is not known
    stays as it is.
    """
    if label in LOOK:
        return LOOK[label][0]
    for pattern, text in NAMES.items():
        if found := re.fullmatch(pattern, label):
            return found.expand(text)
    return label


def in_mathtext(text: str) -> str:
    """A display name as matplotlib sets it: 'broadcast δ_L' with its index lowered; one that is in
    mathtext already stays as it is.
    """
    if "$" in text:
        return text
    return re.sub(r"([δeha])_([LTl0])", r"$\1_\2$", text).replace("$δ", r"$\delta")


def rendered(fig, kind: str) -> bytes:
    """A figure as 'pdf' or 'png', byte-stable."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format=kind, metadata=METADATA[kind])
    return buffer.getvalue()


def save(fig, folder, name: str):
    """Write folder/name.pdf and .png; the two paths."""
    return [publish(folder / f"{name}.{kind}", rendered(fig, kind)) for kind in METADATA]


def epoch_curves(ax, records, key: str, level=None, method=None, label=None, **kw):
    """Mean over seeds of a per-epoch curve against the epoch, with the range of the seeds as a
    band.

    level: index into per-level curves. On a log axis the mean is geometric, as norms spread over
    decades.
    """
    if not records:
        return
    rows = [r.curves[key] if level is None else [v[level] for v in r.curves[key]] for r in records]
    shortest = min(map(len, rows))
    data = np.array([row[:shortest] for row in rows], dtype=float)  # None becomes NaN
    method = method or records[0].config.method
    colour, _ = look(method)
    middle = np.exp(np.log(data).mean(0)) if ax.get_yscale() == "log" else data.mean(0)
    epochs = np.arange(1, shortest + 1)
    ax.plot(epochs, middle, color=colour, label=label or title(method), **kw)
    ax.fill_between(epochs, data.min(0), data.max(0), color=colour, alpha=0.18, linewidth=0)


def level_points(ax, rows, method, label=None, offset=0.0, **kw):
    """Mean ± sd over seeds of per-level values (one list per seed) against the level; undefined
    levels marked ×.
    """
    if not rows:
        return
    colour, marker = look(method)
    stats = [mean_sd(column) for column in zip(*rows)]
    levels = np.arange(len(stats))
    known = [i for i, (m, _, _) in enumerate(stats) if m is not None]
    # one seed has no bar
    mean, sd = ([np.nan if stats[i][k] is None else stats[i][k] for i in known] for k in (0, 1))
    ax.errorbar(
        levels[known] + offset,
        mean,
        sd,
        color=colour,
        marker=marker,
        capsize=2,
        label=label or title(method),
        **kw,
    )
    if gone := [i for i in levels if i not in known]:
        ax.plot(levels[gone] + offset, np.zeros(len(gone)), "x", color=colour)
    ax.set_xticks(levels)


def bars(ax, rows, values, reference=None, xlabel="test accuracy"):
    """Horizontal bars of mean ± sd with every seed as a dot; a row without values is left out.

    rows: label -> method, top to bottom; values: label -> one value per seed; reference: label ->
    published value (|).
    """
    known = [label for label in rows if mean_sd(values.get(label, []))[2]]
    for i, label in enumerate(known):
        colour, _ = look(rows[label])
        mean, sd, _ = mean_sd(values[label])
        ax.barh(
            i,
            mean,
            xerr=sd,
            color=colour,
            alpha=0.55,
            height=0.65,
            error_kw={"capsize": 2, "linewidth": 1},
        )
        ax.plot(values[label], [i] * len(values[label]), ".", color="black", markersize=3)
        if reference and reference.get(label) is not None:
            ax.plot([reference[label]] * 2, [i - 0.4, i + 0.4], **STUDY)
    ax.set_yticks(range(len(known)), [in_mathtext(label) for label in known])
    ax.set_ylim(len(known) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)


def study_mark(upright=True):
    """The entry of a legend for `bars`' marks of the study's values, or for dashes."""
    mark = {"marker": "|" if upright else "_", "markersize": 9, "markeredgewidth": 1.6}
    return plt.Line2D([], [], color="black", linestyle="none", label="the study's value", **mark)
