"""Entry point for `ray job submit`: run `clickprompt compare` next to storage that only the cluster reaches.

The command itself needs no Ray.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python compare.py RUN… --against RUN…
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
