"""What all tests share: the cores, one worker each (`-n auto`), and how MuJoCo is drawn."""

import os

# One thread of torch in every process. It is read when torch is imported; processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Mesa's plainest driver draws without threads, without a compiler at run time and, like this,
# without files: once in a while the other one crashed a worker.
os.environ.setdefault("GALLIUM_DRIVER", "softpipe")
os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")
