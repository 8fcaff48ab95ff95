"""This project against the official PyTorch code, number by number; `python -m segic_jax.parity DIR`."""
