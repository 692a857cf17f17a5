"""Trains, evaluates and collects the rows of rows.py: what is missing, one run at a time.

    python benchmark/run.py                                # every row and seed that is missing
    python benchmark/run.py navigation --seeds 1 2         # two trainings of one row
    python benchmark/run.py navigation --jobs 3            # at most three at a time: for a GPU
    python benchmark/run.py --list                         # what is there, and what is not
    python benchmark/run.py --check navigation             # evaluates the published agent again

A run has its folder in runs/benchmark/NAME/seed-N, and what is published of it goes to
benchmark/results/NAME/seed-N. Ctrl-C stops it; the next `run.py` goes on where it stopped.
"""

import argparse
import csv
import fcntl
import importlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
import envs  # noqa: E402
import plot  # noqa: E402
from envs import UsageError  # noqa: E402
from files import read_json, write_json  # noqa: E402
from rl2_ppo import HAS_BFLOAT16  # noqa: E402
from rows import ROWS  # noqa: E402

RESULTS = ROOT / "benchmark" / "results"
RUNS = ROOT / "runs" / "benchmark"
# Arguments that a run's numbers do not depend on: `settings` leaves them out.
INCIDENTAL = (
    "exp_name",
    "track",
    "wandb_project_name",
    "wandb_entity",
    "resume",
    "checkpoint_seconds",
)
PPO_SCALARS = [
    "charts/trial_return",
    "charts/gamma",
    "charts/episodes_per_trial",
    "losses/entropy",
    "losses/approx_kl",
    "losses/explained_variance",
]
SCALARS = {
    "rl2_ppo": PPO_SCALARS,
    "snail_ppo": PPO_SCALARS,
    "maml_trpo": ["losses/kl", "losses/improvement", "losses/step_size", "charts/episode_length"],
}
# The weights that --amp rounds to bfloat16, by the beginnings of their names. agent.pt keeps them
# so. They are all of SNAIL's but its heads. Of agents that see images they are the convolutions',
# and of RL^2 its memory's, too ("trunk.", see `shrink`): there these are many.
ROUNDED = ("embedding.", "blocks.", "attention.", "convolutions.")
TOLERANCE = 4.0  # standard errors between two evaluations on different machines


# ------------------------------------------------------------------------------ arguments of a row


def script_of(name):
    """The module of the script that trains a row."""
    return importlib.import_module(ROWS[name]["script"])


def arguments(name, seed):
    """Every argument of a row's run, by name."""
    return vars(script_of(name).Args(**ROWS[name]["arguments"], seed=seed))


def settings(name, args):
    """The arguments that the numbers depend on, as JSON gives them.

    What older runs have not written down is the script's default.
    """
    result = vars(script_of(name).Args()) | args
    for argument in INCIDENTAL:
        result.pop(argument)
    return json.loads(json.dumps(result))


def is_current(name, seed, path):
    """Whether an args.json holds the arguments that rows.py has today."""
    try:
        args = read_json(path)
    except json.JSONDecodeError:
        script = ROWS[name]["script"]
        raise UsageError(
            f"{path} is damaged. If no training is writing it just now, run {script}.py --resume "
            "on the checkpoint beside it: that writes it again."
        ) from None
    return settings(name, args) == settings(name, arguments(name, seed))


def flags(script, args):
    """The words of a command line that give these arguments, without the script's defaults."""
    defaults = vars(importlib.import_module(script).Args())
    words = []
    for name, value in args.items():
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 30000000 instead of 30000000.0
        if name == "exp_name" or value == defaults[name]:
            continue
        word = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{word}" if value else f"--no-{word}")
        elif isinstance(value, dict):
            words.append(f"--{word}")
            for key, number in value.items():
                words += [key, str(number)]
        elif isinstance(value, tuple):
            words += [f"--{word}", *map(str, value)]
        else:
            words += [f"--{word}", str(value)]
    return words


def command(script, args):
    """The command line that gives these arguments, as one types it."""
    return shlex.join(["python", f"{script}.py", *flags(script, args)])


# ------------------------------------------------------------------------------- where a row stands


def results_folder(name, seed):
    return RESULTS / name / f"seed-{seed}"


def run_folder(name, seed):
    return RUNS / name / f"seed-{seed}"


def find_run(name, seed):
    """The newest run of a row and seed with today's arguments; None where there is none."""
    paths = run_folder(name, seed).glob("runs/*/args.json")
    current = [path for path in paths if is_current(name, seed, path)]
    if not current:
        return None
    return max(current, key=lambda path: path.stat().st_mtime).parent


