"""A synthetic data set: beating hearts of made-up patients, as MR slices would show them."""

from mixseg.data.phantom.dataset import FRAMES, phantom_patient, write_phantom

__all__ = ["FRAMES", "phantom_patient", "write_phantom"]
