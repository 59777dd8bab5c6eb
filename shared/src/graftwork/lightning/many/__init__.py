"""`graftwork train-many`: the jobs of any apps on one shared backbone."""
