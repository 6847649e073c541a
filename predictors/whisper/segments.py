"""From a decoder's tokens to segments with times and text. Pure: token ids and functions in, contract objects out.

Shared by every backend. Times are seconds from the window's start; a timestamp token stands for 20 ms steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from predictors.whisper.fallback import Decoding, compression_ratio
from predictors.whisper.windows import Window
from serving.contracts.asr import AsrResult, Segment, Word

SECONDS_PER_TIMESTAMP = 0.02


@dataclass(frozen=True)
class Vocabulary:
    """What the tokens of a model mean: text below `end_of_text`, times from `first_timestamp` up, control between."""

    end_of_text: int
    first_timestamp: int
    decode: Callable[[list[int]], str]
    """Text of text tokens."""

    def text(self, tokens: Sequence[int]) -> str:
        """The text tokens' text; every other token is left out."""
        return self.decode([token for token in tokens if token < self.end_of_text])


@dataclass(frozen=True)
class Span:
    """A stretch of decoder tokens, its own timestamp tokens included, between two times."""

    start: float
    end: float
    tokens: tuple[int, ...]
    first: int = 0
    """Where `tokens` begin in the decoding."""
    words: tuple[Word, ...] | None = None


def split(tokens: Sequence[int], vocabulary: Vocabulary, duration: float) -> list[Span]:
    """Spans of the text between timestamps, in order, none without a letter or digit.

    Whisper marks a segment as `<|0.00|> text <|2.00|>`; whatever else comes out of a decoder keeps all its text:
    a lone timestamp ends one span and begins the next, text before the first begins at 0, text after the last ends with
    the window, a time that goes backwards or beyond `duration` is moved to the nearest that does not. Without
    timestamps the window is one span. Text of dots alone, which noise often becomes, is nothing that was said.
    """
    spans: list[Span] = []
    start, latest = 0.0, 0.0
    held: list[int] = []
    has_text = False
    for index, token in enumerate(tokens):
        if token < vocabulary.first_timestamp:
            held.append(token)
            has_text = has_text or token < vocabulary.end_of_text
            continue
        latest = min(max((token - vocabulary.first_timestamp) * SECONDS_PER_TIMESTAMP, latest), duration)
        if has_text:
            spans.append(Span(start, latest, (*held, token), index - len(held)))
            held, has_text = [], False
        else:
            held = [token]
        start = latest
    if has_text:
        spans.append(Span(start, duration, tuple(held), len(tokens) - len(held)))
    return [span for span in spans if any(map(str.isalnum, vocabulary.text(span.tokens)))]


def with_words(spans: Sequence[Span], words: Sequence[Sequence[Word]], duration: float) -> list[Span]:
    """The spans with their words, whose first start and last end become their own.

    Words are put in order: none begins before another ends, and none ends after `duration`. A span without words keeps
    its times as far as they fit between its neighbours'.
    """
    timed = []
    latest = 0.0

    def forward(time: float) -> float:
        nonlocal latest
        latest = min(max(time, latest), duration)
        return latest

    for span, own in zip(spans, words, strict=True):
        if own:
            ordered = [word.model_copy(update={"start": forward(word.start), "end": forward(word.end)}) for word in own]
            timed.append(replace(span, start=ordered[0].start, end=ordered[-1].end, words=tuple(ordered)))
        else:
            timed.append(replace(span, start=forward(span.start), end=forward(span.end), words=()))
    return timed


def without_tail(spans: Sequence[Span]) -> list[Span]:
    """Aligned spans without those at the end that took no time: where no audio is left a decoder may go on by itself."""
    count = len(spans)
    while count > 1 and spans[count - 1].words and spans[count - 1].end <= spans[count - 1].start:
        count -= 1
    return list(spans[:count])


def shortened(decoding: Decoding, spans: Sequence[Span], vocabulary: Vocabulary) -> Decoding:
    """The decoding up to the last of `spans`, which are some of its own; it may repeat itself no more."""
    end = spans[-1].first + len(spans[-1].tokens)
    if end == len(decoding.tokens):
        return decoding
    tokens, logprobs = decoding.tokens[:end], decoding.logprobs and decoding.logprobs[:end]
    mean = fmean(logprobs) if logprobs else decoding.avg_logprob
    return replace(decoding, tokens=tokens, text=vocabulary.text(tokens), avg_logprob=mean, logprobs=logprobs)


def segments(spans: Sequence[Span], decoding: Decoding, vocabulary: Vocabulary, *, words: bool) -> list[Segment]:
    """The contract's segments.

    Their statistics are their own where the engine tells the log-probability of each token, else those of the window's
    decoding, as in openai-whisper. `words`: whether the words are told.
    """
    return [
        Segment(
            start=round(span.start, 3),
            end=round(span.end, 3),
            text=(text := vocabulary.text(span.tokens)),
            tokens=list(span.tokens),
            temperature=decoding.temperature,
            avg_logprob=_avg_logprob(span, decoding),
            compression_ratio=decoding.compression_ratio if decoding.logprobs is None else compression_ratio(text),
            no_speech_prob=decoding.no_speech_prob,
            words=list(span.words or ()) if words else None,
        )
        for span in spans
    ]


def _avg_logprob(span: Span, decoding: Decoding) -> float:
    if decoding.logprobs is None:
        return decoding.avg_logprob
    return fmean(decoding.logprobs[span.first : span.first + len(span.tokens)])


def window_result(window: Window, spans: Sequence[Span], decoding: Decoding, vocabulary: Vocabulary) -> AsrResult:
    """The contract's result of a window."""
    found = segments(spans, decoding, vocabulary, words=window.words)
    return AsrResult(
        text="".join(segment.text for segment in found),
        language=window.language,
        language_probability=window.language_probability,
        segments=found,
    )
