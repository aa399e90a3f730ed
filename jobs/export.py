"""Entry point for `ray job submit`: run `clickprompt export` next to storage that only the cluster reaches.

The command itself needs no Ray.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python export.py --run URI --out URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
