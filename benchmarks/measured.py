"""The tables of single benchmarks: speed, robustness, inference, the weights that ship.

Used by ``benchmarks/tables.py``, which says where a table stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_RUN = "not run"


def _erosion(result: dict[str, Any]) -> tuple[str, str]:
    rule, data = result["rules"]["kervadec"], result["data"]
    return (
        f"{rule['ratio']:.1f} times as fast as the SciPy loop, bit-equal on {data['slices']} "
        "slices",
        "5 times",
    )


def _hd95(result: dict[str, Any]) -> tuple[str, str]:
    own = result["median_cpu_seconds"]["mixseg"]
    ratio = result["medpy_over_mixseg"]
    rival = f", MedPy {ratio:.1f} times as long" if ratio else ""
    return f"{own:.2f} s{rival}", f"{result['target_cpu_seconds']} s"


def _overhead(result: dict[str, Any]) -> tuple[str, str]:
    return f"{result['ratio']:.2f} times a bare loop on the same tensors", "at most 1.10 times"


def _resume(result: dict[str, Any]) -> tuple[str, str]:
    bundles = result["bundles"]
    kills = min(one["number_of_kills"] for one in bundles.values())
    names = ", ".join(f"`{name}`" for name in bundles)
    return (
        f"weights and checkpoint equal to the bit after {kills} kills of {names}",
        "equal after 10",
    )


def _inference(result: dict[str, Any]) -> tuple[str, str]:
    row = result["variants"]["default"]
    return (
        f"{row['times_as_fast']:.1f} times as fast as UA-MT's windows, "
        f"{row['dice_difference']:+.2f} Dice points",
        "5 times, within 0.2 points",
    )


#: Result file, what it measures, and how to read what was measured and what was to be reached.
MEASURED: dict[str, tuple[str, Callable[[dict[str, Any]], tuple[str, str]]]] = {
    "erosion": ("Scribbles by erosion, all of ACDC", _erosion),
    "hd95": ("Pooled HD95, 180 × 140 × 88 voxels, processor time", _hd95),
    "trainer_overhead": ("Trainer, time of an iteration on the CPU", _overhead),
    "trainer_overhead_3d": ("The same with the V-Net on volumes", _overhead),
    "inference_la": ("Inference of whole scans on the CPU", _inference),
    "resume_after_kill": ("Training killed at random moments and resumed", _resume),
}


def measured_block(root: Path) -> str:
    """Speed and robustness, one line a benchmark."""
    lines = ["| What | Measured | To reach |", "|---|---|---|"]
    for name, (title, read) in MEASURED.items():
        path = root / "benchmarks" / "results" / f"{name}.json"
        cells = (NOT_RUN, "")
        if path.is_file():
            cells = read(json.loads(path.read_text(encoding="utf-8")))
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def batch_statistics_block(root: Path, page: Path) -> str:
    """What sharing a forward pass does to the two kinds of slices."""
    path = root / "benchmarks" / "results" / "batch_statistics.json"
    if not path.is_file():
        return f"Measurement: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| Forward pass | Foreground, full slices | Foreground, scribbled slices "
        "| Validation Dice, teacher | student |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in result["runs"]:
        last, dice = one["curve"][-1], one["validation"]
        lines.append(
            f"| {'one a kind' if one['separate_forward'] else 'shared'} | {last['full']:.3f} "
            f"| {last['partial']:.3f} | {100 * dice['val_dice_teacher']:.1f} "
            f"| {100 * dice['val_dice_student']:.1f} |"
        )
    figure = root / "docs" / "figures" / "batch_statistics.png"
    place = Path(os.path.relpath(figure, page.parent)).as_posix()
    lines += ["", f"After {result['steps']} iterations, one seed.", ""]
    lines.append(f"![Mean foreground probability of the two kinds over the iterations]({place})")
    return "\n".join(lines) + "\n"


def inference_block(root: Path) -> str:
    """Time, memory and Dice of the ways to infer a whole scan."""
    path = root / "benchmarks" / "results" / "inference_la.json"
    if not path.is_file():
        return f"Measurement: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    setting = result["setting"]
    lines = [
        "| | Seconds a scan | Times as fast | By processor time | Passes | Peak memory, MB "
        "| Dice |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["variants"].items():
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {row['times_as_fast']:.1f} "
            f"| {row['times_as_fast_by_process_time']:.1f} | {row['passes']:g} "
            f"| {row['peak_memory_mb']} | {row['dice']:.2f} |"
        )
    lines += ["", f"{len(setting['cases'])} scans of the {setting['split']} split."]
    return "\n".join(lines) + "\n"


def noise_block(root: Path) -> str:
    """How good masks made wrong on purpose are, a line a kind."""
    path = root / "benchmarks" / "results" / "noise.json"
    if not path.is_file():
        return f"Dice of noisy masks: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    kinds = dict.fromkeys(row["kind"] for row in result["rows"])
    levels = dict.fromkeys(row["distortion"] for row in result["rows"])
    lines = [
        f"| `kind` | {' | '.join(f'distortion {level:g}' for level in levels)} |",
        f"|---|{'---:|' * len(levels)}",
    ]
    for kind in kinds:
        cells = [
            f"{row['mean']:.1f} ± {row['sd']:.1f} ({row['percentiles_5_95'][0]:.0f} to "
            f"{row['percentiles_5_95'][1]:.0f})"
            for row in result["rows"]
            if row["kind"] == kind
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", f"{result['masks']} masks, none of them missing."]
    return "\n".join(lines) + "\n"


def free_negatives_block(root: Path) -> str:
    """How far free negatives reach and how often they are wrong, a line a radius."""
    path = root / "benchmarks" / "results" / "free_negatives.json"
    if not path.is_file():
        return f"Free negatives: {NOT_RUN}.\n"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    lines = [
        "| set | distance | R, voxels | background covered | of it in slices without a seed "
        "| foreground labeled wrongly |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        radius = f"**{row['radius']:.1f}**" if row["calibrated"] else f"{row['radius']:g}"
        lines.append(
            f"| {row['setting']} | {row['distance']} | {radius} | {row['background_covered']:.1%} "
            f"| {row['background_in_seedless_slices'] / row['background_covered']:.1%} "
            f"| {row['foreground_wrong']:.3%} |"
        )
    scans = {row["setting"].partition(",")[0]: row for row in rows}
    counts = [
        f"{name}: {row['full_masks']} full masks, {row['masks']} others"
        for name, row in scans.items()
    ]
    lines += ["", f"**Bold**: calibrated on the full masks. {'; '.join(counts)}."]
    return "\n".join(lines) + "\n"


def quality_block(root: Path) -> str:
    """How well the expected quality ranks the true Dice, a line a bundle."""
    path = root / "benchmarks" / "results" / "quality.json"
    if not path.is_file():
        return f"Rank correlation with the true Dice: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| Shipped weights | test cases | rank correlation with the true Dice (95 % interval) "
        "| of the worst fifth, found in the report's first fifth |",
        "|---|---:|---:|---:|",
    ]
    for bundle in result["chosen_on"]:
        found = result["test"].get(bundle)
        if found is None:
            lines.append(f"| `{bundle}` | {NOT_RUN} | | |")
            continue
        low, high = found["interval_95"]
        worst = found["worst_fifth"]
        lines.append(
            f"| `{bundle}` | {found['n']} | {found['spearman']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {worst['found']} of {worst['cases']} |"
        )
    means = result["mean_correlation_where_it_was_chosen"]
    others = ", ".join(
        f"{name.replace('_', ' ')} {value:.2f}"
        for name, value in sorted(means.items(), key=lambda item: -(item[1] or -1))
        if value is not None and name != result["chosen"]
    )
    lines += [
        "",
        "Spearman's correlation, bootstrap interval. The measure was chosen on validation cases "
        "and scribbled training cases, whose masks no training opened; its mean there is "
        f"{means[result['chosen']]:.2f}. Others there: {others}.",
    ]
    return "\n".join(lines) + "\n"


def augmentation_block(root: Path) -> str:
    """Time of augmentation by libraries, and its share of a training step."""
    path = root / "benchmarks" / "results" / "augmentation.json"
    if not path.is_file():
        return f"Time of augmentation: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    batches = result["batches"]
    heads, rules, steps = [""], ["---"], []
    for name, one in batches.items():
        size = " × ".join(str(side) for side in one["shape"][2:])
        heads += [f"{one['shape'][0]} {name} of {size} [ms]"]
        heads += [f"of a step, {kind}" for kind in one["step_ms"]]
        rules += ["---:"] * (1 + len(one["step_ms"]))
        times = ", ".join(f"{ms:.0f} ms in {kind}" for kind, ms in one["step_ms"].items())
        steps.append(f"{times} ({name})")
    lines = [
        f"| {' | '.join([*heads, 'Lacks or does otherwise'])} |",
        f"|{'|'.join([*rules, '---'])}|",
    ]
    rows = dict.fromkeys(
        name for one in batches.values() for name in [*one["augmentation"], *one["missing"]]
    )
    for library in rows:
        cells, lacks = [], ""
        for one in batches.values():
            row = one["augmentation"].get(library)
            if row is None:
                cells += [one["missing"][library], *[""] * len(one["step_ms"])]
                continue
            lacks = row["lacks"]
            cells.append(f"{row['ms']:.1f}")
            cells += [f"{100 * share:.1f} %" for share in row["share_of_step"].values()]
        lines.append(f"| {' | '.join([library, *cells, lacks])} |")
    versions, hardware = result["versions"], result["hardware"]
    names = ("torch", "monai", "kornia", "torchio")
    lines += [
        "",
        f"Process time of one thread, median. A step takes {'; '.join(steps)}. "
        f"{hardware['cpu']}; {', '.join(f'{name} {versions[name]}' for name in names)}.",
    ]
    return "\n".join(lines) + "\n"


def seconds_to(curve: list[dict[str, Any]], dice: float) -> float | None:
    """Training time of the first snapshot whose validation Dice is at least ``dice``, if any."""
    return next((point["seconds"] for point in curve if point["dice"] >= dice), None)


def nnunet_block(root: Path) -> str:
    """nnU-Net beside the flagship, a line a run; scores of nnU-Net with one component, too."""
    paths = sorted((root / "benchmarks" / "results" / "nnunet").glob("*.json"))
    if not paths:
        return f"nnU-Net beside the flagship: {NOT_RUN}.\n"
    levels = (0.80, 0.85, 0.90)
    heads = ["Run", "Cores", "Iterations", "Training [s]", *(f"to {x:.2f} [s]" for x in levels)]
    heads += ["Peak memory [GB]", "Validation: Dice / HD95", "Test: Dice / HD95"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    machines, shared = {}, []
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))
        times = [seconds_to(run["curve"], level) for level in levels]
        gpu = run.get("peak_gpu_memory_mb")
        cells = [str(run["cores"]), f"{run['iterations']:,}", f"{run['seconds']:,.0f}"]
        cells += ["not reached" if t is None else f"{t:,.0f}" for t in times]
        memory = f"{run['peak_memory_mb'] / 1024:.1f}"
        cells += [memory + (f" + {gpu / 1024:.1f} of the GPU" if gpu else "")]
        for branch in run["scores"]["test"]:
            scores = []
            for split in ("validation", "test"):
                (item,) = run["scores"][split][branch].values()
                dice, distance = item["dice"]["mean"], item["hd95_vox"]["mean"]
                scores.append(f"{100 * dice:.1f} / {distance:.1f}")
            name = "" if branch == "main" else f", {branch.partition(', ')[2] or 'as it predicts'}"
            lines.append(f"| `{path.stem}`{name} | {' | '.join(cells + scores)} |")
            cells = [""] * len(cells)
        hardware = run["hardware"]
        machines[f"{hardware['gpu'] or hardware['cpu']}"] = None
        if run["load_before"] > 0.5:
            shared.append(f"`{path.stem}`")
    lines += ["", f"Dice in %, pooled HD95 in voxels; one seed. Machine: {', '.join(machines)}."]
    if shared:
        lines[-1] += f" Beside other work, which slows it: {', '.join(shared)}."
    return "\n".join(lines) + "\n"


#: What the table of costs calls the methods of benchmarks/training_cost.py.
COSTS = {
    "supervised": "supervised",
    "fewer": "supervised, the masks alone",
    "entmin": "entropy minimization",
    "uamt": "UA-MT",
    "adversarial": "Hung et al.",
    "multitask": "multi-task attention",
    "s4gan": "s4GAN",
}


def training_cost_block(root: Path) -> str:
    """Parameters and time of a training step over those of supervised training."""
    paths = [root / "benchmarks" / "results" / f"training_cost{end}.json" for end in ("", "_cuda")]
    contents = [json.loads(p.read_text(encoding="utf-8")) for p in paths if p.is_file()]
    runs = [run for content in contents for run in content["runs"]]
    if not runs:
        return f"Cost of a step: {NOT_RUN}.\n"
    lines = [
        "| Channels, picture | Method | Parameters in training | over supervised | of the one that "
        "predicts | Step [ms] | over supervised, quartiles |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    machines = {}
    for run in runs:
        setting, hardware = run["setting"], run["hardware"]
        machine = hardware["gpu"] if setting["device"] == "cuda" else hardware["cpu"]
        machines[f"{setting['device']}: {machine}, {hardware['torch_threads']} threads"] = None
        size = f"{setting['features'][0]}–{setting['features'][-1]}, "
        size += f"{setting['size'][0]} × {setting['size'][1]}, {setting['device']}"
        for name, one in run["methods"].items():
            low, high = one["quartiles"]
            ratio = f"{one['time_over_reference']:.2f} ({low:.2f} to {high:.2f})"
            pictures = sum(one["settings"].values())
            lines.append(
                f"| {size} | {COSTS[name]}, {pictures} pictures "
                f"| {one['parameters']['training']:,} | {one['parameters_over_reference']:.3f} "
                f"| {one['parameters']['predicting']:,} | {one['milliseconds']:.0f} "
                f"| {'reference' if name == run['reference'] else ratio} |"
            )
    lines += ["", f"Median over rounds in which all take turns. {'; '.join(machines)}."]
    return "\n".join(lines) + "\n"


def tutorial_block(root: Path) -> str:
    """Test scores of the tutorial's two runs."""
    path = root / "benchmarks" / "results" / "tutorial_wbc.json"
    if not path.is_file():
        return f"Scores: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    mixed = result["runs"]["mixed"]
    names = list(mixed["scores"]["main"])
    lines = [f"| Labels | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for run in (mixed, result["runs"]["lower_bound"]):
        used, classes = run["configuration"], run["scores"]["main"]
        partial = f" + {used['num_partial']} scribbles" if used["num_partial"] else ""
        cells = [
            f"{100 * classes[name]['dice']['mean']:.1f} ± "
            f"{100 * classes[name]['dice']['sd']:.1f} / {classes[name]['hd95_vox']['mean']:.1f}"
            for name in names
        ]
        lines.append(f"| {used['num_full']} masks{partial} | {' | '.join(cells)} |")
    cases = mixed["scores"]["main"][names[0]]["dice"]["n"]
    lines += [
        "",
        f"Dice in %, mean ± sd over {cases} test pictures of {result['pictures']} / mean pooled "
        f"HD95 in pixels; seed {mixed['seed']}. All commands of this page took "
        f"{sum(step['seconds'] for step in result['seconds']) / 60:.0f} minutes on "
        f"{result['hardware']['cpu_count']} cores ({result['hardware']['cpu']})"
        + (", beside other work." if result["load_before"] > 0.5 else "."),
    ]
    return "\n".join(lines) + "\n"


def many_scans_block(root: Path) -> str:
    """Time to list many scans, and memory of predictions of few and of many."""
    path = root / "benchmarks" / "results" / "many_scans.json"
    if not path.is_file():
        return f"Many scans: {NOT_RUN}.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    memory = ", ".join(
        f"{row['scans']:,} scans at most {row['peak_memory_mb']:.0f} MB"
        for row in result["predictions"]
    )
    return (
        f"{result['listed']:,} small volumes are listed in "
        f"{result['listing_processor_seconds']:.1f} s of processor time; with a tiny network, "
        f"{memory} (`benchmarks/many_scans.py`).\n"
    )


