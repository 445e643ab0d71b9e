"""What could be wrong in a source: each mutant is the text with one small mistake in it.

Not mutated: annotations, decorators, imports, assertions, `__all__` (they speak to the type checker), docstrings,
f-strings, and strings with a blank in them, which are sentences for people, or SQL. Neither is anything inside a `raise`,
but the `raise` itself is left out once.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

LONGEST = 120
"""Characters of `before` and `after`: enough to know a mutant by."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
BUILT_IN = {"bytes", "dict", "float", "int", "list", "str"}
UNSEEN = {"frozen", "kw_only", "slots"}
"""Keywords of a class that forbid things to the developer and change nothing that a user could see."""


class Mutant(NamedTuple):
    """where: the function or class it is in, dotted. nth: 1-based, of those that read alike there.

    start, end: bytes of the source that `text` takes the place of.
    """

    line: int
    where: str
    before: str
    after: str
    nth: int
    start: int
    end: int
    text: str

    @property
    def name(self) -> str:
        """What it is known by while lines move."""
        again = f" #{self.nth}" if self.nth > 1 else ""
        return f"{self.where}: {self.before} => {self.after}{again}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(source: bytes) -> list[Mutant]:
    """In the order of the source."""
    return list(_Finder(source).found())


class _Finder:
    def __init__(self, source: bytes) -> None:
        self._tree = ast.parse(source)
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._alike: Counter[tuple[str, str, str]] = Counter()

    def found(self) -> Iterator[Mutant]:
        yield from self._below(self._tree, "module")

    def _below(self, node: ast.AST, where: str) -> Iterator[Mutant]:
        for child in _seen(node):
            inner = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = child.name if where == "module" else f"{where}.{child.name}"
            for text in _mistakes(child, node):
                yield self._mutant(child, where, text)
            yield from self._below(child, inner)

    def _mutant(self, node: ast.expr | ast.stmt, where: str, text: str) -> Mutant:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[node.end_lineno - 1] + node.end_col_offset
        alike = where, _short(ast.unparse(node)), _short(text)
        self._alike[alike] += 1
        bare = isinstance(node, ast.stmt | ast.Constant)
        return Mutant(node.lineno, *alike, self._alike[alike], start, end, text if bare else f"({text})")


def _short(text: str) -> str:
    return " ".join(text.split())[:LONGEST]


def _seen(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The parts of a node in which mistakes are made. Patterns, arguments and the like are looked through."""
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Assert | ast.JoinedStr) or _is_all(child):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.keyword) and isinstance(node, ast.ClassDef) and child.arg in UNSEEN:
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            elif isinstance(child, ast.AST):
                yield from _seen(child)


def _mistakes(node: ast.expr | ast.stmt, above: ast.AST) -> Iterator[str]:
    """What may stand in a node's place."""
    match node:
        case ast.Compare(left, [op], [right]):
            yield ast.unparse(ast.Compare(left, [COMPARISONS[type(op)]()], [right]))
        case ast.Compare(left, ops, rights):
            for at, op in enumerate(ops):
                others = [*ops[:at], COMPARISONS[type(op)](), *ops[at + 1 :]]
                yield ast.unparse(ast.Compare(left, others, rights))
        case ast.BinOp(left, op, right) if type(op) in ARITHMETIC and not _is_type(left):
            yield ast.unparse(ast.BinOp(left, ARITHMETIC[type(op)](), right))
        case ast.BoolOp(op, values):
            yield ast.unparse(ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values))
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield ast.unparse(operand)
        case ast.Constant(value):
            yield from _other(value)
        case ast.AugAssign(target, op, value):
            yield "pass"
            if type(op) in ARITHMETIC:
                yield ast.unparse(ast.AugAssign(target, ARITHMETIC[type(op)](), value))
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield "return None"
        case (
            ast.Assign([ast.Attribute() | ast.Subscript() | ast.Tuple()])
            | ast.Delete()
            | ast.Expr()
            | ast.Raise()
        ):
            yield "pass"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
    if _decides(node, above):
        yield f"not ({ast.unparse(node)})"


def _other(value: object) -> Iterator[str]:
    match value:
        case bool():
            yield repr(not value)
        case int():
            yield repr(value + 1)
        case float():
            yield repr(value * 2 or 1.0)
        case bytes():
            yield repr(value + b"?")
        case str() if " " not in value:
            yield repr(value + "?")


def _is_type(node: ast.expr) -> bool:
    """`A | B` of types is no arithmetic."""
    if isinstance(node, ast.BinOp):
        return _is_type(node.left)
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return (name[:1].isupper() and not name.isupper()) or name in BUILT_IN


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _decides(node: ast.AST, above: ast.AST) -> bool:
    """A condition in which no other mistake would turn it round."""
    if isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
        return False
    if isinstance(above, ast.If | ast.While | ast.IfExp):
        return node is above.test
    return isinstance(above, ast.BoolOp)
