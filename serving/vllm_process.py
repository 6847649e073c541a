"""What every predictor on vLLM tells its processes, whatever the model. Not here: arguments and requests."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

_LOGGING = Path(__file__).with_name("vllm_logging.json")


def environment(num_threads: int, threads: int, others: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Variables of vLLM, for what it has no argument for; those that are set already stay.

    Args:
        num_threads: NUM_THREADS, which wins over OMP_NUM_THREADS unless it is 0.
        threads: the threads that it stands for.
        others: variables of the model's own.
    """
    wanted = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process with threads may hang
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_CONFIG_PATH": str(_LOGGING),
        "OMP_NUM_THREADS": str(threads),
        **(others or {}),
    }
    ours = {"OMP_NUM_THREADS"} if num_threads else set()
    return {name: value for name, value in wanted.items() if name not in os.environ or name in ours}


def reason(error: ValueError) -> str:
    """What vLLM says of an argument, on one line; its configurations are pydantic's, whose own text has several."""
    if isinstance(error, ValidationError):
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return str(error).strip().split("\n")[0]
