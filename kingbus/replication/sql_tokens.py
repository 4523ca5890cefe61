"""The words of a statement, and a reader that goes through them.

Owns: the tokenizer (comments, the two kinds of quotes, variables, numbers) and its limits. Knows
nothing of what the words mean. Follows the manual's "Language Structure"; conditional comments are
read. No regular expression here goes back over what it has read, so no text takes long.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from kingbus.mysql.errors import MySQLError, syntax_error
from kingbus.mysql.resultset import Value

STATEMENT_CHARS_MAX: Final = 4 << 20
"""Two GTID sets of 100,000 intervals in text; parsing more would hold up the event loop."""

TOKENS_MAX: Final = 4096
"""Connector/J's longest statement has about 200."""


class Kind(Enum):
    """What a token is."""

    WORD = auto()
    QUOTED = auto()
    STRING = auto()
    NUMBER = auto()
    USER_VARIABLE = auto()
    SYSTEM_VARIABLE = auto()
    OPERATOR = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its text (of names and variables without their signs) and where it stands."""

    kind: Kind
    text: str
    start: int
    end: int
    scope: str = ""

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these words, given in upper case; a quoted one never is."""
        return self.kind is Kind.WORD and self.text.upper() in words


# Possessive quantifiers: no input makes these go back over what they have read.
_TOKEN = re.compile(
    r"""
    (?P<space> \s++ | \#[^\n]*+ | --(?=[\s]|\Z)[^\n]*+ | /\*(?!!|M!).*?\*/ )
  | (?P<unclosed> /\*(?!!|M!) )
  | (?P<version> /\*M?!\d*+ )
  | (?P<version_end> \*/ )
  | @@ (?: (?P<scope> global|session|local|persist|persist_only) \s*+ \. \s*+ )?
       (?: `(?P<system_quoted> [^`]++ )` | (?P<system> [A-Za-z_$][\w$.]*+ ) )
  | @  (?: (?P<user> [\w$.]++ ) | (?P<user_quoted> `[^`]++` | '[^']*+' | "[^"]*+" ) )
  | (?P<string> '(?: [^'\\]++ | \\. | '' )*+' | "(?: [^"\\]++ | \\. | "" )*+" )
  | (?P<quoted> `(?: [^`]++ | `` )*+` )
  | (?P<number> 0x[0-9A-Fa-f]++ | \d++(?:\.\d*+)?(?:[eE][+-]?\d++)? )
  | (?P<word> [^\W\d][\w$]*+ )
  | (?P<operator> := | <=> | <= | >= | <> | != | \|\| | && | [(),.=<>;*+\-/%!@?] )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)

_ESCAPES = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_ESCAPE = {quote: re.compile(rf"\\(.)|{quote * 2}", re.DOTALL) for quote in "'\""}


def _unescape(match: re.Match[str]) -> str:
    letter = match[1]
    if letter is None:  # a quote written twice
        return match[0][0]
    if letter in "%_":
        return "\\" + letter  # kept: it is for LIKE to read
    return _ESCAPES.get(letter, letter)


def string_value(text: str) -> str:
    """What a quoted text says."""
    escape = _ESCAPE[text[0]]
    return escape.sub(_unescape, text[1:-1])


def number_value(text: str) -> Value:
    """An integer; text for what is none, or is longer than any that MySQL knows."""
    if text[:2].lower() == "0x":
        return int(text, 16) if len(text) <= 18 else text
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else text


def tokens_of(sql: str) -> list[Token]:
    """All tokens, an END last. Raises the 1064 error."""
    if len(sql) > STATEMENT_CHARS_MAX:
        raise syntax_error(sql[:80])
    tokens: list[Token] = []
    position, in_version = 0, False
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        group = match.lastgroup if match is not None else None
        if match is None or group == "unclosed" or (group == "version_end" and not in_version):
            raise near(sql, position)
        start, position = position, match.end()
        if group == "space":
            continue
        if group in {"version", "version_end"}:
            in_version = group == "version"
            continue
        tokens.append(_token(match, start))
        if len(tokens) > TOKENS_MAX:
            raise near(sql, start)
    tokens.append(Token(Kind.END, "", len(sql), len(sql)))
    return tokens


def _token(match: re.Match[str], start: int) -> Token:
    end = match.end()
    if (name := match["system"] or match["system_quoted"]) is not None:
        scope = (match["scope"] or "").lower()
        scope = {"local": "session", "persist_only": "global", "persist": "global"}.get(
            scope, scope
        )
        return Token(Kind.SYSTEM_VARIABLE, name.lower(), start, end, scope)
    if (name := match["user"]) is not None:
        return Token(Kind.USER_VARIABLE, name, start, end)
    if (name := match["user_quoted"]) is not None:
        return Token(Kind.USER_VARIABLE, name[1:-1], start, end)
    if (text := match["quoted"]) is not None:
        return Token(Kind.QUOTED, text[1:-1].replace("``", "`"), start, end)
    assert match.lastgroup is not None
    kind = {
        "string": Kind.STRING,
        "number": Kind.NUMBER,
        "word": Kind.WORD,
        "operator": Kind.OPERATOR,
    }[match.lastgroup]
    return Token(kind, match[0], start, end)


def near(sql: str, position: int) -> MySQLError:
    """Error 1064 at that place of the statement."""
    return syntax_error(sql[position : position + 80], sql.count("\n", 0, position) + 1)


class TokenReader:
    """Goes through the tokens of one statement; what is not as asked raises error 1064."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokens_of(sql)
        self.index = 0
        self.depth = 0
        """How deep the parser is in parentheses; it alone counts."""

    @property
    def next(self) -> Token:
        """The token that comes next; END at the end."""
        return self.tokens[self.index]

    def error(self) -> MySQLError:
        """Error 1064 at the next token."""
        return near(self.sql, self.next.start)

    def take(self) -> Token:
        """The next token, which is gone then."""
        token = self.next
        if token.kind is not Kind.END:
            self.index += 1
        return token

    def word(self, *words: str) -> str:
        """Take one of these words if it is next; "" if not."""
        if self.next.is_word(*words):
            return self.take().text.upper()
        return ""

    def words(self, *words: str) -> bool:
        """Take these words if they are next, all of them, in order."""
        end = self.index + len(words)
        ahead = self.tokens[self.index : end]
        if len(ahead) == len(words) and all(
            token.is_word(word) for token, word in zip(ahead, words, strict=True)
        ):
            self.index = end
            return True
        return False

    def operator(self, *operators: str) -> str:
        """Take one of these operators if it is next; "" if not."""
        if self.next.kind is Kind.OPERATOR and self.next.text in operators:
            return self.take().text
        return ""

    def expect_word(self, *words: str) -> str:
        """Take one of these words, which must be next."""
        found = self.word(*words)
        if not found:
            raise self.error()
        return found

    def expect_words(self, *words: str) -> None:
        """Take these words, which must be next, in order."""
        for word in words:
            self.expect_word(word)

    def expect_operator(self, operator: str) -> None:
        """Take this operator, which must be next."""
        if not self.operator(operator):
            raise self.error()

    def integer(self) -> int:
        """Take an integer."""
        value = number_value(self.next.text) if self.next.kind is Kind.NUMBER else None
        if not isinstance(value, int):
            raise self.error()
        self.take()
        return value

    def text(self) -> str:
        """A string, or a name in its place."""
        token = self.next
        if token.kind is Kind.STRING:
            return string_value(self.take().text)
        if token.kind in {Kind.WORD, Kind.QUOTED}:
            return self.take().text
        raise self.error()

    def string(self) -> str:
        """Take a quoted string; a name is none."""
        if self.next.kind is not Kind.STRING:
            raise self.error()
        return self.text()

    def end(self) -> None:
        """Nothing but semicolons may follow."""
        while self.operator(";"):
            pass
        if self.next.kind is not Kind.END:
            raise self.error()
