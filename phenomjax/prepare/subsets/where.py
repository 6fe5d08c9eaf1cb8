"""Conditions on the columns of a bank, such as plate == "P01" and concentration > 1.

The text is read as an expression of Python and made into comparisons of columns; nothing of it is
run. There is nothing in it but columns, values, comparisons, `in`, `and`, `or`, `not`, and
questions to a text: .startswith("…"), .endswith("…"), .contains("…"), .matches("expression").

A missing value (`None`, or `null`) is equal to nothing else, smaller and larger than nothing: `gene
!= "TP53"` is true where there is no gene.
"""

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phenomjax.system.errors import UserError, did_you_mean

Mask = Callable[[pa.RecordBatch], np.ndarray]
Value = str | int | float | bool | None
SHOWN = 1000  # values of a column that are remembered, to find the one that was meant
WORDS = {"null": None, "none": None, "true": True, "false": False}
COMPARISONS: dict[type[ast.cmpop], Callable] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
QUESTIONS: dict[str, Callable] = {
    "startswith": pc.starts_with,
    "endswith": pc.ends_with,
    "contains": pc.match_substring,
    "matches": pc.match_substring_regex,
}
EXAMPLE = """--where 'plate in ["P01", "P02"] and not is_control'"""


@dataclass
class Named:
    """Values that a condition names in a column of texts.

    Attributes:
      column: of them.
      values: that are named.
      seen: of these, those that occur.
      others: values that occur, the first SHOWN.
    """

    column: str
    values: tuple[str, ...]
    seen: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)

    def look(self, values: pa.Array, equal: pa.Array) -> None:
        """Remembers what occurs in a batch."""
        if len(self.seen) < len(set(self.values)):
            self.seen.update(pc.unique(values.filter(equal)).to_pylist())
            if len(self.others) < SHOWN:
                self.others.update(pc.unique(values.drop_null()).to_pylist()[:SHOWN])

    def unseen(self) -> Iterator[str]:
        """A sentence for each value that does not occur."""
        for value in dict.fromkeys(self.values):
            if value not in self.seen:
                near = did_you_mean(value, self.others)
                some = ", ".join(sorted(self.others)[:4])
                there = f" There are, for instance: {some}." if some and not near else ""
                yield f"No {self.column} is {value!r}.{near}{there}"


