#!/usr/bin/env python3
"""Packs files into an image archive from nothing: no base image, no daemon.

    mkimage.py OUT.tar NAME --entrypoint PATH [--user UID] --add SOURCE:TARGET...

A source is a file, or a folder, which is taken whole. The archive has one layer and Docker's own format, which `docker load`,
`ctr images import` and `kind load image-archive` read. The same files give the same bytes. Not a builder: no Dockerfile.
"""

import argparse
import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path, PurePosixPath

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # Kubernetes calls its programs by name alone
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Layer:
    """A file system being packed; each path once, its folders before it, everything owned by root."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._seen = {PurePosixPath()}

    def folder(self, target: PurePosixPath, mode: int = 0o755) -> None:
        """An empty folder and those above it."""
        if target in self._seen:
            return
        self.folder(target.parent)
        self._seen.add(target)
        info = tarfile.TarInfo(str(target))
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(info)

    def file(self, source: Path, target: PurePosixPath) -> None:
        """A file, or a link as a link."""
        if target in self._seen:
            return
        self.folder(target.parent)
        self._seen.add(target)
        info = tarfile.TarInfo(str(target))
        if source.is_symlink():
            info.type, info.linkname = tarfile.SYMTYPE, str(source.readlink())
            self._tar.addfile(info)
            return
        info.size, info.mode = source.stat().st_size, source.stat().st_mode & 0o7777
        with source.open("rb") as content:
            self._tar.addfile(info, content)

    def add(self, source: Path, target: PurePosixPath) -> None:
        """A folder with all that is in it, or the file that a path leads to."""
        if not source.is_dir():
            self.file(source.resolve(), target)
            return
        for each in sorted(source.rglob("*")):
            if not each.is_dir() or each.is_symlink():
                self.file(each, target / each.relative_to(source))


def digest(path: Path) -> str:
    """Its SHA-256."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main() -> None:
    """What the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("name")
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--user", default="65532")
    parser.add_argument("--add", action="append", required=True)
    given = parser.parse_args()

    packed = given.out.with_suffix(".layer")
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as tar:
        layer = Layer(tar)
        layer.folder(PurePosixPath("tmp"), 0o1777)
        for source, _, target in (each.rpartition(":") for each in given.add):
            layer.add(Path(source), PurePosixPath(target.strip("/")))
    config = {
        "architecture": MACHINES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": [given.entrypoint], "User": given.user, "Env": [f"PATH={PATH}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(packed)}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [given.name], "Layers": ["layer.tar"]}]
    part = given.out.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document, sort_keys=True).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("layer.tar")
        info.size = packed.stat().st_size
        with packed.open("rb") as layer_content:
            tar.addfile(info, layer_content)
    packed.unlink()
    part.rename(given.out)


if __name__ == "__main__":
    main()
