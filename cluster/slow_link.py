"""Join a network namespace to this one by a link that delays and loses packets, where the kernel lacks netem.

    python cluster/slow_link.py NAMESPACE PORT DELAY LOSS

Makes the interface eth0 in NAMESPACE and PORT here, and carries frames between them: each takes DELAY ms, and
a part LOSS of them is lost, in each direction. Both interfaces go when it ends. Needs root.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h


def tap(name: str) -> int:
    """Return the file of a new interface, in the namespace this process is in."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return file


def carry(ends: tuple[int, int], delay: float, loss: float) -> None:
    """Carry frames for ever; delay: seconds."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    draw = random.Random(0).random
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        pause = max(waiting[0][0] - time.monotonic(), 0.0) if waiting else None
        for source in select.select(ends, [], [], pause)[0]:
            try:
                frame = os.read(source, 65536)
            except OSError:  # taken down in the meantime
                continue
            if draw() >= loss:
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delay, count, other[source], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # it is down: a cut link loses what it is given
                os.write(target, frame)


def main() -> None:
    namespace, port, delay, loss = sys.argv[1:]
    outside = tap(port)
    with open(f"/run/netns/{namespace}") as inside:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(inside.fileno(), _CLONE_NEWNET):  # os.setns is of Python 3.12
            raise OSError(ctypes.get_errno(), f"setns into {namespace}")
    carry((outside, tap("eth0")), float(delay) / 1e3, float(loss))


if __name__ == "__main__":
    main()
