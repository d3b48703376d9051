"""A job of the batch that only says that it is done, after a training that takes SIMULATED seconds."""

import os
import sys
import time

folder, job = sys.argv[1:]
time.sleep(float(os.environ.get("SIMULATED", "0")))
rule = job.split("-")[0]
os.makedirs(f"{folder}/done/{rule}", exist_ok=True)
with open(f"{folder}/done/{rule}/{job}.json", "w") as note:
    note.write('{"seconds": 0, "computing": 0}')