def state(name, seed):
    """collected, trained (and not collected), interrupted, out of date, or missing."""
    folder = results_folder(name, seed)
    is_collected = (folder / "eval.json").exists()
    if is_collected and is_current(name, seed, folder / "args.json"):
        return "collected"
    run = find_run(name, seed)
    if run is not None:
        return "trained" if (run / "eval.json").exists() else "interrupted"
    return "out of date" if is_collected else "missing"


def lock(name, seed):
    """An open file that is this process's alone; None while another one trains the same."""
    folder = run_folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def alone_with_results():
    """Waits until no other process changes the results, and lets none do it meanwhile."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with open(RUNS / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_running(name, seed):
    """Whether a process trains this row and seed now."""
    if not (run_folder(name, seed) / "lock").exists():
        return False
    file = lock(name, seed)
    if file is None:
        return True
    file.close()
    return False


def progress(run):
    """How far a run came by its checkpoint, from 0 to 1, and its minutes until there."""
    saved = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
    args = saved["args"]
    minutes = saved["wall_seconds"] / 60
    if saved["algorithm"] == "maml_trpo":
        return saved["iteration"] / args["num_iterations"], minutes
    return saved["global_step"] / args["total_timesteps"], minutes


def describe(name, seed):
    """Where a row and seed stands, in words."""
    now = state(name, seed)
    if now in ("collected", "out of date"):
        result = json.loads((results_folder(name, seed) / "eval.json").read_text())
        text = f"{now}, {result['wall_seconds'] / 60:.1f} minutes"
        if now == "out of date":
            text += f": rows.py has other arguments (python benchmark/run.py {name})"
    elif now == "interrupted":
        part, minutes = progress(find_run(name, seed))
        text = f"interrupted at {part:.0%}, {minutes:.1f} minutes"
    else:
        text = now
    if is_running(name, seed):
        text += ", running"
    return text


def print_list(names, seeds):
    """A line for each row and seed."""
    width = max(map(len, names))
    for name in names:
        for seed in seeds_of(name, seeds):
            print(f"{name:{width}}  seed {seed}  {describe(name, seed)}")


# ----------------------------------------------------------------------------------------- training


def write_example(env_id, folder):
    """Writes an environment that is an example of docs/environments.md as a module into a folder.

    Other environments need no file.
    """
    module = env_id.split(":")[0]
    head = f"`{module}.py`: "
    page = (ROOT / "docs" / "environments.md").read_text()
    if ":" not in env_id or head not in page:
        return
    code = page.split(head)[1].split("```python\n")[1].split("```")[0]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code)


def call(words, folder, files=()):
    """Runs a command in a folder and returns its exit status; Ctrl-C goes on to it.

    It has a process group of its own, so that a terminal's Ctrl-C reaches it once, from here. The
    open `files` stay open as long as it runs, whatever becomes of this process.
    """
    python_path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": python_path},  # for the module of `write_example`
        pass_fds=[file.fileno() for file in files],
        process_group=0,
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise


def train(name, seed):
    """Trains a row with a seed in a process of its own, or goes on with an interrupted run."""
    script = ROWS[name]["script"]
    args = arguments(name, seed)
    folder = run_folder(name, seed)
    file = lock(name, seed)
    if file is None:
        time.sleep(1)  # `run.py --list` may have held the lock, for a moment
        file = lock(name, seed)
    if file is None:
        raise UsageError(f"{name}, seed {seed}, is being trained by another process.")
    write_example(args["env_id"], folder)
    words = [sys.executable, str(ROOT / f"{script}.py")]
    run = find_run(name, seed)
    if run is None:
        print(f"{name}, seed {seed}: {command(script, args)}", flush=True)
        words += flags(script, args)
    else:
        checkpoint = run.relative_to(folder) / "checkpoint.pt"
        print(f"{name}, seed {seed}: goes on from {checkpoint}", flush=True)
        words += ["--resume", str(checkpoint)]
    with file:
        status = call(words, folder, [file])
        if status != 0:
            raise UsageError(f"{name}, seed {seed}, ended with status {status}: see above.")
        run = find_run(name, seed)
        if run is None:
            raise UsageError(
                f"{name}: the run in {folder} has other arguments than rows.py. Where trials have "
                "more than 100 steps, rows.py must name num_envs."
            )
        write_machine(run)


def processor():
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    except OSError:  # another system than Linux
        pass
    return platform.processor() or platform.machine()


def machine():
    """What a run's minutes and last digits depend on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "avx": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": HAS_BFLOAT16,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_machine(run):
    """Writes `machine` into a run's folder."""
    write_json(run / "machine.json", machine())


