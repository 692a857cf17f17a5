"""Speed: steps per second of envs.py, and of the three scripts at the settings of their peers.

    python benchmark/speed.py            # writes benchmark/results/speed.json, about eight minutes
    python benchmark/speed.py SNAIL      # only what has this word in its name; keeps the rest
    python benchmark/speed.py GPU        # the scripts on a GPU: a file for each card

The environments in numpy run 4096 at a time on one core (mazes, whose steps are images, 256), those
on MuJoCo 40 and 400 at a time on all cores. RL^2 and SNAIL run the settings at which `pytorch_rl2`,
the closest peer, does 1,550 and 430 environment steps per second on 2 cores (5 arms, 100 pulls, 8
epochs, 480 trials per minibatch; GRU 256, or SNAIL with 32 features). MAML runs those at which
`pytorch-maml-rl` takes 6.3 seconds per meta-iteration for navigation and 38 for the HalfCheetah,
`learn2learn` 48 and about 210.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

# As in the scripts, which set it too late where torch is imported before them.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecEnv

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402
from benchmark.files import read_json, write_json  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def environment(env_id, num_envs=4096, seconds=2.0):
    """Steps per second of a vector environment under random actions, the best of three runs."""
    env = envs.make(env_id, num_envs)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]
    speeds = []
    for _ in range(3):
        steps = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds / 3:
            for action in actions:
                env.step(action)
            steps += len(actions) * num_envs
        speeds.append(steps / (time.perf_counter() - start))
    env.close()
    return max(speeds)


# The settings of `pytorch_rl2` (above).
PEER = {"episodes_per_trial": 100, "num_envs": 960, "num_minibatches": 2, "update_epochs": 8}
# RL^2 on HalfCheetahs, in larger minibatches than the published rows have.
RUNNING = {
    "env_id": "HalfCheetahDir-v0",
    "episodes_per_trial": 2,
    "num_envs": 256,
    "cell": "lstm",
    "hidden_size": 128,
    "num_minibatches": 4,
    "update_epochs": 4,
}


def now(device):
    """The time in seconds, after all that the device has to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ppo(module, iterations=2, device="cpu", **settings):
    """Steps per second of rollout and update together, and the rollout's share of the time.

    Beside them, on the processor: what share of the time RL^2's recurrent kernel takes in updates.
    Of SNAIL it is the share of concatenating features in a loss and its gradient.
    """
    args = module.Args(**settings)
    env = envs.make(args.env_id, args.num_envs)
    agent = module.Agent(env, args).to(device)
    optimizer = torch.optim.Adam(agent.parameters())
    times = []
    for _ in range(iterations + 1):  # the first one warms up
        start = now(device)
        tasks = env.sample_tasks(args.num_envs)
        data = module.rollout(agent, env, tasks, args.episodes_per_trial, 0)
        rolled_out = now(device)
        data["signal"] = data["reward"]
        advantage, returns = module.advantages_and_returns(data, args.gamma, args.gae_lambda)
        data["advantage"] = advantage
        data["returns"] = returns
        module.update(agent, optimizer, data, args, 0.0)
        times.append([rolled_out - start, now(device) - start])
    env.close()
    rollout_seconds, seconds = np.mean(times[1:], axis=0)
    result = {
        "steps_per_second": data["value"].numel() / seconds,
        "rollout_share": rollout_seconds / seconds,
    }
    if device == "cuda":
        return result
    size = args.num_envs // args.num_minibatches
    minibatch = {name: tensor[:, :size].clone() for name, tensor in data.items()}
    if module is snail_ppo:
        result["concatenation_share"] = concatenation_share(agent, minibatch, args)
    else:
        num_gradient_steps = args.num_minibatches * args.update_epochs
        kernel = num_gradient_steps * kernel_seconds(agent, minibatch["x"])
        result["kernel_share"] = kernel / seconds
    return result


PPO_IN_A_PROCESS = """
import json
import sys
import rl2_ppo
import speed
print(json.dumps(speed.ppo(rl2_ppo, **json.loads(sys.argv[1]))))
"""


