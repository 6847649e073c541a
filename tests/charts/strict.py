"""Strict checks of an InferenceService without a cluster: by the model classes in KServe's wheel, and by KServe's own CRD.

Both refuse unknown fields, which the API server would drop or refuse, and values of another type. The CRD is the one that
`make kind` installs (tests/e2e/releases.txt), out of KServe's Go module, which Go fetches; the classes are there always.
"""

import hashlib
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kserve.models
import kubernetes.client
import yaml

from charts.tools import helm

RELEASES = helm.ROOT / "tests" / "e2e" / "releases.txt"
CRD = "inferenceservices.serving.kserve.io"
_CONTAINER = re.compile(r"(list|dict)[\[(](?:str, ?)?(.+)[\])]", re.IGNORECASE)
_LEAVES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "object": (str, int),  # an int-or-string, such as a probe's port
    "ResourceQuantity": str,
}


def problems(value: Any, kind: str, path: str) -> list[str]:
    """What does not fit `kind`, a type as the generated clients write it: `V1Container`, `list[str]`, `dict(str, str)`."""
    generic = _CONTAINER.fullmatch(kind)
    if generic:
        return _items(value, generic[1].lower(), generic[2], path)
    if kind in _LEAVES:
        wrong = not isinstance(value, _LEAVES[kind]) or (kind == "int" and isinstance(value, bool))
        return [f"{path}: {value!r} is no {kind}"] if wrong else []
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {kind}"]
    fields = {name: model.openapi_types[attribute] for attribute, name in model.attribute_map.items()}
    unknown = [f"{path}.{name}: {kind} has no such field" for name in value if name not in fields]
    known = (problems(inner, fields[name], f"{path}.{name}") for name, inner in value.items() if name in fields)
    return unknown + [problem for found in known for problem in found]


def _items(value: Any, container: str, kind: str, path: str) -> list[str]:
    if not isinstance(value, list if container == "list" else dict):
        return [f"{path}: {value!r} is no {container}"]
    inner = enumerate(value) if isinstance(value, list) else value.items()
    return [problem for key, each in inner for problem in problems(each, kind, f"{path}[{key}]")]


def release() -> tuple[str, str, str]:
    """Of KServe's CRDs that the cluster has: the Go module with its version, the file in it, the file's SHA-256."""
    rows = (line.split() for line in RELEASES.read_text().splitlines())
    ((_, digest, _, module, version, path),) = [row for row in rows if row[:1] == ["kserve-crds"]]
    return f"{module}@{version}", path, digest


def crd_file() -> Path | None:
    """The file with KServe's CRDs; None on a machine without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    module, path, digest = release()
    done = subprocess.run([go, "mod", "download", "-json", module], capture_output=True, text=True, check=True, cwd="/")
    file = Path(json.loads(done.stdout)["Dir"]) / path
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, f"{path} is not that of {RELEASES.name}"
    return file


@cache
def crd_validator(file: Path) -> jsonschema.Draft202012Validator:
    """A validator by the schema of InferenceService that refuses what the API server would prune."""
    (text,) = [each for each in file.read_text().split("\n---\n") if f"\n  name: {CRD}\n" in each]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C reads the 2 MB in a second
    crd = yaml.load(text, Loader=loader)  # noqa: S506  # both loaders are safe
    (version,) = crd["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"x-kubernetes-preserve-unknown-fields": True}
    return jsonschema.Draft202012Validator(closed(schema))


def closed(schema: Any) -> Any:
    """A structural schema whose objects take no other keys than they name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made
