"""Beam search over an engine that decodes one token of a given text. openai-whisper's rules, with patience 1. Pure."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Beam:
    """Tokens, and the log-probability of each."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """Log-probability of the whole."""
        return sum(self.logprobs)

    def with_token(self, token: int, logprob: float) -> "Beam":
        """A beam that goes on with `token`."""
        return Beam((*self.tokens, token), (*self.logprobs, logprob))


async def search(
    step: Callable[[tuple[int, ...]], Awaitable[Mapping[int, float]]], *, width: int, end: int, max_tokens: int
) -> Beam:
    """The beam with the best mean log-probability; its last token is `end`, unless it ran into `max_tokens`.

    Args:
        step: log-probabilities of the tokens that may follow what was said.
        width: beams that are followed; as many that have ended end the search.
        end: the token that ends a beam.
        max_tokens: the most tokens of a beam.
    """
    beams, ended = [Beam()], list[Beam]()
    for _ in range(max_tokens):
        told = await asyncio.gather(*(step(beam.tokens) for beam in beams))
        longer = [
            beam.with_token(token, logprob)
            for beam, following in zip(beams, told, strict=True)
            for token, logprob in following.items()
        ]
        longer.sort(key=lambda beam: beam.total, reverse=True)
        beams = []
        for beam in longer:
            (ended if beam.tokens[-1] == end else beams).append(beam)
            if len(beams) == width:
                break
        if len(ended) >= width or not beams:
            break
    return max(ended or beams, key=lambda beam: beam.total / len(beam.tokens))
