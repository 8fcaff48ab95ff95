"""Define `segic app`: serve the web page."""

import os
import re
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from segic_jax.config import Backend, Method, Precision
from segic_jax.weights.catalog import DEFAULT


@dataclass
class App:
    """Serve a web page to mark an object in one image and find it in others.

    It needs Gradio: pip install 'segic_jax[app]'. Images stay on this machine, and only this machine can open
    the page, unless --host opens it to the network.
    """

    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 opens the page to everybody on the network."""
    port: int = 7860
    """Port; 0 for a free one."""
    embed_in: str | None = None
    """A site that may show the page inside its own, such as https://huggingface.co; by default none may."""
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    method: Method = "segic"
    """What the page begins with, if the model has both: segic decodes with the trained head; training_free
    (INSID3) compares features, and needs a backbone only."""
    precision: Precision = "auto"
    """The precision of the backbone: auto is bfloat16 on a GPU or TPU and float32 on a CPU."""
    backend: Backend = "jax"
    """What runs the backbone: onnxruntime takes a CPU less time for EfficientNets, such as photo; it needs
    pip install 'segic_jax[onnxruntime]'."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        from segic_jax.errors import ConfigError

        if find_spec("gradio") is None:
            raise ConfigError("segic app needs Gradio: pip install 'segic_jax[app]'")
        if self.embed_in is not None and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?", self.embed_in):
            raise ConfigError(f"--embed-in {self.embed_in} is no site: give one such as https://example.com.")
        with tempfile.TemporaryDirectory(prefix="segic_app_", ignore_cleanup_errors=True) as folder:
            # Gradio reads both variables at import.
            os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
            import jax

            from segic_jax.app.layout import header
            from segic_jax.app.segmenters import Segmenters
            from segic_jax.app.server import serve
            from segic_jax.inference.methods import load_model
            from segic_jax.runtime.compile_cache import use_compile_cache
            from segic_jax.weights.fetch import find

            use_compile_cache()
            bundle = load_model(find(self.weights), self.method)
            segmenters = Segmenters(bundle, self.precision, self.method, self.backend)
            segmenter = segmenters.of(self.method)
            device = {"cpu": "CPU", "gpu": "GPU"}.get(jax.default_backend(), jax.default_backend())
            text = header(segmenter.name, device, segmenter.warnings)
            serve(segmenters, text, self.host, self.port, Path(folder), self.embed_in)
        return 0
