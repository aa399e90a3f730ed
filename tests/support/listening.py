"""Which processes below one listen, where, and the rows of docs/guide/security.md that say who and why."""

import ipaddress
import os
import re
import socket
from pathlib import Path

import psutil

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "security.md"


def listening(pid: int) -> list[tuple[str, str]]:
    """(who, IP address) of each TCP socket that listens and UDP socket that is bound, in `pid` and below.

    The tests' own object store is left out.
    """
    root, found = psutil.Process(pid), []
    for process in [root, *root.children(recursive=True)]:
        try:
            words = process.cmdline()
            sockets = process.net_connections("inet")
        except psutil.Error:  # it has ended
            continue
        if "moto.server" in words:
            continue
        who = "the command" if process.pid == pid else _who(words)
        found += [(who, one.laddr.ip) for one in sockets if _waits(one)]
    return found


def _waits(one) -> bool:
    """Whether it waits for whoever comes; not a socket that is only made, or one of a client."""
    return one.status == "LISTEN" or (one.type == socket.SOCK_DGRAM and bool(one.laddr) and not one.raddr)


def _who(words: list[str]) -> str:
    names = [os.path.basename(word) for word in words]
    if words and words[0].startswith("ray::"):
        name = re.split(r"[ .(:]", words[0].removeprefix("ray::"))[0]
        return name if name in ("DashboardAgent", "RuntimeEnvAgent", "ProxyActor") else "worker"
    return next(
        (name for name in ("gcs_server", "raylet", "dashboard.py", "monitor.py") if name in names),
        " ".join(words),
    )


def beyond_loopback(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in found if not _address(one[1]).is_loopback]


def _address(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address


def explained() -> set[str]:
    """Who may listen, as the page's table has it."""
    [table] = re.findall(r"^\| who \|.*\n\|[ -|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    return set(re.findall(r"^\| `?([^`|]+?)`? \|", table, re.MULTILINE))
