"""Turns a finished run into a row of benchmark/results: evaluation, arguments, command, network and learning curve.

    python benchmark/collect.py runs/Bandit-v0__rl2_ppo__1__1764000000 bandit-5-arms-10-pulls

The command is written from what the run was given, the learning curve from its TensorBoard events (at most 400 rows).
"""

import csv
import json
import shlex
import shutil
import sys
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PPO = "charts/trial_return charts/gamma charts/episodes_per_trial losses/entropy losses/approx_kl "
PPO += "losses/explained_variance"
SCALARS = {
    "rl2_ppo": PPO,
    "snail_ppo": PPO,
    "maml_trpo": "losses/kl losses/improvement losses/step_size charts/episode_length",
}


def command(script, args):
    """The command line that gives these arguments, without those that are the script's defaults."""
    module, words = __import__(script), ["python", f"{script}.py"]
    defaults = vars(module.Args())
    for name, value in args.items():
        value = tuple(value) if isinstance(value, list) else value
        if name in ("resume", "exp_name") or value == defaults[name]:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict):
            words += [flag, *(str(part) for item in value.items() for part in item)]
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def curve(run, script):
    """Rows (global step, training seconds, scalars ...) of a run's events."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    series = {tag: [event.value for event in events.Scalars(tag)] for tag in SCALARS[script].split()}
    if script == "maml_trpo":
        series |= {tag: [event.value for event in events.Scalars(tag)] for tag in tags if "return_after_" in tag}
    else:  # the first episode of the trial, and the last, which is another one while trials grow
        episodes = sorted((int(tag.rsplit("_", 1)[1]), tag) for tag in tags if "return_episode_" in tag)
        by_step = {}
        for _, tag in episodes:
            by_step |= {event.step: event.value for event in events.Scalars(tag)}
        series["charts/first_episode"] = [event.value for event in events.Scalars(episodes[0][1])]
        series["charts/last_episode"] = [by_step[step] for step in sorted(by_step)]
    rows = []
    for i, event in enumerate(events.Scalars("charts/SPS")):  # steps per second since the start, without evaluation
        values = [f"{values[i]:.5g}" for values in series.values()]
        rows.append([event.step, f"{event.step / event.value:.1f}", *values])
    stride = -(-len(rows) // 400)
    return ["global_step", "seconds", *(tag.split("/")[1] for tag in series)], rows[stride - 1 :: stride]


def shrink(source, target):
    """Copies a network. Weights that --amp rounds to bfloat16 in every use are stored so; the rest stays as it is."""
    saved = torch.load(source, weights_only=True)
    if saved["args"].get("amp"):
        for key, tensor in saved["agent"].items():
            if key.startswith(("trunk.", "embedding.", "now.", "before.", "attention.")):
                saved["agent"][key] = tensor.bfloat16()
    torch.save(saved, target)


def main(run, name):
    run, target = Path(run), ROOT / "benchmark" / "results" / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "eval.json", target / "eval.json")
    shrink(run / "agent.pt", target / "agent.pt")
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
