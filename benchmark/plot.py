"""Learning curves and results tables, from the raw data in benchmark/results alone.

    python benchmark/plot.py             # writes docs/figures/*.png, the tables in README and docs/

Which rows there are stands in rows.py; one that has no results yet has a line that says so, and no
figure. The classical algorithms' scores come from baselines.json, those of random actions from
random.json. Numbers of several seeds are their mean and its standard error; those of one seed have
errors over tasks.
"""

import csv
import json
import re
import sys
from functools import cache, partial
from operator import itemgetter
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmark" / "results"
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
from chinese import in_chinese  # noqa: E402
from rows import FAMILIES, PAPERS, ROWS, SIDE_BY_SIDE  # noqa: E402


def read(name):
    return json.loads((RESULTS / name).read_text())


@cache
def optimum(env_id, env_kwargs):
    """`baselines.expected_optimum`, computed once. A cache takes no dict: env_kwargs is JSON."""
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
    optimum_mean, optimum_stderr = known  # of an episode
    mean = result["episodes_per_trial"] * optimum_mean
    stderr = result["episodes_per_trial"] * optimum_stderr
    return mean - result["regret_mean"], (stderr**2 + result["regret_stderr"] ** 2) ** 0.5


def score(result):
    """What a seed is ranked by, and its standard error over tasks.

    That is the return of a trial. With MAML it is the return of an episode after one gradient
    step, and before any for an oracle, which knows the task.
    """
    if result["algorithm"] != "maml_trpo":
        return estimate(result)
    step = 0 if "observe_task" in result["env_kwargs"] else 1
    means = result["return_by_gradient_step"]
    return means[step], result["return_by_gradient_step_stderr"][step]


def maml_trial(result, num_episodes):
    """The return of `num_episodes` episodes in a task, and at most how large its error is.

    The first `eval_episodes` of them are those before the gradient step, from which it is
    computed; the others are after it.
    """
    first = result["eval_episodes"]
    others = num_episodes - first
    before, after = result["return_by_gradient_step"][:2]
    before_stderr, after_stderr = result["return_by_gradient_step_stderr"][:2]
    # Both are of the same tasks: the errors add up, at worst.
    return first * before + others * after, first * before_stderr + others * after_stderr


def trials(row, results):
    """The return of a trial, and its error, of each seed.

    A trial of MAML has the row's number of episodes; where it names none, one, after the step.
    """
    if "episodes" in row:
        return [maml_trial(result, row["episodes"]) for result in results.values()]
    return [score(result) for result in results.values()]


def over_seeds(pairs):
    """The mean of some seeds' (mean, standard error) and its standard error over seeds.

    Of one seed its own, over tasks. Means may be lists of numbers.
    """
    means = np.array([mean for mean, _ in pairs])
    stderrs = np.array([stderr for _, stderr in pairs])
    if len(pairs) == 1:
        return means[0], stderrs[0]
    return means.mean(axis=0), means.std(axis=0, ddof=1) / len(pairs) ** 0.5


def over_seeds_of(results, entry):
    """`over_seeds` of an entry of eval.json that has its standard error beside it."""
    return over_seeds([(result[entry], result[f"{entry}_stderr"]) for result in results.values()])


def mean_score(results):
    """The mean score of a row's seeds, and its standard error."""
    return over_seeds([score(result) for result in results.values()])


def first_of(results):
    """The result of a row's first seed."""
    return next(iter(results.values()))


@cache
def read_curve(path):
    """The lines of a curve.csv; none where there is no such file."""
    if not path.exists():
        return []
    with open(path) as file:
        lines = list(csv.DictReader(file))
    return [{key: float(value) for key, value in line.items()} for line in lines]


def references(row):
    """What a row is compared with: {what: return of a trial}."""
    setting, *names = row.get("baselines", [None])
    scores = {}
    for name in names:
        score_of_name = baseline(setting, name)
        if score_of_name is not None:
            scores[name] = score_of_name
    return scores | {paper: PAPERS[setting][paper] for paper in row.get("papers", [])}


def baseline(setting, name):
    """The return of an entry of baselines.json; None where it is not there."""
    entry = read("baselines.json").get(setting, {}).get(name)
    return None if entry is None else entry["return_mean"]


def published_row(name):
    """A row that has results, None where there are none: (name, row, results, curves).

    `row` is that of rows.py, with what it is compared with: `references` for the return of a
    trial, `random`, random actions, for the return of an episode. `results` are {seed: eval.json},
    `curves` those seeds' learning curves.
    """
    row = ROWS[name]
    results = {}
    curves = []
    for seed in row["seeds"]:
        folder = RESULTS / name / f"seed-{seed}"
        if not (folder / "eval.json").exists():
            continue
        results[seed] = read(f"{name}/seed-{seed}/eval.json")
        curve = read_curve(folder / "curve.csv")
        if curve:
            curves.append(curve)
    if not results:
        return None
    random = read("random.json")[name]["return_mean"]
    return name, row | {"references": references(row), "random": random}, results, curves


def published(script):
    """A script's rows that have results, each as a `published_row`, in the order of rows.py."""
    for name, row in ROWS.items():
        if row["script"] != script:
            continue
        entry = published_row(name)
        if entry is not None:
            yield entry


