"""Run small ablations on the embedded benchmark: `python -m studies.ablation --config NAME --out DIR`."""
