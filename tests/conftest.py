"""What all tests share: the cores, one worker each (`-n auto`), and how MuJoCo is drawn."""

import os

import pytest

# One thread of torch in every process. It is read when torch is imported; processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Mesa's plainest driver draws without threads, without a compiler at run time and, like this,
# without files: once in a while the other one crashed a worker.
os.environ.setdefault("GALLIUM_DRIVER", "softpipe")
os.environ.setdefault("MESA_SHADER_CACHE_DISABLE", "true")


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A folder of the test's own, which is the current one; modules in it are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path
