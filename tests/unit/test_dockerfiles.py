"""The Dockerfiles, by their text: an image a lock, one way to build them all, and a context that keeps secrets and data out.

What the images hold is tested with a container tool: `tests/images`.
"""

import fnmatch
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted(file for top in ("predictors", "transformers_pre") for file in ROOT.glob(f"{top}/*/Dockerfile*"))
SERVICES = [file for file in DOCKERFILES if file.name == "Dockerfile"]
every = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: f"{file.parent.name}/{file.name}")
services = pytest.mark.parametrize("file", SERVICES, ids=lambda file: file.parent.name)


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def images(file: Path) -> list[str]:
    """The names in its comment."""
    (line,) = re.findall(r"^# Images: (.+)$", file.read_text(), re.MULTILINE)
    return line.split()


def stages(file: Path) -> list[list[tuple[str, str]]]:
    """The instructions of each stage; the first element is what stands before any."""
    found: list[list[tuple[str, str]]] = [[]]
    for instruction in instructions(file):
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def test_every_lock_of_an_image_has_one_dockerfile():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    made = [image for file in SERVICES for image in images(file)]
    assert sorted(made) == sorted(project["optional-dependencies"])
    assert all((ROOT / "requirements" / f"{image}.txt").is_file() for image in made)


def test_every_image_that_the_chart_can_deploy_is_built():
    values = yaml.safe_load((ROOT / "charts/sonotome/values.yaml").read_text())
    built = [model for model in values["models"].values() if not model["description"].startswith("Not built yet")]
    deployed = {model["predictor"]["image"]["repository"] for model in built}
    deployed |= {transformer["image"]["repository"] for transformer in values["transformers"].values()}
    assert deployed == {image for file in SERVICES for image in images(file)}


@services
def test_services_are_built_alike(file):
    """What is not of the folder's own is the same everywhere, so that a change is made everywhere."""

    def common(each: Path) -> list[tuple[str, str]]:
        own = [rf"\b{each.parent.parent.name}\b", rf"\b{each.parent.name}\b", r"LOCK=\S+"]
        own += [r"(?<=/build/\${LOCK}\.txt) .+", r'(?<=image\.title=)"[^"]+"']
        return [
            (name, re.sub("|".join(own), "", arguments))
            for name, arguments in instructions(each)
            if "apt-get" not in arguments and (name, arguments) != ("ARG", "LOCK")  # what an engine wants of Debian
        ]

    assert common(file) == common(SERVICES[0])
    assert ("ARG", f"LOCK={images(file)[0]}") in instructions(file)
    (entry,) = (json.loads(arguments) for name, arguments in instructions(file) if name == "ENTRYPOINT")
    assert entry == ["python", "-m", f"{file.parent.parent.name}.{file.parent.name}"]
    assert (file.parent / "__main__.py").is_file()


@every
def test_a_builder_of_any_age_builds_it_from_one_base(file):
    text = file.read_text()
    assert not re.search(r"^#\s*syntax|^RUN --mount|<<-?\"?[A-Z]", text, re.MULTILINE)
    before, *builds = stages(file)
    ((argument, default),) = before
    assert argument == "ARG"
    assert re.fullmatch(r"BASE_IMAGE=docker\.io/library/python:3\.1[1-3]-slim", default)
    assert [build[0] for build in builds] == [("FROM", "${BASE_IMAGE} AS build"), ("FROM", "${BASE_IMAGE}")]


@every
def test_the_last_stage_takes_results_only_and_is_not_root(file):
    last = stages(file)[-1]
    assert [arguments for name, arguments in last if name == "USER"] == ["1000:1000"]
    copies = [arguments for name, arguments in last if name == "COPY"]
    assert copies
    assert all(re.fullmatch(r"--from=build (\S+) \1", arguments) for arguments in copies)
    assert "ADD" not in dict(instructions(file))
    for arguments in (arguments for name, arguments in last if name == "RUN"):
        if "apt-get" in arguments:
            assert "--no-install-recommends" in arguments
            assert arguments.endswith("&& rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin; }")
        else:
            assert arguments.startswith("cd /usr/local/lib && rm -rf ")
    labels = [arguments for name, arguments in last if name == "LABEL"]
    names = re.findall(r"org\.opencontainers\.image\.(\w+)=", " ".join(labels))
    assert names == ["title", "licenses", "version", "revision", "source"]


@every
def test_what_it_copies_is_in_the_build_context(file):
    build = stages(file)[1]
    first = dict(arguments.split("=") for name, arguments in build if name == "ARG")
    copied = [arguments.split()[:-1] for name, arguments in build if name == "COPY"]
    for source in (each.replace("${LOCK}", first.get("LOCK", "")) for sources in copied for each in sources):
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


# --- the build context ---


def patterns() -> Iterator[tuple[bool, str]]:
    """`.dockerignore`: whether a pattern takes back, and the pattern."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.startswith("!"), line.removeprefix("!")


def ignored(path: str) -> bool:
    """Whether a file stays out: the last pattern that matches it or a folder above it decides."""
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    out = False
    for back, pattern in patterns():
        if any(matches(each, pattern) for each in above):
            out = not back
    return out


def matches(path: str, pattern: str) -> bool:
    """`*` stays inside a name; a leading `**/` is any folder or none."""
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch.fnmatchcase(path, pattern)


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/test/bin/python", ".data/recordings/call.wav", ".env", ".tools/uv/bin/uv"),
        *(
            "tests/conftest.py",
            "charts/sonotome/values.yaml",
            "pyproject.toml",
            "Makefile",
            "README.md",
            "requirements/lock.py",
        ),
        *(
            "serving/__pycache__/hop.cpython-311.pyc",
            "serving/.env",
            "predictors/whisper/Dockerfile",
            "predictors/whisper/README.md",
        ),
        *("predictors/whisper/service.toml", "transformers_pre/audio/__pycache__/vad.cpython-311.pyc"),
    ],
)
def test_it_stays_out_of_the_build_context(path):
    assert ignored(path)


def test_all_code_is_in_the_build_context():
    sources = [file for top in ("serving", "predictors", "transformers_pre") for file in (ROOT / top).rglob("*.py")]
    assert len(sources) > 50
    assert [file for file in sources if ignored(file.relative_to(ROOT).as_posix())] == []
    assert not ignored("requirements/audio.txt")
