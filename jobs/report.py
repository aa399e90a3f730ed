"""Entry point for `ray job submit`: run `clickprompt report` next to storage that only the cluster reaches.

The command itself needs no Ray.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python report.py RUN… --out FILE.html
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
