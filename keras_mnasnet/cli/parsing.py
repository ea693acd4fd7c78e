"""The parser of every command: whole words only, near names, help where nothing was said, one example each."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from keras_mnasnet.utils.text import did_you_mean, say

WIDTH = 100
Run = Callable[[argparse.Namespace], int | None]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class Parser(argparse.ArgumentParser):
    """An argument parser, of a command or of a group of `commands`."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, add_help=False, **keywords)
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")
        self.commands: dict[str, Parser] = {}
        self.needs: tuple[str, ...] = ()
        self._tree: Any = None
        self._intermixed = False

    def add(
        self,
        name: str,
        text: str,
        run: Run | None = None,
        *,
        usage: str | Sequence[str] = (),
        example: str,
        needs: Sequence[str] = (),
    ) -> Parser:
        """Add the command `name`, or without `run` a group of commands; `needs` says what cannot be left out all at once."""
        if self._tree is None:
            self._tree = self.add_subparsers(metavar="COMMAND", title="commands", prog=self.prog, parser_class=Parser)
        prog = f"{self.prog} {name}"
        lines = [usage] if isinstance(usage, str) else usage or (["COMMAND ..."] if run is None else [""])
        added: Parser = self._tree.add_parser(
            name,
            help=text.split(". ")[0].removesuffix(".") + ".",
            description=textwrap.fill(text, WIDTH),
            usage="\n       ".join(f"{prog} {line}".strip() for line in lines),
            epilog=f"example:\n  {example}",
        )
        added.needs = tuple(needs)
        self.commands[name] = added
        if run is not None:
            added.set_defaults(run=run, parser=added)
            added.add_argument("--json", action="store_true", help="Print one JSON value on standard output, and nothing else.")
        return added

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, with positional arguments also between options; what is unknown is refused by its own parser."""
        words = list(sys.argv[1:] if args is None else args)
        if self._intermixed:
            return super().parse_known_args(words, namespace)
        if self.commands:
            self._check_command(words)
            return super().parse_known_args(words, namespace)
        if not words and self.needs:
            self.print_help(sys.stderr)
            self.exit(2, f"\nerror: `{self.prog}` needs {' and '.join(self.needs)}.\n")
        self._intermixed = True
        try:
            namespace, rest = self.parse_known_intermixed_args(words, namespace)
        finally:
            self._intermixed = False
        if rest:
            word = next((each for each in rest if each.startswith("-")), rest[0])
            known = re.findall(r"(?<![\w-])--[a-z][a-z-]*", self.format_help())
            self.error(
                f"`{self.prog}` does not take {word!r}.{did_you_mean(word.partition('=')[0], dict.fromkeys(known), most=1)}"
            )
        return namespace, rest

    def _check_command(self, words: list[str]) -> None:
        """Without a command: the help. With a command that there is not: the near ones."""
        if not words or words[0].startswith("-"):
            if words and words[0] in ("-h", "--help", "--version"):
                return
            if words:
                self.error(f"`{self.prog}` takes a command before options: {', '.join(self.commands)}. Received: {words[0]!r}")
            top = " " not in self.prog
            self.print_help(sys.stdout if top else sys.stderr)
            self.exit(0) if top else self.exit(2, f"\nerror: `{self.prog}` needs a command: {', '.join(self.commands)}.\n")
        elif words[0] not in self.commands:
            self.error(
                f"The commands of `{self.prog}` are {', '.join(self.commands)}. Received: {words[0]!r}."
                f"{did_you_mean(words[0], self.commands)}"
            )

    def error(self, message: str) -> NoReturn:
        """As `complain`; exit status 2."""
        self.complain(message)
        self.exit(2)

    def complain(self, message: str) -> None:
        """Usage and one line on standard error; the whole help where an argument is missing."""
        missing = "arguments are required" in message or "is required" in message
        self.print_help(sys.stderr) if missing else self.print_usage(sys.stderr)
        text = message[0].upper() + message[1:]
        ended = text if text.endswith(("?", ".")) else f"{text}."
        say(f"{chr(10) * missing}error: {ended} See `{self.prog} --help`.")


class UsageError(ValueError):
    """Arguments that do not go together: the command's usage and this line, exit status 2."""


def one_of(*names: str) -> Callable[[str], str]:
    """A type for options: one of these words; another one is refused with the nearest."""

    def chosen(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(names)}. Received: {text!r}.{did_you_mean(text, names)}"
            )
        return text

    return chosen
