"""Masks out as DICOM: a segmentation object (SEG) by highdicom, and contours (RTSTRUCT) by contourpy.

Both refer to the series they were made from, keep its patient, study and frame of reference, and say that
an algorithm made them. Contours run half-way between the centres of voxels in and out of a structure, so
filling them gives the mask back voxel for voxel; they are not smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import GraftError

from .. import __version__
from ..files import publish
from .dicom_files import libraries
from .dicom_read import TO_RAS, Series

Array = NDArray[Any]
MAKER = "Graftwork"
MODEL = "graftwork-medseg"
# Colours of structures, from a palette that colour-blind readers tell apart (Okabe and Ito).
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip


def write_seg(path: str | Path, mask: Array, series: Series, classes: Sequence[str]) -> Path:
    """Write a DICOM-SEG (BINARY) of `mask` (X, Y, Z), the series' grid; segment n is class n.

    Raises GraftError when highdicom is missing or the series lacks what a SEG must repeat.
    """
    libraries()
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError:
        raise GraftError(
            "DICOM-SEG needs highdicom: pip install 'graftwork-medseg[dicom]', or leave seg out of outputs"
        ) from None
    method = hd.AlgorithmIdentificationSequence(
        name=MODEL, family=codes.cid7162.ArtificialIntelligence, version=__version__
    )
    about = [
        hd.seg.SegmentDescription(
            segment_number=k,
            segment_label=name[:64],
            # What a class means is the user's; a generic code does not pretend to know.
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.AnatomicalStructure,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=method,
        )
        for k, name in enumerate(classes)
        if k
    ]
    frames = np.ascontiguousarray(mask.transpose(2, 1, 0))  # slices, rows, columns
    if series.frames[0].index is not None:
        if len(series.headers) > 1:
            raise GraftError(
                f"{series.place}: a series of several multi-frame files cannot be referred to by a SEG; "
                "use nifti or rtstruct"
            )
        stored = np.empty_like(frames)
        stored[[f.index for f in series.frames]] = frames
        frames = stored
    try:
        out = hd.seg.Segmentation(
            source_images=series.headers,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=about,
            series_instance_uid=hd.UID(),
            series_number=900,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MODEL,
            software_versions=__version__,
            device_serial_number="0",
            series_description="medseg segmentation",
            # A file without any frame is not valid: an empty mask keeps its empty frames.
            omit_empty_frames=bool(mask.any()),
        )
    except (AttributeError, KeyError, ValueError, TypeError) as error:
        raise GraftError(
            f"{series.place}: no DICOM-SEG can refer to this series: {error}"
        ) from error
    path = Path(path)
    with publish(path) as temporary:
        out.save_as(temporary)
    return path


def write_rtstruct(path: str | Path, mask: Array, series: Series, classes: Sequence[str]) -> Path:
    """Write an RTSTRUCT of `mask` (X, Y, Z), the series' grid; ROI number n is class n."""
    pydicom = libraries()
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    first, now = series.frames[0].header, datetime.now()
    frame_uid = first.get("FrameOfReferenceUID")
    if not frame_uid:
        raise GraftError(f"{series.place}: no FrameOfReferenceUID; an RTSTRUCT must name it")
    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID = RTStructureSetStorage
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = generate_uid()
    for field in (
        *(
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyInstanceUID",
            "StudyDate",
        ),
        *("StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
    ):
        setattr(out, field, first.get(field, ""))
    if "SpecificCharacterSet" in first:
        out.SpecificCharacterSet = first.SpecificCharacterSet
    out.Modality, out.Manufacturer, out.ManufacturerModelName = "RTSTRUCT", MAKER, MODEL
    out.SoftwareVersions = __version__
    out.SeriesInstanceUID, out.SeriesNumber, out.InstanceNumber = generate_uid(), 901, 1
    out.SeriesDescription, out.OperatorsName = "medseg contours", ""
    out.StructureSetLabel = "medseg"
    out.StructureSetDate = out.InstanceCreationDate = now.strftime("%Y%m%d")
    out.StructureSetTime = out.InstanceCreationTime = now.strftime("%H%M%S")
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = frame_uid, ""
    out.ApprovalStatus = "UNAPPROVED"
    out.ReferencedFrameOfReferenceSequence = [_reference(Dataset, series, frame_uid)]
    out.StructureSetROISequence, out.ROIContourSequence = [], []
    out.RTROIObservationsSequence = []
    for k, name in enumerate(classes):
        if k:
            roi, drawn, seen = Dataset(), Dataset(), Dataset()
            roi.ROINumber = drawn.ReferencedROINumber = seen.ReferencedROINumber = k
            roi.ReferencedFrameOfReferenceUID, roi.ROIName = frame_uid, name[:64]
            roi.ROIGenerationAlgorithm = "AUTOMATIC"
            drawn.ROIDisplayColor = list(COLOURS[(k - 1) % len(COLOURS)])
            drawn.ContourSequence = [
                _contour(Dataset, series, slice_, points)
                for slice_, points in outlines(mask == k, series.affine)
            ]
            seen.ObservationNumber, seen.RTROIInterpretedType, seen.ROIInterpreter = k, "", ""
            out.StructureSetROISequence.append(roi)
            out.ROIContourSequence.append(drawn)
            out.RTROIObservationsSequence.append(seen)
    path = Path(path)
    with publish(path) as temporary:
        pydicom.dcmwrite(temporary, out, enforce_file_format=True)
    return path


def outlines(inside: Array, affine: Array) -> Iterator[tuple[int, Array]]:
    """(slice, closed contour (points, 3) in LPS mm) of a boolean (X, Y, Z) structure."""
    import contourpy

    to_patient = TO_RAS @ affine
    for k in np.flatnonzero(inside.any(axis=(0, 1))):
        # A rim of zeros closes contours that would leave the image.
        plane = np.pad(inside[:, :, k], 1).astype(np.float64)
        for line in contourpy.contour_generator(z=plane.T).lines(0.5):
            at = np.column_stack([np.asarray(line) - 1, np.full(len(line), float(k))])
            at = _corners(at[:-1])
            yield int(k), at @ to_patient[:3, :3].T + to_patient[:3, 3]


def _corners(points: Array) -> Array:
    """A closed polygon without the points that lie on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return np.asarray(points[turns])


def _contour(dataset: Any, series: Series, k: int, points: Array) -> Any:
    contour = dataset()
    contour.ContourImageSequence = [_instance(dataset, series, k)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    # Decimal strings hold 16 characters; a micrometre is far below any voxel.
    contour.ContourData = [f"{v:.3f}" for v in points.ravel()]
    return contour


def _instance(dataset: Any, series: Series, k: int) -> Any:
    frame, item = series.frames[k], dataset()
    item.ReferencedSOPClassUID = frame.header.SOPClassUID
    item.ReferencedSOPInstanceUID = frame.header.SOPInstanceUID
    if frame.index is not None:
        item.ReferencedFrameNumber = frame.index + 1
    return item


def _reference(dataset: Any, series: Series, frame_uid: str) -> Any:
    of_series, study, frame = dataset(), dataset(), dataset()
    of_series.SeriesInstanceUID = series.uid
    of_series.ContourImageSequence = [
        _instance(dataset, series, k) for k in range(len(series.frames))
    ]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # detached study management, retired
    study.ReferencedSOPInstanceUID = series.frames[0].header.get("StudyInstanceUID", "")
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = frame_uid, [study]
    return frame
