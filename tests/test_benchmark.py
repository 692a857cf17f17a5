"""The published numbers: agents that can be loaded and score what their row says, tables made from the raw data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import maml_trpo
import rl2_ppo
import snail_ppo

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
import collect  # noqa: E402
import plot  # noqa: E402

ROWS = sorted(path.parent for path in (ROOT / "benchmark" / "results").glob("*/eval.json"))


def test_there_are_rows():
    references = json.loads((ROOT / "benchmark/results/references.json").read_text())
    assert ROWS and {name for rows in references.values() for name in rows} == {row.name for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_agent_of_a_row_scores_what_the_row_says(row, tmp_path, monkeypatch):
    published, args = json.loads((row / "eval.json").read_text()), json.loads((row / "args.json").read_text())
    assert (row / "agent.pt").stat().st_size < 1_000_000
    assert (row / "command.txt").read_text().strip() == collect.command(published["algorithm"], args)
    if published["algorithm"] == "maml_trpo":
        policy, params, args = maml_trpo.load(row / "agent.pt")
        args.eval_seed, args.eval_trials = 123, (3 if "Ant" in args.env_id else 6) if args.num_inner_steps else 2
        result, published = maml_trpo.evaluate(policy, params, args), {**published}
        means, stderrs = (np.array(published["return_by_gradient_step" + end]) for end in ("", "_stderr"))
        spread = stderrs * published["num_trials"] ** 0.5  # over tasks
        assert (np.abs(result["return_by_gradient_step"] - means) < 5 * spread / args.eval_trials**0.5).all()
        learned = means[1] - max(means[0], published["random_return_mean"] / published["episodes_per_trial"])
        if args.num_inner_steps > 0:  # MAML: adaptation pays
            assert learned > 4 * np.hypot(stderrs[0], stderrs[1])  # as of independent tasks; they are the same
        return
    script = {"rl2_ppo": rl2_ppo, "snail_ppo": snail_ppo}[published["algorithm"]]
    trials = 1000 if script is rl2_ppo else 300  # SNAIL is slower
    if ":" in args["env_id"]:  # a slow example of the documentation
        module, trials = args["env_id"].split(":")[0], 50
        text = (ROOT / "docs/environments.md").read_text().split(f"`{module}.py`: ")[1].split("```python\n")[1]
        (tmp_path / f"{module}.py").write_text(text.split("```")[0])
        monkeypatch.syspath_prepend(tmp_path)
    agent = script.load(row / "agent.pt")
    result = script.evaluate(agent, args["env_id"], args["env_kwargs"], args["episodes_per_trial"], trials, 123)
    end = "_pseudo" if "return_mean_pseudo" in result else ""
    error = (result["return_stderr" + end] ** 2 + published["return_stderr" + end] ** 2) ** 0.5
    assert abs(result["return_mean" + end] - published["return_mean" + end]) < 4.5 * error
    assert published["return_mean" + end] > published["random_return_mean"] + 10 * error


def test_tables_and_pictures_are_made_from_the_raw_data():
    for algorithm in ("rl2_ppo", "snail_ppo"):
        docs = (ROOT / f"docs/{algorithm}.md").read_text()
        assert plot.speed() in docs
        if not any(plot.rows(algorithm)):
            continue
        assert plot.table(algorithm, "") in (ROOT / "README.md").read_text() and plot.table(algorithm, "../") in docs
        assert plot.ablations(algorithm) in docs
    for page, prefix in (("README.md", ""), ("docs/maml_trpo.md", "../")):
        text = (ROOT / page).read_text()
        assert plot.maml_table(prefix) in text and plot.maml_speed() in text
    scaling = (ROOT / "docs/scaling.md").read_text()
    for table in (plot.scaling, plot.all_reduce, plot.exchanged, plot.prediction):
        assert table() in scaling
    assert plot.levels() in (ROOT / "docs/environments.md").read_text()
    assert plot.ablations("maml_trpo") in (ROOT / "docs/maml_trpo.md").read_text()
    names = [name for algorithm in ("rl2_ppo", "snail_ppo") for name, *_ in plot.rows(algorithm)]
    names += [plot.figure_name(title) for title in plot.groups()]
    for name in names:
        assert (ROOT / "docs/figures" / f"{name}.png").stat().st_size > 10_000


def test_bayes_optimum_by_hand():
    assert baselines.bayes_optimum(1, 7) == pytest.approx(3.5)
    # two arms, two pulls: after a success stay (mean 2/3), after a failure change (mean 1/2)
    assert baselines.bayes_optimum(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_gittins_index_by_hand():
    index = baselines.gittins_indices(2)
    assert index[1, 1, 0] == pytest.approx(2 / 3, abs=1e-3)  # with one pull left it is the mean
    # two pulls left, nothing known: 2 x = 1/2 + 1/2 max(2/3, x) + 1/2 max(1/3, x) has the root x = 5/9
    assert index[2, 0, 0] == pytest.approx(5 / 9, abs=1e-3)
