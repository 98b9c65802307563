"""The tables of single benchmarks: speed, robustness, inference, the weights that ship.

Used by ``benchmarks/tables.py``, which says where a table stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

NOT_RUN = "not run"


def result_of(root: Path, name: str) -> Any:
    """Content of a result file of the repository ``root``; None where there is none."""
    path = root / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    *below: str,
    texts: int = 1,
    notes: bool = False,
) -> str:
    """A Markdown table, and paragraphs below it.

    The first ``texts`` columns are texts, and so is the last one with ``notes``.
    """
    rule = ["---"] * texts + ["---:"] * (len(heads) - texts - notes) + ["---"] * notes
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    lines.insert(1, f"|{'|'.join(rule)}|")
    return "\n\n".join(["\n".join(lines), *below]) + "\n"


def _made_of(name: str, what: str) -> Callable[[Callable[[Any], str]], Callable[[Path], str]]:
    """A block of one result file, which says that ``what`` was not run where there is none."""

    def decorate(write: Callable[[Any], str]) -> Callable[[Path], str]:
        @wraps(write)
        def block(root: Path) -> str:
            result = result_of(root, name)
            return f"{what}: {NOT_RUN}.\n" if result is None else write(result)

        return block

    return decorate


def _erosion(result: dict[str, Any]) -> tuple[str, str]:
    rule, data = result["rules"]["kervadec"], result["data"]
    return (
        f"{rule['ratio']:.1f} times as fast as the SciPy loop, bit-identical on "
        f"{data['slices']} slices",
        "5 times",
    )


def _hd95(result: dict[str, Any]) -> tuple[str, str]:
    own = result["median_cpu_seconds"]["mixseg"]
    ratio = result["medpy_over_mixseg"]
    rival = f", MedPy {ratio:.1f} times as long" if ratio else ""
    return f"{own:.2f} s{rival}", f"{result['target_cpu_seconds']} s"


def _overhead(result: dict[str, Any]) -> tuple[str, str]:
    return f"{result['ratio']:.2f} times that of a plain PyTorch loop", "at most 1.10 times"


def _resume(result: dict[str, Any]) -> tuple[str, str]:
    bundles = result["bundles"]
    kills = min(one["number_of_kills"] for one in bundles.values())
    return (
        f"weights and checkpoint bit-identical after {kills} kills of each of {len(bundles)} "
        "bundles and rows",
        "bit-identical after 10",
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
    rows = []
    for name, (title, read) in MEASURED.items():
        result = result_of(root, name)
        rows.append([title, *((NOT_RUN, "") if result is None else read(result))])
    return table(["What", "Measured", "Target"], rows, texts=3)


def batch_statistics_block(root: Path, page: Path) -> str:
    """What sharing a forward pass does to the two kinds of slices."""
    result = result_of(root, "batch_statistics")
    if result is None:
        return f"Measurement: {NOT_RUN}.\n"
    rows = []
    for one in result["runs"]:
        last, dice = one["curve"][-1], one["validation"]
        scores = (f"{100 * dice[f'val_dice_{branch}']:.1f}" for branch in ("teacher", "student"))
        kind = "one a kind" if one["separate_forward"] else "shared"
        rows.append([kind, f"{last['full']:.3f}", f"{last['partial']:.3f}", *scores])
    heads = ["Forward pass", "Foreground, full slices", "Foreground, scribbled slices"]
    figure = root / "docs" / "figures" / "batch_statistics.png"
    place = Path(os.path.relpath(figure, page.parent)).as_posix()
    return table(
        [*heads, "Validation Dice, teacher", "student"],
        rows,
        f"After {result['steps']} iterations, one seed.",
        f"![Mean foreground probability of the two kinds over the iterations]({place})",
    )


@_made_of("inference_la", "Measurement")
def inference_block(result: Any) -> str:
    """Time, memory and Dice of the ways to infer a whole scan."""
    setting = result["setting"]
    heads = ["Way", "Seconds a scan", "Times as fast", "By processor time", "Passes"]
    rows = [
        [
            name, f"{row['seconds']:.2f}", f"{row['times_as_fast']:.1f}",
            f"{row['times_as_fast_by_process_time']:.1f}", f"{row['passes']:g}",
            row["peak_memory_mb"], f"{row['dice']:.2f}",
        ]
        for name, row in result["variants"].items()
    ]  # fmt: skip
    scans = f"{len(setting['cases'])} scans of the {setting['split']} split."
    return table([*heads, "Peak memory, MB", "Dice"], rows, scans)


@_made_of("noise", "Dice of noisy masks")
def noise_block(result: Any) -> str:
    """How good masks made wrong on purpose are, a line per kind."""
    kinds = dict.fromkeys(row["kind"] for row in result["rows"])
    levels = dict.fromkeys(row["distortion"] for row in result["rows"])
    rows = []
    for kind in kinds:
        cells = [
            f"{row['mean']:.1f} ± {row['sd']:.1f} ({row['percentiles_5_95'][0]:.0f} to "
            f"{row['percentiles_5_95'][1]:.0f})"
            for row in result["rows"]
            if row["kind"] == kind
        ]
        rows.append([kind, *cells])
    heads = ["`kind`", *(f"distortion {level:g}" for level in levels)]
    return table(heads, rows, f"{result['masks']} masks, none of them missing.")


@_made_of("free_negatives", "Free negatives")
def free_negatives_block(result: Any) -> str:
    """How far free negatives reach and how often they are wrong, a line per radius."""
    heads = ["set", "distance", "R, voxels", "background covered"]
    heads += ["of it in slices without a seed", "foreground labeled wrongly", "cases with errors"]
    rows, lines = result["rows"], []
    for row in rows:
        radius = f"**{row['radius']:.1f}**" if row["calibrated"] else f"{row['radius']:g}"
        covered = row["background_covered"]
        shares = [f"{covered:.1%}", f"{row['background_in_seedless_slices'] / covered:.1%}"]
        wrong = f"{row['foreground_wrong']:.3%}"
        cases = f"{row['cases_wrong']:.0%}"
        lines.append([row["setting"], row["distance"], radius, *shares, wrong, cases])
    scans = {row["setting"].partition(",")[0]: row for row in rows}
    counts = [
        f"{name}: {row['full_masks']} full masks, {row['masks']} others"
        for name, row in scans.items()
    ]
    text = f"**Bold**: calibrated on the full masks. {'; '.join(counts)}."
    return table(heads, lines, text, texts=2)


@_made_of("quality", "Rank correlation with the true Dice")
def quality_block(result: Any) -> str:
    """How well the expected quality ranks the true Dice, a line per bundle."""
    rows = []
    for bundle, found in result["test"].items():
        low, high = found["interval_95"]
        worst = found["worst_fifth"]
        correlation = f"{found['spearman']:.2f} ({low:.2f} to {high:.2f})"
        first = f"{worst['found']} of {worst['cases']}"
        rows.append([f"`{bundle}`", found["n"], correlation, first])
    means = result["mean_correlation_where_it_was_chosen"]
    others = ", ".join(
        f"{name.replace('_', ' ')} {value:.2f}"
        for name, value in sorted(means.items(), key=lambda item: -(item[1] or -1))
        if value is not None and name != result["chosen"]
    )
    missing = [f"`{name}`" for name in result["chosen_on"] if name not in result["test"]]
    return table(
        [
            "Shipped weights",
            "Test cases",
            "Rank correlation with the true Dice (95 % interval)",
            "Worst fifth of the cases, found in the report's first fifth",
        ],
        rows,
        "Spearman's correlation with a bootstrap interval. The measure was chosen on validation "
        "cases and on scribbled training cases, whose masks no training opened: expected Dice, "
        "unless another gains more than 0.05. Its mean correlation there is "
        f"{means[result['chosen']]:.2f}. Other measures there: {others}."
        + (f" Not run on the test split: {', '.join(missing)}." if missing else ""),
    )


@_made_of("augmentation", "Time of augmentation")
def augmentation_block(result: Any) -> str:
    """Time of augmentation by libraries, and its share of a training step."""
    batches = result["batches"]
    heads, steps = ["Library"], []
    for name, one in batches.items():
        size = " × ".join(str(side) for side in one["shape"][2:])
        heads += [f"{one['shape'][0]} {name} of {size} [ms]"]
        heads += [f"of a step, {kind}" for kind in one["step_ms"]]
        times = ", ".join(f"{ms:.0f} ms in {kind}" for kind, ms in one["step_ms"].items())
        steps.append(f"{times} ({name})")
    rows = []
    for library in dict.fromkeys(
        name for one in batches.values() for name in [*one["augmentation"], *one["missing"]]
    ):
        cells, lacks = [], ""
        for one in batches.values():
            row = one["augmentation"].get(library)
            if row is None:
                cells += [one["missing"][library], *[""] * len(one["step_ms"])]
                continue
            lacks = row["lacks"]
            cells.append(f"{row['ms']:.1f}")
            cells += [f"{100 * share:.1f} %" for share in row["share_of_step"].values()]
        rows.append([library, *cells, lacks])
    versions, hardware = result["versions"], result["hardware"]
    names = ("torch", "monai", "kornia", "torchio")
    return table(
        [*heads, "Lacks or does otherwise"],
        rows,
        f"Process time of one thread, median. A step takes {'; '.join(steps)}. "
        f"{hardware['cpu']}; {', '.join(f'{name} {versions[name]}' for name in names)}.",
        notes=True,
    )


def seconds_to(curve: list[dict[str, Any]], dice: float) -> float | None:
    """Training time of the first snapshot whose validation Dice is at least ``dice``, if any."""
    return next((point["seconds"] for point in curve if point["dice"] >= dice), None)


def nnunet_block(root: Path) -> str:
    """nnU-Net beside the flagship, a line per run; scores of nnU-Net with one component, too."""
    paths = sorted((root / "benchmarks" / "results" / "nnunet").glob("*.json"))
    if not paths:
        return f"nnU-Net beside the flagship: {NOT_RUN}.\n"
    levels = (0.80, 0.85, 0.90)
    heads = ["Run", "Cores", "Iterations", "Training [s]", *(f"to {x:.2f} [s]" for x in levels)]
    heads += ["Peak memory [GB]", "Validation: Dice / HD95", "Test: Dice / HD95"]
    rows: list[list[str]] = []
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
            rows.append([f"`{path.stem}`{name}", *cells, *scores])
            cells = [""] * len(cells)
        hardware = run["hardware"]
        machines[f"{hardware['gpu'] or hardware['cpu']}"] = None
        if run["load_before"] > 0.5:
            shared.append(f"`{path.stem}`")
    text = f"Dice in %, pooled HD95 in voxels; one seed. Machine: {', '.join(machines)}."
    if shared:
        text += f" Beside other work, which slows it: {', '.join(shared)}."
    return table(heads, rows, text)


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
    contents = (result_of(root, f"training_cost{end}") for end in ("", "_cuda"))
    runs = [run for content in contents if content for run in content["runs"]]
    if not runs:
        return f"Cost of a step: {NOT_RUN}.\n"
    heads = ["Channels, picture", "Method", "Parameters in training", "over supervised"]
    heads += ["of the one that predicts", "Step [ms]", "over supervised, quartiles"]
    rows, machines = [], {}
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
            rows.append(
                [
                    size, f"{COSTS[name]}, {pictures} pictures",
                    f"{one['parameters']['training']:,}", f"{one['parameters_over_reference']:.3f}",
                    f"{one['parameters']['predicting']:,}", f"{one['milliseconds']:.0f}",
                    "reference" if name == run["reference"] else ratio,
                ]
            )  # fmt: skip
    text = f"Median over rounds in which all take turns. {'; '.join(machines)}."
    return table(heads, rows, text, texts=2)


def step_time_block(root: Path) -> str:
    """Time of a training step of the flagship by precision and memory layout."""
    found = (result_of(root, f"step_time{end}") for end in ("", "_cuda"))
    contents = [content for content in found if content]
    if not contents:
        return f"Time of a step: {NOT_RUN}.\n"
    heads = ["Device", "Bundle", "Variant", "Step [ms]", "over the first, quartiles"]
    rows, machines = [], []
    for content in contents:
        hardware, device = content["hardware"], content["setting"]["device"]
        machines.append(
            f"{device}: {hardware['gpu'] or hardware['cpu']}, {hardware['torch_threads']} threads"
        )
        for bundle, variants in content["bundles"].items():
            for variant, one in variants.items():
                low, high = one["quartiles"]
                rows.append(
                    [
                        device, f"`{bundle}`", variant, f"{one['milliseconds']:.0f}",
                        f"{one['over_reference']:.2f} ({low:.2f} to {high:.2f})",
                    ]
                )  # fmt: skip
    text = f"Median over turns of all variants. {'; '.join(machines)}."
    return table(heads, rows, text, texts=3)


@_made_of("tutorial_wbc", "Scores")
def tutorial_block(result: Any) -> str:
    """Test scores of the tutorial's two runs."""
    mixed = result["runs"]["mixed"]
    names = list(mixed["scores"]["main"])
    rows = []
    for run in (mixed, result["runs"]["lower_bound"]):
        used, classes = run["configuration"], run["scores"]["main"]
        partial = f" + {used['num_partial']} scribbles" if used["num_partial"] else ""
        cells = [
            f"{100 * classes[name]['dice']['mean']:.1f} ± "
            f"{100 * classes[name]['dice']['sd']:.1f} / {classes[name]['hd95_vox']['mean']:.1f}"
            for name in names
        ]
        rows.append([f"{used['num_full']} masks{partial}", *cells])
    cases = mixed["scores"]["main"][names[0]]["dice"]["n"]
    return table(
        ["Labels", *names],
        rows,
        f"Dice in %, mean ± sd over {cases} test pictures of {result['pictures']} / mean pooled "
        f"HD95 in pixels; seed {mixed['seed']}. All commands of this page took "
        f"{sum(step['seconds'] for step in result['seconds']) / 60:.0f} minutes on "
        f"{result['hardware']['cpu_count']} cores ({result['hardware']['cpu']})"
        + (", beside other work." if result["load_before"] > 0.5 else "."),
    )


