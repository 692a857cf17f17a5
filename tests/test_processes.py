"""Several processes of torchrun: one update is that of one process on all the data, and all processes stay alike."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
import maml_trpo
import rl2_ppo
import snail_ppo

ROOT = Path(__file__).parent.parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SETTINGS = {
    "maml_trpo": {"meta_batch_size": 5, "episodes_per_task": 4, "hidden_size": 8, "env_kwargs": {"horizon": 6}},
    "rl2_ppo": {"num_envs": 7, "num_minibatches": 1, "update_epochs": 3, "hidden_size": 8},
    "snail_ppo": {"num_envs": 7, "num_minibatches": 1, "update_epochs": 3, "sizes": [8, 4, 4, 4]},
}
NAVIGATION = {"env_id": "Navigation2D-v0", "env_kwargs": {"horizon": 6}, "episodes_per_trial": 2, "norm_obs": True}
for _script in ("rl2_ppo", "snail_ppo"):
    SETTINGS[_script] |= NAVIGATION | {"norm_reward": True}

PROGRAM = """
import json, sys, time
import torch, torch.distributed as dist
sys.path.insert(0, sys.argv[4])
from test_processes import updated
import envs
dist.init_process_group()
script, folder = __import__(sys.argv[1]), sys.argv[3]
batch = torch.load(f"{folder}/batch.pt", weights_only=True)
torch.save(updated(script, json.loads(sys.argv[2]), batch), f"{folder}/updated-{dist.get_rank()}.pt")

update = script.update
def watched(agent, *rest):
    result = update(agent, *rest)
    state = result[0] if script.ALGORITHM == "maml_trpo" else agent.state_dict()
    torch.save(state, f"{folder}/trained-{dist.get_rank()}.pt")
    return result
script.update = watched
length = {"num_iterations": 3}
if script.ALGORITHM != "maml_trpo":  # several minibatches, and epochs that end early: in all processes or in none
    length = {"total_timesteps": 200, "num_minibatches": 3, "target_kl": 1e-6}
script.train(script.Args(**json.loads(sys.argv[2]) | length, eval_trials=4, cuda=False))
dist.destroy_process_group()
time.sleep(1)  # as envs.run does
"""


def make(script, settings):
    """The script's arguments, environment, and untrained agent (for MAML: policy and parameters)."""
    args = script.Args(**settings)
    env = envs.make(args.env_id, 1, **args.env_kwargs)
    torch.manual_seed(0)
    if script is maml_trpo:
        policy = maml_trpo.Policy(env, args)
        return args, (policy, policy.initial_params())
    return args, script.Agent(env, args)


def updated(script, settings, batch):
    """The parameters after an update with this process's share of the batch."""
    args, agent = make(script, settings)
    torch.manual_seed(1)
    if script is maml_trpo:
        mine = envs.share(args.meta_batch_size)
        # In float64: conjugate gradients amplify the last digits.
        batches = [{k: x[mine].double() if x.is_floating_point() else x[mine] for k, x in b.items()} for b in batch]
        params = {name: tensor.double() for name, tensor in agent[1].items()}
        params, logs = maml_trpo.update(agent[0], params, batches, args)
        assert logs["step_size"] > 0
        return params
    mine = envs.share(args.num_envs)
    batch = {name: tensor[:, mine] for name, tensor in batch.items()}
    # As plain gradient descent: Adam would turn the last digits of small gradients into whole steps.
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    script.update(agent, optimizer, batch, args, 0.01)
    return dict(agent.named_parameters())


def sampled(script, settings):
    """A batch of all tasks, as one process samples it."""
    args, agent = make(script, settings)
    tasks = envs.make(args.env_id, 1, **args.env_kwargs).sample_tasks(
        getattr(args, "num_envs", args.__dict__.get("meta_batch_size")), np.random.default_rng(0)
    )
    if script is maml_trpo:
        env = envs.make(args.env_id, args.meta_batch_size * args.episodes_per_task, **args.env_kwargs)
        return maml_trpo.trial(*agent, env, tasks, 1, 0, args)
    env = envs.make(args.env_id, args.num_envs, **args.env_kwargs)
    data = script.rollout(agent, env, tasks, args.episodes_per_trial, 0)
    data["signal"] = data["reward"]
    data["advantage"], data["returns"] = script.advantages_and_returns(data, 0.9, 0.9)
    return {name: tensor.clone() for name, tensor in data.items()}


