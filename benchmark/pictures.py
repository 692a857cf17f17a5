"""Pictures of a trained agent in held-out tasks, from its checkpoint: what `--capture-video` makes after an evaluation.

    python benchmark/pictures.py runs/.../checkpoint.pt      # writes beside the checkpoint, or into a folder named next

Locomotion, and ordinary environments that render to rgb_array: `video.gif`, episodes of some tasks side by side, before
and after adaptation (the first and the last one of a trial; for MAML before and after gradient steps). Navigation2D:
`paths.png`, as in figure 4 of Finn et al. (2017). Bandits and MDPs: `heatmap.png`, which arm is pulled, which state is
visited in the course of a trial, as a part of many agents in the same task.
"""

import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from gymnasium.spaces import Discrete, flatdim
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import envs  # noqa: E402
import maml_trpo  # noqa: E402
import rl2_ppo  # noqa: E402
import snail_ppo  # noqa: E402

SCRIPTS = {script.ALGORITHM: script for script in (maml_trpo, rl2_ppo, snail_ppo)}
PACKAGES = "on Debian or Ubuntu, sudo apt install libegl1 libgl1-mesa-dri"


def script_of(checkpoint):
    """The module of the script that made a checkpoint; UsageError for a file that none of them made."""
    try:
        return SCRIPTS[torch.load(checkpoint, weights_only=True, map_location="cpu")["algorithm"]]
    except Exception as error:
        raise envs.UsageError(f"{checkpoint} is no checkpoint of {', '.join(SCRIPTS)} ({error!r:.80}).") from None


def trials(checkpoint, num_tasks, copies, look=None, **kwargs):
    """`copies` trials of a checkpoint's agent in each of `num_tasks` held-out tasks: at least 20 for MAML, to adapt on.

    Returns the environment, the tasks, and a dict with an entry for every episode (RL^2, SNAIL) or gradient step (MAML,
    of which each copy is an episode): arrays [T, num_tasks, copies, ...] of `obs`, `action`, `valid`, and of what a
    function `look` of the environment gave before each step, [num_tasks or num_tasks * copies, ...].
    """
    script = script_of(checkpoint)
    maml = script is maml_trpo
    agent = script.load(checkpoint)
    args, copies = (agent[2], max(20, copies)) if maml else (agent.args, copies)
    env = envs.make(args.env_id, num_tasks * copies, **args.env_kwargs | kwargs)
    tasks = env.sample_tasks(num_tasks, np.random.default_rng([1, args.eval_seed]))
    seen, step = [], env.step

    def watched(actions):
        seen.append(look(env))
        return step(actions)

    if look:
        env.step = watched
    torch.manual_seed(args.eval_seed)
    if maml:
        batches = script.trial(*agent[:2], env, tasks, 3, args.eval_seed, args)
        parts = {}
        for i, batch in enumerate(batches):
            part = {name: batch[name].movedim(2, 0).numpy() for name in ("obs", "action", "valid")}
            if isinstance(env.single_observation_space, Discrete):
                part["obs"] = part["obs"].argmax(-1)  # of one-hot inputs
            parts[f"{i} gradient step" + "s" * (i != 1)] = part
    else:
        data = script.rollout(agent, env, np.repeat(tasks, copies, axis=0), args.episodes_per_trial, args.eval_seed)
        data = {name: data[name].unflatten(1, (num_tasks, copies)).numpy() for name in ("obs", "action", "episode")}
        parts = {}
        for i in range(args.episodes_per_trial):
            valid = data["episode"] == i
            # The steps of this episode, moved to the front: those of trials side by side begin at different times.
            order = np.argsort(~valid, axis=0, kind="stable")[: max(1, valid.sum(0).max())]
            part = {name: np.take_along_axis(data[name], expand(order, data[name]), 0) for name in ("obs", "action")}
            parts[f"episode {i + 1}"] = part | {"valid": np.take_along_axis(valid, order, 0), "order": order}
    env.close()
    for part in parts.values() if getattr(env, "observe_task", False) else ():  # what was seen without the task
        space = env._base_space
        seen_ = part["obs"][..., : flatdim(space)]
        part["obs"] = seen_.argmax(-1) if isinstance(space, Discrete) else seen_
    if look:
        start, seen = 0, np.stack(seen).reshape(len(seen), num_tasks, -1, *np.shape(seen)[2:])
        for part in parts.values():
            if maml:
                part["look"] = seen[start : start + len(part["obs"])]
                start += len(part["obs"])
            else:
                part["look"] = np.take_along_axis(seen, expand(part["order"], seen)[:, :, : seen.shape[2]], 0)
    return env, tasks, parts


def expand(order, array):
    """An index array with as many axes as `array`, for take_along_axis."""
    return order.reshape(order.shape + (1,) * (array.ndim - order.ndim))


