"""The kit every pod is built from: protocols, the hop between pods, batching, errors, settings, telemetry and the server.

It imports neither `predictors` nor `transformers_pre`; both import it.
"""
