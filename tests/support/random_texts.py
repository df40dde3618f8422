"""Endless random schemas and Markdown, most of them invalid; the same seed gives the same ones."""

import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from pydantic import JsonValue

from fluffle.web.markdown import _TAGS, render

_NAMES = ("a", "b", "", "a/b", "~", "$id", "x" * 100, "\u2028", "constructor")
_REFS = ("#", "#/$defs/a", "#/$defs/b", "#/properties/a", "#missing", "http://evil.example/s", "#/%", "../x", "a#b", "")
_PATTERNS = ("^(a+)+$", "(", "[", "a{999999999}", "\\p{L}", "(?P<x>a)(?P=x)", "x" * 2000, "", "^a*$")
_NUMBERS = (0, 1, -1, 1.5, 2**70, True, None, "1")
_TYPES: tuple[JsonValue, ...] = (
    "object",
    "array",
    "string",
    "integer",
    "number",
    "boolean",
    "null",
    "any",
    ["string", "null"],
    [],
    5,
)
_PIECES = (
    *(
        "[",
        "![",
        "](",
        ")",
        "*",
        "**",
        "_",
        "`",
        "```",
        "~~~",
        "|",
        "\n",
        "\n\n",
        "> ",
        "- ",
        "1. ",
        "# ",
        "\\",
        "&",
        "&lt;",
    ),
    *(
        "<script>",
        "</p>",
        "<img src=x onerror=alert(1)>",
        "<a href=",
        "javascript:alert(1)",
        "data:text/html,x",
        "//evil",
    ),
    *(
        "http://evil.example",
        "mailto:a@b",
        "|-|-|",
        "\0",
        "\u202e",
        "😀",
        "x",
        " ",
        '"',
        "'",
        "onclick=",
        "[x]: ",
    ),
)
_HARMLESS = {"href", "rel", "start", "target", "title", "style"}


class RandomTexts:
    """Creates random schemas and Markdown."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def schema(self, levels: int = 4) -> Any:
        """Return a JSON Schema, or something similar."""
        if levels == 0 or self._chance.random() < 0.1:
            return self._chance.choice((True, False, {}, {"$ref": self._chance.choice(_REFS)}, None, 5, "x", []))
        return dict(self._keyword(levels - 1) for _ in range(self._chance.randint(0, 4)))

    def markdown(self) -> str:
        """Return a text of up to some hundred pieces."""
        repeated = self._chance.choices((1, 30), (9, 1))[0]
        return "".join(self._chance.choices(_PIECES, k=self._chance.randint(1, 60))) * repeated

    def _keyword(self, levels: int) -> tuple[str, Any]:
        chance = self._chance
        match chance.randrange(7):
            case 0:
                return chance.choice(("type",)), chance.choice(_TYPES)
            case 1:
                name = chance.choice(("properties", "$defs", "patternProperties", "dependentSchemas"))
                names = _PATTERNS if name == "patternProperties" else _NAMES
                return name, {chance.choice(names): self.schema(levels) for _ in range(chance.randint(0, 3))}
            case 2:
                name = chance.choice(
                    ("items", "additionalProperties", "not", "if", "then", "contains", "propertyNames")
                )
                return name, self.schema(levels)
            case 3:
                name = chance.choice(("allOf", "anyOf", "oneOf", "prefixItems"))
                return name, [self.schema(levels) for _ in range(chance.randint(0, 3))]
            case 4:
                return chance.choice(("$ref", "$dynamicRef", "$id", "$anchor", "$schema")), chance.choice(_REFS)
            case 5:
                return chance.choice(("pattern", "format", "title", "$comment")), chance.choice(_PATTERNS)
            case _:
                name = chance.choice(
                    ("minimum", "maxLength", "minItems", "multipleOf", "required", "enum", "const", "new")
                )
                return name, chance.choice(_NUMBERS)


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check a tag."""
        if tag not in _TAGS:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            leads_elsewhere = name == "href" and not re.match(r"(?i)(https?:|mailto:)", value or "")
            if name not in _HARMLESS or leads_elsewhere:
                self.wrong.append(f"{name}={value}")


def rendered_in_bulk(count: int, seed: int) -> int:
    """Render this many texts and return their length. Raises AssertionError for active HTML."""
    odd, characters = RandomTexts(seed), 0
    for _ in range(count):
        text = odd.markdown()
        seen = _Seen()
        seen.feed(render(text))
        assert not seen.wrong, (seed, seen.wrong[:5], text[:500])
        characters += len(text)
    return characters


def schemas(seed: int) -> Iterator[Any]:
    """Yield schemas endlessly."""
    odd = RandomTexts(seed)
    while True:
        yield odd.schema()
