"""The tests share the cores, one worker each (`-n auto`): one thread of torch in every process."""

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it
TOGETHER = ("test_bad_input_is_one_clear", "test_no_space_left", "test_an_async_environment_that_fails")


class Scheduling(LoadScopeScheduling):
    """Any worker takes any test, but those that use one slow fixture, which go first and to one worker."""

    def _split_scope(self, nodeid):
        return "checkpoints" if any(name in nodeid for name in TOGETHER) else nodeid


@pytest.hookimpl(optionalhook=True)  # -p no:xdist
def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)
