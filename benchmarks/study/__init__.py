"""What benchmarks/cifar10_lt_study.py makes of finished runs: claims, figures, a page."""
