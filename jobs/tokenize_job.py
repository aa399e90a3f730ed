"""Entry point for `ray job submit`: `clickprompt tokenize` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python tokenize_job.py DATASET --plm
HUB-NAME-OR-DIR

Not tokenize.py, which would stand in the place of Python's own module of that name, here and in every worker.
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["tokenize", *sys.argv[1:], "--set", "runtime.address=auto"])
