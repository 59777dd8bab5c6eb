"""Few-shot segmentation on real scans: a resumable grid of jobs, and the tables that are generated from their files."""
