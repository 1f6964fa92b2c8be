"""The charts of an audit's page: each diagnostic against its threshold, and what lies behind it."""

from html import escape

from ..measure import protocol
from ..measure.letters import ALL, LEAST_ROOM, SPELLED, THRESHOLDS, TWIN_FLOOR
from ..measure.stats import mean_sd
from . import figures, svg, tables

COPY = "#b8860b"  # of the copied δ_L


def values_of(case, letter: str) -> float | None:
    """The figure that a letter is read from."""
    d = case.diagnosis
    if letter == "b":
        return d["g_norm"][-1] if d.get("g_norm") else None
    if letter == "b'":
        return None if None in (twin := d.get("twin", (None,))) else min(twin)
    if letter == "d":
        return None if None in case[1:] else case.accuracy - case.frozen
    if letter == "e":
        found = protocol.beside_copy(d)
        return None if found is None else found.lead
    return d.get({"a": "growth", "c": "stability"}[letter])


AXES = {  # letter -> what is on its axis
    "a": "largest ‖h_{l+1}‖ / ‖h_l‖",
    "b": "‖g_L‖",
    "b'": "least cosine with the fp64 twin",
    "c": "cosine of batches' gradients",
    "d": "accuracy less that of frozen blocks",
    "e": "Γ less that of the copied δ_L, hidden levels; line: a tenth of the room above the copy",
}


def box(audit):
    """Letter -> its chart with a badge: measured values of the rule, of BP and DFA, against the
    threshold.
    """
    frozen, judged, idle = audit.arms.get("frozen", ()), audit.verdict, audit.powerless
    shown = dict.fromkeys((audit.label, "bp", "dfa"))
    cases = {k: protocol.cases(audit.arms[k], frozen) for k in shown if k in audit.arms}
    beside = [protocol.beside_copy(case.diagnosis) for case in cases[audit.label]]
    room = mean_sd([b.room for b in beside if b])[0]

    def drawn(letter: str) -> str:
        rows = [
            (short(k), figures.look(k)[0], [values_of(case, letter) for case in found])
            for k, found in cases.items()
        ]
        threshold = THRESHOLDS.get(letter, TWIN_FLOOR)
        if letter == "e":
            threshold *= max(room if room is not None else 1.0, LEAST_ROOM)
        told = f"({letter}) {SPELLED[letter]}: {AXES[letter]}"
        chart = svg.strip(rows, threshold, letter in ("a", "c"), told, letter in ("a", "b"))
        reasons = (protocol.undefined(*case).get(letter) for case in cases[audit.label])
        why = idle.get(letter) or next(filter(None, reasons), "")
        note = f'<p class="note">{escape(why)}</p>' if why else ""
        head = f"{escape(f'({letter}) {SPELLED[letter]}')} {badge(judged, letter, idle)}"
        caption = f"<figcaption>{escape(AXES[letter])}</figcaption>"
        return f"<figure><h3>{head}</h3>{chart}{caption}{note}</figure>"

    return drawn


def short(label: str) -> str:
    """A label that fits beside a chart."""
    name = figures.title(label)
    return name if len(name) <= 13 else f"{name[:12]}…"


def badge(judged, letter: str, idle) -> str:
    fired, n = judged.counts[letter]
    if letter in idle:
        tone, told = "none", "no power here"
    elif not n:
        tone, told = "none", "undefined"
    elif letter in judged.fired(ALL):
        tone, told = "fires", f"fires in {fired} of {n}"
    else:
        tone, told = "holds", f"silent in {n - fired} of {n}"
    return f'<span class="badge {tone}">{told}</span>'


def legend(audit) -> str:
    """The colours of the methods; a click hides one."""
    names = {k: figures.title(k) for k in audit.arms} | {"copy": "δ_L, copied"}
    items = []
    for key, name in names.items():
        colour = COPY if key == "copy" else figures.look(key)[0]
        dot = f'<i style="background:{colour}"></i>'
        pressed = 'type="button" aria-pressed="true"'
        items.append(f'<button {pressed} data-key="{escape(key)}">{dot}{escape(name)}</button>')
    return f'<div class="legend">{"".join(items)}</div>'


