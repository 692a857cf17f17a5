"""The published numbers: agents that score what their row says, tables made from the raw data."""

import fcntl
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import baselines
import envs
import files
import maml_trpo
import plot
import rl2_ppo
import run
import snail_ppo
from helpers import HAND_MADE, MODULES, MOVES, ROOT
from rows import FAMILIES, ROWS

RESULTS = ROOT / "benchmark" / "results"

PUBLISHED = [name for name in ROWS if list(RESULTS.glob(f"{name}/*/eval.json"))]
MAML_ROWS = [name for name in PUBLISHED if ROWS[name]["script"] == "maml_trpo"]
PPO_ROWS = [name for name in PUBLISHED if name not in MAML_ROWS]


def published_by_agent(name):
    """The evaluation of the seed whose network is published."""
    return plot.read(f"{name}/seed-{run.read_agent_seed(name)}/eval.json")


def number_of_tasks(result):
    """In how many tasks a row was evaluated; older results have another name for it."""
    return result.get("eval_trials", result.get("num_trials"))


def held_out_tasks(result, count):
    """Tasks that neither training nor the row's evaluation saw."""
    env = envs.make(result["env_id"], 1, **result["env_kwargs"])
    tasks = env.sample_tasks(count, [1, 123])
    env.close()
    return tasks


def directions(result):
    """The two directions, and which part of the row's held-out tasks each of them is."""
    env = envs.make(result["env_id"], 1)
    tasks = env.sample_tasks(number_of_tasks(result), [1, 0])
    env.close()
    both, counts = np.unique(tasks, return_counts=True)
    return both, counts / counts.sum()


def weighted_mean(weights, returns):
    """The mean of groups of returns [groups, number], and its standard error within groups."""
    errors = returns.std(axis=1, ddof=1) / returns.shape[1] ** 0.5
    return weights @ returns.mean(axis=1), (weights**2 @ errors**2) ** 0.5


# ---------------------------------------------------------------------------------- published rows


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_complete_and_its_script_takes_its_arguments(name):
    row = ROWS[name]
    module = MODULES[row["script"]]
    args = module.Args(**row["arguments"])
    module.check_arguments(args)
    assert row["title"] and row["seeds"]
    assert row.get("family") is None or row["family"] in FAMILIES
    assert ("role" in row) == (module is maml_trpo)
    known = {None, "Bayes optimum", "Gittins", "knows the MDP", "at the goal", "knows the maze"}
    for bound in FAMILIES.values():
        assert bound in known | set(ROWS)


