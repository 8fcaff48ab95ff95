"""Define the trained part of SegIC: neck, prompt encoder, mask decoder and projections."""

from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from segic_jax.config import ModelConfig
from segic_jax.models.encoding import Prototypes
from segic_jax.models.features import Features
from segic_jax.models.layers import (
    Conv3x3,
    Embedding,
    LayerNorm2d,
    Linear,
    PatchConv,
    pixel_unshuffle,
)
from segic_jax.models.mask_decoder import MaskDecoder
from segic_jax.models.params import AnyArray, Template
from segic_jax.models.prompt_encoder import PromptEncoder


class SegicHead(nnx.Module):
    """Hold the trained part of SegIC; attribute names are the official ones."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.head.width
        self.neck = nnx.List(
            [
                PatchConv(1, config.backbone.width, width, bias=False, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
                Conv3x3(width, width, rngs=rngs),
                LayerNorm2d(width, rngs=rngs),
            ]
        )
        # Finer levels of the backbone become as wide as the decoder's embedding is while it is upscaled.
        self.fine_projections = nnx.List(
            Linear(channels, width // 4 // 2**i, rngs=rngs)
            for i, channels in enumerate(config.backbone.fine_widths)
        )
        self.prompt_encoder = PromptEncoder(config, rngs=rngs)
        self.mask_decoder = MaskDecoder(config, rngs=rngs)
        self.inst_type_embed = Embedding(2, width, rngs=rngs)  # 0: token of another concept, 1: of this one
        self.prompt_proj = Linear(config.text_width, width, rngs=rngs)
        self.inst_proj = Linear(config.backbone.width, width, rngs=rngs)

    def embed_image(self, features: Features) -> Features:
        """Return what the mask decoder reads of images: patches after the neck, and finer levels."""
        patches = jnp.asarray(features.patches)
        for layer in self.neck:
            patches = layer(patches)
        fine = [
            pixel_unshuffle(project(level), patches.shape[1])
            for project, level in zip(self.fine_projections, features.fine, strict=True)
        ]
        return Features(patches, tuple(fine))

    def tokens(
        self,
        prototypes: Prototypes,
        use_cross: Bool[AnyArray, " batch"] | bool,
        rows: Int[AnyArray, "*images rows"] | None = None,
        alone: bool = False,
    ) -> tuple[Float[Array, "batch rows tokens width"], Bool[Array, "batch rows tokens"]]:
        """Return each concept's text token followed by the visual tokens of all concepts, and which to read.

        Args:
            use_cross: images whose concepts also read the visual tokens of the other concepts. Elsewhere they
                read only their own, without the type embedding (segic.py:683-697, 1029-1039).
            rows: the concepts that read, the same ones of all images or some of each; all if None.
            alone: give each concept the tokens that it would have as the only concept of its image: its own,
                with the type embedding. `use_cross` is not read.
        """
        batch, concepts, shots, _ = prototypes.visual.shape
        own = prototypes
        if rows is not None:
            chosen = jnp.arange(batch)[:, None], jnp.broadcast_to(rows, (batch, rows.shape[-1]))
            own = jax.tree.map(lambda x: x[chosen], prototypes)
        rows = jnp.arange(concepts) if rows is None else rows
        text = self.prompt_proj(own.text)[:, :, None]
        type_embedding = self.inst_type_embed.embedding
        if alone:
            visual, valid = self.inst_proj(own.visual) + type_embedding[1], own.visual_valid
        else:
            visual = self.inst_proj(prototypes.visual).reshape(batch, 1, concepts * shots, -1)
            # [(batch,) rows, visual tokens]
            is_own = jnp.repeat(rows[..., None] == jnp.arange(concepts), shots, axis=-1)
            cross = jnp.broadcast_to(use_cross, batch)[:, None, None]
            embedded = jnp.where(is_own[..., None], type_embedding[1], type_embedding[0])
            visual = visual + jnp.where(cross[..., None], embedded, 0)
            valid = prototypes.visual_valid.reshape(batch, 1, -1) & (is_own | cross)
        return (
            jnp.concatenate([text, visual], axis=2),
            jnp.concatenate([jnp.ones((*text.shape[:2], 1), bool), valid], axis=2),
        )


@cache
def head_template(config: ModelConfig) -> Template:
    """Return the structure of the head without its arrays."""
    return Template(lambda rngs: SegicHead(config, rngs=rngs))
