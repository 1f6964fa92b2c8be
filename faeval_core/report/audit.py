import base64
import html
import inspect
from dataclasses import dataclass, fields
from statistics import fmean
from string import Template

import matplotlib.pyplot as plt

from .. import data
from ..config import RunConfig
from ..ground.checks import check_known
from ..ground.files import check_writable, publish
from ..measure import protocol, stats
from ..methods import METHODS, register
from . import figures, study, tables

CONVENTION = (
    "a_l is compared with g_l at the same level; {heard} trains block l. ± is the sd "
    "over seeds (ddof=1)."
)
COSINES = {
    "of the credit that they hear": "credit",
    "of their update": "update",
    "of the optimiser's step": "step",
}
PAGE = Template("""<!doctype html><html lang="en"><meta charset="utf-8"><title>$title</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px}
td,th{border-bottom:1px solid #ccc;padding:.3rem .7rem;text-align:left}
img{max-width:100%}</style>
<h1>$title</h1><p>$setting</p><ul>$verdict</ul>$table
<h2>Per level</h2><img alt="per-level diagnostics" src="data:image/png;base64,$image"></html>
""")


@dataclass
class Audit:
    """Records of the audited method and its company, with the verdict as text, table, figure and
    HTML page.
    """

    base: RunConfig
    arms: dict

    @property
    def table(self):
        """The audit table, with the cosine of what blocks hear beside that of what trained them."""
        table = tables.audit_table(tables.audit_rows(self.arms))
        found = [self._trained_by(records) for records in self.arms.values()]
        for name, key in (
            ("Γ (what blocks hear)", "credit"),
            ("update cos (blocks)", "update"),
            ("step cos (blocks)", "step"),
        ):
            table[name] = [tables.pm([of[key] for of in seeds]) for seeds in found]
        return table

    @staticmethod
    def _trained_by(records) -> list[dict]:
        return [protocol.trained_by(r.final, r.config.credit_level) for r in records if r.final]

    @property
    def trained(self) -> str:
        """A sentence on the credit that was measured and the update that trained the net, and on
        whether they are one.
        """
        found = self._trained_by(self.arms[self.base.method])
        heard, update = (
            stats.mean_sd([of[key] for of in found])[0] for key in ("credit", "update")
        )
        if update is None:
            return "Blocks are not trained, so no update stands beside Γ."
        told = [f"{what} {tables.pm([of[key] for of in found])}" for what, key in COSINES.items()]
        told = f"Cosine with BP's, mean over blocks: {', '.join(told)}."
        other = [
            of["own"] for of in found if of["own"] is not None and of["own"] < protocol.OWN_FLOOR
        ]
        if other:
            count = f"in {len(other)} of {len(found)} seeds the update is not what `credit` makes"
            told += (
                f" They disagree: {count} (cosine of the two: {tables.pm(other)}), and Γ "
                "is not of what trained the net."
            )
            told += f" Withdraw: {protocol.WITHDRAW['own']}."
        elif heard is not None and abs(heard - update) > protocol.OWN_GAP:
            told += (
                " They differ, as samples weigh otherwise in an update: Γ alone does not "
                "speak for what trained the net."
            )
        return told

    @property
    def lines(self) -> list[str]:
        """The verdict in sentences: both protocols, what to withdraw, the lead over a copied δ_L,
        and paired comparisons.
        """
        records = self.arms[self.base.method]
        judged = protocol.verdict(records, self.arms["frozen"])
        both = (
            f"{judged.text()} (published protocol); {judged.text(protocol.INVARIANT)} "
            "(scale-invariant)"
        )
        out = [f"{figures.title(self.base.method)}: {both}."]
        for r in records:
            if r.status == "diverged":
                out.append(
                    f"Seed {r.config.seed} diverged at step {r.fault['step']}: "
                    f"{r.fault['quantity']} is not finite."
                )
        faults = [protocol.reference_fault(r.final) for r in records if r.final]
        out += protocol.sentences(judged, faults)
        uphill = [
            mean for mean in map(mean_gamma, records) if mean is not None and mean < protocol.UPHILL
        ]
        if uphill:
            told = (
                f"Γ is {fmean(uphill):.2f}, the mean over all levels, in {len(uphill)} of "
                f"{len(records)} seeds"
            )
            out.append(f"{told}: check the sign of its credit, which is that of the gradient.")
        rest = [
            f"({k}) in {fired} of {n}"
            for k, (fired, n) in judged.counts.items()
            if 0 < 2 * fired <= n
        ]
        if rest:
            out.append(f"In some seeds, but not in most: {', '.join(rest)}.")
        if found := stats.interval([protocol.over_copy(r.final) for r in records if r.final]):
            out.append(
                "Exact cosine at the hidden levels, less that of δ_L copied to every level of "
                f"the same nets: {found}."
            )
        if averaged := [r.final for r in records if r.final and "draws" in r.final]:
            single = fmean(mean_defined(final["gamma_draw"]) or 0.0 for final in averaged)
            out.append(
                f"Its credit is random: Γ and ρ are of the mean over {averaged[0]['draws']} draws "
                f"of its noise; of a single draw Γ is {single:.2f}."
            )
        if any(r.final for r in records):
            out.append(self.trained)
        for other in (name for name in self.arms if name != self.base.method):
            if found := stats.interval(stats.paired(records, self.arms[other])):
                settled = (
                    "settled" if found.low > 0 or found.high < 0 else "not settled by these seeds"
                )
                out.append(
                    f"Accuracy less {figures.title(other)}'s, paired by seed: {found}: {settled}."
                )
        return out

    @property
    def text(self) -> str:
        return "\n".join([self.table.T.to_string(), "", *self.lines])

    def figure(self):
        """Γ_l, ρ_l and the gradient norm per level, and test accuracy over epochs."""
        figures.use_style()
        fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.4))
        names = (
            r"exact cosine with BP gradient, $\Gamma_l$",
            r"perturbation correlation, $\rho_l$",
            r"gradient norm, $\|g_l\|$",
        )
        for ax, key, name in zip(axes, ("gamma", "rho", "g_norm"), names):
            for i, (label, records) in enumerate(self.arms.items()):
                figures.level_points(
                    ax, [r.final[key] for r in records if r.final], label, offset=0.06 * (i - 1.5)
                )
            ax.set(xlabel="level $l$", ylabel=name)
        axes[2].set_yscale("log")
        for label, records in self.arms.items():
            figures.epoch_curves(
                axes[3], [r for r in records if r.status == "complete"], "test_acc", method=label
            )
        axes[3].set(xlabel="epoch", ylabel="test accuracy")
        axes[3].legend()
        return fig

    def page(self) -> str:
        """A self-contained HTML page: verdict, table, per-level figure, settings."""
        c, seeds = self.base, ", ".join(str(r.config.seed) for r in self.arms[self.base.method])
        setting = (
            f"{c.dataset}, {c.model}, width {c.width}, depth {c.depth}, {c.epochs} "
            f"epochs, seeds {seeds}. "
        )
        setting += CONVENTION.format(heard="a_l" if c.credit_level == "input" else "a_{l+1}")
        return PAGE.substitute(
            title=html.escape(f"Audit of {figures.title(self.base.method)}"),
            setting=html.escape(setting),
            verdict="".join(f"<li>{html.escape(line)}</li>" for line in self.lines),
            table=self.table.T.to_html(border=0),
            image=base64.b64encode(figures.rendered(self.figure(), "png")).decode(),
        )


