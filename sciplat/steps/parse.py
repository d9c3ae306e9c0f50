"""SQL-like text to expressions: sqlglot knows how operators bind; only what stands here comes through."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from sciplat.errors import ArgumentError
from sciplat.steps.expression import COMPARISONS, RESERVED, Call, Column, Expression, Literal

if TYPE_CHECKING:
    from sqlglot import Token

# names with the numbers of their arguments
FUNCTIONS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys("abs sqrt exp ln log10 floor ceil round isnan".split(), (1, 1)),  # noqa: SIM905
    **dict.fromkeys("sin cos tan asin acos atan radians degrees".split(), (1, 1)),  # noqa: SIM905
    **dict.fromkeys(("atan2", "pow"), (2, 2)),
    **dict.fromkeys(("least", "greatest", "coalesce"), (1, None)),
}
_SYMBOLS = frozenset(["=", "==", "!=", *COMPARISONS, "+", "-", "*", "/", "%", "(", ")", ",", "."])
_OPERATORS = {"and": "and", "or": "or", "eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OPERATORS |= {"add": "+", "sub": "-", "mul": "*", "div": "/", "mod": "%", "like": "like", "ilike": "ilike"}
_CHAINS = ("and", "or", "add", "sub", "mul", "div", "mod")
_HINTS = {"&": "and", "&&": "and", "|": "or", "||": "or", "!": "not", "^": "pow(a, b)", "**": "pow(a, b)"}
_HINTS |= {"log": "ln(x) or log10(x)", "power": "pow(a, b)", "--": "a - (-1): two dashes begin a comment"}
_COLUMN, _FUNCTION = "column_", "function_"  # names for sqlglot
_LONGEST = 200_000  # characters
_DEEPEST = 25  # parentheses in each other: the parser calls itself about twenty times for each
_TALLEST = 60  # calls in each other
_DIGITS = 40  # of an integer
_NEAR = 40  # characters on either side of an error


def parse_expression(text: str) -> Expression:
    """Return the expression that a text stands for.

    Parameters
    ----------
    text : str
        ``and or not``, ``= <> != < <= > >=``, ``between``, ``in (1, 2)``, ``is null``, ``like``, ``ilike``,
        ``+ - * / %``, ``case when``, the functions in `FUNCTIONS`; numbers, 'texts', true, false, null; columns as they
        are spelled, "in double quotes" where the name is no plain word.

    Raises
    ------
    ArgumentError
        If it is none; the message marks the place.
    """
    given: object = text  # callers are not all checked for types
    if not isinstance(given, str) or not text.strip():
        raise ArgumentError("an expression is a text", found=repr(given), hint='"mag < 18 and parallax > 1"')
    if len(text) > _LONGEST:
        raise ArgumentError(
            "the expression is too long",
            found=f"{len(text):,} characters, at most {_LONGEST:,}",
            hint="long lists of names as a catalog of their own, and join it",
        )
    try:
        return _converted(_parsed(text))
    except RecursionError:
        raise _too_deep() from None


def _parsed(text: str) -> Any:
    """Return sqlglot's tree."""
    from sqlglot import Tokenizer, exp
    from sqlglot.errors import ParseError, TokenError
    from sqlglot.parser import Parser

    try:
        tokens = Tokenizer().tokenize(text)
    except TokenError:
        raise ArgumentError(
            "the expression cannot be understood: a quote is not closed", found=_excerpt(text, len(text))
        ) from None
    _check_gaps(text, tokens)
    words = [text[token.start : token.end + 1].lower() for token in tokens]
    _check_nesting(words)
    plain = [_plain(text, token, following) for token, following in zip(tokens, [*words[1:], ""], strict=True)]
    try:
        trees = Parser().parse_into(exp.Condition, plain, text)
    except ParseError as error:
        _refuse_syntax(text, tokens, error.errors[0])
    if len(trees) != 1:
        _refuse(text, 0, "this is no expression")
    return trees[0]


def _check_gaps(text: str, tokens: "list[Token]") -> None:
    """Refuse comments: they hide between the tokens, and `mag--1` would begin one."""
    end = 0
    for start, following in [*((token.start, token.end + 1) for token in tokens), (len(text), 0)]:
        gap = text[end:start]
        if gap.strip():
            place = end + len(gap) - len(gap.lstrip())
            _refuse(text, place, "comments do not belong here", _HINTS.get(gap.strip()[:2], ""))
        end = following