def row_and_results(name):
    """The row and results of one name, as `published_row` has them; None where there are none."""
    entry = published_row(name)
    if entry is None:
        return None
    _, row, results, _ = entry
    return row, results


def draw_curves(axes, curves, value, color, linestyle="-", **kwargs):
    """A learning curve for each seed, thinly, and their mean, over millions of steps.

    `value` gives the number to draw of a line of curve.csv.
    """
    steps = [[line["global_step"] / 1e6 for line in curve] for curve in curves]
    heights = [[value(line) for line in curve] for curve in curves]
    if not curves:
        return
    if len(curves) == 1:
        axes.plot(steps[0], heights[0], color=color, linestyle=linestyle, **kwargs)
        return
    for x, y in zip(steps, heights, strict=True):
        axes.plot(x, y, color=color, linestyle=linestyle, linewidth=0.6, alpha=0.4)
    # Where episodes end early, seeds log at different steps: the mean is where all have been.
    start = max(x[0] for x in steps)
    end = min(x[-1] for x in steps)
    grid = np.linspace(start, end, 400)
    means = np.mean([np.interp(grid, x, y) for x, y in zip(steps, heights, strict=True)], axis=0)
    axes.plot(grid, means, color=color, linestyle=linestyle, **kwargs)


def whole_trial(num_episodes, line):
    """A curve's return of a trial, which may have been a shorter one, for so many episodes."""
    return line["trial_return"] * num_episodes / line["episodes_per_trial"]


def plot_ppo(name, row, results, curves):
    """Return of training trials over steps, beside that of the held-out ones by episode."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), constrained_layout=True)
    first = first_of(results)
    num_episodes = first["episodes_per_trial"]

    label = "training"
    if len(curves) < len(results):
        label += f", {len(curves)} of {seeds_in_words(results)}"
    draw_curves(left, curves, partial(whole_trial, num_episodes), "C0", label=label)
    styles = ("--", ":", "-.", (0, (1, 4)), (0, (6, 4)), (0, (6, 2, 1, 2, 1, 2)))
    for (label, value), style in zip(row["references"].items(), styles, strict=False):
        text = f"{label}: {value:.4g}"
        left.axhline(value, color="black", linestyle=style, linewidth=0.9, label=text)
    mean, _ = mean_score(results)
    millions = first["global_step"] / 1e6
    if len(results) > 1:
        for result in results.values():
            value, _ = score(result)
            left.plot(millions, value, "o", color="C3", markersize=3, alpha=0.4)
    left.plot(millions, mean, "o", color="C3", label=f"held-out tasks: {mean:.2f}")
    left.set(xlabel="million environment steps", title=f"{row['title']}, {seeds_in_words(results)}")
    lengths = set()
    for curve in curves:
        lengths |= {line["episodes_per_trial"] for line in curve}
    left.set_ylabel(
        "return per trial" + (", scaled to its full length" if len(lengths) > 1 else "")
    )
    left.legend(fontsize=7, loc="lower right")
    episodes = range(1, num_episodes + 1)
    means, stderrs = over_seeds_of(results, "return_by_episode")
    random = row["random"]
    if num_episodes > 3:
        right.errorbar(episodes, means, 2 * stderrs, lw=1.2, elinewidth=0.8)
        right.axhline(random, color="grey", linewidth=0.9, label="random policy")
        seed_style = "C0-"
    else:
        bars = right.bar(episodes, means, yerr=2 * stderrs, width=0.5, capsize=4)
        right.bar_label(bars, fmt="%.2f")
        right.plot([], " ", label=f"random policy: {random:.2f}")
        right.set_xticks(episodes)
        seed_style = "k."
    if len(results) > 1:
        for result in results.values():
            right.plot(episodes, result["return_by_episode"], seed_style, linewidth=0.5, alpha=0.4)
    right.set(xlabel="episode of the trial", ylabel="return of the episode")
    right.set_title("held-out tasks, by episode (±2 s.e.)")
    right.legend(fontsize=7, loc="lower right")
    save(figure, name)


def save(figure, name):
    (ROOT / "docs" / "figures").mkdir(parents=True, exist_ok=True)
    figure.savefig(ROOT / "docs" / "figures" / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def groups():
    """MAML's rows by task distribution: {title: [(name, row, results, curves), ...]}."""
    result = {}
    for entry in published("maml_trpo"):
        _, row, _, _ = entry
        result.setdefault(row["title"], []).append(entry)
    return result


