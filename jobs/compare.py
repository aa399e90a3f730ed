"""Entry point for `ray job submit`: `clickprompt compare` next to the storage that only the cluster reaches.
It needs no Ray of its own.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python compare.py RUN… --against RUN…
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
