"""Work that is done ahead of its use, so that a GPU does not wait for data."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

K = TypeVar("K")
V = TypeVar("V")


def prefetched(work: Callable[[K], V], keys: Iterable[K], threads: int) -> Generator[V]:
    """`work(key)` for every key, in their order.

    Threads compute up to two values each ahead of the one that is taken. What they compute does not depend on their
    number. They are threads and not processes because decoding an image, hashing and copying release the GIL, and a
    process that is forked from one with CUDA or a process group may hang.

    Until the last value is taken or the generator is closed, torch uses one CPU thread in threads that are started.

    Args:
        work: called in the threads.
        keys: read in the thread that takes the values.
        threads: number of threads.

    Raises:
        Exception: that of `work`, where its value would have been taken.
    """
    # Operations of torch in these threads use one CPU each; the caller computes on the others. What a thread sets is
    # the default of threads that start later, so it is set back below.
    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "prefetch", torch.set_num_threads, (1,))
    ahead: deque[Future[V]] = deque()
    try:
        for key in keys:
            ahead.append(pool.submit(work, key))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        pool.shutdown()  # waits until every thread has set its own number
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.set_num_threads(own)
