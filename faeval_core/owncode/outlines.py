"""Functions as text, by their syntax tree; by their bytecode where the source is gone."""

import __future__

import ast
import dis
import functools
import linecache
import types

FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
WITHOUT_EFFECT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}
LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")


def outline(node) -> str:
    """A syntax tree as text: no positions, docstrings and annotations, alike in all Pythons."""
    if isinstance(node, list):
        return f"[{','.join(outline(n) for n in node if not _does_nothing(n))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(k, v) for k, v in ast.iter_fields(node) if k not in WITHOUT_EFFECT]
    told = (f"{k}={outline(v)}" for k, v in fields if v is not None and v != [])
    return f"{type(node).__name__}({','.join(told)})"


def _does_nothing(node) -> bool:
    """Whether a statement is `pass`, or a constant alone, such as a docstring."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def nested(code):
    """A code object and all those inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from nested(const)


@functools.lru_cache(maxsize=256)
def _compiled(text: str, flags: int):
    """(code objects of a text, its functions by first line) as Python compiles it now."""
    tree = ast.parse(text)
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            lines = [d.lineno for d in getattr(node, "decorator_list", ())]
            functions.setdefault(min([*lines, node.lineno]), []).append(node)
    module = compile(tree, "text", "exec", flags=flags, dont_inherit=True)
    return set(nested(module)), functions


def from_source(code) -> str | None:
    """Outline of the function with this code; None where its text is gone, or of other code."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    try:
        known, functions = _compiled(text, code.co_flags & FUTURE)
    except (SyntaxError, ValueError):
        return None
    there = functions.get(code.co_firstlineno, ())
    found = [node for node in there if getattr(node, "name", "<lambda>") == code.co_name]
    return outline(found) if found and code in known else None


@functools.lru_cache(maxsize=4096)
def globals_used(code) -> tuple:
    """(global, attribute, …) of each global that a code reads; (import, module) of its imports."""
    found = set()
    for part in nested(code):
        chain = ()
        for step in dis.get_instructions(part):
            if chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain += (step.argval,)
            elif step.opname != "EXTENDED_ARG":
                found.add(chain)
                chain = (step.argval,) if step.opname in LOADS else ()
            if step.opname == "IMPORT_NAME":
                found.add(("import", step.argval))
        found.add(chain)
    return tuple(sorted(found - {()}))
