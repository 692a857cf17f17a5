"""Several processes of torchrun: each has its own trials, all take the mean gradient's step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import envs
import maml_trpo
from helpers import MODULES, ROOT

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
NAVIGATION = {"env_id": "Navigation2D-v0", "env_kwargs": {"horizon": 6}}
PPO = NAVIGATION | {"num_envs": 6, "num_minibatches": 1, "update_epochs": 1}
PPO |= {"episodes_per_trial": 2, "norm_obs": True, "norm_reward": True}
SETTINGS = {
    "maml_trpo": NAVIGATION
    | {"meta_batch_size": 4, "episodes_per_task": 4, "hidden_size": 8, "norm_obs": True},
    "rl2_ppo": PPO | {"hidden_size": 8},
    "snail_ppo": PPO | {"sizes": [8, 4, 4, 4]},
}

# A run of RL^2 that is killed and resumed, and one that is not.
RUN = "--no-cuda --num-envs 16 --num-minibatches 2 --hidden-size 8 --eval-trials 20 --norm-obs"
RUN += " --env-id Navigation2D-v0 --env-kwargs horizon 5 --checkpoint-seconds 1e-9"
RUN += " --episodes-per-trial 2 --total-timesteps 8000 --exp-name"

PROGRAM = """
import runpy, sys
import torch, torch.distributed as dist, tyro
import maml_trpo, rl2_ppo, snail_ppo, test_processes
dist.init_process_group()
rank = dist.get_rank()
rl2_ppo.train(tyro.cli(rl2_ppo.Args, args=[*test_processes.RUN.split(), "whole"]))

def watched(update, name):
    def watch(agent, *rest):
        result = update(agent, *rest)
        state = result[0] if name == "maml_trpo" else agent.state_dict()
        torch.save(state, f"{name}-trained-{rank}.pt")
        return result
    return watch

for script in (maml_trpo, rl2_ppo, snail_ppo):
    name = script.ALGORITHM
    settings = test_processes.SETTINGS[name]
    shares = torch.load(f"{name}-shares.pt", weights_only=True)
    updated = test_processes.updated(script, settings, shares[rank])
    torch.save(updated, f"{name}-updated-{rank}.pt")
    length = {"num_iterations": 3}
    if script is not maml_trpo:  # several minibatches; epochs that end early: in both or in none
        length = {"total_timesteps": 200}
        length |= {"num_minibatches": 3, "update_epochs": 3, "target_kl": 1e-6}
    script.update = watched(script.update, name)
    script.train(script.Args(**settings | length, eval_trials=4, cuda=False))

# The script as torchrun starts it, but that the processes know each other already.
dist.init_process_group = lambda: None
sys.argv[0] = "rl2_ppo.py"
runpy.run_path(rl2_ppo.__file__, run_name="__main__")
"""


def make(script, settings):
    """The script's arguments and an untrained agent, for MAML its policy and parameters."""
    args = script.Args(**settings)
    env = envs.make(args.env_id, 1, **args.env_kwargs)
    torch.manual_seed(0)
    if script is maml_trpo:
        policy = maml_trpo.Policy(env, args)
        return args, (policy, policy.initial_params())
    return args, script.Agent(env, args)


def as_float64(batch):
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def updated(script, settings, share):
    """The parameters after one update with a share of the data."""
    args, agent = make(script, settings)
    torch.manual_seed(1)
    if script is maml_trpo:
        # In float64, because conjugate gradients amplify the last digits.
        batches = [as_float64(batch) for batch in share]
        params, logs = maml_trpo.update(agent[0], as_float64(agent[1]), batches, args)
        assert logs["losses/step_size"] > 0
        return params
    # Plain gradient descent: Adam would turn the last digits of small gradients into whole steps.
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.1)
    script.update(agent, optimizer, share, args, 0.01)
    return dict(agent.named_parameters())


def sampled(script, settings, seed):
    """The data of one process: half of the tasks."""
    args, agent = make(script, settings)
    rng = np.random.default_rng(seed)
    if script is maml_trpo:
        env = envs.make(args.env_id, 2 * args.episodes_per_task, **args.env_kwargs)
        return maml_trpo.trial(*agent, env, env.sample_tasks(2, rng), 1, seed, args)
    env = envs.make(args.env_id, 3, **args.env_kwargs)
    data = script.rollout(agent, env, env.sample_tasks(3, rng), args.episodes_per_trial, seed)
    data["signal"] = data["reward"]
    data["advantage"], data["returns"] = script.advantages_and_returns(data, 0.9, 0.9)
    return {name: tensor.clone() for name, tensor in data.items()}


