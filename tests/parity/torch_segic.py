"""Implement SegIC in plain PyTorch under the official state-dict names, as the reference model of the tests.

It follows the goldens' README and uses nothing of segic_jax; `test_dump_torch.py` checks it against the
goldens of the official code. It has the attributes that `tools/dump_torch.py` accesses.
"""

import random
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import tokenizers
import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Sizes:
    """Describe the sizes of one model; the defaults are small enough for tests."""

    canvas: int = 112
    vit_width: int = 32
    vit_depth: int = 3
    vit_heads: int = 4
    pos_grid: int = 37
    text_vocab: int = 300
    text_width: int = 16
    text_mlp: int = 32
    text_depth: int = 2
    text_heads: int = 2
    width: int = 32
    heads: int = 8
    mlp: int = 64

    @classmethod
    def from_state(cls, state: dict, canvas: int, vit_heads: int, text_heads: int) -> "Sizes":
        """Read the sizes from a complete state dict, which does not show the heads and the canvas."""

        def shape(name: str) -> tuple[int, ...]:
            return tuple(state[name].shape)

        def depth(prefix: str) -> int:
            return 1 + max(
                int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix)
            )

        text = "encoder.text_model.text_model."
        return cls(
            canvas=canvas,
            vit_width=shape("encoder.dinov2.cls_token")[-1],
            vit_depth=depth("encoder.dinov2.blocks."),
            vit_heads=vit_heads,
            pos_grid=round((shape("encoder.dinov2.pos_embed")[1] - 1) ** 0.5),
            text_vocab=shape(text + "embeddings.token_embedding.weight")[0],
            text_width=shape(text + "embeddings.token_embedding.weight")[1],
            text_mlp=shape(text + "encoder.layers.0.mlp.fc1.weight")[0],
            text_depth=depth(text + "encoder.layers."),
            text_heads=text_heads,
            width=shape("neck.0.weight")[0],
            mlp=shape("mask_decoder.transformer.layers.0.mlp.lin1.weight")[0],
        )


def attend(q, k, v, heads: int, mask=None):
    """Apply softmax attention to [batch, tokens, width]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class ChannelNorm(nn.Module):
    """Normalise the channels of [batch, channels, height, width]."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return x.movedim(-1, 1)


class Residual(nn.Module):
    """Implement one transformer block of DINOv2."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (
            nn.ParameterDict({"gamma": 0.5 + torch.rand(width)}),
            nn.ParameterDict({"gamma": 0.5 + torch.rand(width)}),
        )

    def forward(self, x):
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.ls1["gamma"] * self.attn["proj"](attend(q, k, v, self.heads))
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Patches(nn.Module):
    """Embed images as patch tokens."""

    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """Implement DINOv2 without registers, with the position offset 0.1."""

    patch_size, num_register_tokens, interpolate_offset, interpolate_antialias = 14, 0, 0.1, False

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.vit_width
        self.num_heads, self.side = sizes.vit_heads, sizes.pos_grid
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + sizes.pos_grid**2, width))
        self.patch_embed = Patches(width, self.patch_size)
        self.blocks = nn.ModuleList(Residual(width, sizes.vit_heads) for _ in range(sizes.vit_depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def interpolate_pos_encoding(self, x, rows: int, columns: int):
        if rows == columns == self.side * self.patch_size:
            return self.pos_embed
        scale = [(side // self.patch_size + self.interpolate_offset) / self.side for side in (rows, columns)]
        table = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).movedim(-1, 1)
        table = F.interpolate(table, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1], table], dim=1)

    def forward_features(self, pixels):
        x = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.interpolate_pos_encoding(x, *pixels.shape[-2:])
        for block in self.blocks:
            x = block(x)
        return {"x_norm_patchtokens": self.norm(x)[:, 1:]}


class TextLayer(nn.Module):
    """Implement one layer of CLIP's text tower."""

    def __init__(self, width: int, mlp: int, heads: int):
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = nn.ModuleDict(
            {f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp), "fc2": nn.Linear(mlp, width)})

    def forward(self, x, mask):
        y = self.layer_norm1(x)
        q, k, v = (self.self_attn[f"{name}_proj"](y) for name in "qkv")
        x = x + self.self_attn["out_proj"](attend(q, k, v, self.heads, mask))
        y = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y))