# --------------------------------------------------------------------------------------- collecting


def values(events, tag):
    return [event.value for event in events.Scalars(tag)]


def curve(run, script):
    """A head and rows (global step, training seconds, scalars ...) of a run's events."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    series = {tag: values(events, tag) for tag in SCALARS[script]}
    if script == "maml_trpo":
        for tag in tags:
            if "return_after_" in tag:
                series[tag] = values(events, tag)
    else:
        # the first episode of the trial, and the last, which is another one while trials grow
        episodes = [tag for tag in tags if "return_episode_" in tag]
        episodes.sort(key=lambda tag: int(tag.rsplit("_", 1)[1]))
        last = {}
        for tag in episodes:
            for event in events.Scalars(tag):
                last[event.step] = event.value
        series["charts/first_episode"] = values(events, episodes[0])
        series["charts/last_episode"] = [last[step] for step in sorted(last)]
    rows = []
    # steps per second since the start, without evaluation
    for i, event in enumerate(events.Scalars("charts/SPS")):
        scalars = [f"{numbers[i]:.5g}" for numbers in series.values()]
        rows.append([event.step, f"{event.step / event.value:.1f}", *scalars])
    stride = ceil(len(rows) / 400)  # at most 400 rows, the last one among them
    first = (len(rows) - 1) % stride
    names = [tag.split("/")[1] for tag in series]
    return ["global_step", "seconds", *names], rows[first::stride]


def shrink(source, target):
    """A checkpoint's network alone.

    Weights that --amp rounded to bfloat16 in every use are stored so. Where the run's machine had
    no instructions for bfloat16, --amp rounded nothing.
    """
    saved = torch.load(source, weights_only=True, map_location="cpu")
    agent = saved["agent"]
    rounded = ROUNDED
    if "convolutions.0.weight" in agent:
        rounded = (*ROUNDED, "trunk.")
    has_bfloat16 = True  # of the oldest runs no machine is known: it had bfloat16
    machine_path = source.with_name("machine.json")
    if machine_path.exists():
        has_bfloat16 = plot.had_bfloat16(json.loads(machine_path.read_text()))
    if has_bfloat16 and saved["args"].get("amp"):  # MAML has none
        for key, tensor in agent.items():
            if key.startswith(rounded):
                agent[key] = tensor.bfloat16()
    temporary = target.with_suffix(".tmp")
    torch.save({key: saved[key] for key in ("algorithm", "args", "agent")}, temporary)
    temporary.replace(target)  # as `write_json`: the former agent, or the whole new one


def maze_steps(script, checkpoint, num_mazes=1000):
    """Steps to the goal in held-out mazes of each size: {setting of baselines.MAZES: summaries}.

    There is a `baselines.summary` for each episode of a trial. SNAIL's memory is as long as a trial
    of its training, so that it has none where trials are longer.
    """
    agent = script.load(checkpoint)
    episodes = agent.args.episodes_per_trial
    result = {}
    memory_steps = getattr(agent, "steps", np.inf)  # of SNAIL; RL^2's memory has no limit
    for setting, (size, horizon) in baselines.MAZES.items():
        if memory_steps < episodes * horizon:
            continue
        env = envs.make("VisualMaze-v0", 50, size=size, horizon=horizon)
        tasks = env.sample_tasks(num_mazes, [1, agent.args.eval_seed])
        steps = []
        found = []
        for start in range(0, num_mazes, 50):
            torch.manual_seed(start)
            data = script.rollout(agent, env, tasks[start : start + 50], episodes, start)
            data["step"] = torch.ones_like(data["reward"])
            data["found"] = (data["reward"] > 0).float()  # only the goal pays
            steps.append(script.sum_by_episode(data, "step", episodes))
            found.append(script.sum_by_episode(data, "found", episodes) > 0)
        env.close()
        steps = np.concatenate(steps)  # [mazes, episodes]
        found = np.concatenate(found)
        result[setting] = [baselines.summary(steps[:, i], found[:, i]) for i in range(episodes)]
    return result


def remove_former(name, seed):
    """Removes the results of this seed, and of all seeds with other arguments than today's."""
    # A row's seeds are of the same arguments: those of former ones go (git has them). All folders
    # count, for rows.py may have named more seeds before than it does today.
    for folder in sorted((RESULTS / name).glob("seed-*")):
        other = int(folder.name.removeprefix("seed-"))
        path = folder / "args.json"
        is_former = path.exists() and not is_current(name, other, path)
        if is_former or other == seed:
            shutil.rmtree(folder)
    agent_seed = read_agent_seed(name)
    if agent_seed is not None and not results_folder(name, agent_seed).exists():
        (RESULTS / name / "agent.json").unlink()  # agent.pt is of a run that is gone