def step_of_the_mean_gradient(script, settings, shares):
    """What all processes should come to, by one process that has all data."""
    args, agent = make(script, settings)
    if script is maml_trpo:
        # Its objective is a mean over tasks: two equal shares together make one larger batch.
        batches = []
        for first, second in zip(*shares, strict=True):
            batches.append({name: torch.cat([first[name], second[name]]) for name in first})
        return updated(script, settings, batches)
    gradients = []
    for share in shares:
        loss, _ = script.ppo_loss(agent, share, args, 0.01)
        gradients.append(torch.autograd.grad(loss, list(agent.parameters())))
    means = [(first + second) / 2 for first, second in zip(*gradients, strict=True)]
    norm = torch.cat([mean.flatten() for mean in means]).norm()
    scale = min(1.0, args.max_grad_norm / norm.item())
    parameters = {}
    for (name, parameter), mean in zip(agent.named_parameters(), means, strict=True):
        parameters[name] = parameter.detach() - 0.1 * scale * mean
    return parameters


def start(arguments, cwd):
    """RL^2 in two processes, as far as its first checkpoint: torchrun's process, the two others."""
    process = subprocess.Popen(
        [*TORCHRUN, str(ROOT / "rl2_ppo.py"), *arguments.split()],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(cwd.glob("runs/*/checkpoint.pt")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError("There is no checkpoint.")
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = []
    for pid in children:
        if "rl2_ppo.py" in Path(f"/proc/{pid}/cmdline").read_text():
            workers.append(int(pid))
    assert len(workers) == 2
    return process, workers


def kill_one(folder):
    """Starts a run and kills one of its processes: the other one ends. Returns the checkpoint."""
    process, workers = start(f"{RUN} cut", folder)
    try:
        os.kill(workers[1], signal.SIGKILL)
        assert process.wait(timeout=30) != 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        process.kill()
    (checkpoint,) = folder.glob("runs/*__cut__*/checkpoint.pt")
    assert 0 < torch.load(checkpoint, weights_only=True)["global_step"] < 8000  # it is whole
    return checkpoint


def check_killed_and_resumed_equals_never_stopped(folder):
    results = []
    agents = []
    for name in ("cut", "whole"):
        (run,) = folder.glob(f"runs/*__{name}__*")
        result = json.loads((run / "eval.json").read_text())
        results.append((result["return_by_episode"], result["global_step"]))
        agents.append(torch.load(run / "checkpoint.pt", weights_only=True)["agent"])
    assert results[0] == results[1]
    assert all(torch.equal(tensor, agents[1][name]) for name, tensor in agents[0].items())


def check_step_of_the_mean_gradient(name, shares, folder):
    """Both processes took it, and stayed alike in training."""
    script = MODULES[name]
    for kind in ("updated", "trained"):
        first = torch.load(folder / f"{name}-{kind}-0.pt", weights_only=True)
        second = torch.load(folder / f"{name}-{kind}-1.pt", weights_only=True)
        # moments included
        assert all(torch.equal(first[key], second[key]) for key in first)
    first = torch.load(folder / f"{name}-updated-0.pt", weights_only=True)
    expected = step_of_the_mean_gradient(script, SETTINGS[name], shares)
    alone = updated(script, SETTINGS[name], shares[0])
    for key, tensor in expected.items():
        torch.testing.assert_close(first[key], tensor, atol=1e-6, rtol=1e-5)
    assert max((first[key] - alone[key]).abs().max() for key in expected) > 1e-4
    (run,) = folder.glob(f"runs/*__{name}__*")
    assert (run / "checkpoint.pt").exists()
    assert len(list(run.glob("events.*"))) == 1  # one process writes
    steps = json.loads((run / "eval.json").read_text())["global_step"]  # of both processes
    most = 3 * 2 * 4 * 4 * 6
    assert steps == most if script is maml_trpo else 200 <= steps < 200 + 2 * 3 * 2 * 6


def test_two_processes(tmp_path):
    """All that takes two processes, in two launches: most of the time goes to their start."""
    checkpoint = kill_one(tmp_path)
    shares = {}
    for name, settings in SETTINGS.items():
        shares[name] = [sampled(MODULES[name], settings, seed) for seed in range(2)]
        torch.save(shares[name], tmp_path / f"{name}-shares.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    path = f"{ROOT}:{Path(__file__).parent}"
    done = subprocess.run(
        [*TORCHRUN, "program.py", "--resume", checkpoint],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    for name in SETTINGS:
        check_step_of_the_mean_gradient(name, shares[name], tmp_path)
    check_killed_and_resumed_equals_never_stopped(tmp_path)