def ppo_with_long_waits(**settings):
    """`ppo` of RL^2, in a process whose idle threads wait in a loop as long as GNU OpenMP's do."""
    command = [sys.executable, "-c", PPO_IN_A_PROCESS, json.dumps(settings)]
    long_waits = {"GOMP_SPINCOUNT": "300000", "PYTHONPATH": f"{ROOT}:{ROOT}/benchmark"}
    done = subprocess.run(
        command, env=os.environ | long_waits, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


class SB3VecEnv(VecEnv):
    """One of our environments as stable-baselines3 wants it: tasks drawn at the first reset."""

    def __init__(self, env):
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self):
        obs, _ = self.env.reset(seed=0)
        return obs

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        obs, reward, terminated, truncated, info = self.env.step(self.actions)
        done = terminated | truncated
        infos = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = info["final_obs"][i]
        return obs, reward, done, infos

    def close(self):
        self.env.close()

    def get_attr(self, name, indices=None):
        return [getattr(self.env, name, None)] * self.num_envs

    def set_attr(self, name, value, indices=None):
        setattr(self.env, name, value)

    def env_method(self, name, *arguments, indices=None, **keywords):
        return [getattr(self.env, name)(*arguments, **keywords)]

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


def recurrent_ppo(num_envs=RUNNING["num_envs"], num_steps=400, hidden_size=RUNNING["hidden_size"]):
    """Steps per second of sb3-contrib's RecurrentPPO at the settings of RUNNING.

    Policy and value share one LSTM, and there is no other layer, as in rl2_ppo.py.
    """
    env = SB3VecEnv(envs.make("HalfCheetahDir-v0", num_envs))
    batch = num_envs * num_steps
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        n_steps=num_steps,
        batch_size=batch // RUNNING["num_minibatches"],
        n_epochs=RUNNING["update_epochs"],
        policy_kwargs={
            "lstm_hidden_size": hidden_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": [],
        },
        device="cpu",
    )
    model.learn(batch)  # warms up
    start = time.perf_counter()
    model.learn(batch, reset_num_timesteps=False)
    seconds = time.perf_counter() - start
    env.close()
    return batch / seconds


def concatenation_share(agent, minibatch, args):
    """The part of the time of SNAIL's loss and its gradient that goes to concatenating features."""
    with torch.profiler.profile() as profile:
        loss, _ = snail_ppo.ppo_loss(agent, minibatch, args, 0.0)
        loss.backward()
    seconds = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return seconds["aten::cat"] / sum(seconds.values())


def kernel_seconds(agent, x):
    """Seconds of RL^2's recurrent kernel alone, forward and backward, on one minibatch."""
    times = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=agent.amp):
            h, _ = agent.trunk(x)
        h.backward(torch.ones_like(h))
        times.append(time.perf_counter() - start)
    return np.mean(times[1:])


def minibatch_sizes(num_steps=400, **settings):
    """Milliseconds that the recurrent kernel takes per trial, in minibatches of 8 and 64 trials."""
    args = rl2_ppo.Args(**RUNNING | settings, amp=True)
    env = envs.make(args.env_id, 1)
    agent = rl2_ppo.Agent(env, args)
    env.close()
    result = {}
    for size in (8, 64):
        x = torch.randn(num_steps, size, agent.trunk.input_size)
        result[f"ms_per_trial_of_{size}"] = 1000 * kernel_seconds(agent, x) / size
    return result


