"""A Whisper's tokens as BACKEND=vllm needs them: ids by name, prompts, and the rules for what may come next.

Ids come from the model's own tokenizer: those of large-v3 are shifted by one against earlier vocabularies. The rules are
openai-whisper's (`decoding.ApplyTimestampRules`, `SuppressTokens`, `SuppressBlank`). vLLM itself is not imported here.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from predictors.whisper.checkpoint import Heads, alignment_heads
from predictors.whisper.segments import Vocabulary
from predictors.whisper.windows import Abilities, Window

FIRST_TIMESTAMP_STEPS = 50
"""The first timestamp is at most 1 s into the window (openai-whisper's `max_initial_timestamp`), in steps of 20 ms."""
MULTILINGUAL_SIZE = 51_865
"""Entries of the smallest vocabulary with languages."""


_CONTROL = [
    f"<|{name}|>"
    for name in ("endoftext", "startoftranscript", "translate", "transcribe", "startofprev", "notimestamps")
]
_CONFIG_KEY = "whisper_rules"
REQUEST_KEY = "whisper"
"""Where a request's `extra_args` say what the rules need to know of it."""


def extra_args(*, timestamps: bool, said: Sequence[int] = ()) -> dict[str, Any]:
    """For a request; `said`: what of its prompt is no prompt, but was said already."""
    return {REQUEST_KEY: {"timestamps": timestamps, "before": list(said)}}


@dataclass(frozen=True)
class Rules:
    """Token ids that the rules are about."""

    end_of_text: int
    no_timestamps: int
    first_timestamp: int
    never: tuple[int, ...]
    """Never said: control tokens, and signs that stand for no sound."""
    not_first: tuple[int, ...]
    """Not said first: a space, and nothing."""

    def config(self) -> dict[str, Any]:
        """For vLLM's `additional_config`, which its worker reads them from."""
        return {_CONFIG_KEY: asdict(self)}

    @classmethod
    def from_config(cls, additional_config: dict[str, Any]) -> "Rules":
        """What `config` gave."""
        return cls(**additional_config[_CONFIG_KEY])

    def bounds(self, said: Sequence[int], size: int, *, timestamps: bool) -> tuple[int, int, int]:
        """The first text token that may follow `said`, and the range of timestamps that may, in a vocabulary of `size`."""
        first = self.first_timestamp
        if not timestamps:
            return 0, size, size
        if not said:
            return first, first, first + FIRST_TIMESTAMP_STEPS + 1
        if said[-1] < first:
            latest = next((token for token in reversed(said) if token >= first), first - 1)
            return 0, latest + 1, size
        if len(said) == 1 or said[-2] >= first:  # timestamps come in pairs, but for the first: text is next
            return 0, size, size
        return self.end_of_text, said[-1], size  # a span has ended: the start of another, or the end

    def allows(self, token: int, said: Sequence[int], size: int, *, timestamps: bool) -> bool:
        """Whether `token` may follow `said`."""
        text_from, times_from, times_to = self.bounds(said, size, timestamps=timestamps)
        if (
            token in self.never
            or (not said and token in self.not_first)
            or (timestamps and token == self.no_timestamps)
        ):
            return False
        return times_from <= token < times_to if token >= self.first_timestamp else token >= text_from


@dataclass(frozen=True, eq=False)
class Tokens:
    """What the tokens of a model mean."""

    start: int
    previous: int
    transcribe: int
    translate: int
    no_speech: int
    rules: Rules
    languages: dict[int, str]
    """Language code by token."""
    vocabulary: Vocabulary
    abilities: Abilities
    alignment_heads: Heads
    """Layer and number of the attention heads that follow the audio."""
    heads: int
    """Attention heads of a decoder layer."""

    @property
    def end(self) -> int:
        """<|endoftext|>."""
        return self.rules.end_of_text

    @classmethod
    def of(cls, folder: Path) -> "Tokens":
        """The tokens of a Hugging Face folder. Raises ValueError when it is no Whisper."""
        from transformers import AutoTokenizer  # noqa: PLC0415  # heavy libraries are imported when they are needed

        config = _json(folder / "config.json")
        if config.get("model_type") != "whisper":
            raise ValueError(f"the weights are no Whisper, their config says {config.get('model_type')!r}")
        generation = {**config, **_json(folder / "generation_config.json")}  # older fine-tunes have it all in the first
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer.get_vocab()
        missing = [name for name in _CONTROL if name not in ids]
        if missing:
            raise ValueError(f"the weights' tokenizer is no Whisper's, it has no {', '.join(missing)}")
        start, translate, transcribe = (ids[f"<|{name}|>"] for name in ("startoftranscript", "translate", "transcribe"))
        no_timestamps = ids["<|notimestamps|>"]
        names = {token: name for name, token in ids.items() if start < token < min(translate, transcribe)}
        languages = {token: name.strip("<|>") for token, name in sorted(names.items())}
        multilingual = config["vocab_size"] >= MULTILINGUAL_SIZE
        end = ids["<|endoftext|>"]
        control = range(start, no_timestamps)  # all but the end, and the timestamps

        def text_ids(key: str) -> list[int]:
            """Fine-tunes list all sorts of ids, -1 among them; times have rules of their own."""
            return [token for token in generation.get(key) or () if 0 <= token <= no_timestamps]

        return cls(
            start=start,
            previous=ids["<|startofprev|>"],
            transcribe=transcribe,
            translate=translate,
            no_speech=no_timestamps - 1,  # <|nospeech|>, or <|nocaptions|> of older tokenizers
            rules=Rules(
                end_of_text=end,
                no_timestamps=no_timestamps,
                first_timestamp=no_timestamps + 1,
                never=tuple(sorted({*control, *text_ids("suppress_tokens")})),
                not_first=tuple(text_ids("begin_suppress_tokens") or (ids["\u0120"], end)),
            ),
            languages=languages,
            vocabulary=Vocabulary(end, no_timestamps + 1, lambda tokens: str(tokenizer.decode(tokens))),
            abilities=Abilities(
                tuple(languages.values()) if multilingual else ("en",),
                multilingual,
                # Text alone: a client's "<|endoftext|>" is no control token.
                lambda text: [token for token in tokenizer.encode(text, add_special_tokens=False) if token < end],
                config["max_target_positions"],
            ),
            alignment_heads=alignment_heads(
                generation.get("alignment_heads"), config["decoder_layers"], config["decoder_attention_heads"]
            ),
            heads=config["decoder_attention_heads"],
        )

    def prompt(self, window: Window) -> list[int]:
        """The decoder's prompt: what was said before, start, language and task, and whether times are wanted."""
        before = [self.previous, *window.previous] if window.previous else []
        after = [] if window.timestamps else [self.rules.no_timestamps]
        if not self.abilities.multilingual:
            return [*before, self.start, *after]
        language = next(token for token, name in self.languages.items() if name == window.language)
        task = self.transcribe if window.task == "transcribe" else self.translate
        return [*before, self.start, language, task, *after]


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return found