@_made_of("many_scans", "Time and memory (`benchmarks/many_scans.py`)")
def many_scans_block(result: Any) -> str:
    """Time to list many scans, and memory of predictions of few and of many."""
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
    walks: dict[str, Any] = (result_of(root, "journeys") or {"journeys": {}})["journeys"]
    heads = ["Journey", "Data", "Reached", "Minutes", "of processor time", "Peak memory, GB"]
    rows = []
    for name, title in WALKS.items():
        if (walk := walks.get(name)) is None:
            continue
        times = [f"{walk['minutes']:.0f}", f"{walk['processor_minutes']:.0f}"]
        memory = f"{walk['peak_memory_mb'] / 1000:.1f}"
        rows.append([title, walk["cases"], _reached(name, walk), *times, memory])
    below = []
    if walks:
        machines = sorted({walk["hardware"]["cpu"] for walk in walks.values()})
        threads = sorted({walk["threads"] for walk in walks.values()})
        busy = any(walk["load_before"] > 0.5 for walk in walks.values())
        below.append(
            f"{' and '.join(machines)}, {', '.join(map(str, threads))} thread"
            f"{'s' * (threads != [1])}" + (", beside other work." if busy else ".")
        )
    return table(heads, rows, *below, texts=3)


@_made_of("label_improvement", "Dice before and after five scribbled scans")
def label_improvement_block(result: Any) -> str:
    """What two models in MONAI Label learn from five scribbled scans."""
    rows = []
    for start in ("weights that ship", "random weights"):
        for name, scores in result[start]["rounds"].items():
            dice = f"{scores['dice']:.1f}"
            rows.append([start, name, f"{result[start]['lr']:g}", dice, f"{scores['lowest']:.1f}"])
    return table(
        ["Start", "Scored", "`lr`", "Dice [%]", "lowest"],
        rows,
        f"{result['random weights']['scored']} frames of other patients; {result['steps']} steps a "
        "training.",
        texts=2,
    )