class TextTransformer(nn.Module):
    """Implement CLIP's text tower, pooled at the first end-of-text token."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.text_width
        self.end = sizes.text_vocab - 1
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(sizes.text_vocab, width),
                "position_embedding": nn.Embedding(77, width),
            }
        )
        layers = [TextLayer(width, sizes.text_mlp, sizes.text_heads) for _ in range(sizes.text_depth)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, input_ids, attention_mask):
        length = input_ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril() & attention_mask.bool()[:, None, None]
        x = self.embeddings["token_embedding"](input_ids)
        x = x + self.embeddings["position_embedding"].weight[:length]
        for layer in self.encoder["layers"]:
            x = layer(x, mask)
        x = self.final_layer_norm(x)
        return x[torch.arange(len(x)), (input_ids == self.end).int().argmax(1)]


class TextModel(nn.Module):
    """Wrap the text tower as transformers does."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.config = SimpleNamespace(num_attention_heads=sizes.text_heads)
        self.text_model = TextTransformer(sizes)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(pooler_output=self.text_model(input_ids, attention_mask))


class CharacterTokenizer:
    """Encode a text as start token, one token for each character and end token, padded with end tokens."""

    model_max_length = 77

    def __init__(self, vocab: int):
        self.bos_token_id, self.eos_token_id = vocab - 2, vocab - 1

    def __call__(self, prompts: list[str]) -> dict:
        rows = [
            [self.bos_token_id, *(ord(c) % self.bos_token_id for c in p)][: self.model_max_length - 1]
            for p in prompts
        ]
        ids = torch.full((len(rows), self.model_max_length), self.eos_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row) + 1] = 1
        return {"input_ids": ids, "attention_mask": mask}


class JsonTokenizer:
    """Encode a text with a tokenizer.json, as transformers' fast tokenizers do."""

    model_max_length = 77

    def __init__(self, path: str):
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(path)
        self.size = self.backend_tokenizer.get_vocab_size()
        self.eos_token_id = self.backend_tokenizer.token_to_id("<|endoftext|>")

    def __call__(self, prompts: list[str]) -> dict:
        rows = [self.backend_tokenizer.encode(prompt).ids for prompt in prompts]
        ids = torch.full((len(rows), self.model_max_length), self.eos_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}


