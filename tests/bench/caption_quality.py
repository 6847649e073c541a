"""How good captions are: `python -m tests.bench.caption_quality FOLDER --model_id …`, on a folder like Clotho's.

FOLDER holds recordings and one CSV with the columns `file_name` and `caption_1` … `caption_5` (some may be empty). Each recording
is captioned by the engine and compared with its references:

| measure | meaning |
|---|---|
| CIDEr-D | as Vedantam et al. 2015: n-grams of 1 to 4 words weighted by how rare they are in all references, times 10 |
| BLEU-1 … 4 | of the whole set, as Papineni et al. 2002, with the closest reference's length |
| vocabulary | different words that the captions use, and that the references use |

Words are compared in lower case without punctuation, not stemmed: figures are near those of the COCO tools, whose tokeniser is
another, and not equal. SPICE, METEOR and FENSE need Java or models that are downloaded; they are not computed.
"""

import argparse
import csv
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from predictors.audio_caption.model import engine
from predictors.audio_caption.plans import MAX_SECONDS, RATE
from predictors.audio_caption.settings import CaptionSettings
from serving.contracts.caption import CaptionInput, CaptionOptions, CaptionResult, Samples
from tests.bench.report import Section

ORDER = 4
_SIGMA = 6.0  # of CIDEr-D's penalty for another length
Ngrams = Counter[tuple[str, ...]]


@dataclass(frozen=True)
class Clip:
    """A recording and what people said of it."""

    file: Path
    references: tuple[str, ...]


def words(text: str) -> list[str]:
    """In lower case, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def ngrams(text: str) -> Ngrams:
    """Every run of 1 to 4 words and how often it occurs."""
    said = words(text)
    return Counter(tuple(said[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(said) - n + 1))


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-1 … BLEU-4 of all captions together, in [0, 1]."""
    matched, proposed = [0] * ORDER, [0] * ORDER
    length = closest = 0
    for caption, those in zip(captions, references, strict=True):
        found = ngrams(caption)
        best: Ngrams = Counter()
        for reference in those:
            best |= ngrams(reference)
        for gram, count in found.items():
            proposed[len(gram) - 1] += count
            matched[len(gram) - 1] += min(count, best[gram])
        said = len(words(caption))
        length += said
        closest += min((len(words(each)) for each in those), key=lambda other: (abs(other - said), other))
    penalty = min(1.0, math.exp(1 - closest / length)) if length else 0.0
    scores, logs = [], 0.0
    for n in range(ORDER):
        if not matched[n]:
            return scores + [0.0] * (ORDER - n)
        logs += math.log(matched[n] / proposed[n])
        scores.append(penalty * math.exp(logs / (n + 1)))
    return scores


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D of the set, in [0, 10]; the rarity of an n-gram is taken from the references of the set itself."""
    documents: Ngrams = Counter(gram for those in references for gram in {g for each in those for g in ngrams(each)})
    total = math.log(max(len(references), 2))

    def vectors(text: str) -> tuple[list[dict[tuple[str, ...], float]], list[float]]:
        split: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDER)]
        for gram, count in ngrams(text).items():
            split[len(gram) - 1][gram] = count * (total - math.log(max(1, documents[gram])))
        return split, [math.sqrt(sum(value**2 for value in each.values())) for each in split]

    scores = []
    for caption, those in zip(captions, references, strict=True):
        ours, our_norms = vectors(caption)
        sums = 0.0
        for reference in those:
            theirs, their_norms = vectors(reference)
            penalty = math.exp(-((len(words(caption)) - len(words(reference))) ** 2) / (2 * _SIGMA**2))
            for n in range(ORDER):
                if our_norms[n] and their_norms[n]:
                    product = sum(
                        min(value, theirs[n].get(gram, 0.0)) * theirs[n].get(gram, 0.0)
                        for gram, value in ours[n].items()
                    )
                    sums += penalty * product / (our_norms[n] * their_norms[n])
        scores.append(10.0 * sums / (ORDER * len(those)))
    return sum(scores) / len(scores)


def clips(folder: Path) -> list[Clip]:
    """The recordings of a folder by its CSV. Exits with what is wrong with it."""
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        sys.exit(f"{folder} must hold one CSV with the columns file_name and caption_1 …, it has {len(tables)}")
    found = []
    for row in csv.DictReader(io.StringIO(tables[0].read_text(encoding="utf-8-sig"))):
        told = tuple(
            text.strip() for name, text in row.items() if name and name.startswith("caption") and text and text.strip()
        )
        file = next(iter(folder.rglob(row.get("file_name") or "\0")), None)
        if file is None or not told:
            sys.exit(
                f"{tables[0].name}: the row of {row.get('file_name')!r} has no recording in {folder}, or no caption"
            )
        found.append(Clip(file, told))
    return found


def samples(file: Path) -> Samples:
    """Mono at 16 kHz, the first 30 s: Clotho's recordings have no more."""
    audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    mono: Samples = np.ascontiguousarray(soxr.resample(audio.mean(axis=1), rate, RATE), np.float32)
    return mono[: MAX_SECONDS * RATE]


def measure(folder: Path, settings: CaptionSettings) -> Section:
    """Captions every recording with the engine, and compares."""
    captioner = engine(settings)
    captioner.load()
    known = clips(folder)
    captions = []
    for clip in known:
        (result,) = captioner.run([CaptionInput(samples(clip.file), CaptionOptions())])
        if not isinstance(result, CaptionResult):
            raise result
        captions.append(result.captions[0].text if result.captions else "")
    captioner.close()
    references = [clip.references for clip in known]
    section = Section(
        "Quality of captions",
        f"{len(known)} recordings, MODEL_ID={settings.model_id}, BACKEND={settings.backend}, style {settings.style}.",
    )
    section.row("CIDEr-D", f"{cider_d(captions, references):.3f}")
    for n, score in enumerate(bleu(captions, references), start=1):
        section.row(f"BLEU-{n}", f"{score:.3f}")
    section.row(
        "vocabulary: captions / references",
        f"{_vocabulary(captions)} / {_vocabulary([t for r in references for t in r])}",
    )
    return section


def _vocabulary(texts: Sequence[str]) -> int:
    return len({word for text in texts for word in words(text)})


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; flags besides the folder are the predictor's settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options, flags = parser.parse_known_args(argv)
    settings = CaptionSettings.from_command_line(flags)
    if settings.backend == "vllm":
        sys.exit("BACKEND=vllm is measured through its service, not here")
    print(measure(options.folder, settings).markdown())


if __name__ == "__main__":
    main()