def collect(name, seed):
    """Copies what is published of a finished run into the results, in the place of former ones."""
    run = find_run(name, seed)
    script = ROWS[name]["script"]
    args = json.loads((run / "args.json").read_text()) | {"resume": None}
    # What could fail comes first: then the former results are still there.
    head, lines = curve(run, script)
    mazes = None
    if args["env_id"] == "VisualMaze-v0":
        mazes = maze_steps(script_of(name), run / "checkpoint.pt")
    if not (run / "machine.json").exists():  # it was finished by hand, on this machine most likely
        write_machine(run)

    remove_former(name, seed)
    target = results_folder(name, seed)
    target.mkdir(parents=True)
    write_json(target / "args.json", args)
    (target / "command.txt").write_text(command(script, args) + "\n")
    with open(target / "curve.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    if mazes is not None:
        write_json(target / "mazes.json", mazes)
    shutil.copy(run / "machine.json", target)
    shutil.copy(run / "eval.json", target)  # the last one: a row with it is a whole one


def median_seed(name):
    """The collected seed with the middle score; of two in the middle the lower one."""
    scores = {}
    for seed in ROWS[name]["seeds"]:
        if state(name, seed) == "collected":
            result = json.loads((results_folder(name, seed) / "eval.json").read_text())
            scores[seed], _ = plot.score(result)
    ranked = sorted(scores, key=scores.get)
    return ranked[(len(ranked) - 1) // 2]


def publish_agent(name):
    """Makes the network of the median seed the row's agent.pt, and writes down which seed it is."""
    seed = median_seed(name)
    if read_agent_seed(name) == seed:
        return
    run = find_run(name, seed)
    published = (results_folder(name, seed) / "eval.json").read_bytes()
    is_finished = run is not None and (run / "eval.json").exists()
    if is_finished and (run / "eval.json").read_bytes() == published:
        shrink(run / "checkpoint.pt", RESULTS / name / "agent.pt")
        write_json(RESULTS / name / "agent.json", {"seed": seed})
    else:
        print(f"{name}: agent.pt is not of the median seed {seed}, whose run is not here.")


def read_agent_seed(name):
    """The seed of a row's agent.pt; None where there is none."""
    return read_json(RESULTS / name / "agent.json").get("seed")


def random_returns():
    """random.json: {row: its environment, and an episode's mean return with random actions}."""
    return read_json(RESULTS / "random.json")


def add_random_return(name):
    """Measures random actions in a row's environment, where random.json does not have them yet."""
    args = arguments(name, 1)
    environment = {"env_id": args["env_id"], "env_kwargs": args["env_kwargs"]}
    returns = random_returns()
    former = returns.get(name, {})  # of another environment, if rows.py has changed
    if environment == {key: former.get(key) for key in environment}:
        return
    import_example(name)
    num_tasks = 1000
    if args["env_id"] in ("TabularMDP-v0", "Navigation2D-v0"):
        num_tasks = 40_000
    if args["env_id"] == "Bandit-v0":  # an episode is one pull; tables have up to 1000 of them
        num_tasks = 1_000_000
    env_kwargs = dict(args["env_kwargs"])
    env_kwargs.pop("vectorization_mode", None)  # else each task were a process of its own
    measured = baselines.random_return(args["env_id"], env_kwargs, num_tasks)
    returns[name] = environment | measured
    write_json(RESULTS / "random.json", dict(sorted(returns.items())))


def import_example(name):
    """Makes the module of a row's environment importable here."""
    write_example(arguments(name, 1)["env_id"], RUNS / name)
    if str(RUNS / name) not in sys.path:
        sys.path.append(str(RUNS / name))


def is_left_alone(name, is_named):
    """Whether a row has results with other arguments than today's, and was not named.

    Its first new seed would remove these results.
    """
    is_out_of_date = any(state(name, seed) == "out of date" for seed in ROWS[name]["seeds"])
    return is_out_of_date and not is_named


def bring_up_to_date(name, seeds, is_named):
    """Trains and collects what a row lacks; if it is out of date, only where it was named."""
    for seed in seeds:
        now = state(name, seed)
        if now == "collected":
            if is_named:
                print(f"{name}, seed {seed}: {describe(name, seed)}, nothing to do")
            continue
        if is_left_alone(name, is_named):
            print(
                f"{name}, seed {seed}: left alone, since the row has results with other arguments "
                f"(python benchmark/run.py {name} replaces them)"
            )
            continue
        if now != "trained":
            train(name, seed)
        with alone_with_results():
            add_random_return(name)  # before `collect`: plot.py wants it of each row with results
            collect(name, seed)
        print(f"{name}, seed {seed}: {describe(name, seed)}", flush=True)
        complete(name)  # now: the next seed may take hours
    complete(name)


def complete(name):
    """Adds what a row with results has besides: an agent, and the return of random actions."""
    if any(state(name, seed) == "collected" for seed in ROWS[name]["seeds"]):
        with alone_with_results():
            publish_agent(name)
            add_random_return(name)


def missing_runs(names, seeds, are_named):
    """(row, seed) of what `bring_up_to_date` would train or collect."""
    result = []
    for name in names:
        for seed in seeds_of(name, seeds):
            if state(name, seed) != "collected" and not is_left_alone(name, are_named):
                result.append((name, seed))
    return result


def words_of(name, seed):
    """The command that brings one run up to date."""
    return [sys.executable, __file__, name, "--seeds", str(seed)]


def start(name, seed, num_threads):
    """Starts the process of `words_of`; what it prints goes to `log` in the run's folder."""
    folder = run_folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}, seed {seed}: starts, see {folder / 'log'}", flush=True)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            words_of(name, seed),
            env={"OMP_NUM_THREADS": str(num_threads)} | os.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches it once, from `bring_up_to_date_side_by_side`
        )


