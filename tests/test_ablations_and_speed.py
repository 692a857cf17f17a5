"""Every ablation and every measurement of speed runs, at a size at which numbers mean nothing."""

import itertools
import json
import math
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from unittest.mock import patch

import pytest
import tyro

from benchmark import ablations, speed
from helpers import ROOT

PPO = {"total_timesteps": 1, "num_envs": 8, "num_minibatches": 2, "eval_trials": 2}
MAML = {
    "num_iterations": 1,
    "meta_batch_size": 2,
    "episodes_per_task": 2,
    "eval_trials": 2,
    "eval_episodes": 2,
}
TINY = {
    "rl2_ppo": PPO | {"hidden_size": 8},
    "snail_ppo": PPO | {"sizes": [4, 4, 4, 4]},
    "maml_trpo": MAML | {"hidden_size": 8},
}
ROBOTS = ("HalfCheetah", "Ant")
ENTRIES = list(ablations.entries())
TINY_JOBS = {
    "environment": {"num_envs": 3, "seconds": 0.003},
    "ppo": {"iterations": 1, "num_envs": 4, "episodes_per_trial": 3},
    "ppo_with_long_waits": {"iterations": 1, "num_envs": 4, "episodes_per_trial": 1},
    "recurrent_ppo": {"num_envs": 4, "num_steps": 8, "hidden_size": 8},
    "minibatch_sizes": {"num_steps": 4},
    "snail_steps": {"steps": 10, "num_envs": 2, "repeats": 2},
    "maml": {"meta_batch_size": 2, "episodes_per_task": 2, "hidden_size": 8, "iterations": 1},
    "all_reduce": {"repeats": 3},
}
TINY_PROCESSES = {
    "rl2_ppo": {"total_timesteps": 80, "num_envs": 8, "hidden_size": 8},
    "snail_ppo": {"total_timesteps": 80, "num_envs": 8, "tc_blocks": 1},
    "maml_trpo": {"num_iterations": 1, "meta_batch_size": 2, "hidden_size": 8},
}


class Scalars(dict):
    """In place of tensorboard: remembers what was logged."""

    def add_scalar(self, name, number, global_step):
        self[name] = number

    def flush(self):
        pass


def losses(module, settings, change):
    """What is logged of the losses of one tiny iteration, and the entry of ablations.json."""
    scalars = Scalars()
    settings = settings | TINY[module.ALGORITHM]
    if settings.get("env_id", "").startswith(ROBOTS):
        env_kwargs = settings.get("env_kwargs", {})
        settings["env_kwargs"] = env_kwargs | {"horizon": 20}
    with patch.object(module, "SummaryWriter", lambda *args, **options: scalars):
        result = ablations.run(module, settings, change)
    return {name: x for name, x in scalars.items() if name.startswith("losses/")}, result


def base_entry(module, group):
    """The group's base, its first entry."""
    return next(entry for entry in ENTRIES if entry[:2] == (module, group))


@cache
def base_losses(module, group):
    """The losses of the group's base."""
    _, _, _, settings, change = base_entry(module, group)
    return losses(module, settings, change)[0]


def entry_id(entry):
    return f"{entry[0].ALGORITHM}: {entry[1]}: {entry[2]}"


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_every_ablation_runs(entry):
    module, group, name, settings, change = entry
    _, _, base_name, base_settings, _ = base_entry(module, group)
    args = module.Args(**settings)
    base = module.Args(**base_settings)
    is_other_program = change is not nullcontext or args.env_id != base.env_id
    if module.ALGORITHM == "maml_trpo":
        is_other_program |= args.num_inner_steps != base.num_inner_steps
    if name != base_name and not is_other_program:
        # It takes no training to see that these are arguments, and others than the base's.
        module.check_arguments(args)
        assert args != base
        return
    logged, result = losses(module, settings, change)
    assert result.keys() == {"return", "stderr", "seconds"}
    assert all(map(math.isfinite, result.values()))
    assert result["stderr"] >= 0
    assert all(map(math.isfinite, logged.values()))
    if change is not nullcontext:
        assert logged != base_losses(module, group)  # the change reaches what is trained


def words_of(name):
    """The flags and their values in an ablation's name, in words, until a bracket or comma."""
    words = re.split(r"[(,]", name.split(": ")[-1])[0].split()
    return [word for word in words if word not in ("constant", "base")]