@_made_of("erosion", "Scribbles by erosion")
def erosion_block(result: Any) -> str:
    """Time of scribbles by erosion, and what they leave of the left ventricle."""
    rules = result["rules"].values()
    left = [rule["left_ventricle"] for rule in rules]
    rows = [
        ["SciPy loop, s", *(f"{rule['loop_seconds']:.1f}" for rule in rules)],
        ["`scribble_by_erosion`, s", *(f"{rule['mixseg_seconds']:.1f}" for rule in rules)],
        ["times as fast", *(f"{rule['ratio']:.1f}" for rule in rules)],
        ["LV pixels per slice", *(f"{one['mean_pixels']:.0f}" for one in left)],
        ["of these labeled, mean", *(f"{one['mean_scribble_pixels']:.0f}" for one in left)],
        ["median", *(f"{one['median_scribble_pixels']:.0f}" for one in left)],
        ["share labeled", *(f"{one['scribble_share']:.1%}" for one in left)],
        [
            "slices whose mask is kept whole",
            *(f"{one['share_of_slices_kept_whole']:.1%}" for one in left),
        ],
    ]
    deep = result["rules"]["kervadec"]["left_ventricle"]["share_of_slices_with_ten_iterations"]
    data = result["data"]
    return table(
        ["", *(f"`{rule}`" for rule in result["rules"])],
        rows,
        f"{data['volumes']} volumes, {data['slices']} slices, {data['classes']} classes; "
        f"{result['hardware']['cpu']}, one thread; both rules bit-equal to the loop on every "
        f"slice. {deep:.0%} of the slices with LV survive ten iterations of the 3×3 element.",
    )


