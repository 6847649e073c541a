"""The pod of the audio transformer: that of the pipeline that PIPELINE names."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Final

from serving import heap
from transformers_pre.audio.recording_settings import pipeline

PODS: Final[Mapping[str, str]] = {
    "speech": "transformers_pre.audio.speech_pod",
    "caption": "transformers_pre.audio.caption.pod",
}
"""By pipeline the module whose `main` is its pod, the only one of them that is imported; its `settings.py` is beside it."""


def main() -> None:
    """Entry point: the pod of the pipeline that PIPELINE names."""
    heap.keep_buffers_apart()
    chosen = pipeline(sys.argv[1:], os.environ)
    importlib.import_module(PODS.get(chosen, PODS["speech"])).main()  # whose settings refuse what is no pipeline
