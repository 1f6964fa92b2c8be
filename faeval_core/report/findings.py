"""What an audit says of a rule, in sentences: the verdict, what it rests on, and how sure it is."""

from collections import Counter
from statistics import fmean

from ..measure import protocol, stats
from ..measure.comparisons import Gap, accuracy_interval, paired_gap, settle_together
from ..measure.letters import ALL, THRESHOLDS, UPHILL_AT_A_LEVEL
from . import figures, tables

COSINES = {
    "of the credit that they hear": "credit",
    "of their update": "update",
    "of the optimiser's step": "step",
}
COMPARED = (
    "p is of all these comparisons together (Holm's method); g is the mean difference over its sd "
    "between seeds (Hedges)."
)


def mean_defined(values) -> float | None:
    """Mean of those values that are not None, or None where there are none."""
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def mean_gamma(record) -> float | None:
    """Γ after the last epoch, mean over the levels where it is defined."""
    return mean_defined(record.final["gamma"]) if record.final else None


def powerless(records, bp, frozen, images=None) -> dict[str, str]:
    """Letter -> why it tells nothing about these records: BP itself fires it, or does not clear its
    threshold, on the same task.

    bp, frozen: the records of BP and of frozen blocks. images: of the test set.
    """
    out = {}
    judged = protocol.verdict(bp, frozen)
    for k in judged.fired([k for k in ALL if k not in ("d", "e")]) if records is not bp else ():
        fired, n = judged.counts[k]
        out[k] = f"BP itself fires it in {fired} of {n} seeds"
    if gap := paired_gap(bp, frozen, images):
        lead, least = gap.interval, 100 * THRESHOLDS["d"]
        if len(gap.pairs) < 2:
            out["d"] = f"of one seed BP's lead over frozen blocks ({lead.mean:.3g}) has no interval"
        elif lead.low <= THRESHOLDS["d"]:
            out["d"] = f"BP's own lead over frozen blocks, {lead}, is not clear of {least:g} points"
    beside = [protocol.beside_copy(r.final) for r in records if r.final]
    if beside and all(found is not None and found.share is None for found in beside):
        room = fmean(found.room for found in beside)
        out["e"] = f"the exact gradient itself is only {room:.2g} ahead of the copied δ_L"
    return out


def not_of_credit(records) -> list[float]:
    """Of the seeds whose update is not what their credit makes, the cosine of the two."""
    found = [protocol.trained_by(r.final, r.config.credit_level) for r in records if r.final]
    return [of["own"] for of in found if of["own"] is not None and of["own"] < protocol.OWN_FLOOR]


def trained(records, bp=()) -> str:
    """A sentence on the credit that was measured and the update that trained the net, and on
    whether they are one; bp: the records of BP, whose own step stands beside that of the rule.
    """
    found = [protocol.trained_by(r.final, r.config.credit_level) for r in records if r.final]
    heard, update = (stats.mean_sd([of[key] for of in found])[0] for key in ("credit", "update"))
    if update is None:
        return "Blocks are not trained, so no update stands beside Γ."
    told = [f"{what} {tables.pm([of[key] for of in found])}" for what, key in COSINES.items()]
    own = [protocol.trained_by(r.final, r.config.credit_level)["step"] for r in bp if r.final]
    beside = f" (BP's own: {tables.pm(own)})" if own and records is not bp else ""
    told = f"Cosine with BP's, mean over blocks: {', '.join(told)}{beside}."
    if other := not_of_credit(records):
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


def diverged(records) -> list[str]:
    """Which seeds diverged, where, and at which level the stream was largest before."""
    out = []
    for r in records:
        if r.status == "diverged":
            told = (
                f"Seed {r.config.seed} diverged at step {r.fault['step']}: "
                f"{r.fault['quantity']} is not finite"
            )
            if norms := r.curves.get("h_norm"):
                level = max(range(len(norms[-1])), key=norms[-1].__getitem__)
                told += f"; an epoch before, ‖h_{level}‖ was the largest, {norms[-1][level]:.2g}"
            out.append(f"{told}.")
    return out


def undefined(records, frozen, letters) -> list[str]:
    """Why each of the letters is undefined, in how many seeds, and at which levels Γ or ρ is."""
    cases = protocol.cases(records, frozen)
    why = [protocol.undefined(*case) for case in cases]
    out = []
    for k in letters:
        reasons = [reason[k] for reason in why if k in reason]
        if reasons:
            told = f"({k}) is undefined in {len(reasons)} of {len(cases)} seeds"
            out.append(f"{told}: {Counter(reasons).most_common(1)[0][0]}.")
    for quantity, name in (("gamma", "Γ"), ("rho", "ρ")):
        found = [case.diagnosis.get(quantity, ()) for case in cases]
        levels = sorted({l for values in found for l, v in enumerate(values) if v is None})
        if levels:
            seeds = sum(None in values for values in found)
            told = f"{name} is undefined at level {', '.join(map(str, levels))}"
            reason = protocol.reason(
                next(c.diagnosis for c in cases if None in c.diagnosis.get(quantity, ())), quantity
            )
            out.append(f"{told} in {seeds} of {len(cases)} seeds: {reason}.")
    return out