def plot_maml(title, members):
    """Returns in training before and after adaptation, beside those in held-out tasks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    _, first_row, _, _ = members[0]
    for i, (_, row, results, curves) in enumerate(members):
        after = 0
        while curves and f"return_after_{after + 1}_steps" in curves[0][0]:
            after += 1
        before = itemgetter("return_after_0_steps")
        if after:
            adapted = itemgetter(f"return_after_{after}_steps")
            draw_curves(left, curves, before, f"C{i}", "--", lw=0.9)
            draw_curves(left, curves, adapted, f"C{i}", lw=1.2)
        else:
            draw_curves(left, curves, before, f"C{i}", lw=0.9)
        means, stderrs = over_seeds_of(results, "return_by_gradient_step")
        label = f"{row['role']}, {seeds_in_words(results)}"
        right.errorbar(range(4), means, 2 * stderrs, fmt=f"C{i}o-", capsize=3, label=label)
        if len(results) > 1:
            for result in results.values():
                returns = result["return_by_gradient_step"]
                right.plot(range(4), returns, f"C{i}-", linewidth=0.6, alpha=0.4)
    left.set(xlabel="million environment steps", ylabel="return of an episode")
    left.set_title("training (dashed: before adaptation)", fontsize=10)
    random = first_row["random"]  # the same in all rows
    right.axhline(random, color="grey", linewidth=0.9, label="random actions")
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


def seeds_in_words(results):
    return f"{len(results)} seed" + ("s" if len(results) > 1 else "")


def significant(x, digits):
    """A number with so many significant digits, never in powers of ten."""
    return np.format_float_positional(x, digits, fractional=False, trim="-")


def each_seed(results, digits):
    """The cell that says what every seed scores, in their order."""
    if len(results) == 1:
        return "1 seed"
    return ", ".join(f"{score(result)[0]:.{digits}f}" for result in results.values())


def minutes(results):
    """Minutes of a training, the mean over seeds."""
    seconds = [result["wall_seconds"] for result in results.values()]
    return f"{np.mean(seconds) / 60:.1f}"


def command(name, results):
    """The command of a row's first seed."""
    seed = next(iter(results))
    return (RESULTS / name / f"seed-{seed}" / "command.txt").read_text().strip()


def waiting(script):
    """A script's rows that have no results yet: (name, row)."""
    for name, row in ROWS.items():
        if row["script"] == script and published_row(name) is None:
            yield name, row


def with_errors(means, stderrs, digits):
    """Cells "mean ± standard error", with so many digits behind the point."""
    pairs = zip(means, stderrs, strict=True)
    return [f"{mean:.{digits}f} ± {stderr:.{digits}f}" for mean, stderr in pairs]


def maml_table():
    """MAML's results as a markdown table."""
    head = ["task", "what", "random", "before adaptation", "after 1 gradient step", "after 2"]
    lines = table_head([*head, "after 3", "each seed", "minutes", "command"])
    for title, members in groups().items():
        for name, row, results, _ in members:
            means, stderrs = over_seeds_of(results, "return_by_gradient_step")
            digits = 3 if max(stderrs) < 0.02 else 2
            if max(stderrs) < 0.003:
                digits = 4
            returns = with_errors(means, stderrs, digits)
            if row["role"] == "MAML":
                returns[1] = f"**{returns[1]}**"
            cells = [title, f"[{row['role']}](../benchmark/results/{name})"]
            cells += [f"{row['random']:.2f}", *returns, each_seed(results, digits)]
            cells += [minutes(results), f"`{command(name, results)}`"]
            lines.append(table_row(cells))
    for name, row in waiting("maml_trpo"):
        cells = [row["title"], row["role"], "–", "not trained yet", "–", "–", "–", "–", "–"]
        lines.append(table_row([*cells, f"`python benchmark/run.py {name}`"]))
    return "\n".join(lines)


def in_words(scores):
    """References in a cell."""
    return ", ".join(f"{label} {value:.4g}" for label, value in scores.items())


def ppo_table(script):
    """RL^2's or SNAIL's results as a markdown table."""
    head = ["task", "held-out return", "each seed", "from sampled rewards", "random", "reference"]
    lines = table_head([*head, "minutes", "command"])
    for name, row, results, _ in published(script):
        mean, stderr = mean_score(results)
        pairs = [(result["return_mean"], result["return_stderr"]) for result in results.values()]
        sampled, sampled_stderr = over_seeds(pairs)
        digits = 3 if abs(sampled) < 20 else 2
        num_episodes = first_of(results)["episodes_per_trial"]
        cells = [f"[{row['title']}](../benchmark/results/{name})"]
        cells += [f"**{mean:.{digits}f}** ± {stderr:.{digits}f}", each_seed(results, digits)]
        cells += [f"{sampled:.{digits}f} ± {sampled_stderr:.{digits}f}"]
        cells += [f"{row['random'] * num_episodes:.2f}", in_words(row["references"])]
        cells += [minutes(results), f"`{command(name, results)}`"]
        lines.append(table_row(cells))
    for name, row in waiting(script):
        cells = [row["title"], "not trained yet", "–", "–", "–", in_words(references(row)), "–"]
        lines.append(table_row([*cells, f"`python benchmark/run.py {name}`"]))
    return "\n".join(lines)


def setting_of(row):
    """A row's setting in baselines.json; None where it has none."""
    return row.get("baselines", [None])[0]


def reproduced(script, setting):
    """The best of a script's rows in a setting of baselines.json, in a cell."""
    names = [name for name in ROWS if ROWS[name]["script"] == script]
    names = [name for name in names if setting_of(ROWS[name]) == setting]
    if not names:
        return "–"
    cells = {}  # {mean: what to show}
    for name in names:
        found = row_and_results(name)
        if found is None:
            continue
        row, results = found
        mean, stderr = over_seeds(trials(row, results))
        cells[mean] = f"**{mean:.5g}** ± {significant(stderr, 2)} ({seeds_in_words(results)})"
    return cells[max(cells)] if cells else "not trained yet"


