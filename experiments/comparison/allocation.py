"""What becomes of the memory that a training step lets go of."""

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Has glibc keep for the next step what the last one has freed.

    It gives large blocks back to the system, so that each step of the CNN on 32x32
    images, with 80 MB of temporaries for a batch of 64, gets them anew, page by page:
    19,700 page faults, 45 ms in the kernel. On two cores, images/s in training:

    | | given back | kept |
    |---|---|---|
    | jax 0.10.2 | 364 | 412 |
    | jax 0.12.0 | 482 | 630 |

    To be called before JAX starts its threads. Without glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    # 32 MB is the most that glibc's manual promises to accept.
    if not mallopt(_M_MMAP_THRESHOLD, 2**30):
        mallopt(_M_MMAP_THRESHOLD, 2**25)
    mallopt(_M_ARENA_MAX, 1)  # blocks that one thread has freed serve the others