@pytest.mark.parametrize("entry", ENTRIES, ids=entry_id)
def test_a_name_says_what_is_done(entry):
    """Each flag of a name has the value that it names; "(the default)" is the default."""
    module, _, name, settings, _ = entry
    words = words_of(name)
    if not any(word.startswith("--") for word in words) or words[0] in ("without", "the"):
        return
    args = vars(module.Args(**settings))
    said = vars(tyro.cli(module.Args, args=words, default=module.Args(**settings)))
    assert said == args
    if "(the default)" in name:
        defaults = vars(module.Args())
        for word in words[::2]:
            flag = word.removeprefix("--").replace("-", "_")
            assert args[flag] == defaults[flag]


def test_ablations_leave_the_scripts_as_they_were():
    for module, _, _, _, change in ENTRIES:
        before = dict(vars(module))
        agent_before = dict(vars(getattr(module, "Agent", object)))
        with change():
            pass
        assert vars(module) == before
        assert dict(vars(getattr(module, "Agent", object))) == agent_before


def test_names_are_those_of_the_results():
    for algorithm, groups in json.loads((speed.RESULTS / "ablations.json").read_text()).items():
        for group, entries in groups.items():
            for name in entries:
                assert f"{algorithm}: {group}: {name}" in map(entry_id, ENTRIES)
    names = json.loads((speed.RESULTS / "speed.json").read_text()).keys()
    assert names == {"cores", "torch", *speed.JOBS}
    cards = list(speed.RESULTS.glob("speed_*.json"))
    assert cards
    for path in cards:
        names = json.loads(path.read_text()).keys()
        assert names <= {"cores", "torch", "gpu", *speed.JOBS, *speed.GPU_JOBS}


def test_every_script_is_measured_on_a_gpu_as_on_the_processor():
    for name, job in speed.GPU_JOBS.items():
        other = speed.JOBS[name.removesuffix(", GPU")]
        assert (job.func, job.args) == (other.func, other.args)
        assert job.keywords == other.keywords | {"device": "cuda"}
    assert len(speed.GPU_JOBS) == 9


def positive_numbers(result):
    """Is each number of a measurement finite and above 0?"""
    numbers = [result]
    if isinstance(result, dict):
        numbers = [x for x in result.values() if not isinstance(x, str)]
    return len(numbers) > 0 and all(math.isfinite(x) and x > 0 for x in numbers)


MEASUREMENTS = [name for name in speed.JOBS if "processes" not in name]
RUNS = [name for name in speed.JOBS if "processes" in name]


def test_speeds_are_steps_by_seconds(monkeypatch):
    """By a clock that is a second later whenever it is read."""
    clock = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(speed.time, "perf_counter", lambda: next(clock))
        # after 3 of 9 seconds a run is over: two rounds of 16 steps, and the clock is read 4 times
        assert speed.environment("Bandit-v0", 4, seconds=9) == 2 * 16 * 4 / 4
    monkeypatch.setattr(speed, "now", lambda device: next(clock))
    settings = {"num_envs": 4, "episodes_per_trial": 3, "num_minibatches": 2, "hidden_size": 8}
    result = speed.ppo(speed.rl2_ppo, iterations=2, **settings)
    # an iteration reads it at its beginning, after the rollout and at its end
    assert result["steps_per_second"] == 4 * 3 / 2
    assert result["rollout_share"] == 1 / 2
    sizes = {"meta_batch_size": 2, "episodes_per_task": 2, "hidden_size": 8}
    result = speed.maml("Navigation2D-v0", iterations=2, env_kwargs={}, **sizes)
    assert (result["rollouts"], result["advantages"], result["update"]) == (2, 2, 1)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_of_speed_runs(name):
    job = speed.JOBS[name]
    sizes = TINY_JOBS[job.func.__name__]
    if "RL^2" in name:
        sizes = sizes | {"hidden_size": 8}
    assert positive_numbers(job(**sizes))


@pytest.mark.parametrize("name", RUNS)
def test_every_measurement_of_processes_runs(name, tmp_path, monkeypatch):
    """Its command, in this process: that takes less time than those of torchrun."""
    monkeypatch.chdir(tmp_path)
    counts = []

    def launch(module, num_processes, options):
        counts.append(num_processes)
        return module.train(tyro.cli(module.Args, args=options))["wall_seconds"]

    monkeypatch.setattr(speed, "launch", launch)
    job = speed.JOBS[name]
    result = job(**TINY_PROCESSES[job.args[0].ALGORITHM])
    assert positive_numbers(result)
    assert result["updates"] == 1
    assert counts == [1, 2]


STAND_IN = """
import json, os, sys
from pathlib import Path
folder = Path("runs/maml_trpo")
folder.mkdir(parents=True, exist_ok=True)
names = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
rank, *others = [os.environ[name] for name in names]
Path(os.environ["RECORD"] + rank).write_text(" ".join([*others, *sys.argv[1:]]))
if rank == "0":
    (folder / "eval.json").write_text(json.dumps({"wall_seconds": 1.5}))
"""


