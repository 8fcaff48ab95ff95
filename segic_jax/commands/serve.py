"""Define `segic serve`: keep contexts and segment images over HTTP."""

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from segic_jax.config import Backend, Precision
from segic_jax.runtime.limits import Limits
from segic_jax.weights.catalog import DEFAULT

_PACKAGES = ("fastapi", "uvicorn", "multipart", "prometheus_client")


@dataclass
class Serve:
    """Serve contexts and predictions over HTTP, for labelling tools and programs in other languages.

      segic serve --folder contexts/
      curl -F images=@cat.jpg -F masks=@cat.png -F names=cat -F id=pets http://127.0.0.1:8080/v1/contexts
      curl -F images=@street.jpg http://127.0.0.1:8080/v1/contexts/pets/predict

    It needs pip install 'segic_jax[serve]'. /docs on the server describes all requests. Only this machine can
    reach it, unless --host names another address, which needs a token.
    """

    folder: Path = Path("segic_contexts")
    """The folder that keeps the contexts; it is created."""
    host: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 is every address of this machine."""
    port: int = 8080
    """Port; 0 for a free one."""
    token_file: Path | None = None
    """A file with the token that requests must bring; by default the environment variable SEGIC_TOKEN."""
    label_studio: str | None = None
    """The address of a Label Studio whose tasks name images there, such as http://localhost:8080; its access
    token is read from the environment variable LABEL_STUDIO_API_KEY."""
    weights: str = DEFAULT
    """A name from `segic weights list`, or a model file."""
    precision: Precision = "auto"
    """The precision of the backbone: auto is bfloat16 on a GPU or TPU and float32 on a CPU."""
    backend: Backend = "jax"
    """What runs the backbone: onnxruntime takes a CPU less time for EfficientNets, such as photo; it needs
    pip install 'segic_jax[onnxruntime]'."""
    limits: Limits = field(default_factory=Limits)
    """What requests may ask for."""

    def run(self) -> int:
        """Serve until Ctrl-C or SIGTERM."""
        from segic_jax.errors import ConfigError

        if missing := [name for name in _PACKAGES if find_spec(name) is None]:
            raise ConfigError(f"segic serve needs {', '.join(missing)}: pip install 'segic_jax[serve]'")
        from segic_jax.inference.segmenter import Segmenter
        from segic_jax.runtime.compile_cache import use_compile_cache
        from segic_jax.server.run import read_token, require_token, serve
        from segic_jax.server.task_images import read_address

        token = read_token(self.token_file)
        require_token(self.host, token)
        studio = self.label_studio and read_address(
            self.label_studio, os.environ.get("LABEL_STUDIO_API_KEY") or None
        )
        use_compile_cache()
        segmenter = Segmenter.load(self.weights, precision=self.precision, backend=self.backend)
        serve(segmenter, self.folder, self.host, self.port, token, self.limits, studio or None)
        return 0
