"""Processes that this one has started."""

import contextlib

import psutil


def children(module: str) -> list[psutil.Process]:
    """Those that run a module; one that has ended and was not waited for yet has no command line any more."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child)
    return found
