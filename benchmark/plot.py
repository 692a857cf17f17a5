"""Learning curves and results tables, from the raw data in benchmark/results alone.

    python benchmark/plot.py             # writes docs/figures/*.png and the tables in README.md and docs/

Which rows there are, and the papers' numbers for them, stands in benchmark/results/references.json; the classical
algorithms' scores come from baselines.json.
"""

import csv
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmark" / "results"


def rows(algorithm):
    """An algorithm's published rows, in the order of references.json: (name, references.json's, eval.json, curve)."""
    baselines = json.loads((RESULTS / "baselines.json").read_text())
    for name, row in json.loads((RESULTS / "references.json").read_text()).get(algorithm, {}).items():
        setting, *algorithms = row.get("baselines", [None])
        row["references"] = {label: baselines[setting][label]["return_mean"] for label in algorithms}
        row["references"] |= row.get("papers", {})
        if (RESULTS / name / "eval.json").exists():
            with open(RESULTS / name / "curve.csv") as file:
                curve = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
            yield name, row, json.loads((RESULTS / name / "eval.json").read_text()), curve


def plot_ppo(name, row, result, curve):
    """Return of training trials over minutes, beside the returns by episode of the held-out trials."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), constrained_layout=True)
    minutes = [line["seconds"] / 60 for line in curve]
    growing = len({line["episodes_per_trial"] for line in curve}) > 1
    scale = [result["episodes_per_trial"] / line["episodes_per_trial"] for line in curve]
    left.plot(minutes, [line["trial_return"] * k for line, k in zip(curve, scale, strict=True)], label="training")
    for (label, value), style in zip(row["references"].items(), ("--", ":", "-.", (0, (1, 4))), strict=False):
        left.axhline(value, color="black", linestyle=style, linewidth=0.9, label=f"{label}: {value:.4g}")
    mean = result.get("return_mean_pseudo", result["return_mean"])
    left.plot(minutes[-1], mean, "o", color="C3", label=f"held-out tasks: {mean:.2f}")
    left.set(xlabel="minutes on 2 cores", title=row["title"])
    left.set_ylabel("return per trial" + (", scaled to its full length" if growing else ""))
    left.legend(fontsize=7, loc="lower right")
    episodes = range(1, result["episodes_per_trial"] + 1)
    errors = [2 * stderr for stderr in result["return_by_episode_stderr"]]
    random = result["random_return_mean"] / len(episodes)
    if len(episodes) > 3:
        right.errorbar(episodes, result["return_by_episode"], errors, linewidth=1.2, elinewidth=0.8)
        right.axhline(random, color="grey", linewidth=0.9, label="random policy")
    else:
        bars = right.bar(episodes, result["return_by_episode"], yerr=errors, width=0.5, capsize=4)
        right.bar_label(bars, fmt="%.2f")
        right.plot([], " ", label=f"random policy: {random:.2f}")
        right.set_xticks(episodes)
    right.set(
        xlabel="episode of the trial", ylabel="return of the episode", title="held-out tasks, by episode (±2 s.e.)"
    )
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
    """Returns in training before and after adaptation, over environment steps, beside those in held-out tasks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for i, (_, row, result, curve) in enumerate(members):
        millions, after = [line["global_step"] / 1e6 for line in curve], 0
        while f"return_after_{after + 1}_steps" in curve[0]:
            after += 1
        left.plot(millions, [line["return_after_0_steps"] for line in curve], f"C{i}--" if after else f"C{i}-", lw=0.9)
        if after:
            left.plot(millions, [line[f"return_after_{after}_steps"] for line in curve], f"C{i}-", lw=1.2)
        errors = [2 * stderr for stderr in result["return_by_gradient_step_stderr"]]
        right.errorbar(range(4), result["return_by_gradient_step"], errors, fmt=f"C{i}o-", capsize=3, label=row["role"])
    left.set(xlabel="million environment steps", ylabel="return of an episode")
    left.set_title("training (dashed: before adaptation)", fontsize=10)
    random = result["random_return_mean"] / result["episodes_per_trial"]
    right.axhline(random, color="grey", linewidth=0.9, label="random actions")
    right.set(xlabel="gradient steps in a new task", xticks=range(4))
    right.set_title("held-out tasks (±2 standard errors)", fontsize=10)
    right.legend(fontsize=7)
    figure.suptitle(title)
    save(figure, figure_name(title))


def figure_name(title):
    return "maml-" + re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


