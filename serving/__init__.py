"""The kit every pod is built from: protocols, the hop between pods, batching, errors, settings, telemetry and the server.

It imports neither `predictors` nor `transformers_pre`; both import it.
"""

import os

# Libraries that would tell their makers of each run, and leave a file with an id of the machine (onnxruntime from 1.31 on). Here,
# so that it is said before any of them is imported, in pods and in their workers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

NAME = "sonotome"
VERSION = "0.1.0"
"""What pods call themselves. The version is that of `pyproject.toml`, which images do not hold; a test compares the two."""
