r"""Entry point for `ray job submit`: run `clickprompt tokenize` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- \
    python tokenize_job.py DATASET --plm HUB-NAME-OR-DIR

The name isn't tokenize.py, because that would replace Python's own module, here and in every worker.
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["tokenize", *sys.argv[1:], "--set", "runtime.address=auto"])