class Encoder(nn.Module):
    """Hold both frozen encoders."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.dinov2, self.text_model = Dino(sizes), TextModel(sizes)
        self.tokenizer = CharacterTokenizer(sizes.text_vocab)
        self.requires_grad_(False)

    def forward(self, pixels):
        tokens = self.dinov2.forward_features(pixels)["x_norm_patchtokens"]
        grid = pixels.shape[-1] // self.dinov2.patch_size
        return tokens.transpose(1, 2).unflatten(-1, (-1, grid))

    def get_prompt_features(self, prompts: list[str]):
        return self.text_model(**self.tokenizer(prompts)).pooler_output


class Fourier(nn.Module):
    """Compute random Fourier features of positions in 0..1."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, position):
        angle = 2 * torch.pi * ((2 * position - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Implement SAM's prompt encoder with text tokens; boxes are not used at inference."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width, self.canvas = sizes.width, sizes.canvas
        self.pe_layer = Fourier(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 7, stride=7),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv2d(16, width, 1),
        )

    def get_dense_pe(self):
        centre = (torch.arange(self.canvas // 14) + 0.5) / (self.canvas // 14)
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).movedim(-1, 0)[None]

    def forward(self, points, boxes, masks, texts):
        assert boxes is None
        coordinates, _ = points  # all in the foreground
        inside = self.pe_layer((coordinates + 0.5) / self.canvas) + self.point_embeddings[1].weight
        padding = self.not_a_point_embed.weight.expand(len(texts), 1, -1)
        return torch.cat([inside, padding, texts], dim=1), self.mask_downscaling(masks)


class CrossAttention(nn.Module):
    """Implement SAM's attention, whose inner width may differ from the outer one."""

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q, k, v):
        return self.out_proj(attend(self.q_proj(q), self.k_proj(k), self.v_proj(v), self.heads))


class TwoWayBlock(nn.Module):
    """Apply self-attention, attention from tokens to image, an MLP, and attention from image to tokens."""

    def __init__(self, sizes: Sizes, first: bool):
        super().__init__()
        width, heads = sizes.width, sizes.heads
        self.first = first
        self.self_attn = CrossAttention(width, width, heads)
        self.cross_attn_token_to_image = CrossAttention(width, width // 2, heads)
        self.cross_attn_image_to_token = CrossAttention(width, width // 2, heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(width, sizes.mlp), "lin2": nn.Linear(sizes.mlp, width)})

    def forward(self, tokens, image, token_position, image_position):
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            positioned = tokens + token_position
            tokens = self.norm1(tokens + self.self_attn(positioned, positioned, tokens))
        positioned_image = image + image_position
        attended = self.cross_attn_token_to_image(tokens + token_position, positioned_image, image)
        tokens = self.norm2(tokens + attended)
        tokens = self.norm3(tokens + self.mlp["lin2"](self.mlp["lin1"](tokens).relu()))
        attended = self.cross_attn_image_to_token(positioned_image, tokens + token_position, tokens)
        return tokens, self.norm4(image + attended)


class TwoWay(nn.Module):
    """Implement the two-way transformer of the mask decoder."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.num_heads = sizes.heads
        self.layers = nn.ModuleList([TwoWayBlock(sizes, True), TwoWayBlock(sizes, False)])
        self.final_attn_token_to_image = CrossAttention(sizes.width, sizes.width // 2, sizes.heads)
        self.norm_final_attn = nn.LayerNorm(sizes.width)

    def forward(self, image, image_position, token_position):
        tokens = token_position
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_position, image_position)
        attended = self.final_attn_token_to_image(tokens + token_position, image + image_position, image)
        return self.norm_final_attn(tokens + attended), image


class Mlp(nn.Module):
    """Apply linear layers with ReLU between them."""

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Implement SAM's mask decoder, limited to the first mask."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.transformer = TwoWay(sizes)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(4, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width, width // 8) for _ in range(4))
        self.iou_prediction_head = Mlp(width, width, width, 4)

    def forward(
        self,
        image_embeddings,
        image_pe,
        sparse_prompt_embeddings,
        dense_prompt_embeddings,
        multimask_output,
        task_indicator=None,
    ):
        assert not multimask_output
        assert task_indicator is None
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat(
            [output_tokens.expand(len(sparse_prompt_embeddings), -1, -1), sparse_prompt_embeddings], 1
        )
        image = image_embeddings + dense_prompt_embeddings
        tokens, flat = self.transformer(
            image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2), tokens
        )
        upscaled = self.output_upscaling(flat.transpose(1, 2).reshape(image.shape))
        filters = self.output_hypernetworks_mlps[0](tokens[:, 1])
        logits = torch.einsum("nc,nchw->nhw", filters, upscaled)
        return logits[:, None], self.iou_prediction_head(tokens[:, 0])[:, :1]


def cal_sim(features, pooled, eps: float = 1e-4):
    """Return the cosine similarity [n, m, h, w] of features [1, c, h, w] and prototypes [n, m, c]."""
    features = features / features.norm(dim=1, keepdim=True).clamp(min=eps)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=eps)
    return torch.einsum("chw,nmc->nmhw", features[0], pooled)


misc = SimpleNamespace(cal_sim=cal_sim)  # the official code calls it through the module utils.misc


class SEGIC(nn.Module):
    """Run inference on one target and one reference image."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width, self.img_size = sizes.width, sizes.canvas
        self.encoder = Encoder(sizes)
        self.neck = nn.Sequential(
            nn.Conv2d(sizes.vit_width, width, 1, bias=False),
            ChannelNorm(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            ChannelNorm(width),
        )
        self.prompt_encoder, self.mask_decoder = PromptEncoder(sizes), MaskDecoder(sizes)
        self.inst_type_embed = nn.Embedding(2, width)
        self.prompt_proj = nn.Linear(sizes.text_width, width)
        self.inst_proj = nn.Linear(sizes.vit_width, width)
        self.register_buffer("pixel_mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("pixel_std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def train(self, mode: bool = True):
        super().train(mode)  # returns None, as the official method does

    def state_dict(self):
        """Return the trained part, as the official method does."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        return {
            name: value
            for name, value in nn.Module.state_dict(self).items()
            if name in trained or "pe_layer" in name
        }

    def extract_inst_feat(self, features, masks):
        inside = F.interpolate(masks, features.shape[-2:], mode="bilinear")[:, 0] > 0.5
        sums = torch.einsum("chw,nhw->nc", features[0], inside.float())
        return sums / inside.sum((1, 2)).clamp(min=1)[:, None]

    def forward(self, data: dict, inference: bool):
        assert inference
        random.random()  # the official model draws a number here, too
        images = torch.cat([data["image"].cuda(), data["image_dual"].cuda()])
        pixels = (images / 255 - self.pixel_mean) / self.pixel_std
        for x, (h, w) in zip(pixels, torch.cat([data["ori_size"], data["ori_size_dual"]]), strict=True):
            x[:, h:], x[:, :, w:] = 0, 0
        features = self.encoder(pixels)
        name = data["class_name"][0]
        prompt = f"a photo of a {name}" if name else ""
        if data["is_inst"][0]:
            prompt = "please segment the instances"
        text = self.prompt_proj(self.encoder.get_prompt_features([prompt, prompt]))[:1, None]
        masks = (data["label_dual"][0].cuda()[:, None] / 255 > 0.5).float()
        pooled = self.extract_inst_feat(features[1:], masks)
        logits, iou = self.segment(features[:1], pooled, text)
        h, w = data["ori_size"][0]
        return logits[:, :, :h, :w], iou, None, None

    def segment(self, features, pooled, text):
        """Return logits on the canvas and predicted IoU.

        Args:
            features: of the target, [1, channels, h, w].
            pooled: a prototype of each concept, [concepts, channels].
            text: token of the prompt, [1, 1, width].
        """
        visual = self.inst_proj(pooled)
        image = self.neck(features)
        upsampled = F.interpolate(features, (self.img_size // 4,) * 2, mode="bilinear")
        similarity = misc.cal_sim(upsampled, pooled[:, None], eps=1e-8)
        similarity = F.interpolate(similarity, (self.img_size,) * 2, mode="bilinear")
        count = len(pooled)
        peak = similarity.flatten(1).argmax(1)
        point = torch.stack([peak % self.img_size, peak // self.img_size], -1)[:, None].float()
        kinds = self.inst_type_embed(torch.eye(count, dtype=torch.long))  # [own concept, token, width]
        texts = torch.cat([text.expand(count, -1, -1), visual[None] + kinds], dim=1)
        sparse, dense = self.prompt_encoder(
            points=(point, torch.ones(count, 1)), boxes=None, masks=similarity, texts=texts
        )
        logits, iou = self.mask_decoder(
            image_embeddings=image,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return F.interpolate(logits, (self.img_size,) * 2, mode="bilinear"), iou


def build_model(args) -> SEGIC:
    """Return a random model, with the same encoders each time, as if they were downloaded."""
    torch.manual_seed(0)
    return SEGIC(Sizes())


class Resize:
    """Resize images so that the longer side fills the canvas, and pad at the right and at the bottom."""

    def __init__(self, size: list[int]):
        self.size = size

    def __call__(self, sample: dict) -> dict:
        for end in ("", "_dual"):
            image = sample[f"image{end}"]
            scale = self.size[0] / max(image.shape[-2:])
            planes = torch.cat([image, sample[f"label{end}"]])[None]
            planes = F.interpolate(planes, scale_factor=scale, mode="bilinear")[0]
            h, w = planes.shape[-2:]
            padding = (0, self.size[0] - w, 0, self.size[0] - h)
            sample[f"image{end}"] = F.pad(planes[:3], padding, value=128)
            sample[f"label{end}"] = F.pad(planes[3:], padding)
            sample[f"ori_size{end}"] = torch.tensor([h, w])
        return sample