class Condition:
    """A condition that was read.

    Args:
      text: as the user writes it.
      schema: of the columns that it may name.

    Attributes:
      columns: those that it names, in order.
      named: values that it names.

    Raises:
      UserError: it cannot be read, names another column, or compares texts with numbers.
    """

    def __init__(self, text: str, schema: pa.Schema):
        self.text, self._schema = text, schema
        self.columns: list[str] = []
        self.named: list[Named] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes in regular expressions
                tree = ast.parse(text.strip(), mode="eval")
            self._mask = self._condition(tree.body)
        except SyntaxError as error:
            raise self._wrong(f"cannot be read ({error.msg}{_hint(text)})") from None
        except (ValueError, RecursionError, MemoryError):  # zeros, or thousands of brackets
            raise self._wrong("cannot be read: it is no text, or too deeply nested") from None

    def mask(self, batch: pa.RecordBatch) -> np.ndarray:
        """For each row of a batch with these columns, whether it is true."""
        return self._mask(batch)

    def _condition(self, node: ast.expr) -> Mask:
        match node:
            case ast.BoolOp(op, parts):
                both = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _joined(both, [self._condition(part) for part in parts])
            case ast.BinOp(left, ast.BitAnd() | ast.BitOr() as op, right):
                both = np.logical_and if isinstance(op, ast.BitAnd) else np.logical_or
                return _joined(both, [self._condition(left), self._condition(right)])
            case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
                inner = self._condition(operand)
                return lambda batch: ~inner(batch)
            case ast.Compare(left, ops, others):
                sides = [left, *others]
                pairs = zip(sides[:-1], ops, sides[1:], strict=True)
                return _joined(np.logical_and, [self._pair(*pair) for pair in pairs])
            case ast.Call(ast.Attribute(ast.Name(name), question), [argument], []):
                return self._question(name, question, argument)
            case ast.Name(name) if name in self._schema.names:
                if self._kind(name) != "truth":
                    raise self._wrong(f"asks nothing of {name}: compare it, {name} == …")
                self._use(name)
                return lambda batch: _true(batch[name])
            case ast.Name(name) if name.lower() not in WORDS:
                raise self._no_column(name)
            case ast.Constant(bool(value)):
                return lambda batch: np.full(len(batch), value)
        raise self._wrong(
            f"has {ast.unparse(node)[:60]} where a comparison is wanted, such as {EXAMPLE}."
            " There are ==, !=, <, <=, >, >=, in, is null, and, or, not, and of texts"
            ' .startswith("…"), .endswith("…"), .contains("…"), .matches("…")'
        )

    def _question(self, name: str, question: str, argument: ast.expr) -> Mask:
        if question not in QUESTIONS:
            raise self._wrong(
                f"asks {name}.{question}(…), which there is not: there are {', '.join(QUESTIONS)}"
            )
        value = self._value(argument)
        if self._kind(name) != "text" or not isinstance(value, str):
            raise self._wrong(f"asks .{question}(…) of {name}: it is asked of texts, for a text")
        self._use(name)
        ask = QUESTIONS[question]
        try:
            ask(pa.array([""]), value)
        except pa.ArrowInvalid as error:
            raise self._wrong(
                f"has {value!r}, which is no regular expression ({str(error).split(':')[-1]})"
            ) from None
        return lambda batch: _true(ask(batch[name], value))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Mask:
        if isinstance(op, ast.In | ast.NotIn):
            return _turned(self._among(left, right), isinstance(op, ast.NotIn))
        if any(isinstance(side, ast.BinOp) for side in (left, right)):
            raise self._wrong("joins comparisons with & or |: each of them stands in brackets")
        names = [self._column(side) for side in (left, right)]
        if names[0] is None:
            if names[1] is None:
                raise self._wrong(f"compares {ast.unparse(left)[:60]} with no column")
            return self._pair(right, _MIRRORED.get(type(op), type(op))(), left)
        name, negated = names[0], isinstance(op, ast.NotEq | ast.IsNot)
        self._use(name)
        if names[1] is not None:
            return self._columns(name, op, names[1])
        value = self._value(right)
        if value is None:
            if not isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                raise self._wrong(f"compares {name} with null: write `{name} is null`")
            return _turned(lambda batch: _true(pc.is_null(batch[name])), negated)
        self._check_type(name, value)
        if type(op) in COMPARISONS:
            compare = COMPARISONS[type(op)]
            return lambda batch: _true(compare(batch[name], value))
        return _turned(self._equal(name, [value]), negated)

    def _columns(self, name: str, op: ast.cmpop, other: str) -> Mask:
        self._use(other)
        if self._kind(name) != self._kind(other):
            raise self._wrong(
                f"compares {name}, a {self._kind(name)}, with {other}, a {self._kind(other)}"
            )
        if type(op) in COMPARISONS:
            compare = COMPARISONS[type(op)]
            return lambda batch: _true(compare(batch[name], batch[other]))
        equal: Mask = lambda batch: (  # noqa: E731
            _true(pc.equal(batch[name], batch[other]))
            | _true(pc.and_(pc.is_null(batch[name]), pc.is_null(batch[other])))
        )
        return _turned(equal, isinstance(op, ast.NotEq | ast.IsNot))

    def _among(self, left: ast.expr, right: ast.expr) -> Mask:
        """`column in [values]`, or `"text" in column`."""
        name = self._column(left)
        if name is None:
            other, value = self._column(right), self._value(left)
            if other is None or not isinstance(value, str) or self._kind(other) != "text":
                raise self._wrong(
                    f'has {ast.unparse(left)[:60]} in …: write `COLUMN in ["A", "B"]`, or `"TEXT"'
                    " in COLUMN`"
                )
            self._use(other)
            return lambda batch: _true(pc.match_substring(batch[other], value))
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._wrong(
                f'has {name} in {ast.unparse(right)[:60]}: write {name} in ["A", "B"]'
            )
        values = [self._value(one) for one in right.elts]
        for value in values:
            if value is not None:
                self._check_type(name, value)
        self._use(name)
        return self._equal(name, values)

    def _equal(self, name: str, values: list[Value]) -> Mask:
        kind = self._kind(name)
        known = [value for value in values if value is not None]
        texts = Named(name, tuple(str(value) for value in known))
        if kind == "text":
            self.named.append(texts)
        # of numbers: as floating point, so that 1 and 1.0 are one value whatever the column holds
        types = {"text": pa.string(), "number": pa.float64(), "truth": pa.bool_()}
        wanted = pa.array([float(v) if kind == "number" else v for v in known], types[kind])

        def mask(batch: pa.RecordBatch) -> np.ndarray:
            column = batch[name].cast(types[kind])
            equal = pc.is_in(column, value_set=wanted)
            if kind == "text":
                texts.look(column, equal)
            found = _true(equal)
            return found | _true(pc.is_null(column)) if None in values else found

        return mask

    def _column(self, node: ast.expr) -> str | None:
        """The column that a side of a comparison names; None of a value."""
        if not isinstance(node, ast.Name):
            return None
        if node.id in self._schema.names:
            return node.id
        if node.id.lower() in WORDS:
            return None
        raise self._no_column(node.id)

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(str() | int() | float() | bool() | None as value):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
                return -value
            case ast.Name(name) if name.lower() in WORDS:
                return WORDS[name.lower()]
            case ast.Name(name):
                raise self._no_column(name)
        raise self._wrong(f"has {ast.unparse(node)[:60]} where a text or a number is wanted")

    def _kind(self, name: str) -> str:
        if name not in self._schema.names:
            raise self._no_column(name)
        kind = self._schema.field(name).type
        if pa.types.is_boolean(kind):
            return "truth"
        numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return "number" if numbers else "text"

    def _check_type(self, name: str, value: Value) -> None:
        kind, text = self._kind(name), f"{value}"
        given = (
            "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        )
        if kind == given:
            if isinstance(value, int) and abs(value) >= 2**63:
                raise self._wrong(f"compares {name} with {text[:20]}…, which is too large")
            return
        mend = {
            "text": f"write '{text}' in quotes",
            "number": "write a number without quotes",
            "truth": f"write {name} or not {name}",
        }
        of = {"text": "texts", "number": "numbers", "truth": "true and false"}
        raise self._wrong(f"compares {name}, which holds {of[kind]}, with {value!r}: {mend[kind]}")

    def _use(self, name: str) -> None:
        if name not in self.columns:
            self.columns.append(name)

    def _no_column(self, name: str) -> UserError:
        near = did_you_mean(name, self._schema.names)
        return UserError(
            f"`where` {self.text[:200]!r} names {name!r}, which is no column of the bank.{near}"
            f" There are: {', '.join(self._schema.names)}. A text stands in quotes, '{name}'."
        )

    def _wrong(self, what: str) -> UserError:
        end = "" if what.endswith("?") else "."
        return UserError(f"`where` {self.text[:200]!r} {what}{end}")


_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}


def _joined(both: np.ufunc, masks: list[Mask]) -> Mask:
    return lambda batch: both.reduce([mask(batch) for mask in masks])


def _turned(mask: Mask, negated: bool) -> Mask:
    return (lambda batch: ~mask(batch)) if negated else mask


def _true(values: pa.Array) -> np.ndarray:
    """Where a truth value is known and true."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _hint(text: str) -> str:
    if re.search(r"(?<![=!<>])=(?!=)", text):
        return "; equal is written =="
    if re.search(r"\b(AND|OR|NOT|IN|IS)\b|&&|\|\||<>", text):
        return "; write and, or, not, in, is in small letters, and != for not equal"
    return f"; write it like {EXAMPLE}"
