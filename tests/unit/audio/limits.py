"""Limits for tests: those of the settings' defaults, but for what a test names."""

from dataclasses import replace
from typing import Any

from transformers_pre.audio.fetch import FetchLimits
from transformers_pre.audio.media import MediaLimits
from transformers_pre.audio.settings import AudioSettings
from transformers_pre.audio.upload import FormLimits


def media_limits(**changes: Any) -> MediaLimits:
    """Two decoders and audio of any length, unless told otherwise."""
    return replace(AudioSettings().media_limits(), **{"workers": 2, "max_audio_seconds": 0.0, **changes})


def fetch_limits(**changes: Any) -> FetchLimits:
    return replace(AudioSettings().fetch_limits(), **changes)


def form_limits(**changes: Any) -> FormLimits:
    return replace(AudioSettings().form_limits(), **changes)
