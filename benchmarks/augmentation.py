"""Time of augmentation, of libraries and of BatchAugmentation, and its share of a training step.

    OMP_NUM_THREADS=1 python benchmarks/augmentation.py

The same set of transforms as near as each library has it, at the same strengths and probabilities,
on batches in memory: 16 slices of 96 × 96 and 2 volumes of 88 × 72 × 40, image and two label maps.
A step is forward, cross-entropy, backward and AdamW of DualBranchDynUNet with one branch, in
float32 and, where the processor computes in it, in bfloat16. All take turns in one process and one
thread; times are the process's, so that other load on the machine hardly enters them. Libraries
other than MONAI are optional and named where they are missing:

    pip install kornia torchio==2.0.0a2

Writes benchmarks/results/augmentation.json. To stay at or below: 15 % of a step.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import monai.transforms as mt
import torch
from monai.data.meta_obj import set_track_meta
from torch import Tensor
from torch.nn import functional as F
from trainer_overhead import timed

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.networks import DualBranchDynUNet
from mixseg.transforms import BatchAugmentation

ROOT = Path(__file__).resolve().parents[1]
LARGEST_SHARE = 0.15
CLASSES = 4
KEYS = ("image", "label", "weak_label")
BATCHES = {"slices": (16, 1, 96, 96), "volumes": (2, 1, 88, 72, 40)}
FEATURES = {2: (16, 32, 64, 128, 128), 3: (16, 32, 64, 128)}
# Strengths of BatchAugmentation, for the libraries.
SCALE, SHIFT, ELASTIC = 0.3, 0.15, 0.03
GAMMA, BIAS, SHIFT_SD, CONTRAST, BLUR, LOW, NOISE, P = 0.4, 0.3, 0.3, 0.3, 1.0, 1.0, 0.2, 0.3

Batch = dict[str, Tensor]
Augment = Callable[[Batch], Batch]

#: Library → what of the set it lacks or does differently, from its source.
LACKS = {
    "mixseg": "",
    "MONAI": "no batches: item by item; zoom of each axis by itself; generators of each transform "
    "apart, none in a state_dict; labels unlabeled outside by an offset around the transforms",
    "kornia": "slices alone: no masks of volumes; no bias field (a linear illumination stands in), "
    "no low resolution; images in 0…1; the global generator; labels unlabeled outside by an offset",
    "TorchIO": "no brightness, no contrast; low resolution along one axis, also of the label maps; "
    "gamma of values of either sign; the global generator; alpha release",
}


def make_batch(shape: tuple[int, ...]) -> Batch:
    """Random images in 0…1 and two random label maps."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES + 1, (2, *shape), dtype=torch.uint8, generator=generator)
    image = torch.rand(shape, generator=generator)
    return {"image": image, "label": labels[0], "weak_label": labels[1]}


def with_mixseg(shape: tuple[int, ...]) -> Augment:
    return BatchAugmentation(len(shape) - 2, CLASSES)


def with_monai(shape: tuple[int, ...]) -> Augment:
    set_track_meta(False)  # faster
    sides, dims = shape[2:], len(shape) - 2
    zoom = (math.exp(-SCALE) - 1, math.exp(SCALE) - 1)
    common: dict[str, Any] = {
        "keys": KEYS,
        "mode": ("bilinear", "nearest", "nearest"),
        "padding_mode": ("border", "zeros", "zeros"),
    }
    angles = math.pi if dims == 2 else [math.radians(a) for a in (5, 5, 30)]
    elastic: Any
    if dims == 2:
        elastic = mt.Rand2DElasticd(
            spacing=tuple(n / 5 for n in sides),
            magnitude_range=(0, 2 * ELASTIC * sides[0]),
            prob=0.5,
            **common,
        )
    else:
        elastic = mt.Rand3DElasticd(
            sigma_range=(5, 8), magnitude_range=(50, 150), prob=0.5, **common
        )
    chain = mt.Compose(
        [
            mt.RandAffined(
                prob=1.0,
                rotate_range=angles,
                translate_range=[SHIFT * n for n in sides],
                scale_range=[zoom] * dims,
                **common,
            ),
            *[mt.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in (0, 1)],
            elastic,
            mt.RandAdjustContrastd("image", prob=P, gamma=(math.exp(-GAMMA), math.exp(GAMMA))),
            mt.RandBiasFieldd("image", prob=P, coeff_range=(0.0, BIAS)),
            mt.RandScaleIntensityFixedMeand("image", prob=P, factors=CONTRAST),
            mt.RandStdShiftIntensityd("image", prob=P, factors=SHIFT_SD),
            mt.RandGaussianSmoothd(
                "image", prob=P, sigma_x=(0.01, BLUR), sigma_y=(0.01, BLUR), sigma_z=(0.01, BLUR)
            ),
            mt.RandSimulateLowResolutiond(
                "image",
                prob=P,
                zoom_range=(1 / (1 + LOW), 1.0),
                upsample_mode="bilinear" if dims == 2 else "trilinear",
            ),
            mt.RandGaussianNoised("image", prob=P, std=NOISE * 0.29),
        ]
    )
    chain.set_random_state(0)

    def augment(batch: Batch) -> Batch:
        items = []
        for i in range(len(batch["image"])):
            item: Batch = {key: value[i] for key, value in batch.items()}
            for key in KEYS[1:]:
                item[key] = item[key].float() - CLASSES
            items.append(chain(item))
        out = {key: torch.stack([item[key] for item in items]) for key in KEYS}
        for key in KEYS[1:]:
            out[key] = (out[key] + CLASSES).to(torch.uint8)
        return out

    return augment


