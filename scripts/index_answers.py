"""Exit with status 0 if a package index has PyTorch and answers within ten seconds, else with 1 and one line.

python scripts/index_answers.py URL
"""

import sys
import urllib.request


def main(index: str) -> int:
    """Ask for the index's page of torch; pip itself reads indexes that are no web servers."""
    if not index.startswith(("http://", "https://")):
        return 0
    request = urllib.request.Request(f"{index.rstrip('/')}/torch/", method="HEAD")  # noqa: S310 - http only
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return 0
    except OSError as error:
        reason = getattr(error, "reason", error)
        print(f"{index} doesn't answer ({reason}); pip takes PyTorch from elsewhere", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
