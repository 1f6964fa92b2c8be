"""An honest verdict on one rule: train it beside BP, DFA and the frozen baseline, measure, and write a page to show."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from string import Template

from . import figures, protocol, runs, stats, tables
from .config import CHOICES, RunConfig, suggest
from .files import publish
from .methods import METHODS
from .store import Store

AGAINST = ("bp", "dfa", "frozen")
CONVENTION = "a_l is compared with g_l at the same level; a_{l+1} trains block l. ± is the sd over seeds (ddof=1)."
PAGE = Template("""<!doctype html><html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:left}
img{max-width:100%}</style>
<h1>$title</h1><p>$setting</p><ul>$verdict</ul>$table
<h2>Per level</h2><img alt="per-level diagnostics" src="data:image/png;base64,$image"></html>
""")


@dataclass
class Audit:
    """Records of the audited method and its company, with the verdict as text, table, figure and HTML page."""

    method: str
    base: RunConfig
    arms: dict

    @property
    def rows(self):
        return tables.audit_rows(self.arms)

    @property
    def table(self):
        return tables.audit_table(self.rows)

    @property
    def lines(self) -> list[str]:
        """The verdict in sentences: protocol as published and scale-invariant, what to withdraw, and paired comparisons."""
        records = self.arms[self.method]
        judged = protocol.verdict(records, self.arms["frozen"])
        both = f"{judged.text()} (published protocol); {judged.text(protocol.INVARIANT)} (scale-invariant)"
        out = [f"{figures.title(self.method)}: {both}."]
        for k in dict.fromkeys((*judged.fired(), *judged.fired(protocol.INVARIANT))):
            fired, n = judged.counts[k]
            out.append(f"({k}) {protocol.MEANING[k]}: {fired} of {n} seeds. Withdraw: {protocol.WITHDRAW[k]}.")
        for other in self.arms:
            found = stats.interval(stats.paired(records, self.arms[other])) if other != self.method else None
            if found:
                settled = "settled" if found.low > 0 or found.high < 0 else "not settled by these seeds"
                out.append(f"Accuracy less {figures.title(other)}'s, paired by seed: {found}: {settled}.")
        return out

    @property
    def text(self) -> str:
        return "\n".join([self.table.T.to_string(), "", *self.lines])

    def figure(self):
        """Γ_l, ρ_l and the gradient norm per level, and test accuracy over epochs."""
        import matplotlib.pyplot as plt

        figures.use_style()
        fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.4))
        panels = (
            ("gamma", "exact cosine with BP gradient, Γ_l"),
            ("rho", "perturbation correlation, ρ_l"),
            ("g_norm", "gradient norm, ‖g_l‖"),
        )
        for ax, (key, name) in zip(axes, panels):
            for i, (label, records) in enumerate(self.arms.items()):
                rows = [r.final[key] for r in records if r.final]
                figures.level_points(ax, rows, label, offset=0.06 * (i - 1.5))
            ax.set(xlabel="level l", ylabel=name)
        axes[2].set_yscale("log")
        for label, records in self.arms.items():
            figures.epoch_curves(axes[3], [r for r in records if r.status == "complete"], "test_acc", method=label)
        axes[3].set(xlabel="epoch", ylabel="test accuracy")
        axes[3].legend()
        return fig

    def page(self) -> str:
        """A self-contained HTML page: verdict, table, per-level figure, settings."""
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", metadata={"Software": None})
        c, seeds = self.base, ", ".join(str(r.config.seed) for r in self.arms[self.method])
        setting = f"{c.dataset}, {c.model}, width {c.width}, depth {c.depth}, {c.epochs} epochs, seeds {seeds}. {CONVENTION}"
        return PAGE.substitute(
            title=html.escape(f"Audit of {figures.title(self.method)}"), setting=html.escape(setting),
            verdict="".join(f"<li>{html.escape(line)}</li>" for line in self.lines),
            table=self.table.T.to_html(border=0), image=base64.b64encode(buffer.getvalue()).decode(),
        )  # fmt: skip

    def save(self, path) -> Path:
        return publish(Path(path), self.page())


def audit(
    method, *, seeds=(42, 123, 456), against=AGAINST, results="results", train=True, device="auto", html=None, **settings
) -> Audit:
    """Train `method` (a name, or a Method class to register) beside `against` and judge it by both protocols.

    settings: any field of RunConfig; the default here is the embedded digits at 100 epochs without augmentation. html: where to
    write the page. Runs already in `results` are not trained again. Raises ValueError for unknown names.
    """
    if isinstance(method, type):
        from .methods import register

        method = register(method).name
    if method not in METHODS:
        raise ValueError(suggest("method", method, CHOICES["method"]))
    if settings.get("dataset", "digits") == "digits":
        settings = {"dataset": "digits", "augment": False, **settings}
    base = RunConfig(method=method, **settings)
    plain = {k: v for k, v in settings.items() if k != "options"}
    if "frozen" not in against:
        against = (*against, "frozen")
    arms = {}
    for name in dict.fromkeys((method, *against)):
        changes = plain if name != "frozen" else {**plain, "penalty": 0.0}
        configs = [base if name == method else RunConfig(method=name, **changes) for _ in seeds]
        arms[name] = [c.with_(seed=s) for c, s in zip(configs, seeds)]
    store = Store(results)
    found = runs.run([c for configs in arms.values() for c in configs], store, train=train, device=device)
    by_id = {r.config.id: r for r in found if r is not None}
    done = Audit(method, base, {k: [by_id[c.id] for c in configs if c.id in by_id] for k, configs in arms.items()})
    if html:
        done.save(html)
    return done
