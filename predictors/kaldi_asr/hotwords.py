"""Hotwords as clients give them, and as sherpa-onnx takes them. Pure functions."""

from serving.errors import InvalidInput

_MARKS = ":#@"
"""A word that begins with one of these is a score, a threshold or a name of a phrase to sherpa-onnx, which fails the whole batch
where it is not well formed."""


def phrases(hotwords: str | None) -> tuple[str, ...]:
    """The phrases of a list with commas, slashes in them as spaces. Raises InvalidInput for sherpa-onnx's own marks."""
    found = tuple(
        " ".join(part.split())
        for part in (hotwords or "").replace("/", " ").replace("\0", " ").split(",")
        if part.split()
    )
    for phrase in found:
        marked = next((word for word in phrase.split() if word[0] in _MARKS), None)
        if marked is not None:
            raise InvalidInput(
                f"hotwords are words and phrases, separated by commas; {marked[:20]!r} begins with one of {' '.join(_MARKS)} "
                "(how much they are favoured is the pod's HOTWORDS_SCORE)",
                param="hotwords",
            )
    return found
