"""Outputs of executed notebooks, and their way back into the notebooks that are committed."""

from pathlib import Path

import nbformat

from ..ground.files import publish


def code(nb) -> list:
    """The code cells of a notebook or executed copy, without the one that papermill adds."""
    cells = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", ())]


def merged(outputs) -> list:
    """Outputs of a cell with all that it printed in one, where its first print stood, as a terminal
    shows it: of a line that carriage returns overwrite, the last state."""
    found, printed = [], {}
    for output in outputs:
        first = (
            printed.setdefault(output["name"], output)
            if output["output_type"] == "stream"
            else output
        )
        if first is output:
            found.append(output)
        else:
            first["text"] += output["text"]
    # not by nbclient, whose time goes with the square of a line's length
    for output in printed.values():
        lines = output["text"].split("\n")
        output["text"] = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return found


def put_back(path: Path, copy: Path) -> None:
    """Put the outputs of an executed copy, less stderr and widgets, into its notebook; all else
    there stays as it is.
    """
    put_outputs(path, nbformat.read(copy, as_version=4))


def put_outputs(path: Path, ran, besides="") -> None:
    """Put the outputs of a notebook that ran into the one at `path`, but for the cell `besides`."""
    nb = nbformat.read(path, as_version=4)
    if [c.source for c in code(nb)] != [c.source for c in code(ran)]:
        raise ValueError(f"{path.name} was edited while it ran; its outputs are not written back")
    widget = "application/vnd.jupyter.widget-view+json"
    for count, (cell, done) in enumerate(zip(code(nb), code(ran)), 1):
        shown = [
            o for o in done.outputs if o.get("name") != "stderr" and widget not in o.get("data", ())
        ]
        if cell.source != besides:
            cell.outputs = merged(shown)
        for part in (cell, *cell.outputs):
            if "execution_count" in part:
                part.execution_count = count
    publish(path, nbformat.writes(nb) + "\n")