def snail_steps(steps=1000, num_envs=256, repeats=10):
    """Milliseconds of one step of a long trial, early and late in it.

    The attention's read grows, and the longest dilations only reach back late.
    """
    env = envs.make("Bandit-v0", num_envs)
    agent = snail_ppo.Agent(env, snail_ppo.Args(episodes_per_trial=steps))
    size = agent.attention.linear.in_features
    features = torch.randn(steps, 1, num_envs, size)  # of each step
    lookups = torch.randn(num_envs, 1, steps, agent.attention.linear.out_features)
    x = torch.randn(num_envs, agent.embedding.in_features)
    times = {"early": [], "late": []}
    for _ in range(repeats):
        for name, t in {"early": steps // 10, "late": 9 * steps // 10}.items():
            memory = (list(features[:t]), lookups)
            start = time.perf_counter()
            with torch.inference_mode():
                agent.step(x, memory)
            times[name].append(1000 * (time.perf_counter() - start))
    early = np.median(times["early"])
    late = np.median(times["late"])
    return {"early": early, "late": late}


def timed(function, seconds, device):
    """The function, which then appends the seconds of each call to the list `seconds`."""

    def call(*arguments):
        start = now(device)
        result = function(*arguments)
        seconds.append(now(device) - start)
        return result

    return call


def maml(env_id, meta_batch_size, iterations=3, device="cpu", **settings):
    """Seconds per meta-iteration as `maml_trpo.train` runs it, and the seconds of its parts."""
    args = maml_trpo.Args(env_id=env_id, meta_batch_size=meta_batch_size, **settings)
    env = envs.make(env_id, meta_batch_size * args.episodes_per_task)
    policy = maml_trpo.Policy(env, args)
    params = {name: param.to(device) for name, param in policy.initial_params().items()}
    rollouts = []
    advantages = []
    updates = []
    rollout = timed(maml_trpo.rollout, rollouts, device)
    compute_advantages = timed(maml_trpo.advantages, advantages, device)
    update = timed(maml_trpo.update, updates, device)
    with patch.multiple(maml_trpo, rollout=rollout, advantages=compute_advantages):
        for i in range(iterations + 1):
            if i == 1:  # the first one warms up
                start = now(device)
            tasks = env.sample_tasks(meta_batch_size)
            batches = maml_trpo.trial(policy, params, env, tasks, 1, i, args)
            params, _ = update(policy, params, batches, args)
    seconds = (now(device) - start) / iterations
    env.close()
    # An iteration has two of the first ones: before and after the adaptation.
    return {
        "seconds": seconds,
        "rollouts": sum(rollouts[2:]) / iterations,
        "advantages": sum(advantages[2:]) / iterations,
        "update": sum(updates[1:]) / iterations,
    }


def launch(module, num_processes, options):
    """Seconds that so many processes of one thread each train, evaluation left out."""
    command = [*TORCHRUN, f"--nproc-per-node={num_processes}", ROOT / f"{module.ALGORITHM}.py"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            command + options,
            cwd=folder,
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        (result,) = Path(folder).glob("runs/*/eval.json")
        return json.loads(result.read_text())["wall_seconds"]


def processes(module, **settings):
    """Seconds that one and two processes take for the same command, and what they exchange.

    In each of `updates` updates these are `vectors` means over processes, of as many numbers as
    there are `parameters`, and `scalars` means of one number.
    """
    args = module.Args(**settings)
    env = envs.make(args.env_id, 1)
    if module is maml_trpo:
        tensors = maml_trpo.Policy(env, args).initial_params().values()
        updates = args.num_iterations
        # the gradient, a product for each iteration, and one for the length of the step
        vectors = args.cg_iterations + 2
        # the surrogate, two numbers for each of two steps of the line search, and the batch's size
        scalars = 6
    else:
        tensors = module.Agent(env, args).parameters()
        updates = args.total_timesteps // (args.num_envs * args.episodes_per_trial)
        vectors = args.num_minibatches * args.update_epochs  # gradients
        scalars = 1  # the batch's size
    options = ["--no-cuda", "--eval-trials", "2"]
    for name, value in settings.items():
        options += ["--" + name.replace("_", "-"), str(value)]
    one_process = launch(module, 1, options)
    two_processes = launch(module, 2, options)
    return {
        "one_process": one_process,
        "two_processes": two_processes,
        "speedup": one_process / two_processes,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "parameters": sum(tensor.numel() for tensor in tensors),
        "updates": updates,
        "vectors": vectors,
        "scalars": scalars,
    }


ALL_REDUCE = """
import sys
import time
import torch
import torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
for size in (1, 10_000, 100_000, 1_000_000):
    x = torch.zeros(size)
    times = []
    for _ in range(int(sys.argv[1])):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(x)
        times.append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        print(size, sorted(times)[len(times) // 2])
dist.destroy_process_group()
"""


def all_reduce(repeats=100):
    """Microseconds of the sum of so many float32 numbers over two processes, the median."""
    command = [*TORCHRUN, "--nproc-per-node=2", "program.py", str(repeats)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(ALL_REDUCE)
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    result = {}
    for line in done.stdout.splitlines():
        size, seconds = line.split()
        result[size] = 1e6 * float(seconds)
    return result


JOBS = {
    "Bandit-v0, 4096 sub-environments, one core": partial(environment, "Bandit-v0"),
    "TabularMDP-v0, 4096 sub-environments, one core": partial(environment, "TabularMDP-v0"),
    "Navigation2D-v0, 4096 sub-environments, one core": partial(environment, "Navigation2D-v0"),
    "VisualMaze-v0, 256 sub-environments, one core": partial(
        environment, "VisualMaze-v0", num_envs=256
    ),
    "HalfCheetahVel-v0, 40 sub-environments": partial(
        environment, "HalfCheetahVel-v0", num_envs=40
    ),
    "HalfCheetahVel-v0, 400 sub-environments": partial(
        environment, "HalfCheetahVel-v0", num_envs=400
    ),
    "AntVel-v0, 40 sub-environments": partial(environment, "AntVel-v0", num_envs=40),
    "AntVel-v0, 400 sub-environments": partial(environment, "AntVel-v0", num_envs=400),
    "RL^2 at the peer's settings": partial(ppo, rl2_ppo, **PEER, hidden_size=256),
    "RL^2 at the peer's settings, --amp": partial(ppo, rl2_ppo, **PEER, amp=True, hidden_size=256),
    "SNAIL at the peer's settings": partial(ppo, snail_ppo, **PEER),
    "SNAIL at the peer's settings, --amp": partial(ppo, snail_ppo, **PEER, amp=True),
    "RL^2 on 256 HalfCheetahs": partial(ppo, rl2_ppo, **RUNNING),
    "RL^2 on 256 HalfCheetahs, --amp": partial(ppo, rl2_ppo, **RUNNING, amp=True),
    "RL^2 on 256 HalfCheetahs, --amp, GOMP_SPINCOUNT=300000": partial(
        ppo_with_long_waits, **RUNNING, amp=True
    ),
    "sb3-contrib's RecurrentPPO on 256 HalfCheetahs": partial(recurrent_ppo),
    "RL^2's recurrent kernel by minibatch, --amp": partial(minibatch_sizes),
    "SNAIL, one step of 256 trials of 1000 steps": partial(snail_steps),
    "2D navigation, 20 × 20 × 100": partial(maml, "Navigation2D-v0", meta_batch_size=20),
    "HalfCheetah, 40 × 20 × 200": partial(maml, "HalfCheetahDir-v0", meta_batch_size=40),
    "Ant, 40 × 20 × 200": partial(maml, "AntDir-v0", meta_batch_size=40, iterations=1),
    "RL^2, processes, 4,000 trials": partial(processes, rl2_ppo, total_timesteps=800_000),
    "RL^2, processes, 32,000 trials": partial(
        processes, rl2_ppo, total_timesteps=1_600_000, num_envs=32_000
    ),
    "RL^2, processes, 16,000 trials, 256 units": partial(
        processes, rl2_ppo, total_timesteps=320_000, num_envs=16_000, hidden_size=256
    ),
    "SNAIL, processes, 4,000 trials": partial(processes, snail_ppo, total_timesteps=240_000),
    "MAML, processes, 20 tasks": partial(processes, maml_trpo, num_iterations=30),
    "MAML, processes, 80 tasks": partial(
        processes, maml_trpo, num_iterations=8, meta_batch_size=80
    ),
    "all-reduce, microseconds": partial(all_reduce),
}
# Those of the processor again, where there is a GPU.
GPU_JOBS = {}
for _name, _job in JOBS.items():
    if _job.func in (ppo, maml):
        GPU_JOBS[f"{_name}, GPU"] = partial(_job, device="cuda")


def main(only=""):
    path = RESULTS / "speed.json"
    machine = {"cores": torch.get_num_threads(), "torch": torch.__version__}
    all_jobs = JOBS
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
        path = RESULTS / f"speed_{machine['gpu'].replace(' ', '_')}.json"
        all_jobs = JOBS | GPU_JOBS
    measured = read_json(path)
    if measured and {name: measured.get(name) for name in machine} != machine:
        if only:
            sys.exit(
                f"error: {path.name} is of {measured['cores']} cores, torch "
                f"{measured['torch']}: run all of it again."
            )
        measured = {}  # another machine's are not mixed with this one's
    chosen = [name for name in all_jobs if only in name]
    if not chosen:
        sys.exit(f"error: no job has {only!r} in its name. They are {', '.join(all_jobs)}.")
    for name in chosen:
        measured[name] = all_jobs[name]()
        print(f"{name}: {measured[name]}", flush=True)
        jobs = {other: measured[other] for other in all_jobs if other in measured}
        write_json(path, machine | jobs)


if __name__ == "__main__":
    try:
        main(" ".join(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(
            "Stopped. The results have what was measured until now, beside former measurements."
        )
