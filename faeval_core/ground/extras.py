"""What `pip install faeval-core[EXTRA]` brings, by the names under which it is imported."""

EXTRAS = {
    "audit": ("matplotlib", "pandas", "scipy", "sklearn"),
    "images": ("PIL", "torchvision"),
    "notebooks": ("jupyter_client", "nbformat", "papermill", "traitlets"),
    "scale": ("cloudpickle", "cryptography", "dask", "dask_jobqueue", "distributed"),
}


def way_out(module: str | None) -> str:
    """The command that installs a module which an import did not find, by its dotted name."""
    top = (module or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if top in modules:
            return f"pip install 'faeval-core[{extra}]'"
    return f"pip install {top}" if top else "pip install -r requirements.txt"
