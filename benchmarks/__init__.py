"""The benchmark: every engine in its own process, one run, error beside speed."""
