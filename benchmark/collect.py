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

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SCALARS = "charts/trial_return charts/gamma charts/episodes_per_trial losses/entropy losses/approx_kl".split()
SCALARS += ["losses/explained_variance"]


def command(script, args):
    """The command line that gives these arguments, without those that are the script's defaults."""
    module, words = __import__(script), ["python", f"{script}.py"]
    defaults = vars(module.Args())
    for name, value in args.items():
        if name in ("resume", "exp_name") or value == defaults[name]:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict):
            words += [flag, *(str(part) for item in value.items() for part in item)]
        else:
            words += [flag, str(value)]
    return shlex.join(words)


def curve(run):
    """Rows (global step, training seconds, scalars ...) of a run's events."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    series = {tag: events.Scalars(tag) for tag in SCALARS}
    episodes = sorted((int(tag.rsplit("_", 1)[1]), tag) for tag in tags if "return_episode_" in tag)
    series |= {"charts/first_episode": events.Scalars(episodes[0][1])}
    steps_to_return = {}  # the last episode of the trial, which is another one while trials grow
    for _, tag in episodes:
        steps_to_return |= {event.step: event.value for event in events.Scalars(tag)}
    sps = events.Scalars("charts/SPS")  # steps per second since the start: seconds without pauses for evaluation
    rows = []
    for i, event in enumerate(series["charts/trial_return"]):
        seconds = event.step / sps[i].value
        values = [f"{scalars[i].value:.5g}" for scalars in series.values()]
        rows.append([event.step, f"{seconds:.1f}", *values, f"{steps_to_return[event.step]:.5g}"])
    stride = -(-len(rows) // 400)
    names = [tag.split("/")[1] for tag in series]
    return ["global_step", "seconds", *names, "last_episode"], rows[stride - 1 :: stride]


def main(run, name):
    run, target = Path(run), ROOT / "benchmark" / "results" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in ("eval.json", "agent.pt"):
        shutil.copy(run / file, target / file)
    args = json.loads((run / "args.json").read_text()) | {"resume": None}
    (target / "args.json").write_text(json.dumps(args, indent=2) + "\n")
    script = json.loads((run / "eval.json").read_text())["algorithm"]
    (target / "command.txt").write_text(command(script, args) + "\n")
    header, rows = curve(run)
    with open(target / "curve.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print((target / "command.txt").read_text(), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
