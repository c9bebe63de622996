"""A lint rule: in ``engines/`` no statement is pasted together from text; ``psycopg.sql`` composes it.

Refused are f-strings, ``+`` and ``%`` with a text, ``str.format`` and ``join`` on the way into ``sql.SQL``, ``execute``
and what else sends a statement, and any ``sql.SQL`` of something that is not written out in the source. The way is
followed: through names that a text was bound to before, ``+=``, ``encode()``, choices, and functions of the same
module that return one. Names for a literal of the same module, and a choice between literals, count as written out.
What is left is in a list of what was looked at, with the reason why no text of a declaration gets there.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ENGINES = Path(__file__).resolve().parents[2] / "operator" / "selvedge" / "engines"
MODULES = sorted(ENGINES.rglob("*.py"))

#: Methods whose first argument becomes a statement.
SENDING = {"execute", "executemany", "copy", "stream", "run_statement", "query"}


#: Module and argument of ``sql.SQL`` → why no declaration reaches it. An entry that nothing needs any more fails.
LOOKED_AT = {
    ("postgres/attributes_sql.py", "word"): "from a tuple in the same expression",
    ("postgres/audit_sql.py", "f'r.{name}'"): "old or new, in the same expression",
    ("postgres/audit_sql.py", "body"): "the functions' sources, constants of the module",
    ("postgres/audit_sql.py", "word"): "privileges in the server's own words, from aclexplode",
    ("postgres/conventions_sql.py", "body"): "the functions' sources, constants of the module",
    ("postgres/conventions_sql.py", "word"): "from _EVENTS",
    ("postgres/default_privileges_sql.py", "privilege"): "the API's enum, or aclexplode",
    ("postgres/login_statements.py", "word"): "words of core/postgres/role_attributes.py",
    ("postgres/migration_ledger.py", "text"): "constants of the module",
    ("postgres/own_login.py", "text"): "literals of the same function, typed as LiteralString",
    ("postgres/render.py", "arguments"): "types of a function as the server writes them, looked up by the signature",
    ("postgres/render.py", "name"): "ADMIN, INHERIT or SET, in the same expression",
    ("postgres/render.py", "option + ' CASCADE' if what.cascade else option"): "one of two literals",
    ("postgres/render.py", "privilege"): "compared with the known privileges before",
    ("postgres/rls_probe.py", "kind"): "a type as the server writes it, in the probe's own session",
    ("postgres/rls_sql.py", "action"): "ENABLE, DISABLE, FORCE or NO FORCE, from the calls beside it",
    ("postgres/rls_sql.py", "text"): "an expression of a policy, which is SQL; checked to be one expression",
    ("postgres/rls_sql.py", "word"): "USING or WITH CHECK, from the loop around it",
    ("postgres/rls_sql.py", "_word(policy.command)"): "compared with the known commands",
    ("postgres/rls_writes.py", "kind"): "a type as the server writes it, in the probe's own session",
}


class _Constants(ast.NodeVisitor):
    """Names of a module or function that are only ever bound to texts written out in the source."""

    def __init__(self, tree: ast.AST) -> None:
        self.bound: dict[str, list[ast.expr]] = {}
        self.returned: dict[str, list[ast.expr]] = {}
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        found = [x.value for x in ast.walk(node) if isinstance(x, (ast.Return, ast.Yield)) and x.value is not None]
        self.returned.setdefault(node.name, []).extend(found)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):  # what was there before is bound to the name already
            self.bound.setdefault(node.target.id, []).append(ast.BinOp(ast.Constant(""), node.op, node.value))
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.bound.setdefault(node.target.id, []).append(node.value)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.bound.setdefault(target.id, []).append(node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name) and node.value is not None:
            self.bound.setdefault(node.target.id, []).append(node.value)
        self.generic_visit(node)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def pasted(node: ast.expr) -> str:
    """How the expression makes a text out of others, or nothing."""
    if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in node.values):
        return "an f-string"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and not isinstance(node.left, ast.Constant):
        return ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and _is_text(node.left):
        return "text % values"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and (_is_text(node.left) or _is_text(node.right)):
        return "text + text"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_text(node.func.value):
        return f"text.{node.func.attr}()" if node.func.attr in ("format", "join", "format_map", "replace") else ""
    return ""


def sent(node: ast.expr, constants: _Constants, depth: int = 0) -> str:
    """How what is sent was pasted together on its way, or nothing."""
    found = pasted(node)
    if found or depth > 8:
        return found
    ways: list[ast.expr] = []
    match node:
        case ast.Name(id=name):
            ways = constants.bound.get(name, [])
        case ast.IfExp(body=body, orelse=orelse):
            ways = [body, orelse]
        case ast.BinOp(left=left, right=right):
            ways = [left, right]
        case ast.BoolOp(values=values):
            ways = values
        case ast.Await(value=value) | ast.NamedExpr(value=value):
            ways = [value]
        case ast.Call(func=ast.Attribute(value=text, attr="encode" | "strip" | "lstrip" | "rstrip" | "replace")):
            ways = [text]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name)):
            ways = constants.returned.get(name, [])
    return next((found for found in (sent(way, constants, depth + 1) for way in ways) if found), "")


def written_out(node: ast.expr, constants: _Constants, depth: int = 0) -> bool:
    """Whether every text that the expression can be stands in the source."""
    if depth > 8:
        return False
    if _is_text(node):
        return True
    if isinstance(node, ast.IfExp):
        return written_out(node.body, constants, depth + 1) and written_out(node.orelse, constants, depth + 1)
    if isinstance(node, ast.Name):
        values = constants.bound.get(node.id, [])
        return bool(values) and all(written_out(value, constants, depth + 1) for value in values)
    if isinstance(node, ast.Subscript):  # a table of texts
        return isinstance(node.value, ast.Name) and _is_table(node.value.id, constants)
    return False


def _is_table(name: str, constants: _Constants) -> bool:
    values = constants.bound.get(name, [])
    return bool(values) and all(
        isinstance(value, ast.Dict) and all(_is_text(entry) for entry in value.values) for value in values
    )


def faults(source: str) -> list[tuple[str, str]]:
    """What the rule finds in a module: where and how, and the expression."""
    tree = ast.parse(source)
    constants = _Constants(tree)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        name, first = node.func.attr, node.args[0]
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if owner == "sql" and name == "SQL" and not written_out(first, constants):
            found.append(
                (f"line {node.lineno}: sql.SQL of {pasted(first) or 'a text from elsewhere'}", ast.unparse(first))
            )
        elif name in SENDING and sent(first, constants):
            found.append((f"line {node.lineno}: {name}() of {sent(first, constants)}", ast.unparse(first)))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ENGINES)))
def test_no_statement_is_pasted_together(path: Path) -> None:
    module = str(path.relative_to(ENGINES))
    found = [fault for fault in faults(path.read_text()) if (module, fault[1]) not in LOOKED_AT]
    assert found == [], "compose it with sql.SQL(…).format(sql.Identifier(…), sql.Literal(…))"


def test_nothing_is_excused_that_is_not_there() -> None:
    found = {(str(path.relative_to(ENGINES)), fault[1]) for path in MODULES for fault in faults(path.read_text())}
    assert LOOKED_AT.keys() - found == set()


BAD = (
    'connection.execute(f"DROP ROLE {name}")',
    'connection.execute("DROP ROLE %s" % name)',
    'connection.execute("DROP ROLE {}".format(name))',
    'connection.execute("DROP ROLE " + name)',
    'connection.execute(", ".join(names))',
    'query = f"DROP ROLE {name}"\nconnection.execute(query)',
    'query = f"DROP ROLE {name}"\nconnection.execute(query.encode())',
    'query = "DROP ROLE "\nquery += name\nconnection.execute(query)',
    'first = "DROP ROLE %s" % name\nsecond = first if x else "SELECT 1"\nawait connection.execute(second)',
    'if (query := f"DROP ROLE {name}"):\n    connection.execute(query)',
    'def drop(name):\n    return f"DROP ROLE {name}"\nconnection.execute(drop(name))',
    (
        'class A:\n    def drop(self, name):\n        return "DROP ROLE " + name\n    def run(self):\n'
        "        self.connection.execute(self.drop(1))"
    ),
    'query = "SELECT 1" + suffix + ";"\nconnection.execute(query)',
    'sql.SQL(f"DROP ROLE {name}")',
    "sql.SQL(name)",
    "sql.SQL(change.privilege)",
    'sql.SQL("A" if x else name)',
    'NAME = "a"\nNAME = other\nsql.SQL(NAME)',
    'WORDS = {"a": other}\nsql.SQL(WORDS[x])',
    "for word in words:\n    sql.SQL(word)",
)
GOOD = (
    'connection.execute("SELECT 1")',
    'connection.execute("SELECT %s", [name])',
    'sql.SQL("DROP ROLE {}").format(sql.Identifier(name))',
    'sql.SQL(" CASCADE" if cascade else "")',
    'WORD = "GRANT"\nsql.SQL(WORD)',
    'WORDS = {"a": "GRANT"}\nsql.SQL(WORDS[x])',
    'sql.SQL(", ").join(parts)',
    'log.info(f"role {name}")',
    'query = "SELECT 1"\nconnection.execute(query)',
    'query = sql.SQL("DROP ROLE {}").format(sql.Identifier(name))\nconnection.execute(query)',
    'message = f"dropping {name}"\nlog.info(message)\nconnection.execute("SELECT 1")',
)


@pytest.mark.parametrize("source", BAD)
def test_the_rule_finds(source: str) -> None:
    assert len(faults(source)) == 1


@pytest.mark.parametrize("source", GOOD)
def test_the_rule_lets_pass(source: str) -> None:
    assert faults(source) == []