def with_kornia(shape: tuple[int, ...]) -> Augment:
    import kornia.augmentation as ka

    if len(shape) != 4:
        raise NotImplementedError("no masks of volumes")
    zoom = (math.exp(-SCALE), math.exp(SCALE))
    chain = ka.AugmentationSequential(
        ka.RandomAffine(
            180.0, translate=(SHIFT, SHIFT), scale=(*zoom, *zoom), padding_mode="zeros", p=1.0
        ),
        ka.RandomHorizontalFlip(p=0.5),
        ka.RandomVerticalFlip(p=0.5),
        ka.RandomElasticTransform(kernel_size=(33, 33), sigma=(9.0, 9.0), p=0.5),
        ka.RandomGamma((math.exp(-GAMMA), math.exp(GAMMA)), p=P),
        ka.RandomLinearIllumination(gain=(0.01, BIAS), p=P),
        ka.RandomContrast((math.exp(-CONTRAST), math.exp(CONTRAST)), clip_output=False, p=P),
        ka.RandomBrightness((1 - SHIFT_SD, 1 + SHIFT_SD), clip_output=False, p=P),
        ka.RandomGaussianBlur((7, 7), (0.1, BLUR), p=P),
        ka.RandomGaussianNoise(std=NOISE * 0.29, p=P),
        data_keys=["image", "mask", "mask"],
    )

    def augment(batch: Batch) -> Batch:
        labels = [batch[key].float() - CLASSES for key in KEYS[1:]]
        image, *labels = chain(batch["image"], *labels)
        return {
            "image": image,
            **{k: (v + CLASSES).to(torch.uint8) for k, v in zip(KEYS[1:], labels, strict=True)},
        }

    return augment


def with_torchio(shape: tuple[int, ...]) -> Augment:
    import torchio as tio

    volumes = len(shape) == 5
    sides = shape[2:] if volumes else (*shape[2:], 1)
    angles = (-5, 5, -5, 5, -30, 30) if volumes else (0, 0, 0, 0, -180, 180)
    shifts = [sign * SHIFT * n * (n > 1) for n in sides for sign in (-1, 1)]
    largest = tuple(2 * ELASTIC * n * (n > 1) for n in sides)
    chain = tio.Compose(
        [
            tio.Spatial(
                scales=(math.exp(-SCALE), math.exp(SCALE)),
                degrees=angles,
                translation=tuple(shifts),
                num_control_points=6,
                max_displacement=largest,
                default_pad_label=CLASSES,
            ),
            tio.Flip(axes=(0, 1), flip_probability=0.5),
            tio.Gamma(log_gamma=(-GAMMA, GAMMA), p=P),
            tio.BiasField(std=(0, BIAS), p=P),
            tio.Blur(std=(0, BLUR) * 2 + ((0, BLUR) if volumes else (0, 0)), p=P),
            tio.Anisotropy(axes=(0, 1, 2) if volumes else (0, 1), downsampling=(1, 1 + LOW), p=P),
            tio.Noise(std=(0, NOISE * 0.29), p=P),
        ],
        copy=False,
    )
    kinds = (tio.ScalarImage, tio.LabelMap, tio.LabelMap)

    def augment(batch: Batch) -> Batch:
        images = {
            key: tio.ImagesBatch(
                batch[key] if volumes else batch[key][..., None],
                [tio.AffineMatrix() for _ in range(len(batch[key]))],
                image_class=kind,
            )
            for key, kind in zip(KEYS, kinds, strict=True)
        }
        out = chain(tio.SubjectsBatch(images)).images
        return {key: out[key].data if volumes else out[key].data[..., 0] for key in KEYS}

    return augment


