"""Public routes of the audio transformer: one module a service whose clients keep working unchanged.

A module has `router(…)`, and `PREFIXES`: the paths whose errors have the shape of its service, not KServe's. Routes decode
and recognise nothing: they read a request, call the transcriber, and write its answer.
"""