def maml_table(prefix):
    """MAML's results as a markdown table."""
    head = ["before adaptation", "after 1 gradient step", "after 2", "after 3", "minutes", "command"]
    lines = ["| task | what | random | " + " | ".join(head) + " |", "|---" * 9 + "|"]
    for title, members in groups().items():
        for name, row, result, _ in members:
            steps = zip(result["return_by_gradient_step"], result["return_by_gradient_step_stderr"], strict=True)
            returns = [f"{mean:.2f} ± {stderr:.2f}" for mean, stderr in steps]
            returns[1] = returns[1] if row["role"] != "MAML" else f"**{returns[1]}**"
            cells = [title, f"[{row['role']}]({prefix}benchmark/results/{name})"]
            cells += [f"{result['random_return_mean'] / result['episodes_per_trial']:.2f}", *returns]
            cells += [f"{result['wall_seconds'] / 60:.1f}", f"`{command(name)}`"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(name):
    return (RESULTS / name / "command.txt").read_text().strip().replace(" --save-model", "")


def table(algorithm, prefix):
    """RL^2's or SNAIL's results as a markdown table; `prefix` leads from the page to the repository's root."""
    lines = ["| task | held-out return | from sampled rewards | random | reference | minutes | command |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row, result, _ in rows(algorithm):
        pseudo = "_pseudo" if "return_mean_pseudo" in result else ""
        digits = 3 if result["return_mean"] < 20 else 2
        held_out = f"**{result['return_mean' + pseudo]:.{digits}f}** ± {result['return_stderr' + pseudo]:.{digits}f}"
        sampled = f"{result['return_mean']:.{digits}f} ± {result['return_stderr']:.{digits}f}"
        references = ", ".join(f"{label} {value:.4g}" for label, value in row["references"].items())
        minutes = f"{result['wall_seconds'] / 60:.1f}"
        link = f"[{row['title']}]({prefix}benchmark/results/{name})"
        lines.append(
            f"| {link} | {held_out} | {sampled} | {result['random_return_mean']:.2f} | {references} | {minutes} "
            f"| `{command(name)}` |"
        )
    return "\n".join(lines)


def levels():
    """The run of docs/environments.md's example of levels, in words."""
    name = "minigrid-red-ball-2-episodes"
    result = json.loads((RESULTS / name / "eval.json").read_text())
    means, stderrs = result["return_by_episode"], result["return_by_episode_stderr"]
    first, second = (f"{mean:.3f} ± {stderr:.3f}" for mean, stderr in zip(means, stderrs, strict=True))
    steps = [64 * (1 - mean) / 0.9 for mean in means]  # MiniGrid pays 1 - 0.9 steps / 64 at the ball
    random, minutes = result["random_return_mean"] / 2, result["wall_seconds"] / 60
    return (
        f"```bash\n{command(name)}\n```\n\n"
        f"In {result['num_trials']:,} rooms it has never seen the first episode brings {first}, the second {second} "
        f"(random actions: {random:.3f}), that is the ball in {steps[0]:.1f} steps and then in {steps[1]:.1f}: it "
        f"remembers where it was. [Curve and network](../benchmark/results/{name}); one core, {minutes:.0f} minutes, "
        "seed 1."
    )


def ablations(algorithm):
    """An algorithm's ablations as markdown tables."""
    lines = []
    for group, entries in json.loads((RESULTS / "ablations.json").read_text()).get(algorithm, {}).items():
        lines += ["", f"**{group}**", "", "| change | held-out return | seconds |", "|---|---|---|"]
        for name, row in entries.items():
            lines.append(f"| {name} | {row['return']:.2f} ± {row['stderr']:.2f} | {row['seconds']:.0f} |")
    return "\n".join(lines[1:])


def speed():
    """The environments', RL^2's and SNAIL's speeds as a markdown table."""
    parts = {"rollout_share": "rollout", "kernel_share": "recurrent kernel", "concatenation_share": "concatenation"}
    lines = ["| what | steps per second | " + " | ".join(f"share of {part}" for part in parts.values()) + " |"]
    lines.append("|---" * 5 + "|")
    for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
        if isinstance(row, dict) and "rollout_share" in row:
            shares = " | ".join(f"{row[key]:.0%}" if key in row else "" for key in parts)
            lines.append(f"| {name} | {row['steps_per_second']:,.0f} | {shares} |")
        elif isinstance(row, float):
            lines.append(f"| {name} | {row:,.0f} | | | |")
        elif isinstance(row, dict) and "late" in row:
            times = f"{row['early']:.1f} ms at t = 100, {row['late']:.1f} ms at t = 900"
            lines.append(f"| {name} | {times} | | | |")
    return "\n".join(lines)


def maml_speed():
    """Seconds per meta-iteration of MAML, and what takes them, as a markdown table."""
    lines = ["| settings (tasks × episodes × steps) | seconds | rollouts | advantages | adaptation and update |"]
    lines.append("|---|---|---|---|---|")
    for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
        if isinstance(row, dict) and "seconds" in row:
            shares = " | ".join(f"{row[part]:.2f}" for part in ("rollouts", "advantages", "update"))
            lines.append(f"| {name} | **{row['seconds']:.2f}** | {shares} |")
    return "\n".join(lines)


def scaling():
    """What a second process brings, as a markdown table."""
    lines = ["| the same command | one process, s | two processes, s | times as fast |", "|---|---|---|---|"]
    for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
        if isinstance(row, dict) and "speedup" in row:
            seconds = f"{row['one_process']:.1f} | {row['two_processes']:.1f}"
            lines.append(f"| {name.replace(' processes,', '')} | {seconds} | **{row['speedup']:.2f}** |")
    return "\n".join(lines)


# Assumed, not measured: seconds to begin a sum over all processes, and bytes per second between two of them.
NETWORKS = {
    "8 GPUs of one machine, NVLink": (8, 30e-6, 1e11),
    "64 machines, 100 Gbit/s": (64, 100e-6, 1.25e10),
    "64 machines, 10 Gbit/s": (64, 500e-6, 1.25e9),
}


def prediction():
    """The cost model's seconds of communication per update and efficiency of weak scaling, as a markdown table."""
    lines = ["| network | script | communication per update, ms | efficiency |", "|---|---|---|---|"]
    for network, (count, latency, bandwidth) in NETWORKS.items():
        for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
            if isinstance(row, dict) and "speedup" in row:
                computing = row["one_process"] / row["updates"]
                moved = 2 * (count - 1) / count * 4 * row["parameters"] * row["vectors"]
                talking = latency * (row["vectors"] + row["scalars"]) + moved / bandwidth
                efficiency = f"{computing / (computing + talking):.0%}"
                lines.append(f"| {network} | {name.replace(' processes,', '')} | {1000 * talking:.1f} | {efficiency} |")
    return "\n".join(lines)


def exchanged():
    """What the processes exchange in an update, as a markdown table."""
    lines = [
        "| script | parameters | sums of a gradient's size | of single numbers | sent by each of n processes, MB |"
    ]
    lines.append("|---" * 5 + "|")
    for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
        if isinstance(row, dict) and "speedup" in row:
            sent = f"{2 * 4 * row['parameters'] * row['vectors'] / 1e6:.2f} · (n − 1)/n"
            cells = [name.replace(" processes,", ""), f"{row['parameters']:,}", row["vectors"], row["scalars"], sent]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def all_reduce():
    """Microseconds of a sum over two processes, as a markdown table."""
    row = json.loads((RESULTS / "speed.json").read_text())["all-reduce, microseconds"]
    lines = ["| numbers | microseconds |", "|---|---|"]
    return "\n".join(lines + [f"| {int(size):,} | {time:.0f} |" for size, time in row.items()])


def fill(page, marker, text):
    """Replaces what stands between the marks of a page."""
    path = ROOT / page
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    page_text, count = pattern.subn(lambda match: match[1] + text + "\n" + match[2], path.read_text())
    assert count == 1, f"{page} needs one pair of marks <!-- {marker} -->"
    path.write_text(page_text)


def main():
    for algorithm in ("rl2_ppo", "snail_ppo"):
        for row in rows(algorithm):
            plot_ppo(*row)
        page, short = f"docs/{algorithm}.md", algorithm.removesuffix("_ppo")
        fill(page, "speed", speed())
        if not any(rows(algorithm)):
            continue
        fill(page, "results", table(algorithm, "../"))
        fill(page, "ablations", ablations(algorithm))
        curves = [f"![{row['title']}](figures/{name}.png)" for name, row, *_ in rows(algorithm)]
        fill(page, "curves", "\n\n".join(curves))
        fill("README.md", f"{short} results", table(algorithm, ""))
    for title, members in groups().items():
        plot_maml(title, members)
    fill("docs/environments.md", "levels", levels())
    fill("docs/scaling.md", "scaling", scaling())
    fill("docs/scaling.md", "all-reduce", all_reduce())
    fill("docs/scaling.md", "exchanged", exchanged())
    fill("docs/scaling.md", "prediction", prediction())
    fill("README.md", "speed", speed())
    for page, prefix in (("README.md", ""), ("docs/maml_trpo.md", "../")):
        fill(page, "maml results", maml_table(prefix))
        fill(page, "maml speed", maml_speed())
    fill("docs/maml_trpo.md", "ablations", ablations("maml_trpo"))
    fill("docs/maml_trpo.md", "curves", "\n\n".join(f"![{t}](figures/{figure_name(t)}.png)" for t in groups()))


if __name__ == "__main__":
    main()
