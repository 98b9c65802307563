"""A mask as DICOM SEG that refers to the scan it was made of, through highdicom."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixseg.files.reading import UnreadableError, dicom_files

#: Coding scheme of codes that are nobody else's (PS3.16, 8.2): no vocabulary knows every class.
_OWN_SCHEME = "99MIXSEG"
#: Characters that a name of this kind (LO) may have.
_LONGEST = 64


def require_highdicom() -> None:
    """Refuse to begin without what writes DICOM SEG.

    Raises:
        ValueError: highdicom or the pydicom that it needs is absent.
    """
    if find_spec("pydicom") is None or find_spec("highdicom") is None:
        raise ValueError(
            'DICOM SEG is written by highdicom, which is absent: pip install "mixseg[dicom]", in '
            "another environment than MONAI Label's, which needs pydicom 2"
        )
    import pydicom

    if int(pydicom.__version__.split(".")[0]) < 3:
        raise ValueError(
            f"DICOM SEG needs pydicom 3, and here is {pydicom.__version__}: pip install "
            '"mixseg[dicom]" in another environment than MONAI Label\'s, which needs pydicom 2'
        )


def write_dicom_seg(
    path: Path,
    series: Path,
    mask: NDArray[np.uint8],
    affine: NDArray[np.float64],
    class_names: Sequence[str],
    made_by: tuple[str, str],
) -> None:
    """Write a DICOM segmentation (SEG, binary), a segment for each class but the background.

    The same mask of the same scan gets the same identifiers, and so the same object.

    Args:
        path: file to write.
        series: folder of the scan, or its file of several frames.
        mask: class of each voxel, (x, y, z), in the grid of the scan.
        affine: voxel indices to mm, 4×4, right–anterior–superior.
        class_names: of all classes, background first; segment k is class k.
        made_by: name and version of the bundle.

    Raises:
        UnreadableError: the scan's files lack a tag that the object must repeat.
    """
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    files = dicom_files(series)
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    # highdicom counts slices, rows and columns, and left–posterior–superior.
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    volume = hd.Volume(
        np.ascontiguousarray(mask.transpose()), lps[:, [2, 1, 0, 3]], coordinate_system="PATIENT"
    )
    name, version = made_by
    algorithm = hd.AlgorithmIdentificationSequence(
        name=name[:_LONGEST],
        version=version[:_LONGEST],
        family=codes.DCM.ArtificialIntelligence,
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label[:_LONGEST],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=hd.sr.CodedConcept(
                f"CLASS{number}", _OWN_SCHEME, label[:_LONGEST]
            ),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(class_names[1:], 1)
    ]
    content = hashlib.sha256(mask.tobytes()).hexdigest()
    own = [str(getattr(sources[0], "SOPInstanceUID", series)), content, name, version]
    try:
        with warnings.catch_warnings():
            # An empty mask and unusual patient names are no faults of the user's.
            warnings.simplefilter("ignore")
            seg = hd.seg.Segmentation(
                source_images=sources,
                pixel_array=volume,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=generate_uid(entropy_srcs=["series", *own]),
                series_number=1000,
                sop_instance_uid=generate_uid(entropy_srcs=["instance", *own]),
                instance_number=1,
                manufacturer="mixseg",
                manufacturer_model_name=name[:_LONGEST],
                software_versions=version[:_LONGEST],
                device_serial_number="0",
                series_description=f"{name}: {', '.join(class_names[1:])}"[:_LONGEST],
            )
    except (AttributeError, ValueError, TypeError) as error:
        raise UnreadableError(
            f"its tags are incomplete for a DICOM SEG: {error}",
            "complete the tags of the series, or leave out --dicom-seg",
        ) from error
    # Of the classes' names; what the scan says of the patient is encoded anew.
    seg.SpecificCharacterSet = "ISO_IR 192"
    seg.save_as(path, enforce_file_format=True)