def papers_table(settings, names):
    """A line for each setting: `names` of baselines.json, the papers' numbers, and ours.

    Among the names, "limit" is the exact optimum, or where that is not known the Gittins policy.
    """
    papers = ["RL² paper", "SNAIL paper", "MAML in the SNAIL paper"]
    lines = table_head(["setting", *names, *papers, "our RL²", "our SNAIL", "our MAML"])
    for setting in settings:
        cells = [setting]
        for name in names:
            value = baseline(setting, name)
            if name == "limit":
                value = baseline(setting, "Bayes optimum (exact)")
                value = value or baseline(setting, "finite-horizon Gittins")
            cells.append("–" if value is None else f"{value:.5g}")
        reported = PAPERS[setting]
        for paper in papers:
            if paper in reported:
                cells.append(f"{reported[paper]:g}")
            elif paper == "RL² paper" and "RL² in the SNAIL paper" in reported:
                cells.append(f"{reported['RL² in the SNAIL paper']:g} (SNAIL paper)")
            else:
                cells.append("–")
        cells += [reproduced(script, setting) for script in ("rl2_ppo", "snail_ppo", "maml_trpo")]
        lines.append(table_row(cells))
    return "\n".join(lines)


def bandits_table():
    """The papers' bandits."""
    names = ["limit", "UCB tuned", "Thompson sampling", "greedy", "random"]
    return papers_table(baselines.BANDITS, names)


def mdps_table():
    """The papers' tabular MDPs."""
    return papers_table(
        baselines.MDPS, ["informed optimum", "planner that knows the prior", "PSRL"]
    )


def limit(bound):
    """What bounds a family's return: a number and what it is."""
    if bound in ROWS:
        found = row_and_results(bound)
        if found is None:
            return "–"  # the oracle is not trained yet
        _, results = found
        mean, _ = mean_score(results)
        return f"{mean:.1f} (oracle)"
    if bound == "Bayes optimum":
        number = f"{baseline('5 arms, 10 pulls', 'Bayes optimum (exact)'):.2f}"
    elif bound == "Gittins":
        number = f"{baseline('5 arms, 100 pulls', 'finite-horizon Gittins'):.1f}"
    elif bound == "knows the MDP":
        number = f"{10 * optimum('TabularMDP-v0', '{}')[0]:.1f}"
    elif bound == "at the goal":
        number = "0"
    elif bound == "knows the maze":  # two episodes; each step costs 0.04, the goal pays 1
        planner = read("baselines.json")["5 × 5 rooms, 50 steps"]["planner that knows the maze"]
        number = f"{2 * (1 - 0.04 * planner['steps_mean']):.2f}"
    else:
        return "–"
    return f"{number} ({bound})"


def short_table():
    """The README's table: a line per family, with the return and the minutes of each algorithm."""
    lines = table_head(["task", "MAML", "RL²", "SNAIL", "for comparison"])
    cells = {}  # of a family and script
    for script in ("maml_trpo", "rl2_ppo", "snail_ppo"):
        for _, row, results, _ in published(script):
            mean, stderr = over_seeds(trials(row, results))
            text = f"**{mean:.4g}** ± {significant(stderr, 2)} ({seeds_in_words(results)})"
            cells[row.get("family"), script] = f"{text}, {minutes(results)} min"
    for family, bound in FAMILIES.items():
        line = []
        for script in ("maml_trpo", "rl2_ppo", "snail_ppo"):
            line.append(cells.get((family, script), "–"))
        if set(line) != {"–"}:
            lines.append(table_row([family, *line, limit(bound)]))
    return "\n".join(lines)


def side_by_side(stem):
    """A task's rows: (algorithm, its row as a `published_row`, its oracle's)."""
    names = {"MAML": f"{stem}-maml", "RL²": f"rl2-{stem}", "SNAIL": f"snail-{stem}"}
    for algorithm, name in names.items():
        oracle = name.removesuffix("-maml") + "-oracle"
        yield algorithm, published_row(name), published_row(oracle)


def stages(results):
    """Mean and standard error of the return of each episode, or after 0, 1, ... gradient steps."""
    entry = "return_by_episode"
    if first_of(results)["algorithm"] == "maml_trpo":
        entry = "return_by_gradient_step"
    return over_seeds_of(results, entry)


def oracle_return(entry):
    """The return of an episode of an oracle, a `published_row`, and its standard error.

    With RL^2 and SNAIL that is the last episode. MAML's takes no gradient step.
    """
    _, row, results, _ = entry
    means, stderrs = stages(results)
    if row["script"] == "maml_trpo":
        return means[0], stderrs[0]
    return means[-1], stderrs[-1]


def share_of_oracle(mean, stderr, best, best_stderr, random):
    """(mean - random) / (best - random), and its standard error.

    As if the errors of both returns were independent, and that of random actions were 0.
    """
    distance = best - random
    share = (mean - random) / distance
    # Its derivatives are 1 / distance in the mean, and -share / distance in the best.
    return share, np.hypot(stderr, share * best_stderr) / distance


