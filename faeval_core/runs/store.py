"""The store: one readable JSON per run, verified when read, beside checkpoints and snapshots."""

import warnings
from collections import Counter

from ..ground.files import UNREADABLE, publish_json
from ..methods import METHODS
from .record import RecordRefused, RunRecord, StoreFault
from .record_files import RecordFiles
from .tensor_files import TensorFiles


class Store(RecordFiles, TensorFiles):
    """Records under root/records (to be committed); checkpoints and snapshots under
    root/checkpoints (not).
    """

    def all(self) -> list[RunRecord]:
        """Every record of the rules and models that are known here, ordered by file name; one
        warning says what is left out.
        """
        found, left = self.survey()
        if left:
            told = ", ".join(f"{count} {reason}" for reason, count in left.items())
            warnings.warn(f"of the records in {self.root} these are left out: {told}", stacklevel=2)
        return found

    def survey(self) -> tuple[list[RunRecord], Counter]:
        """(the records of `all`, reason -> number of those left out)."""
        found, left = [], Counter()
        for path in sorted((self.root / "records").glob("*.json")):
            if path.stem.rpartition("-")[0] not in METHODS:
                left["of methods that are not known here"] += 1
                continue
            try:
                record = self._read(path)
            except RecordRefused:
                left["of models, versions of faeval or images that are not those of here"] += 1
            except StoreFault:
                raise
            except UNREADABLE:
                left[f"unreadable, such as {path.name}"] += 1
            else:
                c = record.config
                if path != self._place(c):
                    left["of an older version of their method or model"] += 1
                elif c.code != c.code_now():
                    left["of other code than their method or model has here"] += 1
                else:
                    found.append(record)
        return found, _merged(left)

    def check_dataset(self, data) -> None:
        """Compare a dataset with the fingerprint this store's records were made on; note it where
        it is new.
        """
        # else two processes that note new datasets at once would lose one of them
        with self.lock("datasets"):
            known = self._datasets()
            if data.name not in known:
                publish_json(
                    self.root / "datasets.json",
                    dict(sorted({**known, data.name: data.fingerprint}.items())),
                )
        if (expected := known.get(data.name, data.fingerprint)) != data.fingerprint:
            here = f"dataset {data.name!r} here has fingerprint {data.fingerprint}"
            way_out = "register your images under another name, or use another results folder"
            raise ValueError(
                f"{here}, but the records in {self.root} were made on {expected}; {way_out}"
            )


def _merged(left: Counter) -> Counter:
    """One line for all unreadable records, with the name of the first."""
    damaged = [reason for reason in left if reason.startswith("unreadable")]
    merged = Counter({reason: n for reason, n in left.items() if reason not in damaged})
    return merged + Counter({damaged[0]: len(damaged)}) if damaged else merged