def uphill(records) -> list[str]:
    """Where Γ is so far below zero that the sign of the credit is likely to be wrong."""
    means = [mean for mean in map(mean_gamma, records) if mean is not None]
    if wrong := [mean for mean in means if mean < protocol.UPHILL]:
        told = (
            f"Γ is {fmean(wrong):.2f}, the mean over all levels, in {len(wrong)} of "
            f"{len(records)} seeds"
        )
        return [f"{told}: check the sign of its credit, which is that of the gradient."]
    columns = zip(*(r.final["gamma"] for r in records if r.final))
    levels = {l: mean_defined(column) for l, column in enumerate(columns)}
    known = {l: mean for l, mean in levels.items() if mean is not None}
    low = {l: mean for l, mean in known.items() if mean < UPHILL_AT_A_LEVEL}
    if not low:
        return []
    told = ", ".join(f"{l} ({mean:.2f})" for l, mean in low.items())
    return [f"Γ is negative at level {told}: check the sign of its credit there."]


def beside_copy(records) -> list[str]:
    """The lead over the copied δ_L, with its interval and the room that there was."""
    found = [protocol.beside_copy(r.final) for r in records if r.final]
    found = [each for each in found if each is not None]
    if not found:
        return []
    lead = stats.interval([each.lead for each in found])
    gamma, copied = (tables.pm([getattr(each, k) for each in found]) for k in ("gamma", "copied"))
    told = "Exact cosine at the hidden levels, less that of δ_L copied to every level of the same "
    told += f"nets: {lead}: {gamma} beside {copied}."
    least = THRESHOLDS["e"] * fmean(each.room for each in found)
    if len(found) > 1 and lead.low <= least < lead.high:
        told += f" These seeds leave open whether it is above {least:.2g}, where (e) falls silent."
    return [told]


def comparisons(records, arms, label, images, within) -> dict[str, tuple[Gap, str, float]]:
    """Other arm -> (gap in accuracy, word, Holm's p): one family."""
    pairs = [
        (other, gap)
        for other, theirs in arms.items()
        if other != label and (gap := paired_gap(records, theirs, images, within))
    ]
    settled = settle_together([gap for _, gap in pairs])
    return {other: (gap, *found) for (other, gap), found in zip(pairs, settled)}


def lines(arms, label, images, within) -> list[str]:
    """The verdict in sentences: both protocols, what to withdraw, what has no power or is
    undefined, the lead over a copied δ_L, and paired comparisons.
    """
    records, frozen = arms[label], arms.get("frozen", ())
    judged = protocol.verdict(records, frozen)
    idle = powerless(records, arms.get("bp", ()), frozen, images)
    published, invariant = (
        judged.text(letters, idle, spelled=True)
        for letters in (protocol.PUBLISHED, protocol.INVARIANT)
    )
    name = figures.title(label)
    out = [f"{name}: {published} (study's protocol); {invariant} (scale-invariant)."]
    out += [f"({k}) has no power here: {why}." for k, why in idle.items()]
    out += diverged(records)
    faults = [protocol.reference_fault(r.final) for r in records if r.final]
    out += protocol.sentences(judged, faults, idle)
    out += uphill(records)
    rest = [
        f"({k}) in {fired} of {n}"
        for k, (fired, n) in judged.counts.items()
        if 0 < 2 * fired <= n and k not in idle
    ]
    if rest:
        out.append(f"In some seeds, but not in most: {', '.join(rest)}.")
    out += undefined(records, frozen, [k for k in ALL if k not in idle])
    out += beside_copy(records)
    if averaged := [r.final for r in records if r.final and "draws" in r.final]:
        single = fmean(mean_defined(final["gamma_draw"]) or 0.0 for final in averaged)
        out.append(
            f"Its credit is random: Γ and ρ are of the mean over {averaged[0]['draws']} draws "
            f"of its noise; of a single draw Γ is {single:.2f}."
        )
    if any(r.final for r in records):
        out.append(trained(records, arms.get("bp", ())))
    if found := accuracy_interval([r.accuracy for r in records], images):
        of = f" and {images} test images" if images else ""
        out.append(f"Accuracy, of seeds{of}: {found}.")
    compared = comparisons(records, arms, label, images, within)
    for other, (gap, word, p) in compared.items():
        out.append(
            f"Accuracy less that of {figures.title(other)}, paired by seed: {gap.told(word, p)}."
        )
    has_figures = any(gap.effect is not None for gap, *_ in compared.values())
    return out + ([COMPARED] if has_figures else [])
