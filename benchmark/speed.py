"""Speed: environment steps per second of envs.py, and of the three scripts end to end at the settings of their peers.

    python benchmark/speed.py            # writes benchmark/results/speed.json, about eight minutes
    python benchmark/speed.py SNAIL      # only what has this word in its name; keeps the rest of speed.json

The environments in numpy run 4096 at a time on one core, those on MuJoCo 40 and 400 at a time on all cores. RL^2 and
SNAIL run the settings at which `pytorch_rl2`, the closest peer, does 1,550 and 430 environment steps per second on 2
cores (5 arms, 100 pulls, 8 epochs, 480 trials per minibatch; GRU 256, or SNAIL with 32 features). MAML runs those at
which `pytorch-maml-rl` takes 6.3 seconds per meta-iteration for navigation and 38 for the HalfCheetah, `learn2learn`
48 and about 210.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402


def environment(env_id, num_envs=4096, seconds=2.0):
    """Steps per second of a vector environment under random actions, the best of three runs."""
    env, rng = envs.make(env_id, num_envs), np.random.default_rng(0)
    env.reset(seed=0)
    space, best = env.single_action_space, 0.0
    if hasattr(space, "n"):
        actions = rng.integers(0, space.n, (16, num_envs))
    else:
        actions = rng.uniform(space.low, space.high, (16, *env.action_space.shape)).astype(np.float32)
    for _ in range(3):
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 3:
            for action in actions:
                env.step(action)
            steps += len(actions) * num_envs
        best = max(best, steps / (time.perf_counter() - start))
    return best


def ppo(module, amp, iterations=2, **sizes):
    """Steps per second of rollout and update together, the rollout's share, and the share of an update that RL^2 spends
    in the recurrent kernel, or SNAIL in concatenating features."""
    args = module.Args(episodes_per_trial=100, num_envs=960, num_minibatches=2, update_epochs=8, amp=amp, **sizes)
    env = envs.make("Bandit-v0", args.num_envs)
    agent = module.Agent(env, args)
    optimizer = torch.optim.Adam(agent.parameters())
    times = []
    for _ in range(iterations + 1):  # the first one warms up
        start = time.perf_counter()
        data = module.rollout(agent, env, env.sample_tasks(args.num_envs), args.episodes_per_trial, 0)
        rolled_out = time.perf_counter()
        data["signal"] = data["reward"]
        data["advantage"], data["returns"] = module.advantages_and_returns(data, args.gamma, args.gae_lambda)
        module.update(agent, optimizer, data, args, 0.0)
        times.append((rolled_out - start, time.perf_counter() - start))
    rollout_seconds, seconds = np.mean(times[1:], axis=0)
    result = {"steps_per_second": data["value"].numel() / seconds, "rollout_share": rollout_seconds / seconds}
    if module is snail_ppo:
        batch = {key: tensor[:, : args.num_envs // 2].clone() for key, tensor in data.items()}
        with torch.profiler.profile() as profile:  # of one minibatch
            module.ppo_loss(agent, batch, args, 0.0)[0].backward()
        seconds = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
        return result | {"concatenation_share": seconds["aten::cat"] / sum(seconds.values())}
    batch = data["x"][:, : args.num_envs // 2].clone()
    kernel = []
    for _ in range(4):  # the recurrent kernel alone, forward and backward, on one minibatch
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            h, _ = agent.trunk(batch)
        h.backward(torch.ones_like(h))
        kernel.append(time.perf_counter() - start)
    return result | {"kernel_share": 16 * np.mean(kernel[1:]) / seconds}


def snail_steps(steps=1000, num_envs=256, repeats=10):
    """Milliseconds of one step of a long trial early and late in it: the attention's read grows, nothing else does."""
    env = envs.make("Bandit-v0", num_envs)
    agent = snail_ppo.Agent(env, snail_ppo.Args(episodes_per_trial=steps))
    x, times = torch.randn(1, num_envs, agent.embedding.in_features), []
    with torch.inference_mode():
        features, keys_values, _ = agent.initial_state(num_envs)[0]
        features.normal_(), keys_values.normal_()
        for t in (100, 900) * repeats:
            start = time.perf_counter()
            agent(x, (features, keys_values, t))
            times.append(time.perf_counter() - start)
    early, late = (1000 * np.median(times[i::2]) for i in range(2))
    return {"early": early, "late": late, "ratio": late / early}


