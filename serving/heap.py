"""Memory that is freed goes back to the system.

glibc gives a large buffer pages of its own, and takes as "large" what is larger than any that was freed before, up to 32 MB: a
pod that has held a few long recordings puts all later ones on the heap, which the smallest object above them keeps from
shrinking. Five hundred live connections, opened and dropped seven times, left 550 MB that way, and 400 MB with the limit held
where glibc begins. It costs page faults, so that it is for pods that hold what clients send, not for those that compute.
"""

import ctypes

_M_MMAP_THRESHOLD = -3  # malloc.h
_BYTES = 128 << 10  # glibc's first limit; naming it keeps it


def keep_buffers_apart() -> bool:
    """Holds the limit for this process. False where the C library has no such setting (musl, macOS)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _BYTES) == 1
