"""Small faults in a module's source, one at a time: what a test of that module should see.

A mutant is an edit of the text, so that all else of the file, its line numbers too, stays as it is. Left alone is what
no test can or should see: annotations, decorators, docstrings, logging, the words of messages.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

_FLIPPED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "==", "in": "not in", "is": "is not"}
_FLIPPED |= {flipped: symbol for symbol, flipped in _FLIPPED.items()}
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}
_COMPARISON = re.compile(r"is\s+not\b|not\s+in\b|\bis\b|\bin\b|[<>=!]=|[<>]")
_LOGGING = {"debug", "info", "warning", "error", "exception", "simplefilter"}
_AROUND = 32  # characters of the line that are shown on each side of an edit


@dataclass(frozen=True)
class Mutant:
    """One edited file. Its file, function and change name it, whatever its line number becomes."""

    file: str
    line: int
    function: str  # qualified, or <module>
    change: str  # operator: before -> after
    source: bytes


@dataclass(frozen=True)
class _Edit:
    """Bytes of the file and what takes their place."""

    start: int
    end: int
    text: bytes


def mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its text. A few are no Python: see compiles."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found, seen = [], Counter[tuple[str, str]]()
    for operator, function, edits in sorted(finder.found, key=lambda one: (one[2][0].start, one[0])):
        line = source.count(b"\n", 0, edits[0].start) + 1
        mutant = Mutant(file, line, function, f"{operator}: {_shown(source, edits)}", edited(source, edits))
        seen[mutant.function, mutant.change] += 1
        if (count := seen[mutant.function, mutant.change]) > 1:
            mutant = replace(mutant, change=f"{mutant.change} #{count}")
        found.append(mutant)
    return found


def compiles(mutant: Mutant) -> bool:
    """Whether it is Python: an edit of one argument may break the form of another."""
    try:
        ast.parse(mutant.source)
    except SyntaxError:
        return False
    return True


def edited(source: bytes, edits: list[_Edit]) -> bytes:
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        source = source[: edit.start] + edit.text + source[edit.end :]
    return source


def probed(source: bytes, probe: str) -> tuple[bytes, dict[int, int]]:
    """The module with a call at the start of each block, and the block's number of each line that lies in one.

    probe: a statement, with {} for the number of the block.
    """
    starts = _starts(source)
    edits, blocks = [], {}
    # From the outside in, so that a line ends up with the innermost block.
    for number, body in enumerate(_blocks(ast.parse(source))):
        first = min([body[0].lineno, *(decorator.lineno for decorator in getattr(body[0], "decorator_list", []))])
        before, rest = (line := source[starts[first - 1] :])[: body[0].col_offset], line[body[0].col_offset :]
        if before.strip() or rest.startswith(b"elif"):  # no block of its own lines
            continue
        edits.append(_Edit(starts[first - 1], starts[first - 1], before + probe.format(number).encode() + b"\n"))
        blocks.update(dict.fromkeys(range(first, (body[-1].end_lineno or first) + 1), number))
    return edited(source, edits), blocks


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.ClassDef):
            for name in ("body", "orelse", "finalbody"):
                body = getattr(child, name, None)
                if isinstance(body, list) and (body := body[1:] if _is_docstring(body) else body):
                    yield body
        yield from _blocks(child)


def _is_docstring(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def _starts(source: bytes) -> list[int]:
    return [0, *(at + 1 for at, byte in enumerate(source) if byte == ord("\n"))]


def _shown(source: bytes, edits: list[_Edit]) -> str:
    start, end = edits[0].start, max(edit.end for edit in edits)
    left = source[source.rfind(b"\n", 0, start) + 1 : start].lstrip()[-_AROUND:]
    right = source[end : source.find(b"\n", end)][:_AROUND].rstrip()
    after = edited(source[:end], edits)[start:]
    return " -> ".join(_cut(left + middle + right) for middle in (source[start:end], after))


def _cut(text: bytes) -> str:
    words = " ".join(text.decode(errors="ignore").split())
    return words if len(words) <= 4 * _AROUND else f"{words[: 2 * _AROUND]} ... {words[-2 * _AROUND :]}"


class _Finder(ast.NodeVisitor):
    """Collects (operator, function, edits)."""

    def __init__(self, source: bytes) -> None:
        self._source, self._starts = source, _starts(source)
        self._scope: list[str] = []
        self._raising = False
        self.found: list[tuple[str, str, list[_Edit]]] = []

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def _text(self, node: ast.expr) -> bytes:
        return self._source[self._start(node) : self._end(node)]

    def _add(self, operator: str, *edits: _Edit) -> None:
        self.found.append((operator, ".".join(self._scope) or "<module>", list(edits)))

    def _put(self, operator: str, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(operator, _Edit(self._start(node), self._end(node), text.encode()))

    def _between(self, left: ast.expr, right: ast.expr, symbol: str, text: str) -> _Edit:
        """The operator between two operands, which may be in parentheses."""
        between = self._source[self._end(left) : self._start(right)]
        at = self._end(left) + between.index(symbol.encode())
        return _Edit(at, at + len(symbol), text.encode())

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        if not isinstance(node, ast.ClassDef):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.visit(default)
        for statement in node.body[1:] if _is_docstring(node.body) else node.body:
            self.visit(statement)
        self._scope.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _visit_scope  # noqa: N815 - ast's names

    def visit_Module(self, node: ast.Module) -> None:
        for statement in node.body[1:] if _is_docstring(node.body) else node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Of words; and what is in its braces has no position in Python 3.11."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._raising = True
        self.generic_visit(node)
        self._raising = False

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._condition(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.generic_visit(node)

    def _condition(self, test: ast.expr) -> None:
        if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
            self._put("condition", test, f"not {self._text(test).decode()}")

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(call, ast.Call):
            if isinstance(call.func, ast.Attribute) and call.func.attr in _LOGGING:
                return
            self._put("statement", node, "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._put("return", node.value, "None")
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            between = self._source[self._end(left) : self._start(right)].decode()
            if symbol := _COMPARISON.search(between):
                plain = " ".join(symbol.group().split())
                for operator, others in (("comparison", _FLIPPED), ("boundary", _BOUNDARY)):
                    if plain in others:
                        self._add(operator, self._between(left, right, symbol.group(), others[plain]))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        pairs = zip(node.values, node.values[1:], strict=False)
        self._add("boolean", *(self._between(left, right, symbol, other) for left, right in pairs))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add("not", _Edit(self._start(node), self._start(node) + len("not"), b""))
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        of_text = any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (node.left, node.right))
        if (change := _ARITHMETIC.get(type(node.op))) and not of_text:
            self._add("arithmetic", self._between(node.left, node.right, *change))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            comma = re.match(rb"[\s)]*?,\s*", self._source[self._end(keyword) :])
            end = self._end(keyword) + (comma.end() if comma else 0)
            self._add("argument", _Edit(self._start(keyword), end, b""))
        commutes = isinstance(node.func, ast.Name) and node.func.id in ("max", "min")
        for left, right in zip(node.args, node.args[1:], strict=False):
            starred = isinstance(left, ast.Starred) or isinstance(right, ast.Starred)
            if not commutes and not starred and self._text(left) != self._text(right):
                swapped = (_Edit(self._start(left), self._end(left), self._text(right)),)
                self._add("order", *swapped, _Edit(self._start(right), self._end(right), self._text(left)))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._put("constant", node, str(not value))
        elif isinstance(value, int | float):
            self._put("constant", node, repr(value + 1))
            self._put("constant", node, f"({value - 1!r})" if value < 1 else repr(value - 1))
        elif isinstance(value, str) and not self._raising and not re.search(r"\s", value):
            self._put("text", node, repr(f"{value}X"))  # a name; prose has spaces


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
