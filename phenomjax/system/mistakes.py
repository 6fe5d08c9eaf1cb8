"""What is wrong with the words of a command line, in one sentence and with what mends it, of what
tyro says of them; what is not recognised here stays as tyro tells it.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from phenomjax.system import help_pages
from phenomjax.system.errors import did_you_mean

CHOICE = re.compile(
    r"invalid choice '(.*?)' for argument '((?:--)?\w+)[^']*'\. Expected one of \((.*?)\)"
)
VALUE = re.compile(r"Error parsing (--\w+).*?: (.*?)(?: ─| Argument helptext|$)")
UNKNOWN = re.compile(r"Unrecognized options: (\S.*?)(?: ─| Perhaps| For full|$)")
NUMBERS = (
    (re.compile(r"invalid literal for int\(\) with base 10: (.*)"), "a whole number"),
    (re.compile(r"could not convert string to float: (.*)"), "a number"),
)
ALONE = re.compile(r"Missing value for argument '(--\w+)")


def explained(box: str, kind: type[Any], words: Sequence[str], prog: str) -> str:
    """Says what tyro's box says; "" of what is not known here.

    Args:
      box: what it printed.
      kind: options.
      words: that it was given.
      prog: how the program is called.
    """
    text = " ".join(re.sub(r"[│╭╮╰╯|+]", " ", re.sub(r"\033\[[\d;]*m", "", box)).split())
    found = _told(text, kind, words)
    return f"{found}\nExamples and all flags: {prog} --help" if found else ""


def _told(text: str, kind: type[Any], words: Sequence[str]) -> str:
    if match := CHOICE.search(text):
        value, flag, choices = match[1], match[2], re.findall(r"'(.*?)'", match[3])
        return (
            f"{flag} is '{value}'; it is one of {', '.join(choices)}.{did_you_mean(value, choices)}"
        )
    if match := ALONE.search(text):
        return f"{match[1]} has no value behind it."
    if match := VALUE.search(text):
        for pattern, wanted in NUMBERS:
            if value := pattern.match(match[2]):
                return f"{match[1]} is {value[1]}; it must be {wanted}."
        return f"{match[1]} cannot be read: {match[2].rstrip('.')}."
    if match := UNKNOWN.search(text):
        first, *_ = re.split(r",(?: |$)| ", match[1])
        return _unknown(first, kind, words)
    if "Missing from" in text:
        missing = _missing(kind, words)
        if not missing and (what := re.search(r"Missing from [^:]+: (.*?) \(required\)", text)):
            return f"A word without a flag is missing: {what[1]}."
        if missing:
            return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
    return ""


def _unknown(word: str, kind: type[Any], words: Sequence[str]) -> str:
    """Of a word that nothing reads."""
    if not word.startswith("-"):
        if missing := _missing(kind, words):
            several = "" if len(missing) == 1 else f" of {', '.join(missing)}"
            return f"'{word}' stands without its flag{several}. Did you mean '{missing[0]} {word}'?"
        before = words[words.index(word) - 1] if word in words[1:] else ""
        after = f" after {before}" if before.startswith("--") else ""
        return f"'{word}'{after} is one word too many: put a name with spaces into quotes."
    given = word.replace("-", "_").lstrip("_")
    flags = [*flag_names(kind), *flag_names(help_pages.Screen)]
    behind = words.index(word) + 1 if word in words else len(words)
    value = "".join(words[behind : behind + 1])
    of = [one for one, choices in _choices(kind).items() if value and value in choices]
    if of:  # its value says it better than its name
        near = f" Did you mean '--{of[0]} {value}'?"
    else:
        close = difflib.get_close_matches(given, flags, n=1, cutoff=0.65)
        near = f" Did you mean '--{close[0]}'?" if close else ""
        settings = help_pages.settings(kind)
        bare = [one.field.name for one in settings if tyro.conf.Positional in one.told]
        if bare and not close:
            near = f" Without a flag stand: {', '.join(bare)}."
    keys = " Keys of the configuration are given as --config.KEY=VALUE."
    more = keys if "overrides" in kind.__dataclass_fields__ else ""
    return f"There is no flag --{given}.{near}{more}"


def _missing(kind: type[Any], words: Sequence[str]) -> list[str]:
    """Flags that have no default and were not given."""
    given = {word.partition("=")[0].replace("-", "_").lstrip("_") for word in words}
    flags = flag_names(kind).items()
    return [f"--{flag}" for flag, one in flags if one.is_required and flag not in given]


def _choices(kind: type[Any]) -> dict[str, tuple[Any, ...]]:
    """{flag: the words that it takes} of those that take some."""
    found = dict[str, tuple[Any, ...]]()
    for flag, one in flag_names(kind).items():
        bare = one.hint
        while get_origin(bare) in (Annotated, tuple):
            bare = get_args(bare)[0]
        if get_origin(bare) is Literal:
            found[flag] = get_args(bare)
    return found


def flag_names(kind: type[Any]) -> dict[str, help_pages.Setting]:
    """{flag: its setting} of an options dataclass."""
    return {one.flag: one for one in help_pages.settings(kind) if one.flag}
