"""Images and labels in: what an image must become, NIfTI and DICOM files, folders, patches."""