def paths(checkpoint, folder, num_tasks=4, copies=3):
    """Navigation: the paths of some episodes in each task before and after each gradient step, or of each episode."""
    env, goals, parts = trials(checkpoint, num_tasks, copies)
    figure, axes = plt.subplots(1, num_tasks, figsize=(3.2 * num_tasks, 3.5), sharex=True, sharey=True)
    labels = list(parts) if len(parts) <= 4 else [*parts][:3] + [*parts][-1:]
    for i, (axis, goal) in enumerate(zip(axes, goals, strict=True)):
        for label, color in zip(labels, plt.cm.viridis(np.linspace(0.85, 0, len(labels))), strict=True):
            obs, valid = parts[label]["obs"], parts[label]["valid"]
            for k in range(copies):
                path = obs[valid[:, i, k], i, k]
                axis.plot(*path.T, color=color, linewidth=1.2, label=label if k == 0 else None)
        axis.plot(*goal, "r*", markersize=14, label="goal")
        axis.plot(0, 0, "ko", markersize=4)
        axis.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), aspect="equal", title=f"goal ({goal[0]:.2f}, {goal[1]:.2f})")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels) + 1, frameon=False
    )
    figure.subplots_adjust(left=0.06, right=0.99, top=0.9, bottom=0.2)
    figure.savefig(folder / "paths.png", dpi=110)
    return folder / "paths.png"


def maps(env, tasks, parts):
    """What a heat map shows in each task: a list of (title, labels of the rows, parts of the agents [rows, T])."""
    bandit = tasks.dtype.names is None
    obs, action = (np.concatenate([part[name] for part in parts.values()]) for name in ("obs", "action"))  # [T, M, K]

    def fractions(chosen, rows):  # chosen [T, copies] -> [rows, T]
        return (chosen[None] == np.asarray(rows)[:, None, None]).mean(axis=2)

    if bandit:
        orders = np.argsort(-tasks, axis=1)
        named = [[f"{mean:.2f}" for mean in task[order]] for task, order in zip(tasks, orders, strict=True)]
        title = "arm pulled, by its mean"
        return [[(title, named[i], fractions(action[:, i], order))] for i, order in enumerate(orders)]
    _, regret = envs.plan(tasks["transitions"], tasks["rewards"], env.horizon)  # [horizon, tasks, S, A]
    rank = regret.argsort(axis=-1).argsort(axis=-1)  # 0 is the best action
    time = np.concatenate([np.arange(len(part["obs"])) % env.horizon for part in parts.values()])
    index, result = np.arange(len(tasks))[:, None], []
    action = np.stack([rank[t, index, obs[i], action[i]] for i, t in enumerate(time)])
    for i, reward in enumerate(tasks["rewards"].max(axis=2)):
        order = np.argsort(-reward)
        states = "state, by its highest mean reward", [f"{number:.2f}" for number in reward[order]]
        ranks = "action taken, 1 is the best in its state", range(1, env.num_actions + 1)
        rows = fractions(obs[:, i], order), fractions(action[:, i], range(env.num_actions))
        result.append([(*states, rows[0]), (*ranks, rows[1])])
    return result


def heatmap(checkpoint, folder, num_tasks=4, copies=200):
    """Bandits: how many of `copies` agents pull an arm, the best one on top, from pull to pull. MDPs: how many are in a
    state, the one with the highest mean reward on top, and how many take the best, second best, ... action in it."""
    env, tasks, parts = trials(checkpoint, num_tasks, copies)
    drawn = maps(env, tasks, parts)
    ends = np.cumsum([len(part["obs"]) for part in parts.values()])[:-1]
    lines = 0 < len(ends) < drawn[0][0][2].shape[1] - 1  # not where every step is an episode
    columns = len(drawn[0])
    figure, axes = plt.subplots(
        num_tasks,
        columns,
        figsize=(4 + 4 * columns, 0.8 + 1.5 * num_tasks),
        sharex=True,
        squeeze=False,
        constrained_layout=True,
    )
    steps = "gradient step" if "gradient" in next(iter(parts)) else "episode"
    for j in range(columns):
        for i in range(num_tasks):
            title, labels, part = drawn[i][j]
            high = 0.5 if columns == 2 and j == 0 else 1  # states: few agents are in the same one
            extent = (0.5, part.shape[1] + 0.5, len(part) - 0.5, -0.5)
            image = axes[i, j].imshow(part, aspect="auto", vmin=0, vmax=high, interpolation="nearest", extent=extent)
            axes[i, j].set_yticks(range(len(part)), labels, fontsize=7)
            axes[i, j].set_ylabel(f"task {i + 1}")
            for end in ends if lines else ():
                axes[i, j].axvline(end + 0.5, color="white", linewidth=0.8)
        axes[0, j].set_title(title)
        axes[-1, j].set_xlabel(f"step (white lines: {steps}s)" if lines else steps.replace("episode", "pull"))
        figure.colorbar(image, ax=list(axes[:, j]), label=f"part of {copies} agents")
    figure.savefig(folder / "heatmap.png", dpi=110)
    return folder / "heatmap.png"