def test_launch_starts_processes(tmp_path, monkeypatch):
    """With a program in place of the script, which tells how it was started."""
    (tmp_path / "maml_trpo.py").write_text(STAND_IN)
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    monkeypatch.setenv("RECORD", f"{tmp_path}/rank")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert speed.launch(speed.maml_trpo, 2, ["--no-cuda", "--num-iterations", "1"]) == 1.5
    for rank in range(2):
        started = (tmp_path / f"rank{rank}").read_text()
        assert started == "2 1 --no-cuda --num-iterations 1"
    assert not (tmp_path / "rank2").exists()


def test_exchanged_numbers_are_those_that_are_averaged(monkeypatch, tmp_path):
    """As many vectors and single numbers as `processes` says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "launch", lambda module, num_processes, options: 1.0)
    for module in (speed.rl2_ppo, speed.snail_ppo, speed.maml_trpo):
        averaged = []

        def average(x, averaged=averaged):
            averaged.append(x.numel())
            return x

        monkeypatch.setattr(module, "average", average)
        settings = TINY_PROCESSES[module.ALGORITHM]
        expected = speed.processes(module, **settings)
        module.train(module.Args(**settings, eval_trials=2))
        assert averaged.count(expected["parameters"]) == expected["vectors"]
        scalars = averaged.count(1)
        if module is speed.maml_trpo:  # their number depends on the line search
            assert scalars % 2 == 0 and scalars >= 4
        else:
            assert scalars == expected["scalars"]


def test_interrupted_ablations_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(ablations, "RESULTS", tmp_path)
    calls = []

    def run(module, settings, change):
        calls.append(module)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"return": len(calls)}

    monkeypatch.setattr(ablations, "run", run)
    with pytest.raises(KeyboardInterrupt):
        ablations.main("Ant")
    ablations.main("Ant")
    written = json.loads((tmp_path / "ablations.json").read_text())["maml_trpo"]
    (group,) = [group for group in written if "Ant" in group]
    assert [entry["return"] for entry in written[group].values()] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    "name", ["maml_trpo", "rl2_ppo", "snail_ppo", "benchmark/speed", "benchmark/ablations"]
)
def test_how_long_idle_threads_wait_is_set_before_torch_is_imported(name):
    """Later it has no effect."""
    program = f"""
import builtins, os, runpy
load = builtins.__import__
def check(name, *arguments):
    if name == "torch":
        print("torch", os.environ.get("GOMP_SPINCOUNT"))
        os._exit(0)
    return load(name, *arguments)
builtins.__import__ = check
os.environ.pop("GOMP_SPINCOUNT", None)
runpy.run_path("{name}.py")
"""
    done = subprocess.run(
        [sys.executable, "-uc", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "torch 5000\n"


def test_every_card_has_a_file_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    monkeypatch.setattr(speed, "JOBS", {"first": lambda: 1.0})
    monkeypatch.setattr(speed, "GPU_JOBS", {"first, GPU": lambda: 2.0})
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(speed.torch.cuda, "get_device_name", lambda: "a card")
    speed.main("GPU")
    assert not (tmp_path / "speed.json").exists()
    measured = json.loads((tmp_path / "speed_a_card.json").read_text())
    assert measured["gpu"] == "a card"
    assert list(measured) == ["cores", "torch", "gpu", "first, GPU"]


def test_speed_keeps_what_was_not_asked_for(monkeypatch, tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    monkeypatch.setattr(speed, "JOBS", {"first": lambda: 1.0, "second": lambda: 2.0})
    speed.main()
    monkeypatch.setattr(speed, "JOBS", {"first": lambda: 3.0, "second": lambda: 4.0})
    speed.main("second")
    path = tmp_path / "speed.json"
    measured = json.loads(path.read_text())
    assert list(measured) == ["cores", "torch", "first", "second"]
    assert measured["first"] == 1.0 and measured["second"] == 4.0
    # also where all is measured again, and stopped
    monkeypatch.setattr(speed, "JOBS", {"first": lambda: 5.0, "second": interrupted})
    with pytest.raises(KeyboardInterrupt):
        speed.main()
    measured = json.loads(path.read_text())
    assert measured["first"] == 5.0 and measured["second"] == 4.0
    path.write_text(json.dumps(measured | {"torch": "another"}))
    with pytest.raises(SystemExit, match="run all of it again"):
        speed.main("second")
    with pytest.raises(KeyboardInterrupt):
        speed.main()
    assert "second" not in json.loads(path.read_text())  # it was another machine's