LIBRARIES: dict[str, Callable[[tuple[int, ...]], Augment]] = {
    "mixseg": with_mixseg,
    "MONAI": with_monai,
    "kornia": with_kornia,
    "TorchIO": with_torchio,
}


def training_step(batch: Batch, dtype: torch.dtype | None) -> Callable[[], None]:
    """Forward, backward and AdamW of the recipe's network."""
    dims = batch["image"].ndim - 2
    torch.manual_seed(0)
    network = DualBranchDynUNet(
        spatial_dims=dims,
        out_channels=CLASSES,
        features=FEATURES[dims],
        res_block=False,
        branches=1,
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    image, label = batch["image"], batch["label"][:, 0].long()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            logits = network(image)
        F.cross_entropy(logits.float(), label, ignore_index=CLASSES).backward()
        optimizer.step()

    return step


def check(out: Batch, batch: Batch) -> None:
    """Raise where a chain did not do what is measured: shapes, types, classes, finite values."""
    for key in KEYS:
        if out[key].shape != batch[key].shape or not out[key].isfinite().all():
            raise RuntimeError(f"{key} has the shape {tuple(out[key].shape)} or is not finite")
    for key in KEYS[1:]:
        if out[key].dtype != torch.uint8 or int(out[key].max()) > CLASSES:
            raise RuntimeError(f"{key} holds {out[key].unique().tolist()} as {out[key].dtype}")


def measure(shape: tuple[int, ...], iterations: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each library and of the steps; they take turns."""
    batch = make_batch(shape)
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    types = {"float32": None, **({"bfloat16": torch.bfloat16} if native else {})}
    work: dict[str, Callable[[], Any]] = {
        name: training_step(batch, dtype) for name, dtype in types.items()
    }
    missing = {}
    for name, build in LIBRARIES.items():
        try:
            augment = build(shape)
        except (ImportError, NotImplementedError) as error:
            missing[name] = str(error)
            continue
        check(augment(batch), batch)
        work[name] = lambda augment=augment: augment(batch)
    spent: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name in work if turn % 2 else reversed(work):

            def block(run: Callable[[], Any] = work[name]) -> None:
                for _ in range(iterations):
                    run()

            _, used = timed(block, torch.device("cpu"))
            if turn:  # the first round warms up
                spent[name].append(1e3 * used / iterations)
    median = {name: statistics.median(times) for name, times in spent.items()}
    return {
        "shape": list(shape),
        "features": list(FEATURES[len(shape) - 2]),
        "step_ms": {name: round(median[name], 2) for name in types},
        "augmentation": {
            name: {
                "ms": round(median[name], 2),
                "quartiles": [round(q, 2) for q in statistics.quantiles(spent[name], n=4)],
                "share_of_step": {t: round(median[name] / median[t], 4) for t in types},
                "lacks": LACKS[name],
            }
            for name in LIBRARIES
            if name in median
        },
        "missing": missing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=5, help="batches of a block")
    parser.add_argument("--rounds", type=int, default=9, help="blocks of each, at least 2")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "augmentation.json"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = {
        name: measure(shape, arguments.iterations, arguments.rounds)
        for name, shape in BATCHES.items()
    }
    result = {
        "benchmark": "augmentation of a batch in memory, process time of one thread",
        "largest_share": LARGEST_SHARE,
        "batches": found,
        "setting": {"iterations": arguments.iterations, "rounds": arguments.rounds},
        **environment(),
    }
    for name in ("kornia", "torchio"):
        try:
            result["versions"][name] = version(name)
        except PackageNotFoundError:
            result["versions"][name] = None
    write_bytes_atomic(arguments.output, strict_json(result).encode())
    for name, one in found.items():
        print(name, one["step_ms"], "ms a step")
        for library, row in one["augmentation"].items():
            print(f"  {library}: {row['ms']} ms, {row['share_of_step']} of a step")
        for library, reason in one["missing"].items():
            print(f"  {library}: missing ({reason})")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
