"""The command line: faeval, or python -m faeval_core.

What this module imports decides how fast `faeval --help` is: nothing here needs torch. A command's
flags and work are in commands.py, which is imported once a command is named.
"""

import argparse
import importlib.util
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from . import __version__
from .ground.extras import way_out
from .ground.terminal import prepare_streams, tell

COMMANDS = {
    "reproduce": "execute the notebooks through papermill, then rebuild the summaries",
    "run": "train runs that the store lacks and show them",
    "backlog": (
        "train what the notebooks list and the store lacks, by what it tells per hour; the same "
        "command goes on where it was cut off"
    ),
    "status": "what the store has, lacks, and would cost, per study",
    "audit": "an honest verdict on one method beside BP, DFA and the frozen baseline",
    "judge": "the protocol's verdict on numbers that were measured elsewhere",
    "table1": "the study's Table 1 from the records, beside the study's values",
    "data": (
        "register images of your own: train/<class>/* and test/<class>/* of a folder or tar archive"
    ),
}


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are ValueErrors, so that they end as one line like all others.

    fill: adds the flags of a command, once it is the command that was named.
    """

    fill = None

    def parse_known_args(self, args=None, namespace=None):
        fill, self.fill = self.fill, None
        if fill:
            fill(self)
        return super().parse_known_args(args, namespace)

    def error(self, message):
        raise ValueError(f"{message} (--help after a command shows what it takes)")


def parser() -> Parser:
    is_script = Path(sys.argv[0]).stem == "faeval"
    top = Parser(
        prog="faeval" if is_script else "python -m faeval_core",
        description="The command line of faeval_core.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"faeval-core {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        p = commands.add_parser(
            name,
            help=text,
            description=text,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        p.fill = filled
    return top


def filled(p: Parser) -> None:
    """Give the parser of a command its flags and its work."""
    from .cli import commands

    commands.fill(p, p.prog.rpartition(" ")[2])


def load_methods(file):
    """Import a file that registers methods, under its own name, so that worker processes find its
    classes there, too.
    """
    from .methods import METHODS
    from .models import MODELS

    path, before = Path(file), (dict(METHODS), dict(MODELS))
    if not path.is_file():
        raise ValueError(f"--method-file {file!r} is no file")
    found = None if "." in path.stem else importlib.util.find_spec(path.stem)
    if "." in path.stem or (found and found.origin != str(path)):
        raise ValueError(
            f"--method-file {file}: {path.stem!r} is no name for a module, or that of another; "
            "rename the file"
        )
    sys.path.insert(0, str(path.parent))
    importlib.reload(
        sys.modules[path.stem]
    ) if path.stem in sys.modules else importlib.import_module(path.stem)
    if (METHODS, MODELS) == before:
        raise ValueError(
            f"--method-file {file} registers no method; write @register above its class "
            "(or register_model, for a model)"
        )


def failures() -> tuple[type[Exception], ...]:
    """The errors of runs, which too end as one line; imported only once there is some error."""
    from .runs import RunsFailed
    from .training import DiagnosisFailed

    return RunsFailed, DiagnosisFailed


def mistake(error: Exception, own: str | None) -> int:
    """Say in one line what went wrong, with the traceback where a file of the user's own is in it,
    who needs the place.
    """
    errors = (error, error.__cause__) if error.__cause__ else (error,)
    frames = [frame for e in errors for frame in traceback.extract_tb(e.__traceback__)]
    if own in [frame.filename for frame in frames]:
        traceback.print_exc()
    return tell("error", error)


def main(argv=None) -> int:
    """Exit code: 0, 1 where something failed or is not run, 2 for a mistake in what was asked, 130
    after Ctrl-C, 141 where nobody reads on (`status | head`)."""
    own = None  # the user's own file
    prepare_streams()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: tell("warning", message)
        try:
            args = parser().parse_args(argv)
            own = (
                str(Path(args.method_file).resolve())
                if getattr(args, "method_file", None)
                else None
            )
            if own:
                load_methods(own)
            code = args.do(args) or 0
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            with suppress(OSError):  # into nothing what is left to flush at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            logging.disable()  # nbclient leaves a task behind, whose complaint says nothing new
            tell(
                "interrupted",
                (
                    "the same command goes on; a run of more than a minute continues from its last "
                    "checkpoint"
                ),
            )
            return 130
        except ModuleNotFoundError as e:
            return tell("error", f"{e}; {way_out(e.name)}")
        except (ValueError, OSError, MemoryError) as e:
            return mistake(e, own)
        except RuntimeError as e:
            if not isinstance(e, failures()):
                raise
            return mistake(e, own)


if __name__ == "__main__":
    sys.exit(main())
