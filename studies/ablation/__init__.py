"""Ablations in miniature on the embedded benchmark: `python -m studies.ablation --config FILE --out DIR`."""
