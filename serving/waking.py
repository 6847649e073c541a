"""Wakes a transformer's predictor before the transformer's own imports, so that two pods that come from zero start together.

Standard library only, and quick: whatever it does wrong, `serving.known_predictor` asks again once the pod runs. One request
is enough: Knative's activator takes it, and starts the pod that is to answer it.
"""

import contextlib
import http.client
import os
import sys
import threading
from collections.abc import Mapping, Sequence

_SECONDS = 5.0  # the activator has counted the request long before that


def wake_predictor() -> None:
    """Begins one request to the predictor that the flags or the environment name, in a thread of its own."""
    host = predictor_host(sys.argv[1:], os.environ)
    if host:
        threading.Thread(target=_ask, args=(host,), daemon=True, name="waking").start()


def predictor_host(flags: Sequence[str], environment: Mapping[str, str]) -> str:
    """`--predictor_host` as `serving.settings` reads it, or PREDICTOR_HOST; "" without either."""
    for index, flag in enumerate(flags):
        name, given, value = flag.partition("=")
        if name == "--predictor_host":
            return value if given else next(iter(flags[index + 1 : index + 2]), "")
    return environment.get("PREDICTOR_HOST", "")


def _ask(host: str) -> None:
    # No answer matters: an address that is wrong is the settings' to refuse, a pod that is not there yet is being started.
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection = http.client.HTTPConnection(host, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", "/v2/health/live")
            connection.getresponse()
