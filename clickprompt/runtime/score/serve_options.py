"""The options of a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clickprompt.errors import InputError

__all__ = ["TOKEN", "ServeOptions"]

TOKEN = "CLICKPROMPT_SERVE_TOKEN"  # noqa: S105 - the name of the environment variable


@dataclass(frozen=True)
class ServeOptions:
    """The arguments of `app`; on KubeRay the application's `args` (cluster/kuberay/rayservice.yaml)."""

    run: str
    """a finetuned run, or the folder that `clickprompt export` wrote"""
    data: str | None = None
    """the place to which the run's dataset has moved"""
    replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    watch_s: float = 5.0
    """seconds between checks for a new export"""
    token: str = "required"  # noqa: S105
    """`required`, or `none`: then anyone who reaches the port may ask"""
    token_file: str | None = None
    """a file on the nodes; default: CLICKPROMPT_SERVE_TOKEN in their environment"""

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> "ServeOptions":
        """Build the options. Raises InputError naming what is unknown or out of bounds."""
        if unknown := sorted(args.keys() - cls.__dataclass_fields__.keys()):
            raise InputError(
                f"{', '.join(unknown)}: no argument of the server; known: "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        if not args.get("run"):
            raise InputError("run is missing: give a finetuned run or the folder of an export")
        options = cls(**args)
        if options.replicas < 1:
            raise InputError(f"replicas={options.replicas}: at least 1 is needed to answer")
        if options.watch_s <= 0:
            raise InputError(f"watch_s={options.watch_s:g}: give seconds above 0")
        if options.token not in ("required", "none"):
            raise InputError(
                "token is required or none; the token itself comes from token_file or the environment"
            )
        return options
