"""Lists of jobs that several workers share out, one result file a job: a killed run goes on from the files."""