@pytest.mark.parametrize("script", [maml_trpo, rl2_ppo, snail_ppo])
def test_two_processes_update_as_one_and_stay_alike(script, tmp_path):
    settings = SETTINGS[script.ALGORITHM]
    batch = sampled(script, settings)
    torch.save(batch, tmp_path / "batch.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [*TORCHRUN, str(tmp_path / "program.py"), script.ALGORITHM, json.dumps(settings), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command.append(str(Path(__file__).parent))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    before, expected = make(script, settings)[1], updated(script, settings, batch)
    before = before[1] if script is maml_trpo else dict(before.named_parameters())
    for kind in ("updated", "trained"):
        first, second = (torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)  # bit for bit, moments included
        if kind == "updated":
            for name, tensor in expected.items():
                torch.testing.assert_close(first[name], tensor, atol=1e-6, rtol=1e-5)
            moved = max((expected[name] - before[name]).abs().max() for name in expected)
            assert moved > 1e-3
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 1  # one process writes
    (result,) = tmp_path.glob("runs/*/eval.json")
    steps = json.loads(result.read_text())["global_step"]
    assert steps >= 200 if script is not maml_trpo else 0 < steps <= 3 * 2 * 5 * 4 * 6


@pytest.mark.parametrize("script", ["maml_trpo", "rl2_ppo", "snail_ppo"])
def test_one_killed_process_ends_the_others_and_the_checkpoint_is_whole(script, tmp_path):
    endless = ["--num-iterations" if script == "maml_trpo" else "--total-timesteps", "100000000"]
    small = {
        "maml_trpo": ["--meta-batch-size", "4"],
        "rl2_ppo": ["--num-envs", "32"],
        "snail_ppo": ["--num-envs", "32"],
    }
    command = [*TORCHRUN, str(ROOT / f"{script}.py"), *endless, *small[script], "--checkpoint-seconds", "1e-9"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    try:
        while not list(tmp_path.glob("runs/*/checkpoint.pt")):
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if f"{script}.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(workers) == 2
        os.kill(int(workers[1]), signal.SIGKILL)
        start = time.monotonic()
        assert process.wait(timeout=30) != 0 and time.monotonic() - start < 15
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        process.kill()
        process.stderr.close()
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["iteration"] > 0


def test_a_signal_to_one_process_stops_all_and_resumed_equals_never_stopped(tmp_path):
    """SIGTERM to the process that does not write: all stop after the same iteration, with a checkpoint."""
    command = [*TORCHRUN, str(ROOT / "rl2_ppo.py"), "--no-cuda", "--num-envs", "16", "--num-minibatches", "2"]
    command += ["--hidden-size", "8", "--eval-trials", "20", "--total-timesteps", "8000", "--exp-name"]
    environment, results = os.environ | {"OMP_NUM_THREADS": "1"}, []
    process = subprocess.Popen([*command, "cut"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        while not list(tmp_path.glob("runs/*/events*")):
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if "rl2_ppo.py" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(int(workers[1]), signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    (checkpoint,) = tmp_path.glob("runs/*__cut__*/checkpoint.pt")
    assert f"--resume {checkpoint.relative_to(tmp_path)}" in out
    assert 0 < torch.load(checkpoint, weights_only=True)["global_step"] < 8_000
    for arguments in (["cut", "--resume", str(checkpoint)], ["whole"]):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
    for name in ("cut", "whole"):
        (result,) = tmp_path.glob(f"runs/*__{name}__*/eval.json")
        agent = torch.load(result.parent / "checkpoint.pt", weights_only=True)["agent"]
        results.append((json.loads(result.read_text()) | {"wall_seconds": None}, agent))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())