#: What the table of journeys calls them.
WALKS = {
    "volumes": "Own 3D scans",
    "pictures": "Own RGB pictures",
    "cardiac": "Three classes of the heart",
    "fine_tuning": "Fine-tuning",
    "dicom": "DICOM",
    "python": "Python",
}


def _reached(name: str, walk: dict[str, Any]) -> str:
    """What a journey ended with."""
    if name == "fine_tuning":
        tuned, other = (100 * walk[kind]["mean_dice"] for kind in ("tuned", "from_random"))
        return (
            f"test Dice {tuned:.1f} % from shipped weights, {other:.1f} % from random ones, "
            f"{walk['steps']} steps each"
        )
    if name == "dicom":
        same = f"{walk['different_voxels']} of {walk['voxels']:,} voxels differ from NIfTI's mask"
        return f"Dice {100 * walk['dice']:.1f} %; {same}"
    if name == "python":
        equal = "equals" if walk["array_equals_file"] else "differs from"
        return (
            f"Dice of the LV {100 * walk['LV_dice']:.1f} %; the mask of an array {equal} the file's"
        )
    scored = walk.get("cross_validation") or walk["test"]
    how = "cross-validated" if "cross_validation" in walk else "test"
    classes = ", ".join(f"{name} {100 * dice:.1f}" for name, dice in scored["dice"].items())
    wanted = walk.get("target", {}).get("mean_dice")
    goal = f"; at least {100 * wanted:.0f} wanted" if wanted else ""
    return f"{how} Dice [%] {classes} ({scored['cases']} cases{goal})"


def journeys_block(root: Path) -> str:
    """What each journey of a user ends with, and what it takes."""
    path = root / "benchmarks" / "results" / "journeys.json"
    walks: dict[str, Any] = {}
    if path.is_file():
        walks = json.loads(path.read_text(encoding="utf-8"))["journeys"]
    lines = [
        "| Journey | Data | Reached | Minutes | of processor time | Peak memory, GB |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, title in WALKS.items():
        if (walk := walks.get(name)) is None:
            continue
        lines.append(
            f"| {title} | {walk['cases']} | {_reached(name, walk)} | {walk['minutes']:.0f} "
            f"| {walk['processor_minutes']:.0f} | {walk['peak_memory_mb'] / 1000:.1f} |"
        )
    if walks:
        one = next(iter(walks.values()))
        threads = sorted({walk["threads"] for walk in walks.values()})
        busy = any(walk["load_before"] > 0.5 for walk in walks.values())
        lines += [
            "",
            f"{one['hardware']['cpu']}, {', '.join(map(str, threads))} thread"
            f"{'s' * (threads != [1])}" + (", beside other work." if busy else "."),
        ]
    return "\n".join(lines) + "\n"
