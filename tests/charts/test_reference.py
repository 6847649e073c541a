"""Values, schema, README and plain manifests say the same."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from charts.tools import helm, manifests, reference, stale

SCHEMA = json.loads(reference.SCHEMA.read_text())
VALUES = helm.values()
Path = tuple[str, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of every key, maps included."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))


def objects(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, inner in node.items():
            yield from objects(inner, f"{path}/{key}")


def test_every_default_is_in_the_schema():
    for path in leaves(VALUES):
        assert reference.node(SCHEMA, path) is not None, path


def test_every_property_has_a_default():
    def missing(node: dict[str, Any], value: Any, path: Path) -> Iterator[Path]:
        for key, inner in reference.resolved(SCHEMA, node).get("properties", {}).items():
            if key not in value:
                yield (*path, key)
            elif isinstance(value[key], dict) and not free(inner):
                yield from missing(inner, value[key], (*path, key))

    def free(node: dict[str, Any]) -> bool:
        return "properties" not in reference.resolved(SCHEMA, node)

    assert list(missing(SCHEMA, VALUES, ())) == [
        # What an entry's transformer may lay over its own has its defaults in `transformers`.
        ("defaults", "transformer", key)
        for key in ("image", "env", "secretEnv", "resources", "scaling")
    ]
    for name in ("gpuProfiles", "transformers"):
        for entry, value in VALUES[name].items():
            assert list(missing(SCHEMA["properties"][name]["additionalProperties"], value, (name, entry))) == []


def test_objects_take_no_other_keys():
    for path, node in objects(SCHEMA):
        assert node.get("additionalProperties") is False or isinstance(node.get("additionalProperties"), dict), path


def test_every_property_is_described():
    top = {"type": "object", "properties": SCHEMA["properties"]}
    for name, definition in {"": top, **SCHEMA["definitions"]}.items():
        if definition.get("description") == "As in Kubernetes.":
            continue
        for path, node in objects(definition, name):
            for key, inner in node.get("properties", {}).items():
                nested = "properties" in reference.resolved(SCHEMA, inner)
                assert nested or inner.get("description"), f"{path}.{key}"


@pytest.mark.parametrize("wanted", [reference.wanted, manifests.wanted], ids=["reference", "manifests"])
def test_generated_files_are_fresh(wanted):
    assert stale.outdated(wanted()) == []


def test_a_file_that_nothing_makes_is_stale(tmp_path, monkeypatch):
    (tmp_path / "gone.yaml").write_text("")
    monkeypatch.setattr(manifests, "FOLDER", tmp_path)
    monkeypatch.setattr(stale, "ROOT", tmp_path)
    assert "gone.yaml" in stale.outdated(manifests.wanted())
    assert stale.settle(manifests.wanted(), check=False) is None
    assert {file.stem for file in tmp_path.iterdir()} == set(manifests.models())
    assert stale.settle(manifests.wanted(), check=True) is None


def test_comments_become_descriptions():
    text = "a:\n  # -- One,\n  # two.\n  b: 1\n  # not for users\n  c: 2\n# -- Three.\nd: {e: 1}\n"
    assert reference.comments(text) == {("a", "b"): "One, two.", ("d",): "Three."}


def test_the_readme_names_every_documented_value():
    rows = reference.README.read_text()
    for path in reference.comments(reference.VALUES.read_text()):
        assert f"| `{reference.shown(path)}` |" in rows
