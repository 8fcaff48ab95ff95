"""Serve the page with the packaged model of photographs as a Space of Hugging Face."""

import sys

from segic_jax.commands.app import App

if __name__ == "__main__":
    sys.exit(App(host="0.0.0.0", embed_in="https://huggingface.co").run())
