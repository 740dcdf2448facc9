"""Measures bare MuJoCo Warp: env steps a second, and how far it strays from MuJoCo's C library.

    python scripts/bench_warp.py record FOLDER      needs mujoco 4.0.0 and metaworld 3.0.0
    python scripts/bench_warp.py measure FOLDER [--models reach-v3 ...] [--worlds 256 4096 ...]
                                 [--device cuda:0] [--output FILE]      needs mujoco-warp 4.0.0

`record` saves models and what C makes of 16 tapes of actions: eight of Meta-World's scripted
policy, all but the first with noise, and eight at random; half-cheetah's are all random. `measure`
plays them in Warp, world w the tape w mod 16, an env step (the action and five steps of physics)
captured as one CUDA graph; no observation and no reward. These versions of MuJoCo and Meta-World
are not those that the product pins, so each part runs in an environment of its own.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

TAPES, STEPS = 16, 150
TASKS = ("reach-v3", "push-v3", "peg-insert-side-v3", "door-open-v3")
CHEETAH = "half-cheetah"
COMPARED = (1, 10, 50, 100, 150)


def record(folder: Path) -> None:
    """Save each model, its start, the tapes, and the positions that C reaches with them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        record_task(name, folder)
    import gymnasium

    assets = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
    model = mujoco.MjModel.from_xml_path(str(assets / "half_cheetah.xml"))
    mujoco.mj_saveModel(model, str(folder / f"{CHEETAH}.mjb"), None)
    data = mujoco.MjData(model)
    actions = np.random.default_rng(0).uniform(-1, 1, (TAPES, STEPS, model.nu))
    reached = []
    for tape in actions:
        mujoco.mj_resetData(model, data)
        mujoco.mj_forward(model, data)
        start = state_of(data)
        for action in tape:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, 5)
            reached.append(data.qpos.copy())
    save(folder / CHEETAH, actions, reached, start)


def record_task(name: str, folder: Path) -> None:
    """Record one of Meta-World's tasks, always with the same goal."""
    import metaworld
    from metaworld.policies import ENV_POLICY_MAP
    from metaworld.sawyer_xyz_env import SawyerMocapBase

    def reset_mocap_welds(self: Any) -> None:  # metaworld 3.0.0 knows 11 of MuJoCo 4's 12 columns
        for i in np.flatnonzero(self.model.eq_type == mujoco.mjtEq.mjEQ_WELD):
            self.model.eq_data[i] = [0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5, 0]

    SawyerMocapBase.reset_mocap_welds = reset_mocap_welds
    benchmark = metaworld.ML1(name, seed=1)
    env = benchmark.train_classes[name]()
    env.set_task(benchmark.train_tasks[0])
    policy, rng = ENV_POLICY_MAP[name](), np.random.default_rng(0)
    actions, reached, successes = np.zeros((TAPES, STEPS, 4)), [], 0
    for k in range(TAPES):
        obs, _ = env.reset()
        start, succeeded = state_of(env.data), False
        for t in range(STEPS):
            shown = np.concatenate([obs[:-3], env._target_pos])  # ML1 hides the goal
            scripted = policy.get_action(shown) + rng.normal(0, 0.1 * (k > 0), 4)
            action = scripted if k < TAPES // 2 else rng.uniform(-1, 1, 4)
            actions[k, t] = np.clip(action, -1, 1).astype(np.float32)
            obs, _, _, _, info = env.step(actions[k, t])
            succeeded |= bool(info["success"])
            reached.append(env.data.qpos.copy())
        successes += succeeded
    mujoco.mj_saveModel(env.model, str(folder / f"{name}.mjb"), None)
    start |= {"low": env.mocap_low, "high": env.mocap_high, "scale": env.action_scale}
    save(folder / name, actions, reached, start)
    print(f"{name}: {successes} of {TAPES} tapes succeed")


def state_of(data: Any) -> dict[str, Any]:
    """Return what a simulation starts from."""
    names = ("qpos", "qvel", "qacc_warmstart", "mocap_pos", "mocap_quat")
    return {name: getattr(data, name).copy() for name in names}


def save(path: Path, actions: Any, reached: list[Any], start: dict[str, Any]) -> None:
    """Write tapes and start."""
    arrays = {"actions": np.float32(actions), "reached": np.float32(reached)}
    arrays["reached"] = arrays["reached"].reshape(TAPES, STEPS, -1)
    np.savez_compressed(f"{path}.npz", **arrays, **start)


