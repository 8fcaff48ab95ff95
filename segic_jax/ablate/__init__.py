"""Ablations in miniature on the embedded benchmark: `python -m segic_jax.ablate --config FILE --out DIR`."""