def bring_up_to_date_side_by_side(runs, jobs):
    """Brings (row, seed) pairs up to date, each in a process of its own, `jobs` at a time."""
    num_threads = max(1, os.cpu_count() // jobs)
    waiting = list(runs)
    running = {}  # (row, seed): process
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running[run] = start(*run, num_threads)
            time.sleep(0.2)
            ended = [run for run, process in running.items() if process.poll() is not None]
            for name, seed in ended:
                status = running.pop((name, seed)).returncode
                print(f"{name}, seed {seed}: ended with status {status}", flush=True)
                if status != 0:
                    failed.append(f"{name}, seed {seed}")
    except KeyboardInterrupt:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
        raise
    if failed:
        raise UsageError(f"These runs failed, see their logs: {'; '.join(failed)}.")


# ----------------------------------------------------------------------------------------- checking


def evaluate(name):
    """Evaluates a row's agent.pt as its training did: {entry of eval.json: a row of each task}."""
    script = script_of(name)
    import_example(name)
    device = "cpu"
    path = RESULTS / name / "agent.pt"
    args = script.Args(**script.read_checkpoint(path)["args"])
    if torch.cuda.is_available() and args.cuda:
        device = "cuda"
    env = envs.make(args.env_id, 1, **args.env_kwargs)
    tasks = env.sample_tasks(args.eval_trials, [1, args.eval_seed])
    env.close()
    if ROWS[name]["script"] == "maml_trpo":
        policy, params, _ = script.load(path, device)
        returns = script.evaluate(
            policy,
            params,
            args.env_id,
            args.env_kwargs,
            tasks,
            args.eval_episodes,
            args.eval_seed,
        )
        by_episode = returns.reshape(len(tasks), -1)
        return {
            "return_by_gradient_step": returns.mean(2),
            "return_by_episode": by_episode,
            "return": by_episode.sum(1),
        }
    agent = script.load(path, device)
    returns, regrets = script.evaluate(
        agent,
        args.env_id,
        args.env_kwargs,
        tasks,
        args.episodes_per_trial,
        args.eval_seed,
        return_regret=True,
    )
    results = {"return_by_episode": returns, "return": returns.sum(1)}
    if regrets is not None:
        results["regret"] = regrets.sum(1)
    return results


def is_published(name):
    """Whether a row has an agent, and the results of its seed."""
    seed = read_agent_seed(name)
    return seed is not None and (results_folder(name, seed) / "eval.json").exists()


def check(name):
    """Evaluates a row's published agent again; whether it gives the published numbers.

    The tasks are the same. On the machine that trained it the numbers are, too; on another one
    the last digits of floats differ, and with them actions that are drawn.
    """
    seed = read_agent_seed(name)
    if seed is None:
        raise UsageError(f"{name} has no agent yet: python benchmark/run.py {name}")
    folder = results_folder(name, seed)
    if not (folder / "eval.json").exists():
        raise UsageError(f"{name}: {folder} has no results: python benchmark/run.py {name}")
    published = json.loads((folder / "eval.json").read_text())
    is_same_machine = read_json(folder / "machine.json") == machine()
    is_equal = True
    largest = 0.0
    for entry, samples in evaluate(name).items():
        means = samples.mean(0)
        stderrs = samples.std(0, ddof=1) / len(samples) ** 0.5
        # "return" is called return_mean in eval.json, "return_by_episode" is called just so
        suffix = "" if "_by_" in entry else "_mean"
        published_means = np.array(published[entry + suffix])
        published_stderrs = np.array(published[f"{entry}_stderr"])
        is_equal &= np.allclose(means, published_means, rtol=1e-5, atol=1e-7)
        is_equal &= np.allclose(stderrs, published_stderrs, rtol=1e-5, atol=1e-7)
        distance = np.abs(means - published_means) / np.maximum(stderrs, 1e-7)
        largest = np.maximum(largest, distance.max())  # NaN stays, where `max` would forget it
        if "_by_episode" not in entry:
            print(f"  {entry + suffix}: {means}, published {published_means}")
    is_right = is_equal or (largest < TOLERANCE and not is_same_machine)
    where = "the same machine" if is_same_machine else "another machine, or an unknown one"
    same = "equal numbers" if is_equal else f"at most {largest:.2f} standard errors apart"
    verdict = "agrees" if is_right else "DOES NOT AGREE"
    print(f"{name}, seed {seed}: {verdict} ({same}; {where})", flush=True)
    return is_right


def check_all(names):
    """Checks these rows, and then says which of them do not agree or cannot be evaluated."""
    wrong = []
    for name in names:
        try:
            if not check(name):
                wrong.append(name)
        except Exception as error:  # of any kind: a package is missing, weights do not fit
            print(f"{name}: cannot be evaluated: {error}", flush=True)
            wrong.append(name)
    if wrong:
        raise UsageError(
            f"These rows' agents do not give the published numbers, see above: {', '.join(wrong)}."
        )


# --------------------------------------------------------------------------------------------- main


def seeds_of(name, seeds):
    """A row's seeds; with `seeds`, those of them that are among these."""
    return [seed for seed in ROWS[name]["seeds"] if not seeds or seed in seeds]


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows of rows.py; else all")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of a row's seeds")
    parser.add_argument("--jobs", type=int, default=1, help="train so many at a time")
    parser.add_argument("--list", action="store_true", help="say what is there, and do nothing")
    parser.add_argument("--check", action="store_true", help="evaluate the published agents again")
    args = parser.parse_args(words)
    for name in args.names:
        if name not in ROWS:
            raise UsageError(f"rows.py has no row {name}.")
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1.")
    names = args.names or list(ROWS)
    if not any(seeds_of(name, args.seeds) for name in names):
        raise UsageError(f"rows.py has no seeds {args.seeds} for {', '.join(names)}.")
    if args.list:
        print_list(names, args.seeds)
    elif args.check:
        if not args.names:
            names = [name for name in names if is_published(name)]
        check_all(names)
    elif args.jobs > 1:
        runs = missing_runs(names, args.seeds, bool(args.names))
        bring_up_to_date_side_by_side(runs, args.jobs)
        for name in names:
            complete(name)
    else:
        failed = []
        for name in names:
            try:
                bring_up_to_date(name, seeds_of(name, args.seeds), name in args.names)
            except UsageError as error:  # the other rows can be trained all the same
                print(f"error: {error}", flush=True)
                failed.append(name)
        if failed:
            raise UsageError(f"These rows failed, see above: {', '.join(failed)}.")


if __name__ == "__main__":
    # SIGTERM as Ctrl-C, and Ctrl-C even where a shell started this in the background
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. A training goes on from its last checkpoint with the same command.")
