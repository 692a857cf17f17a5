"""Learning curves and results tables, from the raw data in benchmark/results alone.

    python benchmark/plot.py             # writes docs/figures/*.png, the tables in README and docs/

Which rows there are, and the papers' numbers for them, stands in benchmark/results/references.json.
The classical algorithms' scores come from baselines.json, those of random actions from random.json.
"""

import csv
import json
import re
import sys
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmark" / "results"
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402


def read(name):
    return json.loads((RESULTS / name).read_text())


@cache
def optimum(env_id, env_kwargs):
    """`baselines.expected_optimum`, whose `env_kwargs` are here a string of JSON."""
    return baselines.expected_optimum(env_id, json.loads(env_kwargs))


def estimate(result):
    """The return of a trial and its standard error, from regret where the optimum is known.

    On average a return is the optimum minus the regret, which varies less than rewards do.
    """
    known = None
    if "regret_mean" in result:
        known = optimum(result["env_id"], json.dumps(result["env_kwargs"]))
    if known is None:
        return result["return_mean"], result["return_stderr"]
    mean = result["episodes_per_trial"] * known[0]
    stderr = result["episodes_per_trial"] * known[1]
    return mean - result["regret_mean"], (stderr**2 + result["regret_stderr"] ** 2) ** 0.5


def rows(algorithm):
    """An algorithm's published rows, in order: (name, references.json's, eval.json, curve).

    eval.json's entries with that of random actions, `random`: the return of an episode.
    """
    scores = read("baselines.json")
    random = read("random.json")
    for name, row in read("references.json").get(algorithm, {}).items():
        setting, *names = row.get("baselines", [None])
        row["references"] = {label: scores[setting][label]["return_mean"] for label in names}
        row["references"] |= row.get("papers", {})
        if not (RESULTS / name / "eval.json").exists():
            continue
        with open(RESULTS / name / "curve.csv") as file:
            lines = list(csv.DictReader(file))
        curve = [{key: float(value) for key, value in line.items()} for line in lines]
        result = read(f"{name}/eval.json")
        result["random"] = random[name]["return_mean"]
        yield name, row, result, curve


def plot_ppo(name, row, result, curve):
    """Return of training trials over minutes, beside that of the held-out ones by episode."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), constrained_layout=True)
    minutes = [line["seconds"] / 60 for line in curve]
    scaled = []
    for line in curve:
        scale = result["episodes_per_trial"] / line["episodes_per_trial"]
        scaled.append(line["trial_return"] * scale)
    left.plot(minutes, scaled, label="training")
    styles = ("--", ":", "-.", (0, (1, 4)))
    for (label, value), style in zip(row["references"].items(), styles, strict=False):
        text = f"{label}: {value:.4g}"
        left.axhline(value, color="black", linestyle=style, linewidth=0.9, label=text)
    mean, _ = estimate(result)
    left.plot(minutes[-1], mean, "o", color="C3", label=f"held-out tasks: {mean:.2f}")
    left.set(xlabel="minutes on 2 cores", title=row["title"])
    is_growing = len({line["episodes_per_trial"] for line in curve}) > 1
    left.set_ylabel("return per trial" + (", scaled to its full length" if is_growing else ""))
    left.legend(fontsize=7, loc="lower right")
    episodes = range(1, result["episodes_per_trial"] + 1)
    errors = [2 * stderr for stderr in result["return_by_episode_stderr"]]
    random = result["random"]
    if len(episodes) > 3:
        right.errorbar(episodes, result["return_by_episode"], errors, lw=1.2, elinewidth=0.8)
        right.axhline(random, color="grey", linewidth=0.9, label="random policy")
    else:
        bars = right.bar(episodes, result["return_by_episode"], yerr=errors, width=0.5, capsize=4)
        right.bar_label(bars, fmt="%.2f")
        right.plot([], " ", label=f"random policy: {random:.2f}")
        right.set_xticks(episodes)
    right.set(xlabel="episode of the trial", ylabel="return of the episode")
    right.set_title("held-out tasks, by episode (±2 s.e.)")
    right.legend(fontsize=7, loc="lower right")
    save(figure, name)


def save(figure, name):
    (ROOT / "docs" / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(ROOT / "docs" / "figures" / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def groups():
    """MAML's rows by task distribution: {title: [(name, row, eval.json, curve), ...]}."""
    result = {}
    for name, row, *rest in rows("maml_trpo"):
        result.setdefault(row["title"], []).append((name, row, *rest))
    return result


