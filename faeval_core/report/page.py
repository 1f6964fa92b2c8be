"""An audit as one HTML file that opens offline, on a phone and on paper: no request, no dependency,
and everything that is not faeval's own escaped.
"""

from collections.abc import Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from string import Template

from .. import __version__
from ..config import RunConfig
from ..measure.comparisons import WITHIN
from ..measure.letters import ALL, INVARIANT, MEANING, SPELLED, WITHDRAW
from ..measure.stats import mean_sd
from ..runs import costs
from ..runs.provenance import made_by
from . import figures, findings, tables
from .page_charts import box, charts, legend

TEMPLATE = Path(__file__).with_name("page.html")  # part of the package
LEVELS = "a_l is compared with g_l at the same level; {heard} trains block l."
CITE = (
    "faeval {version}: a laboratory for credit assignment without back-propagation. "
    "CITATION.cff in its repository has the entry."
)
# of a config: told elsewhere
NEEDLESS = ("method", "seed", "upstream", "upstream_epoch", "diagnose", "code", "lr", "options")


def page(audits: Sequence) -> str:
    """The page of one Audit, or of several beside each other."""
    names = ", ".join(dict.fromkeys(figures.title(a.label) for a in audits))
    title = f"Audit of {names}"
    heads = [f"<h1>{escape(title)}</h1>"]
    if len(audits) > 1:
        heads.append(contents(audits))
    sections = [section(a, f"audit-{k}" * (len(audits) > 1)) for k, a in enumerate(audits)]
    body = "\n".join([*heads, *sections, closing(audits)])
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body=body)


def summary(audit) -> str:
    """What a notebook shows of an Audit: the verdict, what it rests on, and the table."""
    tone, told = headline(audit)
    colours = {"holds": "#2e7d4f", "fires": "#b03020", "open": "#c48a00", "none": "#888"}
    style = f"border-left:6px solid {colours[tone]};padding:.4em .8em;font-weight:600"
    return f'<div style="{style}">{escape(told)}</div>{listed(audit.lines)}{html_table(audit)}'


def headline(audit) -> tuple[str, str]:
    """(tone, the verdict in a sentence); tone: 'holds', 'fires', 'open' or 'none'."""
    name, judged, idle = figures.title(audit.label), audit.verdict, audit.powerless
    if judged.diverged == judged.runs:
        return "none", f"{name} is not run." if not judged.runs else f"{name} diverged."
    fired = judged.fired(INVARIANT, idle)
    claims = [f"({k}) {SPELLED[k]}" for k in fired]
    withdrawn = [WITHDRAW[k] for k in fired]
    if findings.not_of_credit(audit.records):
        claims.append("its update is not what its credit makes")
        withdrawn.append(WITHDRAW["own"])
    if claims:
        told = f"{name}: {'; '.join(claims)}."
        return "fires", f"{told} Withdraw {'; '.join(withdrawn)}."
    gaps = [k for k in INVARIANT if k not in idle and not judged.counts[k][1]]
    doubts = [f"({k}) {SPELLED[k]} is undefined" for k in gaps]
    doubts += [f"({k}) {SPELLED[k]} has no power here" for k in INVARIANT if k in idle]
    if judged.diverged:
        doubts.append(f"{judged.diverged} of {judged.runs} seeds diverged")
    if doubts:
        return "open", f"{name}: nothing fires, and not all could be asked: {'; '.join(doubts)}."
    return "holds", f"{name} holds: none of the diagnostics fires."


def verdict_box(audit) -> str:
    tone, told = headline(audit)
    return f'<div class="verdict {tone}">{escape(told)}</div>'


def contents(audits) -> str:
    """A line for each of several audits, which leads to it."""
    out = []
    for k, a in enumerate(audits):
        told = escape(a.verdict.text(INVARIANT, a.powerless, spelled=True))
        named = escape(f"{figures.title(a.label)} on {a.base.model}")
        badge = f'<span class="badge {headline(a)[0]}">{told}</span>'
        out.append(f'<p><a href="#audit-{k}">{named}</a> {badge}</p>')
    return "".join(out)


def listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(told)}</li>' for told in lines)}</ul>"


def html_table(audit) -> str:
    return audit.table.T.to_html(border=0)


def section(audit, anchor: str) -> str:
    """anchor: its place on a page of several; '' where it is alone."""
    c, label = audit.base, figures.title(audit.label)
    told = f"{c.dataset}, {c.model}, width {c.width}, depth {c.depth}, {c.epochs} epochs, seeds "
    told += ", ".join(str(r.config.seed) for r in audit.records) + ". "
    told += LEVELS.format(heard="a_l" if c.credit_level == "input" else "a_{l+1}")
    named = escape(f"{label} on {c.model}")
    head = f'<h2 id="{anchor}">{named}</h2>' if anchor else ""
    parts = [
        f'<section>{head}<p class="setting">{escape(told)}</p>',
        verdict_box(audit),
        listed(audit.lines),
        f'<h2>Diagnostics</h2><div class="grid">{"".join(map(box(audit), ALL))}</div>',
        f'<h2>Levels, epochs, updates</h2>{legend(audit)}<div class="grid">{charts(audit)}</div>',
        f"<h2>Ranking under the same settings</h2>{ranking(audit)}",
        tuning(audit),
        f"<h2>Settings</h2>{settings(audit)}</section>",
    ]
    return "\n".join(parts)


# -- tables


