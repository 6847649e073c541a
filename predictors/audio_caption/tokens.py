"""The tokenizer of a Whisper folder and what the decoder begins with, by the library tokenizers: no transformers for the CPU."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
END = "<|endoftext|>"
PREFIXES = {
    "clotho": "clotho > caption: ",
    "audiocaps": "audiocaps > caption: ",
    "audioset": "audioset > keywords: ",
}
"""Text that the captions of each data set began with in training; the space at its end is a token of its own."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Ids and text of one folder's vocabulary."""

    tokenizer: "Tokenizer"
    suppressed: tuple[int, ...]
    """Never said."""
    begin_suppressed: tuple[int, ...]
    """Not said first: the end, and a lone space."""

    @classmethod
    def of(cls, folder: Path) -> "Tokens":
        """Reads tokenizer, config.json and generation_config.json of a folder. Raises ValueError."""
        tokenizer = read_tokenizer(folder)
        missing = [token for token in (*START, END) if tokenizer.token_to_id(token) is None]
        if missing:
            raise ValueError(f"the tokenizer of {folder} is no multilingual Whisper's, it has no {', '.join(missing)}")
        told: dict[str, object] = {}
        for name in ("config.json", "generation_config.json"):
            told |= {key: value for key, value in _json(folder / name).items() if value is not None}
        blank = tokenizer.encode(" ", add_special_tokens=False).ids
        return cls(
            tokenizer,
            suppressed=_ids(told, "suppress_tokens", "suppress_ids"),
            begin_suppressed=_ids(told, "begin_suppress_tokens", "suppress_ids_begin") or (*blank, _id(tokenizer, END)),
        )

    @property
    def end(self) -> int:
        """The id of <|endoftext|>."""
        return _id(self.tokenizer, END)

    def prompt(self, style: str) -> list[int]:
        """What the decoder begins with for a style."""
        prefix = self.tokenizer.encode(PREFIXES[style], add_special_tokens=False).ids
        return [*(_id(self.tokenizer, token) for token in START), *prefix]

    def text(self, said: Sequence[int]) -> str:
        """The caption that tokens say, up to the end, without special tokens."""
        ids = list(said)
        if self.end in ids:
            ids = ids[: ids.index(self.end)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def read_tokenizer(folder: Path) -> "Tokenizer":
    """From `tokenizer.json`, or from the older `vocab.json`, `merges.txt` and `added_tokens.json`. Raises ValueError."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415  # as in backends

    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.is_file() and merges.is_file()):
        raise ValueError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added: dict[str, Any] = _json(folder / "added_tokens.json")
    in_order = [END, *sorted(added, key=lambda token: int(added[token]))]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in in_order])
    wrong = [token for token, number in added.items() if tokenizer.token_to_id(token) != number]
    if wrong:
        raise ValueError(f"added_tokens.json of {folder} does not follow vocab.json: {wrong[0]} has another number")
    return tokenizer


def _id(tokenizer: "Tokenizer", token: str) -> int:
    found = tokenizer.token_to_id(token)
    assert found is not None  # noqa: S101  # `Tokens.of` has looked
    return found


def _ids(told: dict[str, object], *names: str) -> tuple[int, ...]:
    """The first list of these names: transformers' first, then CTranslate2's."""
    found = next((told[name] for name in names if name in told), ())
    return tuple(found) if isinstance(found, Sequence) else ()


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}
