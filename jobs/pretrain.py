"""Entry point for `ray job submit`: run `clickprompt pretrain` on the cluster that runs this job.

ray job submit --address http://HEAD:8265 --working-dir jobs -- python pretrain.py --config FILE --run URI
"""

import sys

from clickprompt.cli.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:], "--set", "runtime.address=auto"])