def _check_nesting(words: list[str]) -> None:
    outer: list[int] = []
    depth = 0
    for word in words:
        if word in ("(", "case"):
            outer.append(depth)
            depth += 1
        elif word in (")", "end"):
            depth = outer.pop() if outer else 0
        elif word == "not":
            depth += 2  # its operand gets parentheses when it becomes text again
        elif word in ("and", "or", ",", "when", "then", "else"):
            depth = outer[-1] + 1 if outer else 0
        if depth > _DEEPEST:
            raise _too_deep()


def _too_deep() -> ArgumentError:
    return ArgumentError(
        "the expression is nested too deep",
        found=f"more than {_DEEPEST} parentheses, or {_TALLEST} operations, in each other",
        hint="compute parts of it with .with_columns(name=...)",
    )


def _plain(text: str, token: "Token", following: str) -> "Token":
    """Return a token whose name means nothing to sqlglot: what is a keyword to some database is a column here."""
    from sqlglot import Token, TokenType

    word = text[token.start : token.end + 1]
    kept = token.token_type in (TokenType.STRING, TokenType.NUMBER) and word[0] in "'0123456789"
    if kept or word in _SYMBOLS or word.lower() in RESERVED:
        return token
    if token.token_type == TokenType.IDENTIFIER and word[0] == '"':
        name = f"{_COLUMN}{token.text.encode(errors='surrogatepass').hex()}"
    elif not word.isidentifier():
        _refuse(text, token.start, f"{word} is unknown", _HINTS.get(word, ""))
    elif following != "(":
        name = f"{_COLUMN}{word.encode().hex()}"
    elif word.lower() in FUNCTIONS:
        name = f"{_FUNCTION}{word.lower()}"
    else:
        near = get_close_matches(word.lower(), FUNCTIONS, 1) or [", ".join(FUNCTIONS)]
        _refuse(text, token.start, f"there is no function {word}", _HINTS.get(word.lower(), near[0]))
    return Token(TokenType.VAR, name, token.line, token.col, token.start, token.end)


def _refuse_syntax(text: str, tokens: "list[Token]", error: dict[str, Any]) -> NoReturn:
    at = (error.get("line"), error.get("col"))
    places = [token.start for token in tokens if (token.line, token.col) == at]
    description = str(error.get("description", ""))
    if description.startswith(("Expecting )", "Expected END")):
        reason = f"{description.split()[1]} is missing after this"
    elif description.startswith("Required keyword"):
        reason = "something is missing after this"
    else:
        reason = "this does not belong here"
    _refuse(text, places[0] if places else len(text), reason)


def _refuse(text: str, place: int, reason: str, hint: str = "") -> NoReturn:
    raise ArgumentError(f"the expression cannot be understood: {reason}", found=_excerpt(text, place), hint=hint)


def _excerpt(text: str, place: int) -> str:
    """Return what stands around a place, and a mark under it where errors are shown."""
    start = max(place - _NEAR, 0)
    near = "".join(letter if letter.isprintable() else " " for letter in text[start : place + _NEAR])
    return f"{near}\n{' ' * (len('  found  ') + place - start)}^"


def _converted(tree: Any, height: int = 0) -> Expression:
    """Return our own tree; what is not named here is refused."""
    if height > _TALLEST:
        raise _too_deep()

    def read(part: Any) -> Expression:
        return _converted(part, height + 1)

    if tree is None:
        raise ArgumentError("the expression cannot be understood: an operator has nothing beside it")
    key = tree.key
    given = {name for name, value in tree.args.items() if value is not None and value is not False and value != []}
    reader, arguments = _READERS.get(key, (None, set()))
    if reader is None or given - arguments - {"negate"}:
        raise ArgumentError(
            "the expression has something that is not supported",
            found=key if reader is None else ", ".join(sorted([key, *(given - arguments)])),
            hint="comparisons, and, or, not, between, in (...), is null, like, + - * / %, " + ", ".join(FUNCTIONS),
        )
    result = reader(tree, read)
    return Call("not", (result,)) if "negate" in given else result  # some versions have `not like` in one


_Read = Callable[[Any], Expression]


def _read_binary(tree: Any, read: _Read) -> Expression:
    operator = _OPERATORS[tree.key]
    if operator in COMPARISONS and (tree.this.key in _COMPARING or tree.expression.key in _COMPARING):
        raise ArgumentError(
            "a comparison is compared again", hint="a < b and b < c, or parentheses: (a < b) = (b < c)"
        )
    return _chained(operator, [read(tree.this), read(tree.expression)])


def _read_chain(tree: Any, read: _Read) -> Expression:
    rest, first = [], tree
    while first.key == tree.key:  # a thousand of them stand in each other on the left
        rest.append(first.expression)
        first = first.this
    return _chained(_OPERATORS[tree.key], [read(part) for part in (first, *reversed(rest))])


