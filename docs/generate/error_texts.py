"""Every error that a user can meet: its text, its cause, its mend, where it is raised.

The texts are read from the source. What is put in when an error is raised stands in angle brackets,
by the name that it has in the code; a text that a local name or a small function of the same module
holds is put in.
"""

import ast
import builtins
import collections
import dataclasses
import functools
import re
from collections.abc import Iterator

from phenomjax.system import errors as system_errors
from tests.kinds import offers

# not of `UserError`, but their texts reach the user
OTHERS = ("BadFile", "Damaged", "Trouble", "Problem")
# words that a mend begins with, as a sentence or behind a colon
VERBS = (
    "Add|Aggregate|Align|Ask|Begin|Bring|Call|Change|Check|Choose|Close|Compare|Continue|Convert|"
    "Copy|Correct|Cut|Delete|Divide|Do|Download|Draw|Drop|Either|Embed|End|Evaluate|Export|"
    "Fetch|Fill|Find|Fit|Forecast|Free|Give|Go|Hold|Install|Join|Keep|Label|Lay|Leave|Let|"
    "List|Look|Lower|Make|Map|Match|Measure|Mend|Merge|Move|Name|Open|Order|Pass|Pick|Point|"
    "Prepare|Profile|Put|Quote|Raise|Read|Remove|Rename|Renew|Renumber|Repair|Replace|Restore|Resume|Run|Save|Say|Score|See|"
    "Select|Set|Shorten|Sort|Spell|Split|Start|State|Stop|Submit|Take|Tell|Train|Try|Turn|"
    "Unpack|Use|Wait|Widen|Write"
)
KNOWN = (  # what there is, or why it may be
    r"(?:It|They|There|Here|Each|Its \w+|The \w+|\S+)"
    r" (?:can be|has|have|must be|may be|are|is one of|holds|knows|needs)[: ]"
    r"|(?:In \S+|Found there|There|Example|(?:The )?[Uu]sual causes?.*): "
    r"|.*\?$|⟨(?:mend|hint|advice)⟩"
)
ORDER = re.compile(
    r"(?:⟨[^⟩]*⟩ )*(?:(?:To .*, |If .*, |For .*, |Then |Or |First |You can )?"
    rf"(?i:{VERBS})\b|--|`python|Did you mean|See |Perhaps )"
)
CLAUSE = re.compile(
    rf"[:;,—] (?:or |so |and |then )?(?:(?:{VERBS.lower()})\b|--|`?python -m"
    r"|`?pip install|it (?:can be|has|must be|is|takes|needs|reads)\b|there (?:is|are) |at least )"
    r"|\b(?:must(?! not)|wants|needs|may not|may be|belongs?|is for)\b"
)
# names that say nothing of a value
EMPTY = {*dir(builtins), *dir(str), *dir(dict), "c", "error", "first_of", "m", "name", "o"}
EMPTY |= {"options", "quote", "self", "settings", "shlex", "url"}
CODES = {n: getattr(system_errors, n) for n in dir(system_errors) if n.startswith("EXIT_")}
HOLE = re.compile(r"⟨[^⟩]*⟩")


@dataclasses.dataclass(frozen=True)
class Error:
    """A text that the code raises.

    Attributes:
      module, line, function: where.
      text: all of it.
      code: the exit code, where it is not 2; else 0.
    """

    module: str
    line: int
    function: str
    text: str
    code: int

    @property
    def room(self) -> str:
        """The folder below phenomjax that it stands in, or the file."""
        return self.module.split(".")[1]

    @property
    def sentences(self) -> list[str]:
        """Its sentences; a stop within brackets, quotes or code ends none."""
        found, depth, start = list[str](), 0, 0
        for match in re.finditer(r"[⟨(`]|[⟩)`]|[.?!](?= [A-Z`'⟨-]|⟨)", self.text):
            sign = match[0]
            if sign == "`":
                depth += 1 if self.text[: match.start()].count("`") % 2 == 0 else -1
            elif sign in "⟨(":
                depth += 1
            elif sign in "⟩)":
                depth -= 1
            elif depth == 0:
                found.append(self.text[start : match.end()].strip())
                start = match.end()
        return [*found, self.text[start:].strip()]

    @property
    def mend(self) -> str:
        """What it says that one can do, or what there is to choose from: from there to its end."""
        for at, sentence in enumerate(self.sentences):
            if ORDER.match(sentence) or (at and re.match(KNOWN, sentence)):
                return " ".join(self.sentences[at:])
        for at, sentence in enumerate(self.sentences):
            if found := CLAUSE.search(sentence):
                start = found.start() + (sentence[found.start()] in ":;,—")
                return " ".join([sentence[start:].strip(), *self.sentences[at + 1 :]])
        return ""

    @property
    def what(self) -> str:
        """What is wrong, and why: the sentences before the mend."""
        return self.text.removesuffix(self.mend).strip()


@functools.cache
def names() -> frozenset[str]:
    """The classes whose texts reach the user: `UserError`, its subclasses, and OTHERS."""
    found, before = {"UserError", *OTHERS}, set[str]()
    classes = [
        node
        for tree in offers.modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    ]
    while found != before:
        before = set(found)
        found |= {one.name for one in classes if {ast.unparse(base) for base in one.bases} & found}
    return frozenset(found)


@functools.cache
def errors() -> tuple[Error, ...]:
    """All errors of the package, in the order of its files."""
    return tuple(
        error for name, tree in offers.modules().items() for error in errors_of(name, tree)
    )


