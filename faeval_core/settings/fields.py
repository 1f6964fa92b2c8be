"""Every setting of a run, declared once: its default, what it means, and how members of an
ensemble may differ in it.
"""

from dataclasses import dataclass, field, fields

CHOICES = {  # of the settings that take one of a few words
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "constant"),
    "labels": ("true", "random"),
    "embedding": ("rule", "init", "exact", "shared"),
    "credit_norm": ("raw", "sample_rms", "batch_rms", "sample_rms_g"),
    "penalty_reduction": ("sum", "mean"),
    "rule": ("inner", "target", "cosine"),
    "credit_level": ("output", "input"),
    "precision": ("fp32", "bf16"),
}


def setting(default, help: str, *, member=False, in_state=False, gate=False):
    """A field of `Settings`.

    help: what it means, as the command line says it. member: runs that differ in nothing but such
    fields train together as one ensemble. in_state: a member's state holds it, and a method reads
    it there. gate: its zero switches a term off, so that members agree in whether it is zero.
    """
    marks = {"help": help, "member": member, "in_state": in_state, "gate": gate}
    return field(default=default, metadata=marks)


def nothing(help: str):
    """A field of `Settings` that is an empty dict by default."""
    return field(default_factory=dict, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """All fields of a RunConfig, which checks them."""

    method: str = field(metadata={"help": "the rule that trains"})
    dataset: str = setting("cifar10", "name of the images")
    model: str = setting("resmlp", "the net")
    width: int = setting(256, "units of each hidden state")
    depth: int = setting(4, "number of blocks")
    terminal_ln: bool = setting(True, "a LayerNorm before the readout")
    residual: bool = setting(True, "each block adds to its input")
    seed: int = setting(42, "of all random streams", member=True)
    epochs: int = setting(100, "passes over the training set")
    batch_size: int = setting(128, "images of one step")
    optimizer: str = setting("adamw", "what takes the steps")
    lr: float = setting(1e-3, "learning rate of the first epoch", member=True)
    weight_decay: float = setting(0.01, "decoupled, as a factor of the rate", member=True)
    momentum: float = setting(0.9, "of sgd", member=True, gate=True)
    schedule: str = setting("cosine", "of the learning rate")
    augment: bool = setting(True, "crop and flip the training images at random")
    labels: str = setting("true", "of the training images", member=True)
    embedding: str = setting("rule", "what trains the embedding")
    credit_norm: str = setting("raw", "what a block's credit is divided by")
    norm_embedding: bool = setting(True, "normalise the embedding's credit too")
    credit_level: str = setting("output", "the level whose credit a block hears")
    penalty: float = setting(
        0.0, "λ of the term λ‖f_l‖² of every block", member=True, in_state=True, gate=True
    )
    penalty_h0: float = setting(0.0, "λ of the term λ‖h_0‖²", member=True, in_state=True, gate=True)
    penalty_reduction: str = setting("sum", "how a penalty adds up over features")
    rule: str = setting("inner", "how credit moves a block")
    eta: float = setting(0.1, "size of the step of rule=target", member=True, in_state=True)
    clip: float = setting(0.0, "largest norm of each block's gradient; 0: none", member=True)
    precision: str = setting("fp32", "of the matrix products of training")
    train_net: bool = setting(True, "off: only the method's auxiliary net learns")
    exploit: bool = setting(False, "try local steps of the rule after the last epoch")
    model_options: dict = nothing("of the model")
    options: dict = nothing("of the method")
    diagnose: tuple = setting((), "epochs with per-level diagnostics beside the last")
    upstream: "Settings | None" = setting(None, "the run that it starts from", member=True)
    upstream_epoch: int = setting(0, "the epoch of that run", member=True)
    code: str | None = field(default=None, repr=False)


def marked(mark: str) -> tuple[str, ...]:
    """Names of the settings that are declared as a `mark`."""
    return tuple(f.name for f in fields(Settings) if f.metadata.get(mark))


# Fields that differ only in values: runs that agree on all others train together as one ensemble.
MEMBER_FIELDS = marked("member")
IN_STATE = marked("in_state")  # those of them that a member's state holds
GATES = marked("gate")  # those whose zero switches a term off
