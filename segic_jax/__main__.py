"""`python -m segic_jax` is `segic`."""

from segic_jax.cli import main

if __name__ == "__main__":
    main()