def plot_maml(title, members):
    """Returns in training before and after adaptation, beside those in held-out tasks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for i, (_, row, result, curve) in enumerate(members):
        millions = [line["global_step"] / 1e6 for line in curve]
        after = 0
        while f"return_after_{after + 1}_steps" in curve[0]:
            after += 1
        style = f"C{i}--" if after else f"C{i}-"
        left.plot(millions, [line["return_after_0_steps"] for line in curve], style, lw=0.9)
        if after:
            adapted = [line[f"return_after_{after}_steps"] for line in curve]
            left.plot(millions, adapted, f"C{i}-", lw=1.2)
        means = result["return_by_gradient_step"]
        errors = [2 * stderr for stderr in result["return_by_gradient_step_stderr"]]
        right.errorbar(range(4), means, errors, fmt=f"C{i}o-", capsize=3, label=row["role"])
    left.set(xlabel="million environment steps", ylabel="return of an episode")
    left.set_title("training (dashed: before adaptation)", fontsize=10)
    right.axhline(result["random"], color="grey", linewidth=0.9, label="random actions")
    right.set(xlabel="gradient steps in a new task", xticks=range(4))
    right.set_title("held-out tasks (±2 standard errors)", fontsize=10)
    right.legend(fontsize=7)
    figure.suptitle(title)
    save(figure, figure_name(title))


def figure_name(title):
    return "maml-" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


def table_row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def table_head(cells):
    return [table_row(cells), "|---" * len(cells) + "|"]


def maml_table():
    """MAML's results as a markdown table."""
    head = ["task", "what", "random", "before adaptation", "after 1 gradient step", "after 2"]
    lines = table_head([*head, "after 3", "minutes", "command"])
    for title, members in groups().items():
        for name, row, result, _ in members:
            returns = []
            for i, mean in enumerate(result["return_by_gradient_step"]):
                stderr = result["return_by_gradient_step_stderr"][i]
                returns.append(f"{mean:.2f} ± {stderr:.2f}")
            if row["role"] == "MAML":
                returns[1] = f"**{returns[1]}**"
            cells = [title, f"[{row['role']}](../benchmark/results/{name})"]
            cells += [f"{result['random']:.2f}", *returns, minutes(result), f"`{command(name)}`"]
            lines.append(table_row(cells))
    return "\n".join(lines)


def minutes(result):
    return f"{result['wall_seconds'] / 60:.1f}"


def command(name):
    return (RESULTS / name / "command.txt").read_text().strip()


def table(algorithm):
    """RL^2's or SNAIL's results as a markdown table."""
    head = ["task", "held-out return", "from sampled rewards", "random", "reference"]
    lines = table_head([*head, "minutes", "command"])
    for name, row, result, _ in rows(algorithm):
        digits = 3 if result["return_mean"] < 20 else 2
        mean, stderr = estimate(result)
        sampled = f"{result['return_mean']:.{digits}f} ± {result['return_stderr']:.{digits}f}"
        references = [f"{label} {value:.4g}" for label, value in row["references"].items()]
        cells = [f"[{row['title']}](../benchmark/results/{name})"]
        cells += [f"**{mean:.{digits}f}** ± {stderr:.{digits}f}", sampled]
        cells += [f"{result['random'] * result['episodes_per_trial']:.2f}", ", ".join(references)]
        cells += [minutes(result), f"`{command(name)}`"]
        lines.append(table_row(cells))
    return "\n".join(lines)


# The README's lines: a family, what bounds it, and the rows of MAML, RL^2 and SNAIL.
FAMILIES = [
    (
        "bandit, 5 arms, 10 pulls",
        "Bayes optimum",
        [None, "bandit-5-arms-10-pulls", "snail-bandit-5-arms-10-pulls"],
    ),
    (
        "bandit, 5 arms, 100 pulls",
        "Gittins",
        [None, "bandit-5-arms-100-pulls-regret", "snail-bandit-5-arms-100-pulls"],
    ),
    (
        "tabular MDP, 10 episodes",
        "knows the MDP",
        [None, "mdp-10-episodes-regret", "snail-mdp-10-episodes"],
    ),
    ("2D navigation, one episode", "at the goal", ["navigation", None, None]),
    ("2D navigation, 2 episodes", "at the goal", [None, None, "snail-navigation-2-episodes"]),
    ("HalfCheetah, direction", "oracle", ["halfcheetah-dir-maml", None, None]),
    ("HalfCheetah, velocity", "oracle", ["halfcheetah-vel-maml", None, None]),
    ("Ant, direction", "oracle", ["ant-dir-maml", None, None]),
    ("MiniGrid, red ball, 2 episodes", "", [None, "minigrid-red-ball-2-episodes", None]),
]