def errors_of(module: str, tree: ast.Module) -> Iterator[Error]:
    """The errors of a module."""
    within = [one for top in tree.body if isinstance(top, ast.ClassDef) for one in top.body]
    functions = {n.name: n for n in (*within, *tree.body) if isinstance(n, ast.FunctionDef)}
    constants = _assigned(ast.Module([one for one in tree.body if not isinstance(one, Owner)], []))
    for owner, node in _calls(tree, ()):
        if not node.args:
            continue
        writer = _Text(functions, constants, owner[-1] if owner else tree)
        text = max((" ".join(writer.of(one).split()) for one in node.args), key=len)
        if len(re.findall(r"[a-z]{2,}", HOLE.sub("", text))) > 2:  # else it is made elsewhere
            name = ".".join(one.name for one in owner)
            code = next((CODES[e.id] for e in node.args[1:] if getattr(e, "id", "") in CODES), 0)
            yield Error(module, node.lineno, name, text, code)


Owner = ast.FunctionDef | ast.ClassDef


def _calls(node: ast.AST, owner: tuple[Owner, ...]) -> Iterator[tuple[tuple[Owner, ...], ast.Call]]:
    """The calls that make errors, with the functions and classes that they stand in."""
    for child in ast.iter_child_nodes(node):
        inner = (*owner, child) if isinstance(child, Owner) else owner
        if isinstance(child, ast.Call):
            match child.func:
                case ast.Name(id=name) if name in names():
                    yield inner, child
                case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
                    if isinstance(owner[0], ast.ClassDef) and owner[0].name in names():
                        yield inner, child
        yield from _calls(child, inner)


@functools.cache
def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """{name: what is assigned to it} within a scope."""
    found = collections.defaultdict(list)
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found[target.id].append(node.value)
    return dict(found)


class _Text:
    """An expression as the text that it makes."""

    def __init__(self, functions, constants, scope):
        self._functions, self._constants, self._scope = functions, constants, scope
        self._seen = set[str]()

    def of(self, node: ast.AST) -> str:
        match node:
            case ast.Constant(value=value):
                return str(value)
            case ast.JoinedStr(values=parts):
                return "".join(map(self.of, parts))
            case ast.FormattedValue(value=value):
                return self.of(value)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                is_text = any(self._is_text(one) for one in ast.walk(node))
                return self.of(left) + self.of(right) if is_text else self._hole(node)
            case ast.BinOp(left=left, op=ast.Mult()):  # a text that is there under a condition
                return self.of(left) if self._is_text(left) else self._hole(node)
            case ast.IfExp(body=body, orelse=orelse):
                texts = [self.of(one) for one in (body, orelse)]
                if not self._is_text(body) and not self._is_text(orelse):
                    return self._hole(node)
                return _either(texts)
            case ast.BoolOp(values=[*values]) if any(map(self._is_text, values)):
                return self.of(next(filter(self._is_text, values)))
            case ast.Name(id=name):
                return self._local(name)
            case ast.Call(
                func=ast.Attribute(value=ast.Constant(value=joint), attr="join"), args=[one]
            ):
                return self._joined(joint, one)
            case ast.Call(func=ast.Name(id="did_you_mean")):
                return " Did you mean '⟨…⟩'?"
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self"), attr=name)
            ) if name in self._functions:
                return self._returned(name)
        return self._hole(node)

    def _is_text(self, node: ast.AST) -> bool:
        return isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        )

    def _joined(self, joint: str, node: ast.AST) -> str:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self.of(node)
        if isinstance(node, ast.List | ast.Tuple):
            return joint.join(map(self.of, node.elts))
        return self._hole(node)

    def _local(self, name: str) -> str:
        """The text that a name holds, if it holds one alone."""
        found = _assigned(self._scope).get(name) or self._constants.get(name, [])
        if name in self._seen or len(found) != 1 or not self._makes_text(found[0]):
            return f"⟨{_plain(name)}⟩"
        self._seen.add(name)
        text = self.of(found[0])
        self._seen.discard(name)
        return text

    def _makes_text(self, node: ast.AST) -> bool:
        if isinstance(node, ast.IfExp):
            return self._makes_text(node.body) or self._makes_text(node.orelse)
        if isinstance(node, ast.BinOp):
            return self._makes_text(node.left)
        return self._is_text(node) and len(self.of(node)) > 12

    def _returned(self, name: str) -> str:
        """What a function of the same module returns or yields, if that is text."""
        function = self._functions[name]
        if name in self._seen:
            return f"⟨{_plain(name)}⟩"
        self._seen.add(name)
        inner = _Text(self._functions, self._constants, function)
        inner._seen = self._seen
        ends = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Return | ast.Yield) and node.value is not None
        ]
        texts = [inner.of(one) for one in ends if inner._makes_text(one)]
        self._seen.discard(name)
        return _either(texts) if texts else f"⟨{_plain(name)}⟩"

    def _hole(self, node: ast.AST) -> str:
        """What stands for a value that only the run knows: a name of its expression."""
        names = [one for one in ast.walk(node) if isinstance(one, ast.Name | ast.Attribute)]
        words = [one.id if isinstance(one, ast.Name) else one.attr for one in names]
        words = [word for word in words if word not in EMPTY]
        return f"⟨{_plain(words[0]) if words else '…'}⟩"


def _either(texts: list[str]) -> str:
    """Texts of which one is printed."""
    texts = list(dict.fromkeys(text for text in texts if text.strip(" .")))
    if len(texts) < 2:
        return "".join(texts)
    return f"[{' | '.join(texts)}]"


def _plain(name: str) -> str:
    return name.strip("_").replace("_", " ")