def _chained(operator: str, operands: list[Expression]) -> Call:
    """Return one call for a chain; only truth values may be put together in another order."""

    def merged() -> Iterator[Expression]:
        for place, operand in enumerate(operands):
            joins = operator in ("and", "or") or (place == 0 and operator in "+-*/%")
            same = isinstance(operand, Call) and operand.operator == operator
            yield from operand.operands if joins and same and isinstance(operand, Call) else [operand]

    return Call(operator, tuple(merged()))


def _read_between(tree: Any, read: _Read) -> Expression:
    value = read(tree.this)
    return Call("and", (Call(">=", (value, read(tree.args["low"]))), Call("<=", (value, read(tree.args["high"])))))


def _read_in(tree: Any, read: _Read) -> Expression:
    values = [read(part) for part in tree.expressions]
    if not values or not all(isinstance(value, Literal) for value in values):
        raise ArgumentError("in (...) takes numbers or texts", found=", ".join(map(str, values))[:_NEAR] or "nothing")
    return Call("in", (read(tree.this), *values))


def _read_is(tree: Any, read: _Read) -> Expression:
    if tree.expression.key != "null":
        raise ArgumentError("only null follows `is`", found=str(read(tree.expression)), hint="flag, or not flag")
    return Call("is null", (read(tree.this),))


def _read_negative(tree: Any, read: _Read) -> Expression:
    operand = read(tree.this)
    if isinstance(operand, Literal) and isinstance(operand.value, int | float) and not isinstance(operand.value, bool):
        return Literal(-operand.value)
    return Call("negate", (operand,))


def _read_case(tree: Any, read: _Read) -> Expression:
    default = tree.args.get("default")
    pairs = [read(part) for branch in tree.args["ifs"] for part in (branch.this, branch.args["true"])]
    return Call("case", (*pairs, Literal(None) if default is None else read(default)))


def _read_function(tree: Any, read: _Read) -> Expression:
    name, arguments = str(tree.this).removeprefix(_FUNCTION), tuple(read(part) for part in tree.expressions)
    least, most = FUNCTIONS[name]
    if len(arguments) < least or (most is not None and len(arguments) > most):
        takes = f"{least} argument{'s' if least > 1 else ''}{'' if most else ' or more'}"
        raise ArgumentError(f"{name} takes {takes}", found=f"{name}({', '.join(map(str, arguments))})"[: 2 * _NEAR])
    return Call(name, arguments)


def _read_column(tree: Any, _: _Read) -> Expression:
    name = str(tree.this.this)
    if not name.startswith(_COLUMN):
        raise ArgumentError(f"{name} stands where a column is expected", hint=f'a column of that name: "{name}"')
    return Column(bytes.fromhex(name.removeprefix(_COLUMN)).decode(errors="surrogatepass"))


def _read_literal(tree: Any, _: _Read) -> Expression:
    text = str(tree.this)
    if tree.is_string:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ArgumentError("the text is no Unicode", found=ascii(text)[:_NEAR])
        return Literal(text)
    try:
        value = int(text) if text.isdecimal() and len(text) <= _DIGITS else float(text)
    except ValueError:
        raise ArgumentError("this is no number", found=text[:_NEAR], hint="1e-3") from None
    if abs(value) == float("inf"):
        raise ArgumentError("the number is too large", found=text[:_NEAR])
    return Literal(value)


_COMPARING = {key for key, operator in _OPERATORS.items() if operator in COMPARISONS}
_READERS: dict[str, tuple[Callable[[Any, _Read], Expression], set[str]]] = {
    **dict.fromkeys(_OPERATORS, (_read_binary, {"this", "expression"})),
    **dict.fromkeys(_CHAINS, (_read_chain, {"this", "expression"})),
    "paren": (lambda tree, read: read(tree.this), {"this"}),
    "not": (lambda tree, read: Call("not", (read(tree.this),)), {"this"}),
    "neg": (_read_negative, {"this"}),
    "between": (_read_between, {"this", "low", "high"}),
    "in": (_read_in, {"this", "expressions"}),
    "is": (_read_is, {"this", "expression"}),
    "case": (_read_case, {"ifs", "default"}),
    "anonymous": (_read_function, {"this", "expressions"}),
    "column": (_read_column, {"this"}),
    "literal": (_read_literal, {"this", "is_string"}),
    "boolean": (lambda tree, _: Literal(bool(tree.this)), {"this"}),
    "null": (lambda *_: Literal(None), set()),
}