def limit(bound, maml_row):
    """What bounds a family's return, as a number."""
    scores = read("baselines.json")
    if bound == "Bayes optimum":
        return f"{scores['5 arms, 10 pulls']['Bayes optimum (exact)']['return_mean']:.2f}"
    if bound == "Gittins":
        return f"{scores['5 arms, 100 pulls']['finite-horizon Gittins']['return_mean']:.1f}"
    if bound == "knows the MDP":
        return f"{10 * optimum('TabularMDP-v0', '{}')[0]:.1f}"
    if bound == "oracle":
        oracle = read(f"{maml_row.removesuffix('maml')}oracle/eval.json")
        return f"{oracle['return_by_gradient_step'][0]:.1f}"
    return "0"


def short_table():
    """The README's table: a line per family, with the return and the minutes of each algorithm."""
    lines = table_head(["task", "MAML, after 1 step", "RL²", "SNAIL", "limit"])
    for family, bound, names in FAMILIES:
        cells = [family]
        for name in names:
            if name is None:
                cells.append("–")
                continue
            result = read(f"{name}/eval.json")
            if result["algorithm"] == "maml_trpo":
                mean = result["return_by_gradient_step"][1]
            else:
                mean, _ = estimate(result)
            cells.append(f"**{mean:.4g}**, {minutes(result)} min")
        cells.append(f"{limit(bound, names[0])} ({bound})" if bound else "–")
        lines.append(table_row(cells))
    return "\n".join(lines)


def levels():
    """The run of docs/environments.md's example of levels, in words."""
    name = "minigrid-red-ball-2-episodes"
    result = read(f"{name}/eval.json")
    means = result["return_by_episode"]
    texts = []
    for i, mean in enumerate(means):
        texts.append(f"{mean:.3f} ± {result['return_by_episode_stderr'][i]:.3f}")
    steps = [64 * (1 - mean) / 0.9 for mean in means]  # MiniGrid pays 1 - 0.9 steps / 64
    random = read("random.json")[name]["return_mean"]
    return (
        f"```bash\n{command(name)}\n```\n\n"
        f"In {result['num_trials']:,} rooms it has never seen the first episode brings {texts[0]}, "
        f"the second {texts[1]} (random actions: {random:.3f}), that is the ball in {steps[0]:.1f} "
        f"steps and then in {steps[1]:.1f}: it remembers where it was. "
        f"[Curve and network](../benchmark/results/{name}); two cores, "
        f"{result['wall_seconds'] / 60:.0f} minutes, seed 1."
    )


def ablations(algorithm):
    """An algorithm's ablations as markdown tables."""
    lines = []
    for group, entries in read("ablations.json").get(algorithm, {}).items():
        lines += ["", f"**{group}**", ""]
        lines += table_head(["change", "held-out return", "seconds"])
        for name, row in entries.items():
            cells = [name, f"{row['return']:.2f} ± {row['stderr']:.2f}", f"{row['seconds']:.0f}"]
            lines.append(table_row(cells))
    return "\n".join(lines[1:])


def speeds(key):
    """The entries of speed.json that have `key`."""
    entries = {}
    for name, row in read("speed.json").items():
        if isinstance(row, dict) and key in row:
            entries[name.replace(" processes,", "")] = row
    return entries


def speed():
    """The environments', RL^2's and SNAIL's speeds as a markdown table."""
    parts = {
        "rollout_share": "rollout",
        "kernel_share": "recurrent kernel",
        "concatenation_share": "concatenation",
    }
    shares = [f"share of {part}" for part in parts.values()]
    lines = table_head(["what", "steps per second", *shares])
    for name, row in read("speed.json").items():
        if isinstance(row, float):
            lines.append(f"| {name} | {row:,.0f} | | | |")
        elif isinstance(row, dict) and "rollout_share" in row:
            shares = [f"{row[key]:.0%}" if key in row else "" for key in parts]
            lines.append(table_row([name, f"{row['steps_per_second']:,.0f}", *shares]))
        elif isinstance(row, dict) and "late" in row:
            times = f"{row['early']:.1f} ms at t = 100, {row['late']:.1f} ms at t = 900"
            lines.append(f"| {name} | {times} | | | |")
    return "\n".join(lines)


