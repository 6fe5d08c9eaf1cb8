"""Hyper-parameter sweeps: `python -m phenomjax.sweep --config configs/mae_demo.py --study
runs/sweep` (see __main__.py).
"""