def rows(head: Sequence[str], body: Sequence[Sequence[str]], own: int | None = None) -> str:
    """A table of plain text."""
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    lines = [f"<tr>{cells}</tr>"]
    for k, row in enumerate(body):
        tag = '<tr class="own">' if k == own else "<tr>"
        named = zip(head, row)  # a phone shows a row as a list, with the head of each cell
        told = (f'<td data-label="{escape(h)}">{escape(str(cell))}</td>' for h, cell in named)
        lines.append(f"{tag}{''.join(told)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def compute(records) -> float | None:
    """Floating-point operations of the products of one run's training; None where there is none, or
    the rule cannot be counted.
    """
    try:
        return costs.cost_flops(records[0].config) if records else None
    except (RuntimeError, ValueError, KeyError):
        return None


def ranking(audit) -> str:
    """All arms by accuracy, with the audited rule's lead and what each costs."""
    settled = findings.comparisons(
        audit.records, audit.arms, audit.label, audit.images, audit.within
    )
    frame = audit.to_frame().sort_values("accuracy", ascending=False, na_position="last")
    of_bp = compute(audit.arms.get("bp", ()))
    body, own = [], None
    for k, (label, row) in enumerate(frame.iterrows()):
        records = audit.arms[label]
        cost = compute(records)
        share = f" ({cost / of_bp:.2g}× BP)" if cost and of_bp else ""
        seconds = mean_sd([r.provenance.get("seconds") for r in records])[0]
        own = k if label == audit.label else own
        lead = settled[label][0].told(*settled[label][1:]) if label in settled else "—"
        known = row.accuracy == row.accuracy and row.accuracy is not None
        told = f"{row.accuracy:.3f} [{row.accuracy_low:.3f}, {row.accuracy_high:.3f}]"
        body.append(
            [
                figures.title(label),
                told if known else "—",
                lead,
                "—" if row.lr is None else f"{row.lr:g}",
                f"{cost / 1e9:.3g}{share}" if cost else "—",
                "—" if seconds is None else f"{seconds:.0f}",
            ]
        )
    name = figures.title(audit.label)
    head = ["method", "test accuracy [95 %]", f"{name} less it: lead [95 %]"]
    return rows([*head, "lr", "GFLOP a run", "s"], body, own)


def tuning(audit) -> str:
    """The grid of learning rates, where there was one."""
    found = audit.rates
    if found is None:
        return ""
    body = []
    for arm, scores in found.scores.items():
        cells = []
        for lr in found.rates:
            values = scores[lr]
            told = "diverged" if None in values else tables.pm(values)
            cells.append(f"{told} ←" if lr == found.chosen[arm] else told)
        body.append([figures.title(arm), *cells])
    seeds = ", ".join(map(str, found.seeds))
    told = f"Accuracy on held-out training images, seeds {seeds}; ← the rate that was taken."
    grid = rows(["method", *(f"{lr:g}" for lr in found.rates)], body)
    return f'<h2>Learning rates tried</h2><p class="note">{escape(told)}</p>{grid}'


def settings(audit) -> str:
    """Every setting of the audited rule, and the records."""
    config = audit.base.to_dict()
    told = {k: v for k, v in config.items() if k not in NEEDLESS}
    told = {"lr": config["lr"], "options": config["options"] or "none"} | told
    listed_ = "; ".join(f"{k} {v}" for k, v in told.items())
    ids = "; ".join(
        f"{figures.title(k)}: {', '.join(r.config.id for r in records)}"
        for k, records in audit.arms.items()
    )
    return (
        f'<p class="note">{escape(listed_)}</p>'
        f'<details class="ids"><summary>record ids</summary><code>{escape(ids)}</code></details>'
    )


def command(audit) -> str:
    """What makes the records and the page again."""
    c, tuned = audit.base, audit.rates
    rates = tuned.rates if tuned else (c.lr,)
    seeds = ",".join(str(r.config.seed) for r in audit.records)
    flags = [f"--seeds {seeds}"] * bool(seeds)
    flags.append(f"--lr {','.join(f'{lr:g}' for lr in rates)}")
    flags += [f"--tuning-seeds {','.join(map(str, tuned.seeds))}"] if tuned else []
    flags += [f"--within {audit.within:g}"] if audit.within != WITHIN else []
    for f in fields(RunConfig):
        value = getattr(c, f.name)
        is_told = f.name in ("dataset", "width", "epochs", "augment") or value != f.default
        if f.name in NEEDLESS or not is_told or type(value) not in (bool, int, float, str):
            continue
        name = f.name.replace("_", "-")
        switch = {True: f"--{name}", False: f"--no-{name}"}
        flags.append(switch[value] if type(value) is bool else f"--{name} {value}")
    flags += [f"--option {k}={v}" for k, v in c.options.items()]
    flags += [f"--model-option {k}={v}" for k, v in c.model_options.items()]
    own = " --method-file YOUR_RULE.py" if c.code else ""
    return f"python -m faeval_core audit {c.method}{own} {' '.join(flags)} --html audit.html"


def closing(audits) -> str:
    made = made_by() | (audits[0].records[0].provenance if audits[0].records else {})
    versions = f"The records were made by faeval {made['package']}, "
    versions += f"commit {made['commit'] or 'unknown (a wheel)'}, torch {made['torch']}, "
    versions += f"numpy {made['numpy']}, Python {made['python']}, on {made['cpu']}."
    meanings = [f"({k}) {MEANING[k]}." for k in ("a", "b", "c", "d", "e")]
    meanings.append(f"(b') {MEANING['twin']}; or {MEANING['rescaling']}.")
    commands = "\n".join(dict.fromkeys(command(a) for a in audits))
    return (
        f"<h2>Words</h2><p class='note'>{escape(' '.join(meanings))} A letter stands where it fires"
        " in more than half of the seeds.</p>"
        f"<h2>Make it again</h2><pre>{escape(commands)}</pre><p class='note'>{escape(versions)} "
        f"To cite: {escape(CITE.format(version=__version__))}</p>"
    )