def per_level(audit, label: str, key: str, colour=None, name=None, offset=0.0) -> svg.Series:
    """Mean and sd over seeds of a diagnostic at each level where it is defined."""
    rows = [r.final[key] for r in audit.arms[label] if r.final and key in r.final]
    points = []
    for level, column in enumerate(zip(*rows)):
        mean, sd, n = mean_sd(column)
        if mean is not None:
            told = f"level {level}: {tables.pm(column)}" + ("" if n > 1 else " (one seed)")
            points.append((level + offset, mean, mean - (sd or 0), mean + (sd or 0), told))
    own = name is None
    found = svg.Series(name or figures.title(label), colour or figures.look(label)[0], points)
    found.is_dashed, found.key = not own, label if own else "copy"
    return found


def gaps(audit, key: str) -> list[tuple[int, str]]:
    """(level, why) where a diagnostic of the rule is undefined in some seed."""
    finals = [r.final for r in audit.records if r.final]
    out = {}
    for d in finals:
        for level, value in enumerate(d.get(key, ())):
            if value is None:
                out[level] = protocol.reason(d, key)
    return sorted(out.items())


def curve(audit, label: str, key: str) -> svg.Series:
    """Mean and range over seeds of a curve, epoch by epoch."""
    rows = [r.curves.get(key, ()) for r in audit.arms[label] if r.status == "complete"]
    points = []
    for epoch, column in enumerate(zip(*rows), start=1):
        mean, low, high = sum(column) / len(column), min(column), max(column)
        points.append((epoch, mean, low, high, f"epoch {epoch}: {mean:.3g}"))
    colour = figures.look(label)[0]
    return svg.Series(figures.title(label), colour, points, False, True, False, label)


def charts(audit) -> str:
    levels = range(audit.base.depth + 1)
    shown = [k for k in audit.arms if k not in ("frozen", "frozen_dfa")]
    out = []
    names = {
        "gamma": "exact cosine Γ_l of credit and gradient",
        "rho": "ρ_l: credit against the loss's own change",
    }
    for key, name in names.items():
        found = [per_level(audit, k, key, offset=0.05 * i) for i, k in enumerate(shown)]
        if key == "gamma":
            found.append(per_level(audit, audit.label, "gamma_copied", COPY, "δ_L, copied", -0.06))
        drawn = svg.chart(found, "level l", name, xticks=levels, gaps=gaps(audit, key))
        out.append(figure(name, drawn))
    for key, name in (("test_acc", "test accuracy"), ("train_loss", "training loss")):
        found = [curve(audit, k, key) for k in audit.arms]
        out.append(figure(name, svg.chart(found, "epoch", name)))
    name = "‖g_l‖, the reference"
    found = [per_level(audit, k, "g_norm", offset=0.05 * i) for i, k in enumerate(shown)]
    out.append(figure(name, svg.chart(positive(found), "level l", name, xticks=levels, log=True)))
    name = "actual update against credit: cosine with BP's, mean over blocks"
    out.append(figure(name, svg.bars(update_rows(audit), name)))
    return "".join(out)


def positive(series: list[svg.Series]) -> list[svg.Series]:
    """Without the points that a log axis cannot show."""
    for s in series:
        kept = [point for point in s.points if point[1] > 0]
        s.points = [(x, m, max(low, m / 10), high, told) for x, m, low, high, told in kept]
    return series


def update_rows(audit) -> list[tuple]:
    out = []
    for label in dict.fromkeys((audit.label, "dfa")):
        records = audit.arms.get(label, ())
        found = [protocol.trained_by(r.final, r.config.credit_level) for r in records if r.final]
        for name, key in (("credit", "credit"), ("update", "update"), ("step", "step")):
            values = [of[key] for of in found if of[key] is not None]
            out.append((f"{short(label)}: {name}", figures.look(label)[0], values))
    return out


def figure(name: str, drawn: str) -> str:
    return f"<figure><h3>{escape(name)}</h3>{drawn}</figure>"