def mean_gamma(record) -> float | None:
    """Γ after the last epoch, mean over the levels where it is defined."""
    return mean_defined(record.final["gamma"]) if record.final else None


def mean_defined(values) -> float | None:
    """Mean of those values that are not None, or None where there are none."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def audit(
    method,
    *,
    dataset="digits",
    seeds=(42, 123, 456),
    results="results",
    train=True,
    device="auto",
    html=None,
    **settings,
):
    """Train `method` (a name, or a Method class to register) beside BP, DFA and frozen blocks: the
    Audit, by both protocols.

    settings: any other field of RunConfig, for all of them; what concerns credit alone is left to
    those that have some. By default the embedded digits are not augmented. html: where to write the
    page. Runs already in `results` are not trained again. Raises ValueError for unknown names and
    repeated seeds.
    """
    if html:
        check_writable(html)  # rather than find out after all training
    own = {f.name for f in fields(RunConfig)} - {"method", "seed", "code"}
    check_known(
        "keyword of audit", settings, own | set(inspect.signature(audit).parameters) - {"settings"}
    )
    name = register(method).name if isinstance(method, type) else method
    data.check_name(dataset, results)
    base = RunConfig(name, dataset, **{"augment": dataset != "digits", **settings})
    arms = {name: study.seeds(base, seeds)}
    plain = {
        k: valid[0]
        for k, valid in METHODS["bp"].creditless.items()
        if getattr(base, k) not in valid
    }
    for other, changes in (("bp", plain), ("dfa", {}), ("frozen", plain | {"penalty": 0.0})):
        arms.setdefault(other, study.seeds(base, seeds, method=other, **changes))
    done = Audit(base, study.Study("audit", "audit", results, train=train, device=device).run(arms))
    if html:
        publish(html, done.page())
    return done