def measure(folder: Path, models: list[str], worlds: list[int], device: str) -> dict[str, Any]:
    """Play the tapes in so many worlds of each model."""
    import mujoco_warp as mjw
    import warp as wp

    wp.config.quiet = True
    wp.set_device(device)

    @wp.kernel
    def act_arm(
        tape: wp.array3d(dtype=float),
        t: wp.array(dtype=int),
        low: wp.vec3,
        high: wp.vec3,
        scale: float,
        mocap_pos: wp.array2d(dtype=wp.vec3),
        ctrl: wp.array2d(dtype=float),
    ):
        w = wp.tid()
        k = w % tape.shape[0]
        s = t[0] % tape.shape[1]
        place = mocap_pos[w, 0]
        for i in range(3):
            place[i] = wp.clamp(place[i] + scale * tape[k, s, i], low[i], high[i])
        mocap_pos[w, 0] = place
        ctrl[w, 0] = tape[k, s, 3]
        ctrl[w, 1] = -tape[k, s, 3]

    @wp.kernel
    def act_joints(
        tape: wp.array3d(dtype=float), t: wp.array(dtype=int), ctrl: wp.array2d(dtype=float)
    ):
        w = wp.tid()
        for i in range(tape.shape[2]):
            ctrl[w, i] = tape[w % tape.shape[0], t[0] % tape.shape[1], i]

    @wp.kernel
    def tick(t: wp.array(dtype=int)):
        t[0] = t[0] + 1

    def clock() -> float:
        wp.synchronize()
        return time.perf_counter()

    def play(
        name: str, model_c: Any, data_c: Any, recorded: Any, model: Any, tape: Any, count: int
    ) -> dict[str, Any]:
        began = time.perf_counter()

        def fresh() -> Any:
            return mjw.put_data(model_c, data_c, nworld=count, nconmax=64, njmax=256)

        data, t = fresh(), wp.zeros(1, dtype=int)

        def env_step() -> None:
            if "low" in recorded:
                low, high = (wp.vec3(*recorded[end].tolist()) for end in ("low", "high"))
                inputs = [tape, t, low, high, float(recorded["scale"])]
                wp.launch(act_arm, count, inputs=[*inputs, data.mocap_pos, data.ctrl])
            else:
                wp.launch(act_joints, count, inputs=[tape, t, data.ctrl])
            for _ in range(5):
                mjw.step(model, data)
            wp.launch(tick, 1, inputs=[t])

        env_step()
        first_s = clock() - began
        data = fresh()
        with wp.ScopedCapture() as capture:
            env_step()
        t.zero_()
        seconds, strayed = 0.0, {}
        for s in range(STEPS):
            began = clock()
            wp.capture_launch(capture.graph)
            seconds += clock() - began
            if s + 1 in COMPARED:
                found = data.qpos.numpy()[:TAPES]
                error = np.abs(found - recorded["reached"][: len(found), s]).max(1)
                strayed[s + 1] = {"median": float(np.median(error)), "max": float(error.max())}
        return {
            "model": name,
            "worlds": count,
            "first_step_s": first_s,
            "env_steps_per_s": count * STEPS / seconds,
            "distance_to_c": strayed,
            "finite": bool(np.isfinite(data.qpos.numpy()).all()),
            "contacts_in_all_worlds": int(data.nacon.numpy()[0]),
            "most_constraints": int(data.nefc.numpy().max()),
            "overflow": bool(data.overflow.numpy().any()),
        }

    rows = []
    for name in models:
        model_c = mujoco.MjModel.from_binary_path(str(folder / f"{name}.mjb"))
        recorded = np.load(folder / f"{name}.npz")
        data_c = mujoco.MjData(model_c)
        for field in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(data_c, field)[:] = recorded[field]
        mujoco.mj_forward(model_c, data_c)
        data_c.qacc_warmstart[:] = recorded["qacc_warmstart"]
        model, tape = mjw.put_model(model_c), wp.array(recorded["actions"], dtype=float)
        for count in worlds:
            rows.append(play(name, model_c, data_c, recorded, model, tape, count))
            print(json.dumps(rows[-1]), flush=True)
    versions = {"warp": wp.__version__, "mujoco": mujoco.__version__}
    return {"device": wp.get_device().name, "cpus": os.cpu_count(), **versions, "rows": rows}


def main() -> None:
    """Record or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[*TASKS, CHEETAH])
    parser.add_argument("--worlds", nargs="+", type=int, default=[256, 1024, 4096, 16384])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    if asked.what == "record":
        record(asked.folder)
        return
    report = measure(asked.folder, asked.models, asked.worlds, asked.device)
    if asked.output:
        asked.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
