"""The study's Table 1 from the records: each row in the recipe that notebook 11 reads it in, beside
the study's values.
"""

import pandas as pd

from .. import runs
from ..config import RunConfig
from ..ground.files import studies
from ..runs.store import Store
from . import tables

STUDY, EXPERIMENT = "11_audit", "protocol_audit"
# row: the label that notebook 11 gives its runs
LABELS = {
    "bp": "bp as it is 100",
    "fa": "fa 1e-6 on g's scale 100",
    "ep": "ep recipe 100",
    "dfa": "dfa normalised credit 100",
    "cb": "cb recipe 100",
    "sb": "sb recipe 100",
    "frozen": "frozen_dfa normalised credit 100",
}


def configs(results) -> dict[str, list[RunConfig]]:
    """Row -> its runs, as the summary of notebook 11 lists them. Raises ValueError where there is
    no such summary, or one of other sizes.
    """
    listed = studies(results).get(STUDY, {"runs": []})["runs"]
    found = {
        row: [RunConfig.from_dict(r["config"]) for r in listed if label in r["label"].split(" = ")]
        for row, label in LABELS.items()
    }
    lacking = [row for row, of in found.items() if not of]
    if lacking:
        raise ValueError(
            f"{results} has no runs of Table 1 for {', '.join(lacking)}; its study {STUDY} lists "
            "them at the study's sizes (width 256, 100 epochs): take the committed results"
        )
    return found


def table1(results="results", train=False, device="auto") -> pd.DataFrame:
    """Table 1 as a reader sees it, with the study's accuracy, deep cosine and ||h_L|| beside ours.

    train: train the runs that the store lacks, for days on two cores; else they show as not run.
    """
    wanted = configs(results)
    every = [c for of in wanted.values() for c in of]
    made = runs.run(every, Store(results), train=train, device=device)
    records = {r.config.id: r for r in made if r is not None}
    arms = {row: [records[c.id] for c in of if c.id in records] for row, of in wanted.items()}
    table = tables.audit_table(tables.audit_rows(arms))
    for metric, place, name in (
        ("test_acc", "test accuracy", "study's accuracy"),
        ("deep_cos", "deep cos (study's reading)", "study's deep cos"),
        ("h_norm", "‖h_L‖", "study's ‖h_L‖"),
    ):
        told = tables.reference(EXPERIMENT, metric=metric)
        theirs = [told.get(f"d=256,L=4,epochs=100,method={row}", "") for row in LABELS]
        if metric == "h_norm":
            theirs = [value and tables.magnitude([value]) for value in theirs]
        table.insert(table.columns.get_loc(place) + 1, name, theirs)
    return table
