"""Entry point for `ray job submit`: run `clickprompt finetune` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python finetune.py --config FILE --run URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:], "--set", "runtime.address=auto"])
