"""Limits for tests: those of the settings' defaults, but for what a test names."""

from dataclasses import replace
from typing import Any

from serving.uploads.fetch import FetchLimits
from serving.uploads.multipart import FormLimits
from transformers_pre.audio.media import MediaLimits
from transformers_pre.audio.settings import AudioSettings


def media_limits(**changes: Any) -> MediaLimits:
    """Two decoders and audio of any length, unless told otherwise."""
    return replace(AudioSettings().media_limits(), **{"workers": 2, "max_audio_seconds": 0.0, **changes})


def fetch_limits(**changes: Any) -> FetchLimits:
    return replace(AudioSettings().fetch_limits(), **changes)


def form_limits(**changes: Any) -> FormLimits:
    return replace(AudioSettings().form_limits(), **changes)
