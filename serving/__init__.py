"""The kit every pod is built from: protocols, the hop between pods, batching, errors, settings, telemetry and the server.

It imports neither `predictors` nor `transformers_pre`; both import it.
"""

NAME = "sonotome"
VERSION = "0.1.0"
"""What pods call themselves. The version is that of `pyproject.toml`, which images do not hold; a test compares the two."""