def test_results_are_those_of_rows():
    assert PUBLISHED
    folders = {path.name for path in RESULTS.iterdir() if path.is_dir()}
    assert folders == set(PUBLISHED) == set(plot.read("random.json"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_rows_seeds_have_its_arguments_and_its_agent_is_the_median_one(name):
    script = ROWS[name]["script"]
    for folder in RESULTS.glob(f"{name}/seed-*"):
        seed = int(folder.name.removeprefix("seed-"))
        assert run.state(name, seed) == "collected"
        args = json.loads((folder / "args.json").read_text())
        assert (folder / "command.txt").read_text().strip() == run.command(script, args)
        result = json.loads((folder / "eval.json").read_text())
        assert result["seed"] == args["seed"] == seed
        assert result["algorithm"] == script
    agent = RESULTS / name / "agent.pt"
    # Mazes: the layer of 256 units behind the convolutions has 327,936 weights. SNAIL with 50 arms:
    # every layer also reads the 45 arms more. SNAIL in MDPs of 50 episodes: 293,000 weights, in
    # float32.
    limit = 1_000_000
    if "maze" in name or name.startswith(("snail-bandit-50-arms", "snail-mdp-50")):
        limit = 1_200_000
    assert agent.stat().st_size < limit
    seed = torch.load(agent, weights_only=True)["args"]["seed"]
    assert seed == run.read_agent_seed(name) == run.median_seed(name)


@pytest.mark.parametrize("name", MAML_ROWS)
def test_the_policy_of_a_maml_row_scores_what_the_row_says(name):
    """Fewer tasks and episodes than published; `run.py --check` evaluates all of them."""
    result = published_by_agent(name)
    policy, params, args = maml_trpo.load(RESULTS / name / "agent.pt")
    is_maml = args.num_inner_steps > 0
    num_steps = 3 if is_maml else 0  # what was not trained to adapt is tested before adaptation
    if "Ant" in args.env_id and is_maml:
        num_steps = 1  # slow
    num_episodes = 20 if is_maml else 10
    if "episodes" in ROWS[name]:  # it adapts to that many episodes
        num_episodes = args.eval_episodes
    if "Dir" in args.env_id:
        tasks, weights = directions(result)
        num_episodes = 40  # some of them end in a fall, and earn far less than the others
        if "Ant" in args.env_id:
            num_episodes = 20  # slow
    else:
        count = 3 if is_maml else 8
        if "Params" in args.env_id and is_maml:  # see the last lines
            count = 60
            num_episodes = 10
        if args.env_id in ("Bandit-v0", "TabularMDP-v0"):
            count = 1000
        tasks = held_out_tasks(result, count)
        weights = np.full(count, 1 / count)
    env = envs.make(args.env_id, len(tasks) * num_episodes, **args.env_kwargs)
    torch.manual_seed(123)
    batches = maml_trpo.trial(policy, params, env, tasks, num_steps, 123, args)
    env.close()
    means = np.array(result["return_by_gradient_step"])
    stderrs = np.array(result["return_by_gradient_step_stderr"])
    spread = stderrs * number_of_tasks(result) ** 0.5  # over tasks
    for step, batch in enumerate(batches):
        mean, error = weighted_mean(weights, batch["return"].double().numpy())
        if step > 0 or "Dir" not in args.env_id:  # other tasks, or steps that differ by chance
            error = spread[step] / len(tasks) ** 0.5
        assert abs(mean - means[step]) < 4.5 * error
    if is_maml:
        random = plot.read("random.json")[name]["return_mean"]
        assert means[1] - random > 4 * stderrs[1]
    if is_maml and "Params" in args.env_id:
        # Bodies differ far more than steps bring: each is compared with itself, after three steps.
        gains = (batches[-1]["return"] - batches[0]["return"]).double().numpy().mean(axis=1)
        assert gains.mean() > 3 * gains.std(ddof=1) / count**0.5
        assert means[3] > means[2] > means[1] > means[0]
    elif is_maml and args.env_id == "AntVel-v0":
        # Velocities differ far more than a step brings, too. In the last updates of training each
        # task is compared with itself.
        curve = plot.read_curve(RESULTS / name / f"seed-{run.read_agent_seed(name)}" / "curve.csv")
        last = curve[-10:]
        gains = [line["return_after_1_steps"] - line["return_after_0_steps"] for line in last]
        assert np.mean(gains) > 4 * np.std(gains, ddof=1) / len(gains) ** 0.5
        assert means[3] > means[2] > means[1] > means[0]
    elif is_maml:  # adaptation pays; errors as of independent tasks, though they are the same
        assert means[1] - max(means[0], random) > 4 * np.hypot(stderrs[0], stderrs[1])


@pytest.mark.parametrize("name", PPO_ROWS)
def test_the_agent_of_a_row_scores_what_the_row_says(name, tmp_path, monkeypatch):
    published = published_by_agent(name)
    script = MODULES[published["algorithm"]]
    env_id = published["env_id"]
    count = 1000
    if script is snail_ppo or "Maze" in env_id:  # slow to compute, or to draw
        count = 200
    if ":" in env_id or "Cheetah" in env_id:  # slow environments
        count = 50
    if "Ant" in env_id or "Traffic" in env_id:  # even slower
        count = 10
    run.write_example(env_id, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    agent = script.load(RESULTS / name / "agent.pt")
    weights = np.ones(1)
    tasks = held_out_tasks(published, count)
    if "Dir" in env_id:
        both, weights = directions(published)
        tasks = np.repeat(both, count // 2)
    returns, regrets = script.evaluate(
        agent,
        env_id,
        published["env_kwargs"],
        tasks,
        published["episodes_per_trial"],
        seed=123,
        return_regret=True,
    )
    samples = returns.sum(1) if regrets is None else regrets.sum(1)
    entry = "return" if regrets is None else "regret"
    mean, error = weighted_mean(weights, samples.reshape(len(weights), -1))
    if len(weights) == 1:  # other tasks
        error = np.hypot(error, published[f"{entry}_stderr"])
    assert abs(mean - published[f"{entry}_mean"]) < 4.5 * error
    random = plot.read("random.json")[name]["return_mean"] * published["episodes_per_trial"]
    assert published["return_mean"] > random + 10 * published["return_stderr"]


@pytest.fixture(scope="module")
def tables():
    return plot.tables()


def test_tables_are_made_from_the_raw_data(tables):
    for (page, marker), text in tables.items():
        filled = f"<!-- {marker} -->\n{text}\n<!-- /{marker} -->"
        assert filled in (ROOT / page).read_text(), (page, marker)


UNITS = {"": 1, " M": 1e6, " 万": 1e4, " 亿": 1e8}


def numbers_of(line):
    """The numbers of a table's line, with the units of its language."""
    found = re.findall(r"(\d[\d.,]*\d|\d)( M\b| 万| 亿|)", line)
    return [float(number.replace(",", "")) * UNITS[unit] for number, unit in found]


def test_millions_in_chinese():
    english = "| 20.9 M | 10 M | 150 M | 1.03 M | 99.9 M | 100 M | 729.5 |"
    chinese = "| 2090 万 | 1000 万 | 1.5 亿 | 103 万 | 9990 万 | 1 亿 | 729.5 |"
    assert plot.in_chinese(english) == chinese


@pytest.mark.parametrize("page", ["README.zh.md", "docs/tutorial.zh.md"])
def test_tables_in_chinese_have_the_same_numbers_and_no_english_word(page, tables):
    names = {"MAML", "RL", "SNAIL", "MDP", "HalfCheetah", "Ant", "MiniGrid", "Gittins", "ms", "t"}
    names |= {"highway", "env"}
    english_page = page.replace(".zh", "")
    markers = [marker for name, marker in tables if name == page]
    assert markers
    for marker in markers:
        english = tables[english_page, marker]
        text = tables[page, marker]
        assert re.findall("`[^`]*`", text) == re.findall("`[^`]*`", english)  # commands
        text = re.sub("`[^`]*`", "", text)
        words = set(re.findall("[A-Za-z]+", text))
        assert words <= names, "words that benchmark/chinese.py does not have"
        assert not set(text) & set("()"), "brackets in Chinese text are full-width"
        for line, other in zip(text.splitlines(), english.splitlines(), strict=True):
            assert line.count("|") == other.count("|")
            other = re.sub("`[^`]*`", "", other).replace("2D", "")
            assert numbers_of(line) == pytest.approx(numbers_of(other), rel=1e-12)


def test_every_row_has_its_picture():
    names = [plot.figure_name(title) for title in plot.groups()]
    for script in ("rl2_ppo", "snail_ppo"):
        names += [name for name, *_ in plot.published(script)]
    for name in names:
        assert (ROOT / "docs/figures" / f"{name}.png").stat().st_size > 10_000


# ------------------------------------------------------------------------------------------ run.py

TINY = {
    "script": "rl2_ppo",
    "title": "a tiny row",
    "arguments": {
        "num_envs": 8,
        "num_minibatches": 1,
        "total_timesteps": 320,  # four updates
        "hidden_size": 8,
        "eval_trials": 20,
        "cuda": False,
    },
    "seeds": [1, 2, 3],
}
TINY_MAML = {
    "script": "maml_trpo",
    "title": "a tiny row",
    "role": "MAML",
    "arguments": {
        "num_iterations": 2,
        "meta_batch_size": 2,
        "episodes_per_task": 2,
        "eval_episodes": 2,
        "env_kwargs": {"horizon": 3},
        "eval_trials": 2,
        "cuda": False,
    },
    "seeds": [1],
}


def train_here(name, seed):
    """`run.train` without a process of its own."""
    folder = run.run_folder(name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    module = run.script_of(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        module.train(module.Args(**run.arguments(name, seed)))


def never(*arguments):
    raise AssertionError("this must not be called")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Rows `tiny` and `tiny-maml`, and folders for results and runs that are empty."""
    monkeypatch.setitem(ROWS, "tiny", TINY)
    monkeypatch.setitem(ROWS, "tiny-maml", TINY_MAML)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(plot, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "RUNS", tmp_path / "runs")
    return tmp_path / "results" / "tiny"


def write_seed(name, seed, result):
    """The results of a seed of which nothing is known but its eval.json."""
    folder = run.results_folder(name, seed)
    folder.mkdir(parents=True)
    args = run.arguments(name, seed)
    (folder / "args.json").write_text(json.dumps(args))
    (folder / "command.txt").write_text(run.command(ROWS[name]["script"], args))
    (folder / "eval.json").write_text(json.dumps(args | {"algorithm": "rl2_ppo"} | result))


def ppo_result(mean):
    """What eval.json says of a trial of one episode."""
    return {
        "return_mean": mean,
        "return_stderr": 0.5,
        "return_by_episode": [mean],
        "return_by_episode_stderr": [0.5],
        "episodes_per_trial": 1,
        "wall_seconds": 60.0,
    }


def test_run_trains_and_goes_on_where_a_run_was_interrupted(tiny, monkeypatch, capfd):
    updates = []

    def interrupted(*arguments):
        updates.append(1)
        if len(updates) == 3:
            raise KeyboardInterrupt
        return update(*arguments)

    update = rl2_ppo.update
    with monkeypatch.context() as patch:
        patch.setattr(rl2_ppo, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_here("tiny", 2)
    run.main(["tiny", "--list"])
    listed = capfd.readouterr().out
    assert "seed 1  missing" in listed
    assert "seed 2  interrupted at 25%" in listed  # the checkpoint is from the first update
    assert not tiny.exists()

    run.main(["tiny", "--seeds", "1", "2"])  # two processes
    output = capfd.readouterr().out
    assert "tiny, seed 1: python rl2_ppo.py --no-cuda --total-timesteps 320" in output
    assert "tiny, seed 2: goes on from runs/" in output
    assert len(list(run.run_folder("tiny", 2).glob("runs/*"))) == 1
    files = {"args.json", "command.txt", "curve.csv", "eval.json", "machine.json"}
    for seed in (1, 2):
        assert {path.name for path in (tiny / f"seed-{seed}").iterdir()} == files
        assert plot.read(f"tiny/seed-{seed}/eval.json")["global_step"] == 320
        curve = (tiny / f"seed-{seed}/curve.csv").read_text().splitlines()
        assert curve[0].startswith("global_step,seconds,")
        assert len(curve) == 5
        assert json.loads((tiny / f"seed-{seed}/machine.json").read_text()) == run.machine()
    assert (tiny / "seed-2/command.txt").read_text().startswith("python rl2_ppo.py --seed 2 ")
    train_here("tiny", 3)  # as the interrupted one would have gone on, but for its seed
    assert run.state("tiny", 3) == "trained"

    monkeypatch.setattr(run, "call", never)
    run.main(["tiny"])  # nothing to train: seed 3 is collected
    before = (tiny / "agent.pt").read_bytes()
    capfd.readouterr()
    run.main(["tiny"])
    assert capfd.readouterr().out.count("collected, 0.0 minutes, nothing to do") == 3
    assert (tiny / "agent.pt").read_bytes() == before
    run.main(["tiny", "--list"])
    listed = capfd.readouterr().out.splitlines()
    assert len(listed) == 3
    assert all("collected, 0.0 minutes" in line for line in listed)


@pytest.mark.parametrize(
    ("machine", "dtype"),
    [
        ({"avx": "AVX512", "gpu": None}, torch.bfloat16),
        ({"avx": "AVX2", "gpu": None}, torch.float32),
        ({"avx": "AVX2", "gpu": "a card"}, torch.bfloat16),
        ({"avx": "AVX512", "bfloat16": True, "gpu": None}, torch.bfloat16),
        ({"avx": "AVX512", "bfloat16": False, "gpu": None}, torch.float32),
    ],
)
def test_an_agent_is_rounded_only_where_its_run_was(tmp_path, machine, dtype):
    weights = {"blocks.0.now.weight": torch.rand(3, 3), "value.weight": torch.rand(3)}
    contents = {"algorithm": "snail_ppo", "args": {"amp": True}, "agent": weights}
    torch.save(contents, tmp_path / "checkpoint.pt")
    (tmp_path / "machine.json").write_text(json.dumps(machine))
    run.shrink(tmp_path / "checkpoint.pt", tmp_path / "agent.pt")
    agent = torch.load(tmp_path / "agent.pt")["agent"]
    assert agent["blocks.0.now.weight"].dtype == dtype
    assert torch.equal(agent["value.weight"], weights["value.weight"])


@pytest.mark.parametrize("name", ["tiny", "tiny-maml"])
def test_a_run_becomes_a_row(name, tiny, monkeypatch, capsys):
    """The agent alone is kept, and acts as the checkpoint does."""
    monkeypatch.setattr(run, "train", train_here)
    run.main([name, "--seeds", "1"])
    agent = torch.load(run.RESULTS / name / "agent.pt", weights_only=True)
    whole = torch.load(run.find_run(name, 1) / "checkpoint.pt", weights_only=True)
    assert set(agent) == {"algorithm", "args", "agent"}
    for key, tensor in agent["agent"].items():
        assert torch.equal(tensor, whole["agent"][key])
    assert set(plot.read("random.json")) == {name}
    curves = list(plot.published(ROWS[name]["script"]))[0][3]
    assert len(curves[0]) == (4 if name == "tiny" else 2)  # updates
    assert run.check(name)
    assert "agrees (equal numbers" in capsys.readouterr().out


def test_a_row_is_complete_after_its_first_seed(tiny, monkeypatch):
    def train_one(name, seed):
        if seed == 2:
            raise KeyboardInterrupt
        train_here(name, seed)

    monkeypatch.setattr(run, "train", train_one)
    with pytest.raises(KeyboardInterrupt):
        run.main(["tiny"])
    assert run.read_agent_seed("tiny") == 1
    assert set(plot.read("random.json")) == {"tiny"}
    assert plot.published_row("tiny") is not None  # plot.py may run meanwhile


def test_a_row_that_is_stopped_while_it_is_collected_does_not_stop_the_tables(tiny, monkeypatch):
    """plot.py needs the return of random actions of each row that has results."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", train_here)
    monkeypatch.setattr(run.baselines, "random_return", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.main(["tiny"])
    assert plot.published_row("tiny") is None


def test_an_interrupted_run_is_no_published_agent(tiny, monkeypatch, capsys):
    """Where the run here has no eval.json, its network is not published."""
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    (path,) = run.run_folder("tiny", 1).glob("runs/*/eval.json")
    path.unlink()
    (tiny / "agent.json").unlink()
    run.publish_agent("tiny")
    assert "whose run is not here" in capsys.readouterr().out
    assert run.read_agent_seed("tiny") is None


@pytest.mark.parametrize("num_updates", [1, 400, 401, 1003])
def test_a_curve_has_the_end_of_training_and_at_most_400_lines(num_updates, tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in range(1, num_updates + 1):
            for tag in [*run.PPO_SCALARS, "charts/SPS", "charts/return_episode_1"]:
                writer.add_scalar(tag, step, step)
    _, lines = run.curve(tmp_path, "rl2_ppo")
    steps = [line[0] for line in lines]
    assert steps[-1] == num_updates
    assert len(steps) <= 400
    assert len(set(np.diff(steps))) <= 1  # evenly


def test_check_refuses_numbers_that_the_agent_does_not_give(tiny, monkeypatch, capsys):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    (tiny / "seed-1" / "machine.json").unlink()  # as of the oldest runs: the machine is not known
    run.main(["tiny", "--check"])
    assert "agrees (equal numbers" in capsys.readouterr().out
    path = tiny / "seed-1" / "eval.json"
    result = json.loads(path.read_text())
    stderr = result["return_stderr"]
    path.write_text(json.dumps(result | {"return_mean": result["return_mean"] + stderr}))
    run.main(["tiny", "--check"])
    assert "agrees (at most 1.00 standard errors" in capsys.readouterr().out
    (tiny / "seed-1" / "machine.json").write_text(json.dumps(run.machine()))
    with pytest.raises(envs.UsageError, match="published numbers, see above: tiny[.]"):
        run.main(["tiny", "--check"])  # on the same machine nothing may differ
    (tiny / "seed-1" / "machine.json").unlink()
    path.write_text(json.dumps(result | {"return_mean": result["return_mean"] + 5 * stderr}))
    with pytest.raises(envs.UsageError, match="published numbers, see above: tiny[.]"):
        run.main(["tiny", "--check"])
    # NaN agrees with nothing, also where what comes after it does agree.
    nans = [np.nan] * len(result["return_by_episode"])
    path.write_text(json.dumps(result | {"return_by_episode": nans}))
    with pytest.raises(envs.UsageError, match="published numbers, see above: tiny[.]"):
        run.main(["tiny", "--check"])
    path.unlink()  # to train it again: then there is nothing to check
    monkeypatch.setattr(run, "ROWS", {"tiny": TINY})
    run.main(["--check"])


def test_an_agent_that_cannot_be_evaluated_does_not_hide_the_others(tiny, monkeypatch, capsys):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    run.main(["tiny-maml"])
    (tiny / "agent.pt").write_bytes(b"no agent")
    with pytest.raises(envs.UsageError, match="see above: tiny[.]$"):
        run.main(["tiny", "tiny-maml", "--check"])
    printed = capsys.readouterr().out
    assert "tiny: cannot be evaluated: " in printed
    assert "tiny-maml, seed 1: agrees" in printed


def test_a_damaged_list_of_arguments_is_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    (path,) = run.run_folder("tiny", 1).glob("runs/*/args.json")
    path.write_text("")  # as while the script writes it
    (tiny / "seed-1" / "eval.json").unlink()
    with pytest.raises(envs.UsageError, match="args.json is damaged. .* rl2_ppo.py --resume"):
        run.main(["tiny", "--list"])


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "numbers.json"
    assert files.read_json(path) == {}
    files.write_json(path, {"RL²": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"RL²": object()})
    assert files.read_json(path) == {"RL²": 1}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))  # as on a full disk
    try:
        with pytest.raises(OSError):
            files.write_json(path, {"RL²": list(range(1000))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert files.read_json(path) == {"RL²": 1}


def test_other_arguments_make_a_row_out_of_date(tiny, monkeypatch, capsys):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1", "2"])
    changed = TINY | {"arguments": TINY["arguments"] | {"hidden_size": 4}}
    monkeypatch.setitem(ROWS, "tiny", changed)
    run.main(["tiny", "--list"])
    listed = capsys.readouterr().out
    assert listed.count("out of date") == 2
    with monkeypatch.context() as patch:
        patch.setattr(run, "train", never)
        # not seed 3 either, which has no results: it would remove the others'
        run.bring_up_to_date("tiny", [1, 2, 3], is_named=False)
    assert capsys.readouterr().out.count("left alone") == 3
    run.main(["tiny", "--seeds", "2"])
    assert run.state("tiny", 2) == "collected"
    assert run.state("tiny", 1) == "missing"  # seeds of different arguments have no mean
    assert torch.load(tiny / "agent.pt", weights_only=True)["args"]["hidden_size"] == 4
    assert run.read_agent_seed("tiny") == 2


def test_a_new_seed_removes_former_ones_that_the_row_does_not_name_any_more(tiny, monkeypatch):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1", "2"])
    arguments = TINY["arguments"] | {"hidden_size": 4}
    monkeypatch.setitem(ROWS, "tiny", TINY | {"arguments": arguments, "seeds": [1]})
    run.main(["tiny"])
    assert [path.name for path in tiny.glob("seed-*")] == ["seed-1"]


def test_a_seed_that_is_trained_again_replaces_the_published_agent(tiny, monkeypatch):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    shutil.rmtree(tiny / "seed-1")
    shutil.rmtree(run.RUNS / "tiny")
    (tiny / "agent.pt").write_bytes(b"of a network of the past")
    run.main(["tiny", "--seeds", "1"])
    assert torch.load(tiny / "agent.pt", weights_only=True)["args"]["seed"] == 1
    assert run.read_agent_seed("tiny") == 1


def test_arguments_that_change_no_number_do_not_count(tiny):
    write_seed("tiny", 1, ppo_result(1.0))
    path = run.results_folder("tiny", 1) / "args.json"
    args = json.loads(path.read_text()) | {"exp_name": "other", "checkpoint_seconds": 1.0}
    del args["target_kl"]  # as if it were written before the script had it
    path.write_text(json.dumps(args))
    assert run.state("tiny", 1) == "collected"
    path.write_text(json.dumps(args | {"gamma": 0.5}))
    assert run.state("tiny", 1) == "out of date"


def test_random_pulls_earn_a_half():
    rows = [row for row in plot.read("random.json").values() if row["env_id"] == "Bandit-v0"]
    assert len(rows) > 20
    for row in rows:
        assert row["return_stderr"] < 6e-4  # a table has 500 of them
        assert abs(row["return_mean"] - 0.5) < 4 * row["return_stderr"]


def test_the_median_seed(tiny):
    for seed, mean in ((1, 5.0), (2, 1.0), (3, 3.0)):
        write_seed("tiny", seed, ppo_result(mean))
    assert run.median_seed("tiny") == 3
    (run.results_folder("tiny", 3) / "eval.json").unlink()
    assert run.median_seed("tiny") == 2  # of two the lower one


def test_two_processes_do_not_train_the_same(tiny, monkeypatch):
    monkeypatch.setattr(run, "call", never)
    with run.lock("tiny", 1):
        assert run.describe("tiny", 1) == "missing, running"
        with pytest.raises(envs.UsageError, match="is being trained"):
            run.train("tiny", 1)
    assert run.describe("tiny", 1) == "missing"


def test_ctrl_c_goes_on_to_the_script(tmp_path, monkeypatch):
    # In a program that was started in the background, Ctrl-C may be ignored.
    program = """
import signal
import time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    Path("ready").touch()
    time.sleep(60)
except KeyboardInterrupt:
    Path("stopped").touch()
"""
    wait = subprocess.Popen.wait
    waits = []

    def interrupted(process, *arguments):
        waits.append(process)
        if len(waits) > 1:
            return wait(process, *arguments)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.call([sys.executable, "-c", program], tmp_path)
    assert (tmp_path / "stopped").exists()
    assert waits[0].returncode == 0


def stand_in(program, folder):
    """What takes the place of `run.words_of`: a program that knows the folder and its seed."""
    return lambda name, seed: [sys.executable, "-c", program, str(folder), str(seed)]


def test_runs_side_by_side(tiny, monkeypatch, tmp_path, capsys):
    program = """
import os
import sys
import time
from pathlib import Path
folder, seed = sys.argv[1:]
folder = Path(folder)
print("threads", os.environ["OMP_NUM_THREADS"], flush=True)
(folder / f"started-{seed}").touch()
deadline = time.monotonic() + 60
while seed in "12" and not ((folder / "started-1").exists() and (folder / "started-2").exists()):
    time.sleep(0.01)
    if time.monotonic() > deadline:
        sys.exit(9)  # two did not run at once
if seed == "3" and not list(folder.glob("ended-*")):
    sys.exit(9)  # three ran at once
(folder / f"ended-{seed}").touch()
sys.exit(seed == "2")
"""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(run, "words_of", stand_in(program, tmp_path))
    with pytest.raises(envs.UsageError, match="see their logs: tiny, seed 2[.]$"):
        run.main(["tiny", "--jobs", "2"])
    assert (run.run_folder("tiny", 3) / "log").read_text() == "threads 3\n"
    printed = capsys.readouterr().out
    for seed, status in ((1, 0), (2, 1), (3, 0)):
        assert f"seed {seed}: ended with status {status}" in printed


def test_ctrl_c_stops_all_that_run_side_by_side(tiny, monkeypatch, tmp_path):
    program = """
import signal
import sys
import time
folder, seed = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    open(f"{folder}/ready-{seed}", "w")
    time.sleep(60)
except KeyboardInterrupt:
    open(f"{folder}/stopped-{seed}", "w")
"""
    sleep = time.sleep

    def interrupted(seconds):
        if len(list(tmp_path.glob("ready-*"))) == 2:
            raise KeyboardInterrupt
        sleep(0.01)

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr(run, "words_of", stand_in(program, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run.main(["tiny", "--jobs", "2"])
    # the third has not begun
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-1", "stopped-2"]


def test_what_is_missing_side_by_side(tiny, monkeypatch):
    write_seed("tiny", 1, ppo_result(1.0))
    write_seed("tiny", 2, ppo_result(1.0))
    path = run.results_folder("tiny", 2) / "args.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 4}))
    monkeypatch.setattr(run, "ROWS", {"tiny": TINY, "tiny-maml": TINY_MAML})
    asked = []
    monkeypatch.setattr(run, "bring_up_to_date_side_by_side", lambda *args: asked.append(args))
    run.main(["--jobs", "2"])
    run.main(["tiny", "--jobs", "2"])
    run.main(["tiny", "--jobs", "2", "--seeds", "1", "3"])
    # A row that is out of date is trained again only where it is named.
    # Another seed of it would remove those results.
    assert asked[0] == ([("tiny-maml", 1)], 2)
    assert asked[1] == ([("tiny", 2), ("tiny", 3)], 2)
    assert asked[2] == ([("tiny", 3)], 2)
    with pytest.raises(envs.UsageError, match="--jobs must be at least 1"):
        run.main(["tiny", "--jobs", "0"])


def test_one_process_at_a_time_changes_the_results(tiny, monkeypatch):
    def is_locked(*arguments):
        with open(run.RUNS / "lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    seen = []
    monkeypatch.setattr(run, "train", train_here)
    for name in ("collect", "publish_agent", "add_random_return"):
        inner = getattr(run, name)

        def outer(*arguments, inner=inner):
            seen.append(is_locked())
            return inner(*arguments)

        monkeypatch.setattr(run, name, outer)
    run.main(["tiny", "--seeds", "1"])
    assert all(seen) and len(seen) >= 3
    assert not is_locked()


def test_mistakes_are_one_sentence(tiny, capsys):
    with pytest.raises(envs.UsageError, match="no row nonsense"):
        run.main(["nonsense"])
    with pytest.raises(envs.UsageError, match=r"no seeds \[7\] for tiny"):
        run.main(["tiny", "--seeds", "7"])
    with pytest.raises(envs.UsageError, match="see above: tiny[.]"):
        run.main(["tiny", "--check"])
    assert "tiny has no agent yet: python benchmark/run.py tiny\n" in capsys.readouterr().out
    (tiny / "agent.json").parent.mkdir()
    (tiny / "agent.json").write_text('{"seed": 1}')  # its results were removed
    with pytest.raises(envs.UsageError, match="see above: tiny[.]"):
        run.main(["tiny", "--check"])
    assert "seed-1 has no results: python benchmark/run.py tiny\n" in capsys.readouterr().out


def test_a_row_that_fails_does_not_stop_the_others(tiny, monkeypatch, capsys):
    monkeypatch.setattr(run, "call", lambda *arguments: 2)
    with pytest.raises(envs.UsageError, match="These rows failed, see above: tiny, tiny-maml[.]"):
        run.main(["tiny", "tiny-maml"])
    printed = capsys.readouterr().out
    assert "error: tiny, seed 1, ended with status 2" in printed
    assert "error: tiny-maml, seed 1, ended with status 2" in printed


def test_random_actions_are_measured_again_where_the_environment_is_another(tiny, monkeypatch):
    path = run.RESULTS / "random.json"
    path.write_text('{"tiny": {"return_mean": 0.25}}')  # of an unknown environment
    run.add_random_return("tiny")
    measured = json.loads(path.read_text())["tiny"]
    assert measured["env_id"] == TINY["arguments"].get("env_id", "Bandit-v0")
    assert measured["return_mean"] == pytest.approx(0.5, abs=0.02)
    monkeypatch.setattr(run.baselines, "random_return", never)
    run.add_random_return("tiny")


def test_what_fails_in_collecting_leaves_the_former_results(tiny, monkeypatch):
    monkeypatch.setattr(run, "train", train_here)
    run.main(["tiny", "--seeds", "1"])
    folder = run.results_folder("tiny", 1)
    former = (folder / "eval.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run, "curve", never)
        with pytest.raises(AssertionError):
            run.collect("tiny", 1)
    assert (folder / "eval.json").read_bytes() == former
    # A run that was finished by hand has no machine.json until it is collected.
    assert json.loads((folder / "machine.json").read_text()) == run.machine()


def test_rows_with_long_trials_name_their_number_of_trials():
    """A script lowers its default there, and `find_run` would not know the run again."""
    for name, row in ROWS.items():
        if row["script"] != "maml_trpo" and "num_envs" not in row["arguments"]:
            args = run.arguments(name, 1)
            env = envs.make(args["env_id"], 1, **args["env_kwargs"])
            assert args["episodes_per_trial"] * env.horizon <= 100, name
            env.close()


# --------------------------------------------------------------------------------------- over seeds


def test_means_and_errors_over_seeds_by_hand():
    mean, stderr = plot.over_seeds([(1.0, 9.0), (2.0, 9.0), (6.0, 9.0)])
    assert mean == 3
    assert stderr == pytest.approx((14 / 2 / 3) ** 0.5)  # deviations -2, -1, 3
    assert plot.over_seeds([(1.0, 9.0)]) == (1.0, 9.0)
    means, stderrs = plot.over_seeds([([1.0, 2.0], [9.0, 9.0]), ([3.0, 2.0], [9.0, 9.0])])
    assert means.tolist() == [2, 2]
    assert stderrs.tolist() == [pytest.approx(1), 0]


def test_a_table_shows_mean_error_and_each_seed(tiny):
    (run.RESULTS / "baselines.json").write_text("{}")
    (run.RESULTS / "random.json").write_text('{"tiny": {"return_mean": 0.25}}')
    write_seed("tiny", 1, ppo_result(1.0))
    _, _, line, *others = plot.ppo_table("rl2_ppo").splitlines()
    assert "(../benchmark/results/tiny) | **1.000** ± 0.500 | 1 seed |" in line
    assert len(others) == sum(row["script"] == "rl2_ppo" for row in ROWS.values()) - 1
    assert all("not trained yet" in other for other in others)
    write_seed("tiny", 3, ppo_result(3.0))
    _, _, line, *_ = plot.ppo_table("rl2_ppo").splitlines()
    assert "(../benchmark/results/tiny) | **2.000** ± 1.000 | 1.000, 3.000 |" in line


def test_pages_without_a_single_result(tiny):
    (run.RESULTS / "baselines.json").write_text("{}")
    assert len(plot.short_table().splitlines()) == 2
    lines = plot.maml_table().splitlines()
    assert len(lines) == 2 + sum(row["script"] == "maml_trpo" for row in ROWS.values())
    assert all("not trained yet" in line for line in lines[2:])
    for table in (plot.bandits_table(), plot.mdps_table()):
        assert "**" not in table
        assert table.count("not trained yet") > 10
    assert plot.limit("rl2-ant-dir-oracle") == "–"
    assert plot.levels() == ""
    assert len(plot.tutorial_efficiency().splitlines()) == 2
    assert plot.tutorial_choice().startswith("Not trained yet: `python benchmark/run.py navigation")


def test_the_error_of_a_share_is_that_of_simulated_returns():
    rng = np.random.default_rng(0)
    means = rng.normal(70.0, 1.0, 1_000_000)
    bests = rng.normal(90.0, 2.0, 1_000_000)
    shares = (means + 10) / (bests + 10)
    share, error = plot.share_of_oracle(70.0, 1.0, 90.0, 2.0, -10.0)
    assert share == pytest.approx(0.8)
    assert error == pytest.approx(shares.std(), rel=0.01)


def test_the_parts_of_a_meta_iteration_are_parts_of_it():
    """The update was measured by itself. It is in the last column, with adaptation."""
    for row in plot.speeds("seconds").values():
        rest = row["seconds"] - row["rollouts"] - row["advantages"]
        assert min(row["rollouts"], row["advantages"], row["update"]) > 0
        assert rest > row["update"]


def test_curves_of_seeds_and_their_mean():
    figure, axes = plot.plt.subplots()
    curves = []
    for height in (1.0, 3.0):
        steps = (1e6, 2e6 + height, 3e6)
        curves.append([{"global_step": step, "return": height * step} for step in steps])
    plot.draw_curves(axes, curves, lambda line: line["return"] / 1e6, "C0", label="mean")
    thin_low, thin_high, mean = axes.lines
    assert thin_low.get_ydata().tolist() == pytest.approx([1, 2, 3], rel=1e-5)
    assert thin_high.get_ydata()[-1] == 9
    assert mean.get_ydata() == pytest.approx(2 * mean.get_xdata(), rel=1e-5)
    plot.plt.close(figure)


def test_a_row_draws_with_fewer_curves_than_seeds(tiny, monkeypatch):
    (run.RESULTS / "random.json").write_text('{"tiny": {"return_mean": 0.25}}')
    monkeypatch.setattr(plot, "ROOT", run.RESULTS)
    for seed in (1, 2):
        write_seed("tiny", seed, ppo_result(1.0) | {"global_step": 100})
    (row,) = plot.published("rl2_ppo")
    plot.plot_ppo(*row)
    assert (run.RESULTS / "docs/figures/tiny.png").stat().st_size > 10_000


def test_the_estimate_by_regret_by_hand():
    result = {"env_id": "Bandit-v0", "env_kwargs": {"num_arms": 3}, "episodes_per_trial": 4}
    result |= {"regret_mean": 0.5, "regret_stderr": 0.1, "return_mean": 2.4, "return_stderr": 0.2}
    assert plot.estimate(result) == (4 * 3 / 4 - 0.5, 0.1)  # E max of 3 times U[0, 1] is 3/4
    del result["regret_mean"]
    assert plot.estimate(result) == (2.4, 0.2)


def test_a_maml_row_scores_after_one_step_and_an_oracle_before():
    result = {"algorithm": "maml_trpo", "env_kwargs": {}}
    result |= {"return_by_gradient_step": [1.0, 2.0], "return_by_gradient_step_stderr": [3.0, 4.0]}
    assert plot.score(result) == (2, 4)
    assert plot.score(result | {"env_kwargs": {"observe_task": True}}) == (1, 3)


def test_the_episodes_of_a_maml_trial_before_and_after_its_step():
    """The return over a trial as the sum of its episodes, from what `evaluate` returns."""
    args = maml_trpo.Args(env_id="Bandit-v0", eval_episodes=4)
    env = envs.make("Bandit-v0")
    policy = maml_trpo.Policy(env, args)
    tasks = env.sample_tasks(300, 0)
    torch.manual_seed(0)
    params = policy.initial_params()
    returns = maml_trpo.evaluate(policy, params, "Bandit-v0", {}, tasks, 4)  # [tasks, 4, episodes]
    by_step = returns.mean(2)
    result = {
        "eval_episodes": 4,
        "return_by_gradient_step": by_step.mean(0).tolist(),
        "return_by_gradient_step_stderr": (by_step.std(0, ddof=1) / 300**0.5).tolist(),
    }
    mean, stderr = plot.maml_trial(result, 8)  # 4 episodes before, 4 after
    trials = returns[:, :2].sum((1, 2))
    assert mean == pytest.approx(trials.mean())
    assert stderr >= trials.std(ddof=1) / 300**0.5
    mean, _ = plot.maml_trial(result, 5)
    assert mean == pytest.approx(returns[:, 0].sum(1).mean() + returns[:, 1].mean())


def test_which_rows_were_trained_in_float32(tiny):
    for seed, machine in (
        (1, {"avx": "AVX512", "bfloat16": False, "gpu": None}),
        (2, {"avx": "AVX512", "gpu": None}),  # an older run
    ):
        write_seed("tiny", seed, ppo_result(1.0))
        folder = run.results_folder("tiny", seed)
        args = json.loads((folder / "args.json").read_text())
        (folder / "args.json").write_text(json.dumps(args | {"amp": True}))
        (folder / "machine.json").write_text(json.dumps(machine))
    assert plot.trained_in_float32() == "`tiny` (seed 1)"
    shutil.rmtree(folder)
    assert plot.trained_in_float32() == "`tiny`"
    write_seed("tiny", 3, ppo_result(1.0))  # of a machine that is not known
    assert plot.trained_in_float32() == "`tiny` (seed 1)"


def test_the_papers_table_has_the_papers_numbers_and_ours(tiny, monkeypatch):
    monkeypatch.setitem(ROWS, "tiny", TINY | {"baselines": ["50 arms, 1000 pulls"]})
    (run.RESULTS / "random.json").write_text('{"tiny": {"return_mean": 0.25}}')
    entry = '{"50 arms, 1000 pulls": {"finite-horizon Gittins": {"return_mean": 12.5}}}'
    (run.RESULTS / "baselines.json").write_text(entry)
    write_seed("tiny", 1, ppo_result(1.0))
    *_, line = plot.bandits_table().splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["50 arms, 1000 pulls", "12.5", "–"]
    assert cells[6:] == [
        "847.4 (SNAIL paper)",
        "889.8",
        "–",
        "**1** ± 0.5 (1 seed)",
        "not trained yet",
        "–",
    ]


# ---------------------------------------------------------------------------- the tutorial's tables


def test_uses_have_their_results_or_say_that_there_are_none():
    lines = plot.tutorial_uses().splitlines()[2:]
    for line, name in zip(lines, plot.USES.values(), strict=True):
        if name not in PUBLISHED:
            assert f"| not measured yet |  |  | `python benchmark/run.py {name}` |" in line
            continue
        entry = "return_by_gradient_step" if name in MAML_ROWS else "return_by_episode"
        paths = RESULTS.glob(f"{name}/seed-*/eval.json")
        seeds = [json.loads(path.read_text())[entry][:2] for path in paths]
        for mean in np.mean(seeds, axis=0):
            assert f": {float(f'{mean:.3g}'):g} ±" in line  # 1730, not 1.73e+03
        assert (RESULTS / name / "seed-1" / "command.txt").read_text().strip() in line


@pytest.mark.parametrize("steps", [10, 16, 17, 100])
def test_what_snail_keeps_is_what_its_memory_holds(steps):
    args = snail_ppo.Args(episodes_per_trial=steps, sizes=(5, 4, 3, 2))
    agent = snail_ppo.Agent(envs.make("Bandit-v0", 1), args)
    memory = agent.initial_state(1)
    with torch.no_grad():
        for _ in range(steps):
            _, _, memory = agent.step(torch.zeros(1, 8), memory)
    features, lookups = memory
    held = sum(column.numel() for column in features) + lookups.numel()
    assert plot.kept_by_snail(vars(args), steps) == held


def test_where_a_curve_reaches_a_part_of_its_gain_by_hand():
    row = {"script": "rl2_ppo", "random": 0.5}
    result = {"algorithm": "rl2_ppo", "episodes_per_trial": 10, "return_mean": 9.0}
    results = {1: result | {"return_stderr": 0.1}}
    curve = []
    for episodes, trial_return in ((5, 2.5), (5, 4.3), (10, 8.7), (10, 8.9), (10, 9.0)):
        curve.append({"episodes_per_trial": episodes, "trial_return": trial_return})
    # from 10 * 0.5 to 9: 95 % of the gain is there at 8.8, and 85 % at 8.4
    assert plot.reached(row, results, curve, 0.95) == curve[3]
    assert plot.reached(row, results, curve, 0.85) == curve[1]  # 4.3 in half a trial
    assert plot.reached(row, results, curve, 1.1) is None


# --------------------------------------------------------------------------------------- baselines


def test_bayes_optimum_by_hand():
    assert baselines.bayes_optimum(1, 7) == pytest.approx(3.5)
    # two arms, two pulls: after a success stay (mean 2/3), after a failure change (mean 1/2)
    assert baselines.bayes_optimum(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_gittins_index_by_hand():
    index = baselines.gittins_indices(2)
    # with one pull left it is the mean
    assert index[1][baselines.position(1, 1)] == pytest.approx(2 / 3, abs=1e-3)
    # two pulls left, nothing known: 2 x = 1/2 + 1/2 max(2/3, x) + 1/2 max(1/3, x) has x = 5/9
    assert index[2][baselines.position(0, 0)] == pytest.approx(5 / 9, abs=1e-3)


def gittins_index(wins, losses, left):
    """By bisection: the constant reward that is worth as much as the arm, with optimal stopping."""

    @cache
    def value(constant, wins, losses, left):
        if left == 0:
            return 0.0
        return max(left * constant, pull(constant, wins, losses, left))

    def pull(constant, wins, losses, left):
        p = (wins + 1) / (wins + losses + 2)
        won = value(constant, wins + 1, losses, left - 1)
        lost = value(constant, wins, losses + 1, left - 1)
        return p * (1 + won) + (1 - p) * lost

    low = 0.0
    high = 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if pull(middle, wins, losses, left) > left * middle:
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("num_pulls", [10, 100])
def test_gittins_indices_are_those_of_bisection(num_pulls):
    index = baselines.gittins_indices(num_pulls)
    rng = np.random.default_rng(0)
    for _ in range(30):
        left = int(rng.integers(1, min(num_pulls, 40)))
        pulls = int(rng.integers(0, num_pulls - left + 1))
        wins = int(rng.integers(0, pulls + 1))
        by_bisection = gittins_index(wins, pulls - wins, left)
        position = baselines.position(wins, pulls)
        assert index[left][position] == pytest.approx(by_bisection, abs=2e-3)


def value_of_two_arms(num_pulls, index=None):
    """The exact return of the optimal policy in two arms, or of the one of the highest index.

    Backward induction over the posteriors of both arms.
    """
    # of the arms' pulls m, n and wins w, v: values[m][w, v], where m + n pulls were made
    values = [np.zeros((m + 1, num_pulls - m + 1)) for m in range(num_pulls + 1)]
    for made in reversed(range(num_pulls)):
        earlier = []
        for m in range(made + 1):
            n = made - m
            w = np.arange(m + 1)[:, None]
            v = np.arange(n + 1)[None]
            p = (w + 1) / (m + 2)
            first = p * (1 + values[m + 1][1:]) + (1 - p) * values[m + 1][:-1]
            p = (v + 1) / (n + 2)
            second = p * (1 + values[m][:, 1:]) + (1 - p) * values[m][:, :-1]
            best = np.maximum(first, second)
            if index is not None:
                now = index[num_pulls - made]
                is_first = now[baselines.position(w, m)] > now[baselines.position(v, n)]
                best = np.where(is_first, first, second)
            earlier.append(best)
        values = earlier
    return values[0][0, 0]


@pytest.mark.parametrize("num_pulls", [2, 10, 50, 100])
def test_the_gittins_policy_is_near_the_optimum_of_two_arms(num_pulls):
    optimum = value_of_two_arms(num_pulls)
    if num_pulls <= 10:
        assert baselines.bayes_optimum(2, num_pulls) == pytest.approx(optimum)
    value = value_of_two_arms(num_pulls, baselines.gittins_indices(num_pulls))
    assert optimum * (1 - 2e-4) < value <= optimum + 1e-9
    score = baselines.simulate(baselines.gittins(num_pulls), 2, num_pulls, 20_000)
    assert abs(score["return_mean"] - value) < 4.5 * score["return_stderr"]


def test_many_tasks_are_simulated_in_parts(monkeypatch):
    parts = []

    def regrets(choose, num_arms, num_pulls, num_tasks, seed):
        parts.append((num_tasks, seed))
        return np.full(num_tasks, float(seed))

    monkeypatch.setattr(baselines, "bandit_regrets", regrets)
    score = baselines.simulate(baselines.greedy, 3, 4, 500_000)
    assert parts == [(200_000, 0), (200_000, 10), (100_000, 20)]
    assert score["return_mean"] == pytest.approx(4 * 3 / 4 - (2 * 10 + 20) / 5)


def test_ucb_by_hand():
    wins = np.array([[3.0, 0.0]])
    losses = np.array([[1.0, 0.0]])
    rng = np.random.default_rng(0)
    # posterior means 4/6 and 1/2, t = 4: the bonus is c sqrt(2 ln 5) times 1/sqrt(5) and 1
    border = (4 / 6 - 1 / 2) / ((2 * np.log(5)) ** 0.5 * (1 - 5**-0.5))
    assert baselines.ucb(border - 0.01)(wins, losses, 4, rng) == [0]
    assert baselines.ucb(border + 0.01)(wins, losses, 4, rng) == [1]


def test_the_best_constants_are_chosen(monkeypatch):
    def simulate(constant, *arguments, seed):
        return {"return_mean": -((constant - 0.3) ** 2)}

    monkeypatch.setattr(baselines, "ucb", lambda constant: constant)
    monkeypatch.setattr(baselines, "simulate", simulate)
    assert baselines.tuned_ucb_constant(5, 10) == 0.3

    def regrets(num_episodes, num_tasks, bonus, seed):
        return np.array([(bonus - 1.2) ** 2])

    monkeypatch.setattr(baselines, "mdp_regrets", regrets)
    assert baselines.tuned_bonus(10) == 1.25


def test_posteriors_of_mdps_by_hand():
    # three states, of which the second was seen twice and the third once: (1, 3, 2) / 6
    means = baselines.transition_means(np.array([0.0, 2.0, 1.0]))
    assert means == pytest.approx([1 / 6, 3 / 6, 2 / 6])
    # a prior of mean 1 and rewards 4 and 7 of the same variance
    assert baselines.reward_means(np.array(11.0), np.array(2.0)) == pytest.approx(12 / 3)


def test_samples_of_the_posterior_have_its_moments():
    rng = np.random.default_rng(0)
    count = 40_000
    counts = np.tile([[0.0, 2.0, 1.0]], (count, 1, 1, 1))  # [N, 1, 1, 3]
    sums = np.full((count, 1, 1), 11.0)
    visits = np.full((count, 1, 1), 2.0)
    transitions, rewards = baselines.posterior_sample(counts, sums, visits, rng)
    assert transitions.sum(3) == pytest.approx(1)
    # Dirichlet(1, 3, 2): mean a / 6, variance a (6 - a) / (36 * 7)
    alpha = np.array([1, 3, 2])
    variance = alpha * (6 - alpha) / (36 * 7)
    samples = transitions[:, 0, 0]
    assert (abs(samples.mean(0) - alpha / 6) < 4.5 * (variance / count) ** 0.5).all()
    assert samples.var(0) == pytest.approx(variance, rel=0.05)
    # Normal(12 / 3, 1 / 3)
    assert abs(rewards.mean() - 4) < 4.5 * (1 / 3 / count) ** 0.5
    assert rewards.var() == pytest.approx(1 / 3, rel=0.05)


def test_who_has_seen_everything_makes_no_mistake():
    """With endless counts PSRL's draw and the planner's means are the MDP."""
    tasks = envs.make("TabularMDP-v0").sample_tasks(200, 0)
    visits = np.full(tasks["rewards"].shape, 1e12)
    counts = 1e12 * tasks["transitions"]
    sums = 1e12 * tasks["rewards"]
    optimum, regret = envs.plan(tasks["transitions"], tasks["rewards"], 10)
    drawn = baselines.posterior_sample(counts, sums, visits, np.random.default_rng(0))
    optimistic = baselines.reward_means(sums, visits) + 2 / np.sqrt(1 + visits)
    for tables in (drawn, (baselines.transition_means(counts), optimistic)):
        value, loss = envs.plan(*tables, 10)
        assert value == pytest.approx(optimum, abs=1e-3)
        actions = loss.argmin(axis=3)[..., None]
        assert np.take_along_axis(regret, actions, axis=3).max() < 1e-3


def test_what_the_planner_has_seen(monkeypatch):
    """Its tables are those of counting every step that it could see, one by one."""
    steps = []
    tables = []

    class Recorder:
        def __init__(self, env):
            self.env = env
            self.obs = None

        def __getattr__(self, name):
            return getattr(self.env, name)

        def reset(self, **kwargs):
            self.obs, info = self.env.reset(**kwargs)
            return self.obs, info

        def step(self, actions):
            result = self.env.step(actions)
            steps.append((self.obs, actions, result[1], result[0]))
            self.obs = result[0]
            return result

    make = envs.make
    plan = envs.plan

    def recorded(transitions, rewards, horizon):
        tables.append((transitions.copy(), rewards.copy(), horizon))
        return plan(transitions, rewards, horizon)

    monkeypatch.setattr(envs, "make", lambda *arguments: Recorder(make(*arguments)))
    monkeypatch.setattr(envs, "plan", recorded)
    baselines.mdp_regrets(2, 3, bonus=0.7)
    # (an environment also plans, once, when it takes its tasks)
    tables = [table for table in tables if table[0].shape[0] == 3][-20:]
    assert [horizon for _, _, horizon in tables] == [*range(10, 0, -1)] * 2
    counts = np.zeros((3, 10, 5, 10))
    sums = np.zeros((3, 10, 5))
    visits = np.zeros((3, 10, 5))
    for t, (transitions, rewards, _) in enumerate(tables):
        expected = (1 + counts) / (10 + counts.sum(3, keepdims=True))
        assert transitions == pytest.approx(expected)
        assert rewards == pytest.approx((1 + sums) / (1 + visits) + 0.7 / np.sqrt(1 + visits))
        obs, actions, reward, next_obs = steps[t]
        for n in range(3):
            visits[n, obs[n], actions[n]] += 1
            sums[n, obs[n], actions[n]] += reward[n]
            if t % 10 < 9:
                counts[n, obs[n], actions[n], next_obs[n]] += 1
    assert visits.sum() == 60


def test_mdp_baselines_are_in_order(monkeypatch):
    """Random actions, then PSRL, then the planner, then who knows the MDP."""
    monkeypatch.setattr(baselines, "tuned_bonus", lambda num_episodes: 0.7)
    monkeypatch.setattr(baselines, "expected_optimum", lambda *arguments: (21.83, 0.03))
    scores = {}
    for name in ("PSRL", "planner that knows the prior", "informed optimum"):
        scores[name] = baselines.mdp_baseline(name, 3, 2000)
    means = [30.0] + [score["return_mean"] for score in scores.values()]
    assert means == sorted(means)
    assert scores["informed optimum"]["return_mean"] == pytest.approx(65.5, abs=0.3)
    assert scores["planner that knows the prior"]["bonus"] == 0.7


def test_baselines_go_on_where_they_were_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "RESULTS", tmp_path)
    monkeypatch.setattr(baselines, "BANDITS", {"2 arms, 3 pulls": (2, 3, 100, 100)})
    monkeypatch.setattr(baselines, "MDPS", {})
    monkeypatch.setattr(baselines, "SETTINGS", ["2 arms, 3 pulls"])
    baseline = baselines.baseline
    calls = []

    def counted(setting, name):
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return baseline(setting, name)

    monkeypatch.setattr(baselines, "baseline", counted)
    with pytest.raises(KeyboardInterrupt):
        baselines.main([])
    baselines.main(["--list"])
    listed = capsys.readouterr().out
    assert listed.count("(there)") == 2
    assert listed.count("missing") == 5
    baselines.main([])
    names = baselines.names_of("2 arms, 3 pulls")
    assert calls == [*names[:3], *names[2:]]
    assert list(baselines.read()["2 arms, 3 pulls"]) == names
    baselines.main([])
    assert len(calls) == 8
    first = baselines.read()
    baselines.main(["2 arms, 3 pulls"])  # anew, and the same
    assert len(calls) == 15
    assert baselines.read() == first
    with pytest.raises(envs.UsageError, match="no setting '7 arms'"):
        baselines.main(["7 arms"])


def test_the_committed_baselines_are_in_order():
    """Whatever is there: no algorithm is better than its limit, and none worse than random."""
    for setting, scores in plot.read("baselines.json").items():
        limit_names = ("informed optimum", "Bayes optimum (exact)", "finite-horizon Gittins")
        limit = next((scores[name] for name in limit_names if name in scores), None)
        if limit is None:
            continue
        for name, score in scores.items():
            error = np.hypot(score.get("return_stderr", 0.0), limit.get("return_stderr", 0.0))
            assert score["return_mean"] <= limit["return_mean"] + 4.5 * error, (setting, name)


def test_the_optimum_of_an_environment_of_ones_own_is_unknown():
    assert baselines.expected_optimum("not_importable:MyTask-v0", {}) is None


def test_optimum_of_who_knows_the_task():
    mean, stderr = baselines.expected_optimum("Bandit-v0", {"num_arms": 5})
    assert (mean, stderr) == (5 / 6, 0.0)
    best = envs.make("Bandit-v0").sample_tasks(100_000, 0).max(axis=1)
    assert abs(best.mean() - mean) < 4.5 * best.std() / 100_000**0.5
    mean, stderr = baselines.expected_optimum("TabularMDP-v0", {}, 20_000)
    assert abs(mean - 21.83) < 0.1  # 218.3 for ten episodes: an informed planner's score
    assert 0 < stderr < 0.05
    assert baselines.expected_optimum("Navigation2D-v0", {}) is None


def test_every_baseline_runs_and_falls_between_random_and_the_optimum():
    scores = {}
    for name in baselines.bandit_names(4):
        scores[name] = baselines.bandit_baseline(name, 3, 4, 4000, 4000)
    assert len(scores) == 7
    optimum = scores["Bayes optimum (exact)"]["return_mean"]
    for name, score in scores.items():
        error = score.get("return_stderr", 0.0)
        assert 2.0 - 4.5 * error <= score["return_mean"] <= optimum + 4.5 * error, name


@pytest.mark.parametrize("env_id, mean", [("Bandit-v0", 0.5), ("TabularMDP-v0", 10.0)])
def test_random_actions_return_what_the_prior_says(env_id, mean):
    score = baselines.random_return(env_id, {}, 2000)
    assert abs(score["return_mean"] - mean) < 4.5 * score["return_stderr"]


MAZE = HAND_MADE[None]


def shortest_of_all_sequences(task, length):
    """The least number of steps to the goal, or None: all sequences of actions are tried."""
    sequences = np.array(list(itertools.product(range(3), repeat=length)))
    env = envs.make("VisualMaze-v0", len(sequences), size=(len(task) + 1) // 2)
    env.reset(seed=0, options={"tasks": np.repeat(task[None], len(sequences), axis=0)})
    for step, actions in enumerate(sequences.T, start=1):
        _, _, terminated, _, _ = env.step(actions)
        if terminated.any():
            return step
    return None


def test_a_planners_steps_in_a_maze_by_hand():
    # forward twice, to the right, forward; the other heading needs half a turn first
    assert baselines.shortest_paths(MAZE).tolist() == [4]
    turned = np.where(MAZE == 8, 10, MAZE)
    assert baselines.shortest_paths(turned).tolist() == [6]


@pytest.mark.parametrize("size", [2, 3])
def test_a_planners_steps_against_all_sequences_of_actions(size):
    length = 6
    tasks = envs.make("VisualMaze-v0", size=size).sample_tasks(8, 0)
    shortest = baselines.shortest_paths(tasks)
    assert (shortest <= length).sum() >= 3
    for task, steps in zip(tasks, shortest, strict=True):
        assert shortest_of_all_sequences(task, length) == (steps if steps <= length else None)


def blocks_on_the_way(blocks, row, column, heading):
    """The blocks of a view, by a march in tiny steps along the same 40 rays."""
    down, right = baselines.HEADINGS[heading]
    aside_down, aside_right = baselines.HEADINGS[(heading + 1) % 4]
    seen = set()
    for offset in (np.arange(40) + 0.5) / 20 - 1:
        for distance in np.arange(0.0005, 20, 0.001):
            y = row + 0.5 + distance * (down + offset * aside_down)
            x = column + 0.5 + distance * (right + offset * aside_right)
            place = (int(y), int(x))
            if place != (row, column):
                seen.add(place)
                if blocks[place]:
                    break
    return seen


def test_what_an_explorer_sees_against_a_march_in_tiny_steps():
    (task,) = envs.make("VisualMaze-v0").sample_tasks(1, 2)
    blocks = np.pad(np.where(task > 7, 0, task), 1, constant_values=7)
    for heading in range(4):
        for row, column in ((1, 1), (5, 5), (9, 3)):
            seen = baselines.blocks_in_view(blocks, row, column, heading)
            expected = blocks_on_the_way(blocks, row, column, heading)
            assert set(map(tuple, seen.tolist())) == expected


def test_an_explorers_steps_by_hand():
    # It looks along the first row. The nearest room that it has not seen would be the one below it:
    # it turns to the right, and sees a wall. Back to the left, forward, to the right: there is the
    # goal, a step ahead. In the second episode it knows that from the start.
    square = np.array([[8, 0, 0], [3, 2, 0], [0, 0, 1]], dtype=np.uint8)
    steps, found = baselines.explorer_steps(square, 50)
    assert steps.tolist() == [5, 3]
    assert found.all()
    # The goal is behind it.
    corridor = np.array([[1, 0, 8, 0, 0], *[[2] * 5] * 4], dtype=np.uint8)
    steps, found = baselines.explorer_steps(corridor, 50)
    assert steps.tolist() == [3, 3]  # half a turn and a step
    steps, found = baselines.explorer_steps(corridor, 2)
    assert steps.tolist() == [2, 2]
    assert not found.any()


def test_an_explorer_is_never_faster_than_the_planner_and_remembers():
    tasks = envs.make("VisualMaze-v0").sample_tasks(40, 4)
    episodes = np.array([baselines.explorer_steps(task, 500) for task in tasks])
    first, second = episodes[:, 0].T
    shortest = baselines.shortest_paths(tasks)
    assert episodes[:, 1].all()
    assert (first >= shortest).all()
    assert (second >= shortest).all()
    # Of the way to the goal it has seen in the first episode most, if not all.
    assert second.mean() < 1.25 * shortest.mean() < 0.8 * first.mean()


def test_random_steps_in_a_maze_whose_walk_is_known():
    """Two by two rooms, without walls between them: a Markov chain over poses."""
    maze = np.array([[8, 0, 0], [0, 2, 0], [0, 0, 1]], dtype=np.uint8)
    chance = np.zeros((2, 2, 4))  # of row, column and heading
    chance[0, 0, 0] = 1
    found = []
    for _ in range(30):
        after = (np.roll(chance, 1, axis=2) + np.roll(chance, -1, axis=2)) / 3
        for row, column, heading in np.ndindex(chance.shape):
            down, right = MOVES[heading]
            there = (min(max(row + down, 0), 1), min(max(column + right, 0), 1), heading)
            after[there] += chance[row, column, heading] / 3
        found.append(after[1, 1].sum())
        after[1, 1] = 0
        chance = after
    num = 4000
    env = envs.make("VisualMaze-v0", num, size=2, horizon=30)
    steps, is_found = baselines.random_steps(env, np.repeat(maze[None], num, axis=0))
    p = sum(found)
    assert abs(is_found.mean() - p) < 4.5 * (p * (1 - p) / num) ** 0.5
    mean = np.arange(1, 31) @ found + 30 * (1 - p)
    assert abs(steps.mean() - mean) < 4.5 * steps.std() / num**0.5


def test_mazes_in_the_results_are_those_that_are_computed():
    published = plot.read("baselines.json")
    shortest = baselines.shortest_paths(envs.make("VisualMaze-v0").sample_tasks(1000, [1, 0]))
    entry = published["5 × 5 rooms, 250 steps"]["planner that knows the maze"]
    assert entry["steps_mean"] == shortest.mean()
    # The explorer takes long: a part of the same mazes.
    tasks = envs.make("VisualMaze-v0").sample_tasks(1000, [1, 0])[:100]
    episodes = np.array([baselines.explorer_steps(task, 50)[0] for task in tasks])  # [100, 2]
    entry = published["5 × 5 rooms, 50 steps"][baselines.EXPLORER]
    for steps, summary in zip(episodes.T, (entry, entry["second"]), strict=True):
        assert abs(steps.mean() - summary["steps_mean"]) < 3 * steps.std() / 10
    planner = baselines.maze_baseline("planner that knows the maze", 2, 30, num_mazes=50)
    random = baselines.maze_baseline("random", 2, 30, num_mazes=50)
    assert planner["success"] == 1
    assert random["steps_mean"] > planner["steps_mean"]


@pytest.mark.parametrize("script", [rl2_ppo, snail_ppo])
def test_an_agents_steps_in_mazes_against_a_walk_step_by_step(script, tmp_path, monkeypatch):
    settings = {"small": (2, 9), "large": (3, 12), "longer than SNAIL's memory": (2, 13)}
    monkeypatch.setattr(baselines, "MAZES", settings)
    args = script.Args(env_id="VisualMaze-v0", env_kwargs={"horizon": 12}, episodes_per_trial=2)
    agent = script.Agent(envs.make("VisualMaze-v0", 1, horizon=12), args)
    saved = {"algorithm": script.ALGORITHM, "args": vars(args), "agent": agent.state_dict()}
    torch.save(saved, tmp_path / "agent.pt")
    result = run.maze_steps(script, tmp_path / "agent.pt", num_mazes=50)
    assert list(result) == list(settings)[: 2 if script is snail_ppo else 3]
    for name, episodes in result.items():
        size, horizon = settings[name]
        env = envs.make("VisualMaze-v0", 50, size=size, horizon=horizon)
        obs, _ = env.reset(seed=0, options={"tasks": env.sample_tasks(50, [1, 0])})
        torch.manual_seed(0)
        state = agent.initial_state(50)
        action = reward = done = np.zeros(50)
        steps = np.zeros((50, 2))
        found = np.zeros((50, 2), dtype=bool)
        episode = np.zeros(50, dtype=int)
        while (episode < 2).any():
            action, state = agent.act(obs, action, reward, done, state)
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            done = terminated | truncated
            for i in range(50):
                if episode[i] < 2:
                    steps[i, episode[i]] += 1
                    found[i, episode[i]] |= terminated[i]
            episode += done
        for i, summary in enumerate(episodes):
            assert summary == baselines.summary(steps[:, i], found[:, i])


def test_the_table_of_mazes_has_the_agents_steps(tmp_path, monkeypatch):
    entry = {"steps_mean": 8.0, "steps_stderr": 0.5, "success": 0.5}
    small = {"planner that knows the maze": entry, "random": entry | {"steps_mean": 80.0}}
    small[baselines.EXPLORER] = entry | {"second": entry | {"steps_mean": 6.0}}
    results = tmp_path / "maze-2-episodes" / "seed-3"
    results.mkdir(parents=True)
    (tmp_path / "baselines.json").write_text(
        json.dumps({"2 x 2 rooms": small, "3 x 3 rooms": small})
    )
    (tmp_path / "random.json").write_text(json.dumps({"maze-2-episodes": {"return_mean": -9.0}}))
    summaries = [entry | {"steps_mean": 20.0}, entry | {"steps_mean": 12.0, "success": 1.0}]
    (results / "mazes.json").write_text(json.dumps({"3 x 3 rooms": summaries}))
    (results / "curve.csv").write_text("global_step,seconds\n1,1\n")
    (results / "eval.json").write_text("{}")
    monkeypatch.setattr(plot, "RESULTS", tmp_path)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in plot.mazes().splitlines()]
    assert len(lines) == 2 + 3 + 4
    same = ["8.0 ± 0.5", "the same", "50%", "1", "1.00"]
    assert lines[2] == ["2 x 2 rooms", "planner that knows the maze", *same]
    shown = ["8.0 ± 0.5", "6.0 ± 0.5", "50.0%, 50.0%", "0.75", "0.75"]
    assert lines[4] == ["2 x 2 rooms", baselines.EXPLORER, *shown]
    link = "[RL²](../benchmark/results/maze-2-episodes), seed 3"
    shown = ["20.0 ± 0.5", "12.0 ± 0.5", "50.0%, 100.0%", "0.60", "1.50"]
    assert lines[8] == ["3 x 3 rooms", link, *shown]
