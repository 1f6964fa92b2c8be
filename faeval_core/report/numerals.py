"""Numbers of several seeds as text."""

from statistics import geometric_mean

from ..measure.stats import mean_sd


def pm(values, digits=3) -> str:
    """'mean ± sd' of one value per seed, or '—' without any."""
    mean, sd, n = mean_sd(values)
    return (
        "—" if n == 0 else f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")
    )


def geometric(values) -> float | None:
    """Geometric mean of the positive values, None without any."""
    found = [v for v in values if v]
    return geometric_mean(found) if found else None


def magnitude(values, form=".0e") -> str:
    """Geometric mean over seeds, by default to one digit, '2e+08', or '—'."""
    found = geometric(values)
    return "—" if found is None else format(found, form)
