"""Turns a finished run into a row of benchmark/results.

    python benchmark/collect.py runs/Bandit-v0__rl2_ppo__1__1764000000 bandit-5-arms-10-pulls

A row is the evaluation, arguments, command, network and learning curve. The command is written
from what the run was given, the curve from its TensorBoard events (at most 400 rows).
"""

import csv
import importlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PPO = [
    "charts/trial_return",
    "charts/gamma",
    "charts/episodes_per_trial",
    "losses/entropy",
    "losses/approx_kl",
    "losses/explained_variance",
]
SCALARS = {
    "rl2_ppo": PPO,
    "snail_ppo": PPO,
    "maml_trpo": ["losses/kl", "losses/improvement", "losses/step_size", "charts/episode_length"],
}
NETWORKS = ("trunk.", "embedding.", "linears.", "attention.")  # what --amp computes in bfloat16


def command(script, args):
    """The command line that gives these arguments, without those that are the script's defaults."""
    defaults = vars(importlib.import_module(script).Args())
    words = ["python", f"{script}.py"]
    for name, value in args.items():
        if isinstance(value, list):
            value = tuple(value)
        if name in ("resume", "exp_name") or value == defaults[name]:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict):
            words.append(flag)
            for key, number in value.items():
                words += [key, str(number)]
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)


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
    stride = -(-len(rows) // 400)
    names = [tag.split("/")[1] for tag in series]
    return ["global_step", "seconds", *names], rows[stride - 1 :: stride]


def shrink(source, target):
    """A checkpoint's network alone.

    Weights that --amp rounds to bfloat16 in every use are stored so, the others stay as they are.
    """
    saved = torch.load(source, weights_only=True)
    agent = saved["agent"]
    if saved["args"].get("amp"):
        for key, tensor in agent.items():
            if key.startswith(NETWORKS):
                agent[key] = tensor.bfloat16()
    torch.save({name: saved[name] for name in ("algorithm", "args", "agent")}, target)


def main(run, name):
    run = Path(run)
    target = ROOT / "benchmark" / "results" / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "eval.json", target / "eval.json")
    shrink(run / "checkpoint.pt", target / "agent.pt")
    args = json.loads((run / "args.json").read_text()) | {"resume": None}
    (target / "args.json").write_text(json.dumps(args, indent=2) + "\n")
    script = json.loads((run / "eval.json").read_text())["algorithm"]
    (target / "command.txt").write_text(command(script, args) + "\n")
    header, rows = curve(run, script)
    with open(target / "curve.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print((target / "command.txt").read_text(), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
