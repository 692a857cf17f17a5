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


def rows():
    """Every published row, in the order of references.json: (name, title, references, eval.json, curve)."""
    baselines = json.loads((RESULTS / "baselines.json").read_text())
    for name, row in json.loads((RESULTS / "references.json").read_text()).items():
        setting, *algorithms = row.get("baselines", [None])
        row["references"] = {label: baselines[setting][label]["return_mean"] for label in algorithms} | row["papers"]
        if (RESULTS / name / "eval.json").exists():
            with open(RESULTS / name / "curve.csv") as file:
                curve = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
            yield name, row, json.loads((RESULTS / name / "eval.json").read_text()), curve


def plot(name, row, result, curve):
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
    right.errorbar(episodes, result["return_by_episode"], errors, linewidth=1.2, elinewidth=0.8)
    right.axhline(result["random_return_mean"] / len(episodes), color="grey", linewidth=0.9, label="random policy")
    right.set(
        xlabel="episode of the trial", ylabel="return of the episode", title="held-out tasks, by episode (±2 s.e.)"
    )
    right.legend(fontsize=7, loc="lower right")
    (ROOT / "docs" / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(ROOT / "docs" / "figures" / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def table(prefix):
    """The results as a markdown table; `prefix` leads from the page to the repository's root."""
    lines = ["| task | held-out return | from sampled rewards | random | reference | minutes | command |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, row, result, _ in rows():
        pseudo = "_pseudo" if "return_mean_pseudo" in result else ""
        digits = 3 if result["return_mean"] < 20 else 2
        held_out = f"**{result['return_mean' + pseudo]:.{digits}f}** ± {result['return_stderr' + pseudo]:.{digits}f}"
        sampled = f"{result['return_mean']:.{digits}f} ± {result['return_stderr']:.{digits}f}"
        references = ", ".join(f"{label} {value:.4g}" for label, value in row["references"].items())
        command = (RESULTS / name / "command.txt").read_text().strip().replace(" --save-model", "")
        minutes = f"{result['wall_seconds'] / 60:.1f}"
        link = f"[{row['title']}]({prefix}benchmark/results/{name})"
        lines.append(
            f"| {link} | {held_out} | {sampled} | {result['random_return_mean']:.2f} | {references} | {minutes} "
            f"| `{command}` |"
        )
    return "\n".join(lines)


def ablations():
    """The ablations as markdown tables."""
    lines = []
    for group, entries in json.loads((RESULTS / "ablations.json").read_text()).items():
        lines += ["", f"**{group}**", "", "| change | held-out return | seconds |", "|---|---|---|"]
        for name, row in entries.items():
            lines.append(f"| {name} | {row['return']:.2f} ± {row['stderr']:.2f} | {row['seconds']:.0f} |")
    return "\n".join(lines[1:])


def speed():
    """The speeds as a markdown table."""
    lines = ["| what | steps per second | rollout's share | recurrent kernel's share |", "|---|---|---|---|"]
    for name, row in json.loads((RESULTS / "speed.json").read_text()).items():
        if isinstance(row, dict):
            shares = f"{row['rollout_share']:.0%} | {row['kernel_share']:.0%}"
            lines.append(f"| {name} | {row['steps_per_second']:,.0f} | {shares} |")
        elif isinstance(row, float):
            lines.append(f"| {name} | {row:,.0f} | | |")
    return "\n".join(lines)


def fill(page, marker, text):
    """Replaces what stands between the marks of a page."""
    path = ROOT / page
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    path.write_text(pattern.sub(lambda match: match[1] + text + "\n" + match[2], path.read_text()))


def main():
    for row in rows():
        plot(*row)
    for page, prefix in (("README.md", ""), ("docs/rl2_ppo.md", "../")):
        fill(page, "results", table(prefix))
        fill(page, "speed", speed())
    fill("docs/rl2_ppo.md", "ablations", ablations())
    curves = [f"![{row['title']}](figures/{name}.png)" for name, row, *_ in rows()]
    fill("docs/rl2_ppo.md", "curves", "\n\n".join(curves))


if __name__ == "__main__":
    main()
