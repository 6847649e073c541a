"""`python -m predictors.audio_caption.prepare SOURCE TARGET`: weights for the `ctranslate2` backend, made ahead.

SOURCE is a Hugging Face folder or hub id, TARGET a folder that does not exist yet: that of a volume or of a weights image.
Without it the pod converts as it starts, into its cache.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from predictors.audio_caption import convert, weights


def main() -> None:
    """Entry point. Exits with one line on failure, and leaves no half of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET", type=Path)
    parser.add_argument("--dtype", choices=["int8", "float16", "float32"], default="int8")
    options = parser.parse_args()
    if options.target.exists():
        sys.exit(f"{options.target} exists already")
    try:
        source = weights.for_torch(options.source)
        options.target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            convert.convert(source, made, dtype=options.dtype)
            shutil.move(made, options.target)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
