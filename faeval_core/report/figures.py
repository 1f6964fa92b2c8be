"""One style for every figure: one colour and marker per method throughout, uncertainty shown,
vector PDF and PNG.
"""

import io

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
}
SPARE = [("#F0E442", "h"), ("#661100", "H"), ("#AA4499", "8")]
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


def title(method: str) -> str:
    return LOOK.get(method, (method,))[0]


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


def _drawn(ax) -> bool:
    """Whether an axis holds anything at data coordinates: measured points, or values of the
    original study.
    """
    return bool(ax.containers) or any(
        len(line.get_xdata()) and line.get_transform() is ax.transData for line in ax.lines
    )


def note_empty(*axes):
    """Write 'not run' on the axes that hold no measured points, and take away the ticks that no
    axis with marks shares.
    """
    for ax in [ax for ax in axes if not ax.containers]:
        ax.text(
            0.5,
            0.93 if _drawn(ax) else 0.5,
            "not run",
            ha="center",
            va="center",
            color="#555555",
            transform=ax.transAxes,
        )
        for side, shared in (("bottom", ax.get_shared_x_axes()), ("left", ax.get_shared_y_axes())):
            if not any(map(_drawn, shared.get_siblings(ax))):
                ax.tick_params(**{side: False, f"label{side}": False})
        ax.grid(_drawn(ax))


def bars(ax, arms, values, reference=None, xlabel="test accuracy"):
    """Horizontal bars of mean ± sd with every seed as a dot; arms without records are written out
    as not run.

    arms: label -> method, top to bottom; values: label -> one value per seed; reference: label ->
    published value (|).
    """
    for i, (label, method) in enumerate(arms.items()):
        colour, _ = look(method)
        mean, sd, n = mean_sd(values.get(label, []))
        if n == 0:
            ax.text(
                0.01,
                i,
                "not run",
                va="center",
                fontsize=7,
                color="#555555",
                transform=ax.get_yaxis_transform(),
            )
        else:
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
            ax.plot([reference[label]] * 2, [i - 0.4, i + 0.4], color="black", linewidth=1.6)
    ax.set_yticks(range(len(arms)), list(arms))
    ax.set_ylim(len(arms) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(xlabel)
