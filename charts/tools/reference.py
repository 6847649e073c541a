"""What values.yaml says of its values, carried into values.schema.json and the table in the chart's README.

The comments `# -- …` over the keys of values.yaml are the one place where values are described. `--check` says whether the
copies are fresh.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charts.tools import helm, stale

VALUES = helm.CHART / "values.yaml"
SCHEMA = helm.CHART / "values.schema.json"
README = helm.CHART / "README.md"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):")
_COMMENT = re.compile(r"^ *# ?(?P<text>.*)$")
_MARKS = re.compile(r"(<!-- (values|catalog) -->\n).*?(<!-- end -->)", re.DOTALL)
LONGEST_DEFAULT = 90
# Definitions of the schema whose properties mean what those of another one do.
ALIKE = {"transformer": "predictor", "transformerUse": "predictor", "model": "defaults"}
# Entries of maps that stand for all of their kind.
EXAMPLES = {"gpuProfiles.t4": "gpuProfiles.<name>", "models.whisper-base": "models.<name>"}

Keys = tuple[str, ...]
"""The way to a value: `("global", "tag")`."""


def comments(text: str) -> dict[Keys, str]:
    """Path of a key to the text of the `--` comment over it."""
    found: dict[Keys, str] = {}
    path: list[tuple[int, str]] = []
    pending: list[str] | None = None
    for line in text.splitlines():
        comment = _COMMENT.match(line)
        if comment:
            if comment["text"].startswith("-- "):
                pending = [comment["text"].removeprefix("-- ")]
            elif pending is not None:
                pending.append(comment["text"])
            continue
        key = _KEY.match(line)
        if key:
            indent = len(key["indent"])
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key["key"])]
            if pending is not None:
                found[tuple(name for _, name in path)] = " ".join(pending)
        pending = None
    return found


def node(schema: dict[str, Any], path: Keys) -> dict[str, Any]:
    """The schema of the value at `path`, behind references. Raises KeyError for a value that the schema does not know."""
    at = schema
    for key in path:
        at = resolved(schema, at)
        at = at["properties"][key] if key in at.get("properties", {}) else _entry(at, key)
    return at


def resolved(schema: dict[str, Any], at: dict[str, Any]) -> dict[str, Any]:
    """`at`, or what it refers to."""
    while "$ref" in at:
        at = schema["definitions"][at["$ref"].rsplit("/", 1)[1]]
    return at


def _entry(at: dict[str, Any], key: str) -> dict[str, Any]:
    entry = at.get("additionalProperties")
    if not isinstance(entry, dict):
        raise KeyError(key)
    return entry


def described(schema: dict[str, Any], texts: dict[Keys, str]) -> str:
    """values.schema.json with the comments as descriptions."""
    for path, text in texts.items():
        _describe(node(schema, path), text)
    definitions = schema["definitions"]
    for name, other in ALIKE.items():
        for key, target in definitions[name]["properties"].items():
            text = definitions[other]["properties"].get(key, {}).get("description")
            if text:
                _describe(target, text)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _describe(target: dict[str, Any], text: str) -> None:
    rest = {key: value for key, value in target.items() if key != "description"}
    target.clear()
    target.update({"description": text, **rest})


def table(values: dict[str, Any], texts: dict[Keys, str]) -> str:
    """A Markdown table of the values that have a comment."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, text in texts.items():
        meaning = text.replace("|", "\\|")
        inner = any(other[: len(path)] == path for other in texts if other != path)
        rows.append(f"| `{shown(path)}` | {'' if inner else _default(values, path)} | {meaning} |")
    return "\n".join(rows) + "\n"


def shown(path: Keys) -> str:
    """A path as the README writes it."""
    name = ".".join(path)
    for example, general in EXAMPLES.items():
        if name.startswith(f"{example}."):
            return general + name.removeprefix(example)
    return name


def _default(values: dict[str, Any], path: Keys) -> str:
    at: Any = values
    for key in path:
        at = at[key]
    shown = at if isinstance(at, str) else json.dumps(at)
    return "" if at in ("", None, [], {}) or len(shown) > LONGEST_DEFAULT else f"`{shown}`"


def catalog(values: dict[str, Any]) -> Iterator[str]:
    """Markdown rows of the models: name, what it is, GPU."""
    yield from ("| model | what it is | GPU |", "|---|---|---|")
    for name, entry in values["models"].items():
        gpu = entry["predictor"].get("gpu", {})
        profile = f"{gpu['count']} {gpu['profile']}" if gpu else ""
        yield f"| `{name}` | {entry['description']} | {profile} |"


def wanted() -> dict[Path, str | None]:
    """The two generated files and their texts."""
    values, texts = helm.values(), comments(VALUES.read_text())
    tables = {"values": table(values, texts), "catalog": "\n".join(catalog(values)) + "\n"}
    readme = _MARKS.sub(lambda match: match[1] + tables[match[2]] + match[3], README.read_text())
    return {SCHEMA: described(json.loads(SCHEMA.read_text()), texts), README: readme}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    sys.exit(stale.settle(wanted(), check=parser.parse_args().check))


if __name__ == "__main__":
    main()
