"""Entry point for `ray job submit`: run `clickprompt prepare` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python prepare.py SOURCE --raw DIR --out URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:], "--set", "runtime.address=auto"])