def side_by_side_table():
    """The three algorithms on the same tasks, as a markdown table."""
    head = ["task", "algorithm", "random", "return", "oracle", "share of the oracle"]
    lines = table_head([*head, "steps", "minutes"])
    for title, stem in SIDE_BY_SIDE.items():
        for algorithm, entry, oracle_entry in side_by_side(stem):
            if entry is None:
                continue  # not trained yet: `run.py --list` says so
            _, row, results, _ = entry
            means, stderrs = stages(results)
            returns = ", ".join(with_errors(means, stderrs, 1))
            if algorithm == "MAML":
                returns += " after 0 to 3 gradient steps"
            else:
                returns += " in episodes 1, 2"
            oracle = "–"
            share = "–"
            if oracle_entry is not None:
                best, best_stderr = oracle_return(oracle_entry)
                oracle = f"{best:.1f} ± {best_stderr:.1f}"
                # of the second episode, or after one gradient step
                part, error = share_of_oracle(
                    means[1], stderrs[1], best, best_stderr, row["random"]
                )
                share = f"{part:.3f} ± {error:.3f}"
            steps = first_of(results)["global_step"]
            cells = [
                title,
                f"{algorithm}, {seeds_in_words(results)}",
                f"{row['random']:.1f}",
                returns,
            ]
            cells += [oracle, share, f"{steps / 1e6:.0f} M", minutes(results)]
            lines.append(table_row(cells))
    return "\n".join(lines)


def last_stage(row, line):
    """The return in training, of a curve's line: of the last episode, or after a gradient step."""
    if row["script"] == "maml_trpo":
        return line["return_after_1_steps"]
    return line["last_episode"]


def plot_side_by_side():
    """Learning curves of the three algorithms, over environment steps and over minutes."""
    trained = {}
    for title, stem in SIDE_BY_SIDE.items():
        members = [member for member in side_by_side(stem) if member[1] is not None]
        if members:
            trained[title] = members
    if not trained:
        return
    figure, axes = plt.subplots(
        len(trained), 2, figsize=(10, 2.8 * len(trained)), constrained_layout=True, squeeze=False
    )
    colors = {"MAML": "C0", "RL²": "C1", "SNAIL": "C2"}
    for (title, members), (left, right) in zip(trained.items(), axes, strict=True):
        for algorithm, (_, row, _, curves), oracle_entry in members:
            for curve in curves:
                returns = [last_stage(row, line) for line in curve]
                steps = [line["global_step"] / 1e6 for line in curve]
                clock = [line["seconds"] / 60 for line in curve]
                label = algorithm if curve is curves[0] else None
                left.plot(steps, returns, colors[algorithm], linewidth=0.9)
                right.plot(clock, returns, colors[algorithm], linewidth=0.9, label=label)
            if oracle_entry is not None:
                best, _ = oracle_return(oracle_entry)
                for axis in (left, right):
                    axis.axhline(best, color=colors[algorithm], linestyle=":", linewidth=0.9)
        left.set(xlabel="million environment steps", ylabel="return of an episode", title=title)
        right.set(xlabel="minutes of training", title="dotted: the oracle of the algorithm")
        right.legend(fontsize=8)
    save(figure, "side-by-side")


def levels():
    """The run of docs/environments.md's example of levels, in words."""
    name = "minigrid-red-ball-2-episodes"
    found = row_and_results(name)
    if found is None:
        return ""  # not trained yet
    row, results = found
    means, stderrs = stages(results)
    texts = with_errors(means, stderrs, 3)
    # MiniGrid pays 1 - 0.9 steps / 64, and nothing where the ball is not found in 64 steps.
    steps = [64 * (1 - mean) / 0.9 for mean in means]
    num_rooms = first_of(results)["eval_trials"]
    return (
        f"```bash\n{command(name, results)}\n```\n\n"
        f"In {num_rooms:,} rooms drawn with other seeds, the first episode brings {texts[0]} and "
        f"the second {texts[1]} (random actions: {row['random']:.3f}). That is {steps[0]:.1f} "
        f"steps to the ball on average, and then {steps[1]:.1f}. (MiniGrid pays 1 - 0.9 steps / "
        "64, and nothing if the ball is not found in 64 steps. So a room where it is not found "
        f"counts as {64 / 0.9:.0f} steps.) It remembers where the ball was. "
        "(There are only 4,560 different rooms of this kind, and training has met nearly all of "
        "them. So this shows memory within a trial, not that new rooms are solved.) "
        f"[Curve and network](../benchmark/results/{name}); {minutes(results)} minutes, "
        f"{seeds_in_words(results)}."
    )


def in_steps(summary):
    """Steps to the goal, in a cell."""
    return f"{summary['steps_mean']:.1f} ± {summary['steps_stderr']:.1f}"


def walkers(setting):
    """Who was trained in mazes, and its `baselines.summary` of the first and second episode."""
    for script, algorithm in ALGORITHMS.items():
        for name, _, results, _ in published(script):
            for seed in results:
                path = RESULTS / name / f"seed-{seed}" / "mazes.json"
                if not path.exists():
                    continue
                summaries = json.loads(path.read_text())
                if setting in summaries:
                    first, second = summaries[setting][:2]
                    yield f"[{algorithm}](../benchmark/results/{name}), seed {seed}", first, second