_TISSUES = ("LV", "myocardium", "RV", "background")
#: Statistics of the phantom → what the table says.
PHANTOM = {
    **{f"median {name}": f"median intensity, {name}" for name in _TISSUES},
    **{f"spread {name}": f"standard deviation within a volume, {name}" for name in _TISSUES},
    "contrast": "contrast to noise, LV to myocardium",
    "auc": "share of background voxels darker than an LV voxel",
    "alike": "share of background voxels as bright as the LV (its 10th to 90th percentile)",
    "diameter": "LV's equivalent diameter per slice (pixels)",
    "fraction": "LV's share of the 96-pixel window, per slice",
    "eccentricity": "LV's eccentricity per slice",
    "ratio": "LV's volume, end-systole to end-diastole",
    "offset": "distance of the LV from the image's center (pixels)",
    "empty": "share of slices without LV, per volume",
    "slices": "slices per volume",
}


@_made_of("phantom_statistics", "Phantom beside ACDC")
def phantom_block(result: Any) -> str:
    """Intensities and shapes of the phantom beside those of ACDC."""
    columns = [result[name]["percentiles"] for name in ("acdc", "phantom")]
    rows = [
        [title, *(f"{c[key][2]:.3g} ({c[key][0]:.3g} to {c[key][4]:.3g})" for c in columns)]
        for key, title in PHANTOM.items()
    ]
    return table(
        ["statistic", "ACDC", "phantom"],
        rows,
        f"ACDC: {result['acdc']['volumes']} volumes of the training split; phantom: "
        f"{result['phantom']['volumes']} volumes ({result['phantom_patients']} patients, seed "
        f"{result['phantom_seed']}). Median over volumes or slices (5th to 95th percentile).",
    )
