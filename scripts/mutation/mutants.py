"""Mutants: small changes of the sources of hardware, made on their syntax trees."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

SWAPPED_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
"""What a binary operator becomes."""

SWAPPED_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
"""What a comparison becomes."""

SWAPPED_METHODS = {"any": "all", "all": "any"}
"""What a reduction becomes."""

CONDITIONS = ("If", "Elif")
"""Methods of a module whose argument is a condition."""

SHAPES = ("Signal", "StructLayout", "ArrayLayout")
"""Calls whose numbers are widths. They only become smaller: a signal that is too wide works as well."""

NOT_BEHAVIOUR = ("name", "attrs", "reset_less")
"""Keyword arguments that only name things, or advise synthesis."""


@dataclass(frozen=True)
class Mutant:
    """One small change of one file.

    Attributes
    ----------
    file
        Path from the root of the checkout.
    scope
        Class and function that hold the change.
    before, after
        The smallest statement, condition or assignment around the change; an empty text if it is left out.
    node, variant
        What is changed: index of the node in the order of `ast.walk`, and which of its changes.
    """

    file: str
    scope: str
    before: str
    after: str
    node: int
    variant: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same when other places of the file change."""
        return self.file, self.scope, self.before, self.after

    def __str__(self) -> str:
        return f"{self.file}, {self.scope}: {self.before} -> {self.after or '(left out)'}"


@dataclass
class Site:
    """A node of a syntax tree that can be changed.

    Attributes
    ----------
    node
        Index in the order of `ast.walk`.
    parent, field, position
        Where the node hangs: a field of its parent, and the position if the field is a list.
    unit
        The smallest statement, condition or assignment around the node; may be the node itself.
    scope
        Class and function around the node.
    in_shape
        Whether the node is in a call of `SHAPES`.
    """

    node: int
    parent: ast.AST
    field: str
    position: int | None
    unit: ast.AST
    scope: str
    in_shape: bool

    @property
    def value(self) -> ast.AST:
        """What hangs there."""
        value = getattr(self.parent, self.field)
        return value if self.position is None else value[self.position]

    @property
    def is_assignment(self) -> bool:
        """Whether it is one of the assignments of ``m.d.domain += [...]``."""
        return isinstance(self.parent, ast.List) and self.field == "elts"

    def replace(self, new: ast.AST | None) -> None:
        """Hangs another node there, or none."""
        if self.position is None:
            setattr(self.parent, self.field, new)
        elif new is None:
            del getattr(self.parent, self.field)[self.position]
        else:
            getattr(self.parent, self.field)[self.position] = new


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    found = []
    for site in list(_sites(ast.parse(source))):
        before = _text(site.unit)
        for variant, new in enumerate(_changes(site)):
            after = _text_with(site, new)
            if before != after:
                found.append(Mutant(file, site.scope, before, after, site.node, variant))
    return found


def mutate(source: str, mutant: Mutant) -> ast.Module:
    """The syntax tree of a file with the mutant's change."""
    tree = ast.parse(source)
    site = next(site for site in _sites(tree) if site.node == mutant.node)
    site.replace(_changes(site)[mutant.variant])
    return ast.fix_missing_locations(tree)


def _text_with(site: Site, new: ast.AST | None) -> str:
    """Text of a site's unit with another node in the site's place; empty if that leaves nothing."""
    old = site.value
    if old is site.unit:
        return "" if new is None or isinstance(new, ast.Pass) else _text(new)
    site.replace(new)
    text = _text(site.unit)
    site.replace(old)
    return text


def _text(unit: ast.AST) -> str:
    """Source text of an expression or a statement; of one with a body, the head."""
    if isinstance(unit, (ast.With, ast.For, ast.While, ast.If)):
        unit = copy.copy(unit)
        unit.body = []
        if not isinstance(unit, ast.With):
            unit.orelse = []
    return ast.unparse(unit)


def _sites(tree: ast.Module) -> Iterator[Site]:
    """The nodes in bodies of functions, those of constructors excepted: they hold ports, not behaviour."""
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}
    for function, scope in _functions(tree, ""):
        for position, statement in enumerate(function.body):
            site = Site(numbers[id(statement)], function, "body", position, statement, scope, in_shape=False)
            yield from _walk(site, numbers)


def _functions(node: ast.AST, scope: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{scope}{child.name}.")
        elif isinstance(child, ast.FunctionDef) and child.name != "__init__":
            yield child, f"{scope}{child.name}"


def _walk(site: Site, numbers: dict[int, int]) -> Iterator[Site]:
    """A site and those below it, in the order of the text; not what only names things or complains."""
    node = site.value
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.FunctionDef)):
        return
    if isinstance(node, ast.keyword) and node.arg in NOT_BEHAVIOUR:
        return
    if isinstance(node, ast.stmt) or site.is_assignment:
        site.unit = node
    yield site
    in_shape = site.in_shape or (isinstance(node, ast.Call) and _called(node) in SHAPES)
    for name, value in ast.iter_fields(node):
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for position, child in children:
            if isinstance(child, ast.AST) and id(child) in numbers:
                yield from _walk(
                    Site(numbers[id(child)], node, name, position, site.unit, site.scope, in_shape), numbers
                )


def _changes(site: Site) -> list[ast.AST | None]:
    """What may stand in a node's place; None leaves it out."""
    node = site.value
    changes: list[ast.AST | None] = []
    if isinstance(node, ast.BinOp):
        changes += _binary_changes(node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPPED_COMPARISONS:
        changes.append(ast.Compare(node.left, [SWAPPED_COMPARISONS[type(node.ops[0])]()], node.comparators))
    elif isinstance(node, ast.UnaryOp):
        changes.append(node.operand)
    elif isinstance(node, ast.Constant):
        changes += [ast.Constant(value) for value in _near(node.value, smaller=site.in_shape)]
    elif isinstance(node, ast.AugAssign) and not isinstance(node.value, ast.List):
        changes.append(ast.Pass())
    elif isinstance(node, ast.Call):
        changes += _call_changes(node)
        if site.is_assignment and _called(node) == "eq":
            changes.append(None)
    return changes


def _binary_changes(node: ast.BinOp) -> Iterator[ast.expr]:
    """Another operator; of a conjunction or a disjunction, either operand alone."""
    if type(node.op) in SWAPPED_OPERATORS:
        yield ast.BinOp(node.left, SWAPPED_OPERATORS[type(node.op)](), node.right)
    if isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        yield from (node.left, node.right)


def _near(value: object, *, smaller: bool) -> list[object]:
    """The other Boolean, or the neighbours of a number, or only the smaller one."""
    if isinstance(value, bool):
        return [not value]
    if not isinstance(value, int):
        return []
    return [value - 1] * (value > 0) + [value + 1] * (not smaller)


def _call_changes(node: ast.Call) -> Iterator[ast.expr]:
    """Negated conditions, swapped alternatives, other reductions."""
    name = _called(node)
    if name in CONDITIONS:
        negated = ast.Compare(node.args[0], [ast.Eq()], [ast.Constant(0)])
        yield ast.Call(node.func, [negated], node.keywords)
    if name == "Mux":
        condition, one, other = node.args
        yield ast.Call(node.func, [condition, other, one], node.keywords)
    if name in SWAPPED_METHODS and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, SWAPPED_METHODS[name], ast.Load()), [], [])


def _called(node: ast.Call) -> str:
    """Name of the function or method that a call calls; empty if it has none."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))