def mazes():
    """Steps to the goal in each episode, as a markdown table.

    Those of who knows the maze, of an explorer, of random actions, and of the agents that were
    trained in small mazes.
    """
    head = ["mazes", "who", "steps in the first episode", "in the second", "success"]
    lines = table_head([*head, "second to first", "second to the planner's"])
    for setting, entries in read("baselines.json").items():
        if "rooms" not in setting:
            continue
        planned = entries["planner that knows the maze"]["steps_mean"]
        rows = []
        for who, first in entries.items():
            rows.append((who, first, first.get("second")))  # None where it is as the first
        for who, first, second in [*rows, *walkers(setting)]:
            if second is None:
                cells = [setting, who, in_steps(first), "the same", f"{first['success']:.0%}", "1"]
                second = first
            else:
                cells = [setting, who, in_steps(first), in_steps(second)]
                cells.append(f"{first['success']:.1%}, {second['success']:.1%}")
                cells.append(f"{second['steps_mean'] / first['steps_mean']:.2f}")
            lines.append(table_row([*cells, f"{second['steps_mean'] / planned:.2f}"]))
    return "\n".join(lines)


def exploration():
    """What agents and the planner have tried in MDPs, and what they make of it, as a table."""
    head = ["setting", "who", "tried before episode 10", "before the last", "the last earns"]
    head.append("the best plan from what was seen earns")
    new = "in episode 5, where another action than this plan's is taken: new (blindly)"
    lines = table_head([*head, new])
    for setting, entries in read("exploration.json").items():
        for who, numbers in entries.items():
            if who in ROWS and published_row(who) is None:
                continue  # its results were removed, to be trained again
            if who in ROWS:
                levers = ROWS[who]["title"].removeprefix(setting)  # of two rows in one setting
                who = f"{ALGORITHMS[ROWS[who]['script']]}{levers}"
            # Lists begin with episode 1: [9] is the tenth one, [4] the fifth.
            cells = [setting, who, f"{numbers['tried'][9]:.0%}", f"{numbers['tried'][-1]:.0%}"]
            cells += [f"{numbers['return'][-1]:.2f}", f"{numbers['planned'][-1]:.2f}"]
            cells.append(f"{numbers['new'][4]:.0%} ({numbers['blind'][4]:.0%})")
            lines.append(table_row(cells))
    return "\n".join(lines)


def ablations(algorithm):
    """An algorithm's ablations as markdown tables."""
    lines = []
    for group, entries in read("ablations.json").get(algorithm, {}).items():
        lines += ["", f"**{group}**", ""]
        lines += table_head(["change", "held-out return", "seconds"])
        for name, row in entries.items():
            digits = 3 if row["stderr"] < 0.02 else 2
            cells = [name, f"{row['return']:.{digits}f} ± {row['stderr']:.{digits}f}"]
            lines.append(table_row([*cells, f"{row['seconds']:.0f}"]))
    return "\n".join(lines[1:])


def speeds(key):
    """The entries of speed.json that have `key`."""
    entries = {}
    for name, row in read("speed.json").items():
        if isinstance(row, dict) and key in row:
            entries[name.replace(" processes,", "")] = row
    return entries


def speed(word=""):
    """The environments', RL^2's and SNAIL's speeds, or those with a word in their name: a table."""
    parts = {
        "rollout_share": "rollout",
        "kernel_share": "recurrent kernel",
        "concatenation_share": "concatenation",
    }
    head = [f"share of {part}" for part in parts.values()]
    lines = table_head(["what", "steps per second", *head])
    for name, row in read("speed.json").items():
        if name in ("cores", "torch") or word not in name:
            continue
        shares = [""] * len(parts)
        if isinstance(row, float):
            text = f"{row:,.0f}"
        elif "rollout_share" in row:
            text = f"{row['steps_per_second']:,.0f}"
            shares = [f"{row[key]:.0%}" if key in row else "" for key in parts]
        elif "late" in row:
            text = f"{row['early']:.1f} ms at t = 100, {row['late']:.1f} ms at t = 900"
        elif "ms_per_trial_of_8" in row:
            text = f"{row['ms_per_trial_of_8']:.2f} ms a trial in a minibatch of 8, "
            text += f"{row['ms_per_trial_of_64']:.2f} ms in one of 64"
        else:
            continue  # it has a table of its own
        lines.append(table_row([name, text, *shares]))
    return "\n".join(lines)


def gpu_speed():
    """The scripts' speed on machines with a GPU, without and with it, as a markdown table each."""
    paths = sorted(RESULTS.glob("speed_*.json"))
    return "\n\n".join(speed_of_card(read(path.name)) for path in paths)


def speed_of_card(measured):
    """What was measured with one card, as a markdown table."""
    processor = f"{measured['cores']} cores"
    lines = table_head(["what", processor, measured["gpu"], "times as fast"])
    for name, gpu in measured.items():
        if not name.endswith(", GPU"):
            continue
        name = name.removesuffix(", GPU")
        row = measured.get(name)  # of the processor, where it was measured
        without = ""
        ratio = ""
        if "seconds" in gpu:
            on_gpu = f"{gpu['seconds']:.2f} s"
            if row is not None:
                without = f"{row['seconds']:.2f} s"
                ratio = f"{row['seconds'] / gpu['seconds']:.1f}"
        else:
            on_gpu = f"{gpu['steps_per_second']:,.0f} steps/s"
            if row is not None:
                without = f"{row['steps_per_second']:,.0f} steps/s"
                ratio = f"{gpu['steps_per_second'] / row['steps_per_second']:.1f}"
        lines.append(table_row([name, without, on_gpu, ratio]))
    return "\n".join(lines)


