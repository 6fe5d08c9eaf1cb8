"""How well networks tell the perturbations of unseen batches apart; `python -m phenomjax.evaluate
perturbations` is the door.
"""
