"""Entry point for `ray job submit`: `clickprompt tokenize` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python tokenize.py DATASET --plm HUB-NAME-OR-DIR
"""

import sys

from clickprompt.cli import main

if __name__ == "__main__":
    main(["tokenize", *sys.argv[1:], "--set", "runtime.address=auto"])
