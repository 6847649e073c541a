"""Strict checks of an InferenceService without a cluster: by the model classes in KServe's wheel, and by KServe's own CRD.

Both refuse unknown fields, which the API server would drop or refuse, and values of another type. The CRD is in KServe's Go
module, which Go fetches; the classes are there always.
"""

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

KSERVE = "github.com/kserve/kserve@v0.20.0"
CRD = "config/crd/full/serving.kserve.io_inferenceservices.yaml"
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


def crd_file() -> Path | None:
    """KServe's CRD of InferenceService; None on a machine without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    done = subprocess.run([go, "mod", "download", "-json", KSERVE], capture_output=True, text=True, check=True, cwd="/")
    return Path(json.loads(done.stdout)["Dir"]) / CRD


@cache
def crd_validator(file: Path) -> jsonschema.Draft202012Validator:
    """A validator by the CRD's schema that refuses what the API server would prune."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C reads the 2 MB in a second
    crd = yaml.load(file.read_text(), Loader=loader)  # noqa: S506  # both loaders are safe
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
