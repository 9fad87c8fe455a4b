"""What benchmarks/first_gpu_day.sh runs; all but smoke.py is of the standard library alone."""
