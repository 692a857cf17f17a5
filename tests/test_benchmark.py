"""The published numbers: agents that can be loaded and score what their row says, tables made from the raw data."""

import json
import sys
from pathlib import Path

import pytest

import rl2_ppo

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmark"))

import baselines  # noqa: E402
import collect  # noqa: E402
import plot  # noqa: E402

ROWS = sorted(path.parent for path in (ROOT / "benchmark" / "results").glob("*/eval.json"))


def test_there_are_rows():
    assert ROWS and set(json.loads((ROOT / "benchmark/results/references.json").read_text())) >= {r.name for r in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_agent_of_a_row_scores_what_the_row_says(row):
    published, args = json.loads((row / "eval.json").read_text()), json.loads((row / "args.json").read_text())
    assert (row / "agent.pt").stat().st_size < 1_000_000
    agent = rl2_ppo.load(row / "agent.pt")
    result = rl2_ppo.evaluate(agent, args["env_id"], args["env_kwargs"], args["episodes_per_trial"], 1000, 123)
    error = (result["return_stderr_pseudo"] ** 2 + published["return_stderr_pseudo"] ** 2) ** 0.5
    assert abs(result["return_mean_pseudo"] - published["return_mean_pseudo"]) < 4.5 * error
    assert published["return_mean_pseudo"] > published["random_return_mean"] + 10 * error
    assert (row / "command.txt").read_text().strip() == collect.command("rl2_ppo", args)


def test_tables_and_pictures_are_made_from_the_raw_data():
    for page, prefix in (("README.md", ""), ("docs/rl2_ppo.md", "../")):
        assert plot.table(prefix) in (ROOT / page).read_text()
    docs = (ROOT / "docs/rl2_ppo.md").read_text()
    assert plot.ablations() in docs and plot.speed() in docs
    for name, *_ in plot.rows():
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
