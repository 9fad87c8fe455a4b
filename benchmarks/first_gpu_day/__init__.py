"""The program of benchmarks/first_gpu_day.sh; except smoke.py it uses the standard library only."""
