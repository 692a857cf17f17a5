"""The tests share the cores, one worker each (`-n auto`): one thread of torch in every process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes inherit it