def film(path, rows, tasks, fps):
    """A gif with a row of films for every label and a column for every task. `rows`: {label: [frames [H, W, 3], ...]}.
    A film that is over stands still at its last image."""
    length, frames = max(len(frames) for row in rows.values() for frames in row), []
    for t in range(length):
        lines = []
        for label, row in rows.items():
            images = []
            for task, film_ in zip(tasks, row, strict=True):
                image = Image.fromarray(film_[min(t, len(film_) - 1)])
                text = f"{label}; task {np.array2string(np.asarray(task), precision=2)}"
                ImageDraw.Draw(image).text((6, 4), text, fill="white", stroke_fill="black", stroke_width=1)
                images.append(np.asarray(image))
            lines.append(np.concatenate(images, axis=1))
        frames.append(Image.fromarray(np.concatenate(lines)))
    palette = frames[len(frames) // 2].quantize(64)  # one for all, without dithering: a smaller file
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=1000 // fps, loop=0)
    return path


def chosen(parts):
    """The first and the last episode of a trial; for MAML, before adaptation and after one and three gradient steps."""
    labels = [*parts]
    return (
        [labels[0], labels[1], labels[3]] if "gradient" in labels[0] else list(dict.fromkeys([labels[0], labels[-1]]))
    )


def locomotion(checkpoint, folder, num_tasks=2):
    """MuJoCo, drawn without a display: every other step, at the speed of life."""
    import mujoco
    from mujoco.rendering.classic import gl_context

    env, tasks, parts = trials(checkpoint, num_tasks, 1, lambda env: env._qpos.copy())
    try:
        if sys.platform == "linux" and not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
            from mujoco import egl

            gl_context.GLContext = egl.GLContext
        renderer, data = mujoco.Renderer(env._model, 150, 200), mujoco.MjData(env._model)
    except Exception as error:  # whatever is missing: a library, a driver, a display
        raise envs.UsageError(f"Cannot draw without OpenGL ({error!r}): {PACKAGES}.") from None
    rows = {}
    for label in chosen(parts):
        rows[label] = []
        for i in range(num_tasks):
            images = []
            for pose in parts[label]["look"][parts[label]["valid"][:, i, 0], i, 0][::2]:
                data.qpos[:] = pose
                mujoco.mj_forward(env._model, data)
                renderer.update_scene(data, camera="track")
                image = Image.fromarray(renderer.render())
                position = f"x = {pose[0]:.1f} m" + (f", y = {pose[1]:.1f} m" if env.body == "Ant" else "")
                ImageDraw.Draw(image).text((6, 134), position, fill="white", stroke_fill="black", stroke_width=1)
                images.append(np.asarray(image))
            rows[label].append(images)
    renderer.close()
    return film(folder / "video.gif", rows, tasks, fps=10)


def rendered(checkpoint, folder, num_tasks=3):
    """Ordinary environments, as they draw themselves with render_mode rgb_array."""

    def look(env):  # [num_tasks, H, W, 3], of the first copy in each task
        try:
            return np.stack([single.render() for single in env._envs.envs[:: env.num_envs // num_tasks]]).astype(
                np.uint8
            )
        except Exception as error:  # of the environment's own, or it gives None
            raise envs.UsageError(f"No picture: the environment does not render to rgb_array ({error!r}).") from error

    os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")  # pygame needs no display; with "dummy" some do not draw
    _, tasks, parts = trials(checkpoint, num_tasks, 1, look, vectorization_mode="sync", render_mode="rgb_array")
    rows = {
        label: [[*parts[label]["look"][parts[label]["valid"][:, i, 0], i, 0]] for i in range(num_tasks)]
        for label in chosen(parts)
    }
    return film(folder / "video.gif", rows, tasks, fps=5)


def draw(checkpoint, folder=None):
    """Writes the picture that suits the checkpoint's environment into `folder`, or beside it. Returns its path, or None
    where there is none for it. Raises UsageError for a bad checkpoint, and where OpenGL is missing."""
    args = script_of(checkpoint).read_checkpoint(checkpoint)["args"]
    env = envs.make(args["env_id"], 1, **args["env_kwargs"])
    env.close()
    kinds = {envs.Bandit: heatmap, envs.TabularMDP: heatmap, envs.Navigation2D: paths, envs.Locomotion: locomotion}
    picture = (kinds | {envs.BatchedTasks: rendered}).get(type(env))
    if picture is None:
        return print(f"No picture of {args['env_id']}: a vector environment of your own needs one of its own.")
    folder = Path(folder or Path(checkpoint).parent)
    folder.mkdir(parents=True, exist_ok=True)
    path = picture(checkpoint, folder)
    print(f"A picture of held-out trials is in {path}")
    return path


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("error: python benchmark/pictures.py CHECKPOINT [FOLDER]")
    try:
        draw(*sys.argv[1:])
    except (envs.UsageError, OSError) as error:
        sys.exit(f"error: {error}")