def maml_speed():
    """Seconds per meta-iteration of MAML, and what takes them, as a markdown table."""
    head = ["settings (tasks × episodes × steps)", "seconds", "rollouts", "advantages"]
    lines = table_head([*head, "adaptation and update"])
    for name, row in speeds("seconds").items():
        parts = [f"{row[part]:.2f}" for part in ("rollouts", "advantages", "update")]
        lines.append(table_row([name, f"**{row['seconds']:.2f}**", *parts]))
    return "\n".join(lines)


def scaling():
    """What a second process brings, as a markdown table."""
    head = ["the same command", "one process, s", "two processes, s", "times as fast"]
    lines = table_head(head)
    for name, row in speeds("speedup").items():
        cells = [name, f"{row['one_process']:.1f}", f"{row['two_processes']:.1f}"]
        lines.append(table_row([*cells, f"**{row['speedup']:.2f}**"]))
    return "\n".join(lines)


# Assumed, not measured: processes, seconds to begin a sum over all of them, bytes per second.
NETWORKS = {
    "8 GPUs of one machine, NVLink": (8, 30e-6, 1e11),
    "64 machines, 100 Gbit/s": (64, 100e-6, 1.25e10),
    "64 machines, 10 Gbit/s": (64, 500e-6, 1.25e9),
}


def prediction():
    """The cost model's communication per update and weak scaling, as a markdown table."""
    head = ["network", "script", "communication per update, ms", "efficiency"]
    lines = table_head(head)
    for network, (count, latency, bandwidth) in NETWORKS.items():
        for name, row in speeds("speedup").items():
            computing = row["one_process"] / row["updates"]
            moved = 2 * (count - 1) / count * 4 * row["parameters"] * row["vectors"]
            talking = latency * (row["vectors"] + row["scalars"]) + moved / bandwidth
            efficiency = f"{computing / (computing + talking):.0%}"
            lines.append(table_row([network, name, f"{1000 * talking:.1f}", efficiency]))
    return "\n".join(lines)


def exchanged():
    """What the processes exchange in an update, as a markdown table."""
    head = ["script", "parameters", "sums of a gradient's size", "of single numbers"]
    lines = table_head([*head, "sent by each of n processes, MB"])
    for name, row in speeds("speedup").items():
        sent = f"{2 * 4 * row['parameters'] * row['vectors'] / 1e6:.2f} · (n − 1)/n"
        cells = [name, f"{row['parameters']:,}", row["vectors"], row["scalars"], sent]
        lines.append(table_row(cells))
    return "\n".join(lines)


def all_reduce():
    """Microseconds of a sum over two processes, as a markdown table."""
    lines = table_head(["numbers", "microseconds"])
    for size, time in read("speed.json")["all-reduce, microseconds"].items():
        lines.append(table_row([f"{int(size):,}", f"{time:.0f}"]))
    return "\n".join(lines)


def tables():
    """Every table: {(page, marker): markdown}."""
    texts = {("README.md", "results"): short_table()}
    for algorithm in ("rl2_ppo", "snail_ppo"):
        page = f"docs/{algorithm}.md"
        links = [f"![{row['title']}](figures/{name}.png)" for name, row, *_ in rows(algorithm)]
        texts[page, "speed"] = speed()
        texts[page, "results"] = table(algorithm)
        texts[page, "ablations"] = ablations(algorithm)
        texts[page, "curves"] = "\n\n".join(links)
    page = "docs/maml_trpo.md"
    links = [f"![{title}](figures/{figure_name(title)}.png)" for title in groups()]
    texts[page, "maml results"] = maml_table()
    texts[page, "maml speed"] = maml_speed()
    texts[page, "ablations"] = ablations("maml_trpo")
    texts[page, "curves"] = "\n\n".join(links)
    texts["docs/environments.md", "levels"] = levels()
    page = "docs/scaling.md"
    texts[page, "scaling"] = scaling()
    texts[page, "all-reduce"] = all_reduce()
    texts[page, "exchanged"] = exchanged()
    texts[page, "prediction"] = prediction()
    return texts


def fill(page, marker, text):
    """Replaces what stands between the marks of a page."""
    path = ROOT / page
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    before = path.read_text()
    page_text, count = pattern.subn(lambda match: f"{match[1]}{text}\n{match[2]}", before)
    assert count == 1, f"{page} needs one pair of marks <!-- {marker} -->"
    path.write_text(page_text)


def main():
    for algorithm in ("rl2_ppo", "snail_ppo"):
        for row in rows(algorithm):
            plot_ppo(*row)
    for title, members in groups().items():
        plot_maml(title, members)
    for (page, marker), text in tables().items():
        fill(page, marker, text)


if __name__ == "__main__":
    main()