def maml_speed():
    """Seconds per meta-iteration of MAML, and what takes them, as a markdown table.

    The last column is the rest: the update, and the adaptation steps of the rollouts.
    """
    head = ["settings (tasks × episodes × steps)", "seconds", "rollouts", "advantages"]
    lines = table_head([*head, "adaptation and update"])
    for name, row in speeds("seconds").items():
        rest = row["seconds"] - row["rollouts"] - row["advantages"]
        parts = [f"{part:.2f}" for part in (row["rollouts"], row["advantages"], rest)]
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


# The rows of section 7 of the tutorial: where meta-reinforcement learning is used.
USES = {
    "a robot whose body or ground changes": "rl2-halfcheetah-params",
    "a room with a ball somewhere": "minigrid-red-ball-2-episodes",
    "traffic": "traffic-2-episodes",
}


def tutorial_uses():
    """A command and its result for each use of the tutorial, as a markdown table."""
    first = "first (before adaptation, or in the first episode)"
    then = "then (after it, or in the second episode)"
    head = ["what changes", "random actions", first, then, "minutes", "command"]
    lines = table_head(head)
    for use, name in USES.items():
        found = row_and_results(name)
        if found is None:  # not trained yet
            train = f"`python benchmark/run.py {name}`"
            lines.append(table_row([use, "", "not measured yet", "", "", train]))
            continue
        row, results = found
        means, stderrs = stages(results)
        names = ("first episode", "second episode")
        if row["script"] == "maml_trpo":
            names = ("before adaptation", "after one gradient step")
        texts = []
        for mean, stderr, part in zip(means[:2], stderrs[:2], names, strict=True):
            texts.append(f"{part}: {significant(mean, 3)} ± {significant(stderr, 1)}")
        cells = [use, significant(row["random"], 3), *texts, minutes(results)]
        lines.append(table_row([*cells, f"`{command(name, results)}`"]))
    return "\n".join(lines)


def kept_by_snail(args, steps):
    """How many numbers SNAIL keeps of a trial of so many steps."""
    embedding, filters, key_size, value_size = args["sizes"]
    blocks = args["tc_blocks"] * (steps - 1).bit_length()  # dilations 1, 2, 4, ... below `steps`
    features = embedding + filters * blocks
    return steps * (features + 2 * key_size + value_size)


def tutorial_choice():
    """What the three algorithms cost and can do, as a markdown table."""
    names = ("navigation", "bandit-5-arms-10-pulls", "snail-bandit-5-arms-10-pulls")
    found = [row_and_results(name) for name in names]
    if None in found:
        return f"Not trained yet: `python benchmark/run.py {' '.join(names)}`"
    firsts = [first_of(results) for _, results in found]
    arguments = []
    for name, (_, results) in zip(names, found, strict=True):
        first_seed = next(iter(results))
        arguments.append(read(f"{name}/seed-{first_seed}/args.json"))
    maml, rl2, snail = arguments
    env = baselines.envs.make(maml["env_id"], 1, **maml["env_kwargs"])
    episodes = maml["eval_episodes"]
    steps = episodes * env.horizon
    trained = speeds("parameters")
    sizes = [trained[name]["parameters"] for name in EXAMPLES]
    step = read("speed.json")["SNAIL, one step of 256 trials of 1000 steps"]
    kept = [kept_by_snail(snail, 10), kept_by_snail(snail, 100)]
    returns, _ = over_seeds_of(found[0][1], "return_by_gradient_step")
    later = ", ".join(f"{mean:.1f}" for mean in returns[1:])
    lines = table_head(["", "MAML", "RL²", "SNAIL"])
    rows = [
        ["example", *[row["title"] for row, _ in found]],
        ["environment steps to train it", *[f"{first['global_step']:,}" for first in firsts]],
        ["minutes to train it", *[minutes(results) for _, results in found]],
        ["parameters", *[f"{size:,}" for size in sizes]],
        [
            "what a new task costs",
            f"in evaluation {episodes} episodes (up to {steps:,} steps), one gradient step",
            "nothing: it learns while it acts",
            "nothing: it learns while it acts",
        ],
        [
            "numbers kept in a trial of 10 steps, of 100 steps",
            f"{sizes[0]:,}, its own parameters",
            f"{rl2['hidden_size']}, {rl2['hidden_size']}",
            f"{kept[0]:,}, {kept[1]:,} (longer trials have more blocks)",
        ],
        [
            "a step at t = 100, at t = 900",
            "the same",
            "the same",
            f"{step['early']:.1f} ms, {step['late']:.1f} ms (256 trials)",
        ],
        [
            "can adapt for longer than in training",
            f"with more gradient steps: {later} after 1, 2, 3",
            "longer trials are possible, but hardly improve further (exercise 5)",
            "no: its memory has the length of a trial of training",
        ],
        [
            "what it cannot do",
            "change its behaviour before some whole episodes are over",
            "keep a long past exactly",
            "play trials longer than in training",
        ],
    ]
    return "\n".join([*lines, *map(table_row, rows)])


# Entries of speed.json whose networks are those of the tutorial's examples.
EXAMPLES = ("MAML, 20 tasks", "RL^2, 4,000 trials", "SNAIL, 4,000 trials")
# What the tutorial compares by the steps that training needed.
EFFICIENCY = (
    "navigation",
    "bandit-5-arms-10-pulls",
    "snail-bandit-5-arms-10-pulls",
    "bandit-5-arms-100-pulls-regret",
    "snail-bandit-5-arms-100-pulls",
    "mdp-10-episodes-regret",
    "snail-mdp-10-episodes",
)
ALGORITHMS = {"maml_trpo": "MAML", "rl2_ppo": "RL²", "snail_ppo": "SNAIL"}


