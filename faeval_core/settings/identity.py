"""What ids are reckoned against: the value of each field and option when it entered the identity.

A run's id leaves out what has the value given here, so that a field or option that is new keeps
the ids of what was run without it, and a record that lacks one is read with the value given here.
Ids do not depend on what the defaults of RunConfig, of methods and of models are now: nothing here
changes when a default does. A new field or option is entered with the value that says what was run
before it was there.
"""

FIELDS = {  # not here, so always told: method, options, diagnose, upstream
    "dataset": "cifar10",
    "model": "resmlp",
    "width": 256,
    "depth": 4,
    "terminal_ln": True,
    "residual": True,
    "seed": 42,
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "momentum": 0.9,
    "schedule": "cosine",
    "augment": True,
    "labels": "true",
    "embedding": "rule",
    "credit_norm": "raw",
    "norm_embedding": True,
    "credit_level": "output",
    "penalty": 0.0,
    "penalty_h0": 0.0,
    "penalty_reduction": "sum",
    "rule": "inner",
    "eta": 0.1,
    "clip": 0.0,
    "precision": "fp32",
    "train_net": True,
    "exploit": False,
    "upstream_epoch": 0,
}

FEEDBACK = {"feedback_scale": 1.0}
LEARNED = FEEDBACK | {
    "code": "eT",
    "hidden": 256,
    "layers": 2,
    "alpha": 1.0,
    "wr": 0.0,
    "start": 0,
    "stop": 0,
    "decay": False,
    "last": 0,
    "mix": "raw",
    "freeze_after": -1,
    "refit_every": 0,
}
OPTIONS = {  # method -> option -> value
    "dfa": FEEDBACK,
    "frozen_dfa": FEEDBACK,
    "fa": FEEDBACK | {"feedback": "random"},
    "ep": {
        "beta": 1 / 128,
        "steps": 10,
        "step": 0.5,
        "symmetric": False,
        "relax_h0": True,
        "double": False,
    },
    "sb": LEARNED | {"loss": "nmse", "skip": False},
    "cb": LEARNED | {"wr": 0.2, "temperature": 0.1, "K": 8, "noise": 0.1, "ema": 0.995, "tgw": 1.0},
    "vec": LEARNED
    | {
        "M": 4,
        "fd_step": 0.01,
        "one_sided": False,
        "tw": 1.0,
        "target": "fd",
        "inputs": "full",
        "source": "net",
        "step": "relative",
        "units": "delta_L",
    },
}
MODEL_OPTIONS = {  # model -> option -> value
    "studentnet": {"alpha": 1.0},
    "toylq": {"mixing": 0.14},
    "vitmini": {"patch": 4, "heads": 4, "mlp_ratio": 2},
    "convnet": {"channels": 32},
}


def told(values: dict, known: dict) -> dict:
    """Those of `values` that an id tells: all but what has its value in the table `known`."""
    return {k: v for k, v in values.items() if k not in known or v != known[k]}