def maml(env_id, num_tasks, iterations=3, **kwargs):
    """Seconds per meta-iteration as `maml_trpo.train` runs it, and the seconds of its parts."""
    args = maml_trpo.Args(env_id=env_id, meta_batch_size=num_tasks, **kwargs)
    env = envs.make(env_id, num_tasks * args.episodes_per_task)
    policy = maml_trpo.Policy(env, args)
    params, parts = policy.initial_params(), {"rollouts": 0.0, "advantages": 0.0}

    def timed(part, function):
        def call(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            parts[part] += time.perf_counter() - start
            return result

        return call

    originals, seconds = (maml_trpo.rollout, maml_trpo.advantages), 0.0
    maml_trpo.rollout, maml_trpo.advantages = (timed(p, f) for p, f in zip(parts, originals, strict=True))
    for i in range(iterations + 1):  # the first one warms up
        if i == 1:
            parts.update(rollouts=0.0, advantages=0.0)
        start = time.perf_counter()
        batches = maml_trpo.trial(policy, params, env, env.sample_tasks(num_tasks), 1, i, args)
        params, _ = maml_trpo.update(policy, params, batches, args)
        seconds += (time.perf_counter() - start) * (i > 0)
    maml_trpo.rollout, maml_trpo.advantages = originals
    env.close()
    result = {"seconds": seconds / iterations} | {part: total / iterations for part, total in parts.items()}
    return result | {"update": result["seconds"] - result["rollouts"] - result["advantages"]}


def processes(module, flag, length, **settings):
    """Seconds that one and two processes of one thread each take for the same command, evaluation left out.

    Beside them what is exchanged: the number of updates, of parameters, of sums over processes of a vector of that
    size and of single numbers per update.
    """
    args, seconds = module.Args(**settings), []
    env = envs.make(args.env_id, 1)
    if module is maml_trpo:
        parameters = sum(tensor.numel() for tensor in maml_trpo.Policy(env, args).initial_params().values())
        exchange = {"updates": length, "vectors": args.cg_iterations + 2, "scalars": 12}
    else:
        parameters = sum(tensor.numel() for tensor in module.Agent(env, args).parameters())
        batch, minibatches = args.num_envs * args.episodes_per_trial, args.num_minibatches * args.update_epochs
        exchange = {"updates": length // batch, "vectors": minibatches, "scalars": 4 * minibatches + 3}
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command += [str(ROOT / f"{module.ALGORITHM}.py"), "--no-cuda", "--eval-trials", "2", flag, str(length)]
            command += [
                word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))
            ]
            subprocess.run(
                command, cwd=folder, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            (result,) = Path(folder).glob("runs/*/eval.json")
            seconds.append(json.loads(result.read_text())["wall_seconds"])
    times = {"one_process": seconds[0], "two_processes": seconds[1], "speedup": seconds[0] / seconds[1]}
    return times | {"cpu": torch.backends.cpu.get_cpu_capability(), "parameters": parameters} | exchange


ALL_REDUCE = """
import os, sys, time
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
for size in (1, 10_000, 100_000, 1_000_000):
    x, times = torch.zeros(size), []
    for _ in range(100):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(x)
        times.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        print(size, sorted(times)[50])
dist.destroy_process_group()
"""


def all_reduce():
    """Microseconds that the sum of so many float32 numbers over two processes takes, the median of 100."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(ALL_REDUCE)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "program.py"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return {size: 1e6 * float(seconds) for size, seconds in (line.split() for line in done.stdout.splitlines())}


def main(only=""):
    path = ROOT / "benchmark" / "results" / "speed.json"
    result, machine = {}, {"cores": torch.get_num_threads(), "torch": torch.__version__}
    if only:
        result = json.loads(path.read_text())
        if {key: result[key] for key in machine} != machine:
            sys.exit(f"error: speed.json is of {result['cores']} cores, torch {result['torch']}: run all of it again.")
    result |= machine
    jobs = {
        f"{env_id}, 4096 sub-environments, one core": partial(environment, env_id)
        for env_id in ("Bandit-v0", "TabularMDP-v0", "Navigation2D-v0")
    }
    for env_id in ("HalfCheetahVel-v0", "AntVel-v0"):
        for num_envs in (40, 400):
            jobs[f"{env_id}, {num_envs} sub-environments"] = partial(environment, env_id, num_envs)
    for amp in (False, True):
        jobs["RL^2 at the peer's settings" + ", --amp" * amp] = partial(ppo, rl2_ppo, amp, hidden_size=256)
    for amp in (False, True):
        jobs["SNAIL at the peer's settings" + ", --amp" * amp] = partial(ppo, snail_ppo, amp)
    jobs["SNAIL, one step of 256 trials of 1000 steps"] = snail_steps
    jobs["2D navigation, 20 × 20 × 100"] = partial(maml, "Navigation2D-v0", 20)
    jobs["HalfCheetah, 40 × 20 × 200"] = partial(maml, "HalfCheetahDir-v0", 40)
    jobs["Ant, 40 × 20 × 200"] = partial(maml, "AntDir-v0", 40, iterations=1)
    jobs["RL^2, processes, 4,000 trials"] = partial(processes, rl2_ppo, "--total-timesteps", 800_000)
    jobs["RL^2, processes, 32,000 trials"] = partial(
        processes, rl2_ppo, "--total-timesteps", 1_600_000, num_envs=32_000
    )
    wide = {"num_envs": 16_000, "hidden_size": 256}
    jobs["RL^2, processes, 16,000 trials, 256 units"] = partial(
        processes, rl2_ppo, "--total-timesteps", 320_000, **wide
    )
    jobs["SNAIL, processes, 4,000 trials"] = partial(processes, snail_ppo, "--total-timesteps", 240_000)
    jobs["MAML, processes, 20 tasks"] = partial(processes, maml_trpo, "--num-iterations", 30)
    jobs["MAML, processes, 80 tasks"] = partial(processes, maml_trpo, "--num-iterations", 8, meta_batch_size=80)
    jobs["all-reduce, microseconds"] = all_reduce
    for name, job in jobs.items():
        if only in name:
            result[name] = job()
            print(f"{name}: {result[name]}", flush=True)
    result = {name: result[name] for name in ("cores", "torch", *jobs) if name in result}
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