def reached(row, results, curve, part):
    """The first line of a learning curve with `part` of the gain over random actions."""
    mean, _ = mean_score(results)
    episodes = 1 if row["script"] == "maml_trpo" else first_of(results)["episodes_per_trial"]
    random = row["random"] * episodes
    for line in curve:
        if row["script"] == "maml_trpo":
            value = line["return_after_1_steps"]
        else:
            value = whole_trial(episodes, line)
        if value >= random + part * (mean - random):
            return line
    return None


def tutorial_efficiency():
    """How many steps and minutes training needs, as a markdown table."""
    head = ["task", "algorithm", "steps of training", "minutes", "steps to 95 %"]
    lines = table_head([*head, "minutes to 95 %"])
    for name in EFFICIENCY:
        entry = published_row(name)
        if entry is None:  # not trained yet
            continue
        _, row, results, curves = entry
        found = [reached(row, results, curve, 0.95) for curve in curves]
        steps = first_of(results)["global_step"]
        cells = [row["title"], ALGORITHMS[row["script"]], f"{steps / 1e6:.3g} M", minutes(results)]
        if found and None not in found:  # each seed came so far
            first_steps = np.mean([line["global_step"] for line in found])
            seconds = np.mean([line["seconds"] for line in found])
            cells += [f"{first_steps / 1e6:.3g} M", f"{seconds / 60:.1f}"]
        else:
            cells += ["–", "–"]
        lines.append(table_row(cells))
    return "\n".join(lines)


def had_bfloat16(machine):
    """Whether a run's machine, of its machine.json, had instructions for bfloat16.

    Older runs have not written it down. Older scripts took every AVX-512 for it.
    """
    if "bfloat16" in machine:
        return machine["bfloat16"]
    return machine["avx"] == "AVX512" or machine["gpu"] is not None


def trained_in_float32():
    """The runs that have --amp, but were made without instructions for bfloat16, in a line."""
    words = []
    for name, row in ROWS.items():
        seeds = []
        folders = [RESULTS / name / f"seed-{seed}" for seed in row["seeds"]]
        folders = [folder for folder in folders if (folder / "eval.json").exists()]
        for folder in folders:
            if not (folder / "machine.json").exists():  # of the oldest runs it is not known
                continue
            path = folder.relative_to(RESULTS)
            has_amp = read(f"{path}/args.json").get("amp")  # MAML has none
            if has_amp and not had_bfloat16(read(f"{path}/machine.json")):
                seeds.append(folder.name.replace("-", " "))
        if not seeds:
            continue
        if len(seeds) == len(folders):
            words.append(f"`{name}`")
        else:
            words.append(f"`{name}` ({', '.join(seeds)})")
    return ", ".join(words)


def tables():
    """Every table: {(page, marker): markdown}."""
    texts = {("README.md", "results"): short_table()}
    texts["README.md", "side by side"] = side_by_side_table()
    for algorithm in ("rl2_ppo", "snail_ppo"):
        page = f"docs/{algorithm}.md"
        links = [f"![{row['title']}](figures/{name}.png)" for name, row, *_ in published(algorithm)]
        texts[page, "results"] = ppo_table(algorithm)
        texts[page, "ablations"] = ablations(algorithm)
        texts[page, "curves"] = "\n\n".join(links)
    texts["docs/rl2_ppo.md", "speed"] = speed()
    texts["docs/snail_ppo.md", "speed"] = speed("SNAIL")
    texts["docs/notes.md", "exploration"] = exploration()
    page = "docs/maml_trpo.md"
    links = [f"![{title}](figures/{figure_name(title)}.png)" for title in groups()]
    texts[page, "maml results"] = maml_table()
    texts[page, "maml speed"] = maml_speed()
    texts[page, "ablations"] = ablations("maml_trpo")
    texts[page, "curves"] = "\n\n".join(links)
    texts["docs/environments.md", "mazes"] = mazes()
    texts["docs/environments.md", "levels"] = levels()
    page = "benchmark/README.md"
    texts[page, "bandits"] = bandits_table()
    texts[page, "mdps"] = mdps_table()
    texts[page, "float32"] = trained_in_float32()
    page = "docs/tutorial.md"
    texts[page, "tutorial uses"] = tutorial_uses()
    texts[page, "tutorial choice"] = tutorial_choice()
    texts[page, "tutorial efficiency"] = tutorial_efficiency()
    page = "docs/scaling.md"
    texts[page, "gpu"] = gpu_speed()
    texts[page, "scaling"] = scaling()
    texts[page, "all-reduce"] = all_reduce()
    texts[page, "exchanged"] = exchanged()
    texts[page, "prediction"] = prediction()
    for (page, marker), text in list(texts.items()):
        if page in ("README.md", "docs/tutorial.md"):
            texts[page.replace(".md", ".zh.md"), marker] = in_chinese(text)
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
        for row in published(algorithm):
            plot_ppo(*row)
    for title, members in groups().items():
        plot_maml(title, members)
    plot_side_by_side()
    for (page, marker), text in tables().items():
        fill(page, marker, text)


if __name__ == "__main__":
    main()
