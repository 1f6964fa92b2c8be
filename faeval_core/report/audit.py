"""An honest verdict on a rule of one's own, trained beside BP, DFA and frozen blocks."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import matplotlib.pyplot as plt
import pandas as pd

from .. import data
from ..config import RunConfig
from ..ground.checks import check_known
from ..ground.files import check_writable, publish
from ..measure import protocol
from ..measure.comparisons import WITHIN, accuracy_interval
from ..methods import METHODS, register
from . import figures, findings, study, tables, tuning
from .findings import mean_defined, mean_gamma
from .latex import tabular

__all__ = ["Audit", "Audits", "audit", "mean_defined", "mean_gamma"]

TASK = "digit-sums"  # on which depth pays: docs/audit.md shows how it was chosen
SHAPE = {"width": 64, "epochs": 15, "lr": 3e-3}  # of an audit on it, within a minute
DEPTHS = {"convnet": 3}  # of models that have one depth alone


def numbers(label: str, records, images: int | None) -> dict:
    """Accuracy with its interval, alignment and norms of one method, as a row of a frame."""
    accuracy = accuracy_interval([r.accuracy for r in records], images)
    final = [r.final for r in records if r.final]
    beside = [each for each in map(protocol.beside_copy, final) if each is not None]
    return {
        "method": label,
        "n": len(final),
        "lr": records[0].config.lr if records else None,
        "accuracy": accuracy and accuracy.mean,
        "accuracy_low": accuracy and accuracy.low,
        "accuracy_high": accuracy and accuracy.high,
        "gamma_hidden": mean_defined([each.gamma for each in beside]),
        "gamma_copied": mean_defined([each.copied for each in beside]),
        "growth": mean_defined([d["growth"] for d in final]),
        "g_norm_top": tables.geometric([d["g_norm"][-1] for d in final]),
        "stability": mean_defined([d["stability"] for d in final]),
    }


@dataclass
class Audit:
    """Records of the audited method and those beside it, with the verdict as text, table, figure
    and page.

    arms: label -> records; label: that of the audited method. within: accuracy by which two methods
    may differ and count as equal. rates: how learning rates were tuned.
    """

    base: RunConfig
    arms: dict
    label: str = ""
    within: float = WITHIN
    rates: tuning.Tuning | None = None

    def __post_init__(self):
        self.label = self.label or self.base.method

    @property
    def records(self) -> list:
        return self.arms[self.label]

    @cached_property
    def images(self) -> int | None:
        """How many images accuracy is taken on."""
        return data.test_images(self.base.dataset)

    def judged(self, label: str) -> tuple[protocol.Verdict, dict[str, str]]:
        """(verdict on an arm, letter -> why it tells nothing of it)."""
        bp, frozen = (self.arms.get(name, ()) for name in ("bp", "frozen"))
        records = self.arms[label]
        idle = findings.powerless(records, bp, frozen, self.images)
        return protocol.verdict(records, frozen), idle

    @property
    def verdict(self) -> protocol.Verdict:
        return self.judged(self.label)[0]

    @property
    def powerless(self) -> dict[str, str]:
        """Letter -> why it tells nothing on this task."""
        return self.judged(self.label)[1]

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
        judged = [self.judged(label) for label in self.arms]
        for name, letters in (
            ("study's protocol", protocol.PUBLISHED),
            ("scale-invariant", protocol.INVARIANT),
        ):
            table[name] = [verdict.text(letters, idle) for verdict, idle in judged]
        return table

    @staticmethod
    def _trained_by(records) -> list[dict]:
        return [protocol.trained_by(r.final, r.config.credit_level) for r in records if r.final]

    @property
    def trained(self) -> str:
        """A sentence on the credit that was measured and the update that trained the net."""
        return findings.trained(self.records, self.arms.get("bp", ()))

    @property
    def lines(self) -> list[str]:
        """The verdict in sentences; see findings.py."""
        out = findings.lines(self.arms, self.label, self.images, self.within)
        if self.rates is None:
            return out
        count = f"{len(self.rates.rates)} learning rates and {len(self.rates.seeds)} seeds"
        chosen = ", ".join(f"{k} {v:g}" for k, v in self.rates.chosen.items() if v is not None)
        told = f"Learning rate of each, tuned on held-out training images over {count}: {chosen}."
        return [*out, told, *self.rates.notes]

    @property
    def text(self) -> str:
        return "\n".join([self.table.T.to_string(), "", *self.lines])

    def to_frame(self) -> pd.DataFrame:
        """One row of numbers per method: accuracy with its interval, alignment, norms, verdicts."""
        rows = [self._row(label, records) for label, records in self.arms.items()]
        return pd.DataFrame(rows).set_index("method")

    def _row(self, label, records) -> dict:
        judged, idle = self.judged(label)
        return numbers(label, records, self.images) | {
            "published": judged.text(protocol.PUBLISHED, idle),
            "invariant": judged.text(protocol.INVARIANT, idle),
        }

    def to_latex(self) -> str:
        """The audit table as a tabular of plain ASCII that needs no package."""
        return tabular(self.table.T)

    def figure(self):
        """Γ_l, ρ_l and the gradient norm per level, and test accuracy over epochs."""
        figures.use_style()
        fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.6))
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
        handles, names = axes[3].get_legend_handles_labels()
        fig.legend(
            handles, map(figures.in_mathtext, names), loc="outside upper center", ncols=len(names)
        )
        return fig

    plot = figure

    def page(self) -> str:
        """A self-contained HTML page; see page.py."""
        from .page import page

        return page([self])

    def _repr_html_(self) -> str:
        from .page import summary

        return summary(self)


@dataclass
class Audits:
    """Several rules, or one on several models: an Audit each, in the order in which they were
    named, models first.
    """

    audits: list[Audit]

    def __iter__(self):
        return iter(self.audits)

    def __len__(self):
        return len(self.audits)

    def __getitem__(self, place) -> Audit:
        return self.audits[place]

    @staticmethod
    def _headed(audit) -> str:
        return f"{audit.label} on {audit.base.model}"

    @property
    def lines(self) -> list[str]:
        return [f"[{a.base.model}] {line}" for a in self.audits for line in a.lines]

    @property
    def text(self) -> str:
        return "\n\n".join(f"== {self._headed(a)} ==\n{a.text}" for a in self.audits)

    def to_frame(self) -> pd.DataFrame:
        """The rows of each Audit once, by model and method."""
        frames = {}
        for a in self.audits:
            frames.setdefault(a.base.model, []).append(a.to_frame())
        whole = {model: pd.concat(found) for model, found in frames.items()}
        return pd.concat({k: v[~v.index.duplicated()] for k, v in whole.items()}, names=["model"])

    def to_latex(self) -> str:
        return "\n\n".join(f"% {self._headed(a)}\n{a.to_latex()}" for a in self.audits)

    def plot(self) -> list:
        """One figure for each."""
        return [a.figure() for a in self.audits]

    def page(self) -> str:
        from .page import page

        return page(self.audits)

    def _repr_html_(self) -> str:
        return "".join(a._repr_html_() for a in self.audits)


def audit(
    method,
    *,
    models: Sequence[str] | None = None,
    dataset=TASK,
    lr: float | Sequence[float] | None = None,
    seeds=(42, 123, 456),
    tuning_seeds=tuning.SEEDS,
    within: float = WITHIN,
    results="results",
    train=True,
    device="auto",
    html=None,
    **settings,
):
    """Train a rule beside BP, DFA and blocks that stay as they were initialised, and judge it by
    both protocols: an Audit.

    method: a name, a Method class to register, a pair of either with a dict of options, or a list
    of such rules; models: names of several models. For several of either, Audits.
    dataset: by default sums of two embedded digits, with a small net (width 64, 15 epochs), so that
    it takes a minute on two cores. Embedded and synthetic data are not augmented by default.
    lr: a learning rate, or a list of which each method, company included, gets its own best on
    held-out training images, over tuning_seeds, which are not reported.
    within: two accuracies that differ by less count as equal.
    settings: any other field of RunConfig, for all of them; what concerns credit alone is left to
    those that have some. html: where to write the page. Runs already in `results` are not trained
    again. Raises ValueError for unknown names, repeated seeds and seeds that also tune.
    """
    if html:
        check_writable(html)  # rather than find out after all training
    own = {f.name for f in fields(RunConfig)} - {"method", "seed", "code"}
    check_known(
        "keyword of audit", settings, own | set(inspect.signature(audit).parameters) - {"settings"}
    )
    several = isinstance(method, list) or models is not None
    rules = [_rule(each) for each in (method if isinstance(method, list) else [method])]
    data.check_name(dataset, results)
    given = (SHAPE if dataset == TASK else {}) | {"augment": data.augments(dataset)} | settings
    rates = tuning.check_rates(lr) if lr is not None else ()
    if rates:
        given |= {"lr": rates[0]}
    kept = study.Study("audit", "audit", results, train=train, device=device)
    found = []
    for model in models or [given.pop("model", "resmlp")]:
        shape = {"depth": DEPTHS[model]} if model in DEPTHS and "depth" not in given else {}
        bases = [RunConfig(n, dataset, model=model, **shape | given | o) for n, o in rules]
        labels = _labels(rules)
        arms = {k: _company(base) for k, base in zip(labels, bases)}
        configs = dict(zip(labels, bases))
        for company in arms.values():
            configs |= {k: c for k, c in company.items() if k not in configs}
        tuned = None
        if len(rates) > 1:
            tuned = tuning.tune(kept, configs, rates, tuning.check_seeds(tuning_seeds, seeds))
            chosen = {k: v for k, v in tuned.chosen.items() if v is not None}
            configs = {k: c.with_(lr=chosen.get(k, c.lr)) for k, c in configs.items()}
        records = kept.run({k: study.seeds(c, seeds) for k, c in configs.items()})
        for label in labels:
            company = {k: records[k] for k in arms[label] if k != label}
            found.append(
                Audit(configs[label], {label: records[label], **company}, label, within, tuned)
            )
    done = Audits(found) if several else found[0]
    if html:
        publish(html, done.page())
    return done


def _rule(given) -> tuple[str, dict]:
    """(name, fields of its config) of a method, a class, or a pair of either with options."""
    method, options = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    name = register(method).name if isinstance(method, type) else method
    return name, {} if options is None else {"options": options}


def _labels(rules) -> list[str]:
    """The name of each rule, with the options that were given where there are some."""
    out = []
    for name, changed in rules:
        told = ", ".join(f"{k}={v}" for k, v in changed.get("options", {}).items())
        out.append(f"{name} ({told})" if told else name)
    if twice := [label for label in out if out.count(label) > 1]:
        raise ValueError(f"method {twice[0]!r} is named twice; each rule is audited once")
    return out


def _company(base: RunConfig) -> dict[str, RunConfig]:
    """BP, DFA and both frozen nets in the settings of a rule."""
    plain = {
        k: valid[0]
        for k, valid in METHODS["bp"].creditless.items()
        if getattr(base, k) not in valid
    }
    changes = {
        "bp": plain,
        "dfa": {},
        "frozen": plain | {"penalty": 0.0},
        "frozen_dfa": {"penalty": 0.0},
    }
    return {name: base.with_(method=name, **changed) for name, changed in changes.items()}
