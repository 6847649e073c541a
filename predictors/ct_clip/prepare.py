"""`python -m predictors.ct_clip.prepare CHECKPOINT --head zero_shot --tokenizer FOLDER --out FILE`: a published file → a bundle.

The bundle has the image encoder, the latents of the findings' prompts (so that no text encoder need be in memory) or the trained
layer, and the hash of what it was made from. `--lightgbm MODEL.pkl --allow-pickle` turns a pickled LightGBM model into LightGBM's
text format; unpickling runs code in the file, so that it is for files of your own, on a machine of your own.
"""

import argparse
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch

from predictors.ct_clip import bundle, checkpoint, heads, text
from predictors.ct_clip.bundle import BY_TEXT, Bundle, Head

TRAINED_LABELS = {"classfine": heads.PATHOLOGIES}


def prepare(
    file: Path,
    head: Head,
    *,
    version: str,
    tokenizer: Path | None = None,
    findings: Sequence[str] | None = None,
    half: bool = False,
    keep_text: bool = False,
    text_heads: int | None = None,
) -> Bundle:
    """The bundle of a published file.

    Args:
        file: a checkpoint of `checkpoint`'s layouts.
        head: what it was trained for; the layout does not tell zero-shot from VocabFine.
        version: a name for it, which every answer carries.
        tokenizer: folder of the text encoder's tokenizer; wanted by heads that compare with texts.
        findings: labels, in the order that the head was trained with; by default those of CT-RATE, or the file's own.
        half: stores the image encoder as float16. It computes in float32 all the same.
        keep_text: keeps the text encoder, for prompts of clients' own.
        text_heads: attention heads of the text encoder, where its head is not of 64.

    Raises:
        ValueError: with what does not fit.
    """
    read = checkpoint.read(file)
    by_text = head in BY_TEXT
    if by_text and read.head:
        raise ValueError(f"{file.name} has a trained layer, it is for --head classfine or supervised")
    if not by_text and not read.head:
        raise ValueError(f"{file.name} has no trained layer, it is for --head zero_shot or vocabfine")
    if head == "supervised" and "norm.weight" not in read.head:
        raise ValueError(f"{file.name} is of ClassFine's layout, it is for --head classfine")
    if head == "classfine" and "norm.weight" in read.head:
        raise ValueError(f"{file.name} is of the supervised layout, it is for --head supervised")
    labels = tuple(findings or read.labels or heads.PATHOLOGIES)
    if read.head and len(labels) != len(read.head["classifier.bias"]):
        raise ValueError(
            f"{len(labels)} findings for a layer of {len(read.head['classifier.bias'])}; name them: --findings"
        )
    encoder, texts, tokens = None, None, b""
    if by_text:
        if tokenizer is None:
            raise ValueError(f"--head {head} needs --tokenizer, the folder of the text encoder's tokenizer")
        encoder = text.TextEncoder.of(file.name, read.text, text_heads)
        words = text.tokenizer(tokenizer, encoder.positions)
        latents = encoder(*text.encoded(words, heads.texts(labels)))
        texts = latents.view(-1, 2, latents.shape[-1])
        tokens = words.to_str().encode() if keep_text else b""
    dtype = torch.float16 if half else torch.float32
    made = Bundle(
        head,
        version,
        bundle.sha256(file),
        read.config,
        labels,
        read.temperature,
        {name: value.to(dtype) for name, value in read.image.items()},
        texts,
        read.head or None,
        read.text if keep_text and by_text else None,
        encoder.heads if encoder else 0,
        tokens,
    )
    bundle.check_shapes(file.name, made)
    return made


def text_of_pickle(file: Path, out: Path) -> None:
    """LightGBM's text format of a pickled model, alone or in scikit-learn's wrapper. It runs what is in the file.

    Raises ValueError for one that is damaged, wants a library that is not here, or holds something else.
    """
    import lightgbm  # noqa: PLC0415  # after torch

    try:
        with file.open("rb") as opened:
            found: Any = pickle.load(opened)  # noqa: S301  # asked for by --allow-pickle
        booster = getattr(found, "booster_", found)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  # a pickle raises whatever the code in it does
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{file.name} cannot be unpickled here ({reason}); this image has neither scikit-learn nor joblib: where the model "
            "can be loaded, export it with model.booster_.save_model('lightgbm.txt'), which is served as it is"
        ) from None
    if not isinstance(booster, lightgbm.Booster):
        raise ValueError(f"{file.name} holds a {type(found).__name__}, no LightGBM model")  # noqa: TRY004  # of the file
    booster.save_model(str(out))


def _labels(file: Path) -> list[str]:
    """The labels of a file. Raises ValueError when there are none, or one stands twice."""
    found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{file} names no findings, one a line is expected")
    twice = sorted({label for label in found if found.count(label) > 1})
    if twice:
        raise ValueError(f"{file} names findings twice: {', '.join(twice[:5])}")
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--head", choices=get_args(Head))
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json or vocab.txt")
    parser.add_argument("--findings", type=Path, help="labels, one a line, in the order of the head")
    parser.add_argument("--version", default="1", help="a name that every answer carries")
    parser.add_argument("--half", action="store_true", help="store the image encoder as float16")
    parser.add_argument("--keep-text-encoder", action="store_true", help="for prompts of clients' own")
    parser.add_argument("--text-heads", type=int, help="attention heads of the text encoder")
    parser.add_argument("--lightgbm", type=Path, help="a pickled LightGBM model instead of a checkpoint")
    parser.add_argument("--allow-pickle", action="store_true", help="run the code that a pickle may hold")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        if options.lightgbm:
            if not options.allow_pickle:
                raise ValueError("a pickle can hold any code; --allow-pickle runs it")
            text_of_pickle(options.lightgbm, options.out)
        elif options.checkpoint is None or options.head is None:
            raise ValueError("name a checkpoint and its --head, or a --lightgbm model")
        else:
            findings = _labels(options.findings) if options.findings else None
            made = prepare(
                options.checkpoint,
                options.head,
                version=options.version,
                tokenizer=options.tokenizer,
                findings=findings,
                half=options.half,
                keep_text=options.keep_text_encoder,
                text_heads=options.text_heads,
            )
            bundle.write(made, options.out)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB, sha256 {bundle.sha256(options.out)}")  # noqa: T201


if __name__ == "__main__":
    main()
