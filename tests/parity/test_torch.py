# ruff: noqa: NPY002 (the legacy generator is what the official code draws from)
"""Compare every primitive with the installed torch on random numbers."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from requirements import require_torch

from segic_jax.config import OptimConfig
from segic_jax.data.augment import jittered_taps
from segic_jax.data.preprocess import fitted_taps, place_masks, resample, resize_and_pad
from segic_jax.data.sampler import GPUS, draw_streams
from segic_jax.models import layers
from segic_jax.models.attention import attention
from segic_jax.models.correspondence import cosine_map
from segic_jax.models.params import Template
from segic_jax.train.losses import mask_losses, point_sample
from segic_jax.train.optim import make_optimizer
from segic_jax.weights.torch_names import from_torch

torch = require_torch()
F = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def torch_image(x):
    """Return a torch tensor with channels first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, -3)))


def channels_last(tensor):
    return np.moveaxis(tensor.detach().numpy(), -3, -1)


@pytest.mark.parametrize(
    ("size_in", "size_out"), [((8, 8), (28, 28)), ((28, 17), (112, 40)), ((96, 50), (31, 50))]
)
def test_bilinear(size_in, size_out):
    x = normal(2, *size_in, 3)
    expected = F.interpolate(torch_image(x), size=size_out, mode="bilinear", align_corners=False)
    # torch rounds the source coordinate to float32.
    np.testing.assert_allclose(layers.bilinear(jnp.asarray(x), size_out), channels_last(expected), atol=5e-5)


@pytest.mark.parametrize("size", [8, 16, 36, 64])
def test_position_table_is_resized_as_by_dinov2_without_registers(size):
    x = normal(1, 37, 37, 4)
    scale = (size + 0.1) / 37
    expected = F.interpolate(torch_image(x), scale_factor=(scale, scale), mode="bicubic", antialias=False)
    weights = layers.bicubic_weights(37, size, 0.1)
    np.testing.assert_allclose(
        layers.separable(jnp.asarray(x), weights, weights), channels_last(expected), atol=1e-4
    )


@pytest.mark.parametrize("size", [8, 16, 36, 64])
def test_position_table_is_resized_as_by_dinov2_with_registers(size):
    x = normal(1, 37, 37, 4)
    expected = F.interpolate(torch_image(x), size=(size, size), mode="bicubic", antialias=True)
    weights = layers.bicubic_antialias_weights(37, size)
    np.testing.assert_allclose(
        layers.separable(jnp.asarray(x), weights, weights), channels_last(expected), atol=1e-5
    )


class InPlace(layers.UpConv):
    """Return the pixels of square images in their places, as torch does."""

    def __init__(self, rngs):
        super().__init__(3, 5, rngs=rngs)

    def __call__(self, x):
        pixels = super().__call__(jnp.swapaxes(x.reshape(len(x), -1, 3), 1, 2))
        return jnp.moveaxis(layers.pixel_shuffle(jnp.moveaxis(pixels, -2, 1), x.shape[1], 1), 1, -1)


@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (lambda rngs: layers.PatchConv(7, 3, 5, rngs=rngs), lambda: torch.nn.Conv2d(3, 5, 7, stride=7)),
        (
            lambda rngs: layers.Conv3x3(3, 5, rngs=rngs),
            lambda: torch.nn.Conv2d(3, 5, 3, padding=1, bias=False),
        ),
        (InPlace, lambda: torch.nn.ConvTranspose2d(3, 5, 2, stride=2)),
    ],
    ids=["PatchConv", "Conv3x3", "UpConv"],
)
def test_convolutions_under_torch_names(make, reference):
    module = reference()
    template = Template(make)
    tensors = {f"conv.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
    params = from_torch(tensors, {f"conv/{name}": shape for name, shape in template.shapes.items()})
    params = {name.removeprefix("conv/"): value for name, value in params.items()}
    x = normal(2, 14, 14 if make is InPlace else 21, 3)
    np.testing.assert_allclose(
        template.bind(params)(jnp.asarray(x)), channels_last(module(torch_image(x))), atol=2e-6
    )


def test_layer_norm_far_from_zero():
    x = normal(4, 64) + 100
    module = layers.LayerNorm(64, epsilon=1e-5, rngs=nnx.Rngs(0))
    expected = F.layer_norm(torch.from_numpy(x), (64,), eps=1e-5)
    np.testing.assert_allclose(module(jnp.asarray(x)), expected.numpy(), atol=5e-5)


def test_gelu():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), F.gelu(torch.from_numpy(x)).numpy(), atol=1e-6)


@pytest.mark.parametrize("tokens", [50, 1100])
def test_attention_with_a_mask(tokens):
    q, k, v = (normal(1, tokens, 2, 16) for _ in range(3))
    mask = RNG.random((1, 1, 1, tokens)) < 0.7
    attended = attention(*map(jnp.asarray, (q, k, v)), jnp.asarray(mask))
    np.testing.assert_allclose(attended, torch_attention(q, k, v, mask), atol=2e-6)


@pytest.mark.parametrize("tokens", [50, 1500])
def test_attention_for_few_and_many_tokens(tokens):
    q, k, v = (normal(2, tokens, 2, 16) for _ in range(3))
    attended = attention(*map(jnp.asarray, (q, k, v)))
    np.testing.assert_allclose(attended, torch_attention(q, k, v), atol=2e-6)
    rounded = (jnp.asarray(x, jnp.bfloat16) for x in (q, k, v))
    np.testing.assert_allclose(attention(*rounded).astype(np.float32), attended, atol=3e-2)


def torch_attention(q, k, v, mask=None):
    """Apply torch's attention to arrays with tokens before heads."""
    mask = None if mask is None else torch.from_numpy(mask)
    heads_first = (torch.from_numpy(x).transpose(-2, -3) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads_first, mask).transpose(-2, -3).numpy()


def test_cosine_map():
    features, pooled = normal(1, 8, 8, 12), normal(1, 3, 12)
    large = F.interpolate(torch_image(features), size=(28, 28), mode="bilinear", align_corners=False)
    similarity = torch.einsum(
        "bchw,bkc->bkhw", F.normalize(large, dim=1), F.normalize(torch.from_numpy(pooled), dim=2)
    )
    expected = F.interpolate(similarity, size=(112, 112), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(cosine_map(features, pooled, 112), expected.numpy(), atol=1e-5)


def test_point_sample_and_its_gradient():
    maps, coords = normal(2, 3, 9, 7), RNG.uniform(-0.05, 1.05, (2, 3, 50, 2)).astype(np.float32)
    tensor = torch.from_numpy(maps).reshape(6, 1, 9, 7).requires_grad_()
    grid = 2 * torch.from_numpy(coords).reshape(6, 50, 1, 2) - 1
    expected = F.grid_sample(tensor, grid, align_corners=False).reshape(2, 3, 50)
    np.testing.assert_allclose(point_sample(maps, coords), expected.detach().numpy(), atol=2e-5)
    expected.square().sum().backward()
    gradient = jax.grad(lambda x: jnp.square(point_sample(x, coords)).sum())(jnp.asarray(maps))
    np.testing.assert_allclose(gradient, tensor.grad.reshape(2, 3, 9, 7).numpy(), atol=2e-4)


def test_mask_losses():
    logits, coords = normal(2, 2, 8, 8), RNG.random((2, 2, 40, 2)).astype(np.float32)
    targets = RNG.random((2, 2, 32, 32)) < 0.4
    x, t = (
        F.grid_sample(
            torch.from_numpy(np.asarray(m, np.float32)).reshape(4, 1, *m.shape[2:]),
            2 * torch.from_numpy(coords).reshape(4, 40, 1, 2) - 1,
            align_corners=False,
        ).reshape(4, 40)
        for m in (logits, targets)
    )
    cross_entropy = F.binary_cross_entropy_with_logits(x, t)
    p = x.sigmoid()
    dice = (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
    losses = mask_losses(logits, targets, coords, np.ones((2, 2), bool))
    np.testing.assert_allclose(losses, [cross_entropy, dice], atol=1e-6)


def test_adamw_with_the_step_schedule():
    config, steps = OptimConfig(learning_rate=1e-2, weight_decay=0.1), 12
    start, gradients = normal(20), normal(steps, 20)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    torch_optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(torch_optimizer, step_size=10)
    optimizer = make_optimizer(config, steps)
    params = {"a": jnp.asarray(start)}
    state = optimizer.init(params)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        torch_optimizer.step()
        schedule.step()
        updates, state = optimizer.update({"a": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["a"], parameter.detach().numpy(), atol=1e-6)


def sizes_and_canvases(number):
    """Yield random sizes with a canvas; some are a pixel off the canvas, so that an axis keeps its size."""
    random = np.random.default_rng(1)
    for _ in range(number):
        canvas = int(random.choice([56, 112, 224]))
        longer = (
            canvas + int(random.integers(-2, 3)) if random.random() < 0.2 else int(random.integers(1, 400))
        )
        shorter = int(random.integers(max(1, -(-longer // canvas)), longer + 1))
        yield ((longer, shorter) if random.random() < 0.5 else (shorter, longer)), canvas


def test_images_of_many_sizes_fit_the_canvas_as_in_torch():
    for (height, width), canvas in sizes_and_canvases(300):
        image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        scale = canvas / max(height, width)
        expected = F.interpolate(
            torch_image(image[None].astype(np.float32)), scale_factor=scale, mode="bilinear"
        )[0].numpy()
        message = f"{height} x {width} to {canvas}"
        resampled = resample(image.transpose(2, 0, 1), *fitted_taps(height, width, canvas))
        np.testing.assert_allclose(resampled, expected, atol=2e-3, err_msg=message)
        on_canvas = resize_and_pad(image, np.zeros((0, height, width), bool), canvas)
        assert on_canvas.size == expected.shape[1:], message


def test_masks_of_another_size_than_their_frame_lie_on_the_canvas_as_in_torch():
    """Compare with `ResizeVOS`, which scales and pads both by the longer side of the frame."""
    for (height, width), canvas in sizes_and_canvases(100):
        longer = int(RNG.integers(1, 400))
        mask = RNG.random((1, height, width)) < 0.5
        scaled = int(height * canvas / longer), int(width * canvas / longer)
        if min(scaled) < 1:
            continue
        placed = place_masks(mask, longer, canvas)
        if max(scaled) > canvas:
            assert placed is None
            continue
        values = torch.from_numpy(mask[None]).float() * 255
        values = F.interpolate(values, scale_factor=canvas / longer, mode="bilinear")[0]
        assert tuple(values.shape[1:]) == scaled
        expected = F.pad(values, [0, canvas - scaled[1], 0, canvas - scaled[0]]).numpy() / 255
        assert placed is not None
        clear = abs(expected - 0.5) > 1e-5
        np.testing.assert_array_equal(placed[clear], expected[clear] > 0.5)


def test_images_of_many_sizes_are_jittered_as_in_torch():
    """Compare with the official sizes (utils/dataloader.py:266-277), computed in torch, without the crop."""
    for (height, width), canvas in sizes_and_canvases(300):
        uniform = torch.rand(1)
        size = torch.tensor([height, width])
        longer = ((uniform * (2.0 - 0.1) + 0.1) * torch.tensor(canvas)).round()
        scaled = (size * torch.minimum(longer / size[0], longer / size[1])).round().long()
        if scaled.min() < 1:
            continue
        image = RNG.integers(0, 256, (1, height, width), dtype=np.uint8)
        expected = F.interpolate(torch.from_numpy(image[None]).float(), scaled.tolist(), mode="bilinear")
        rows, columns = jittered_taps(
            height, width, canvas, np.array([uniform.item(), 0, 0]), scales=(0.1, 2.0)
        )
        on_canvas = expected[0, :, :canvas, :canvas].numpy()
        message = f"{height} x {width} to {scaled.tolist()}"
        np.testing.assert_allclose(resample(image, rows, columns), on_canvas, atol=2e-3, err_msg=message)


class Draws(torch.utils.data.Dataset):
    """Draw from the streams of the worker process that reads an item."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, int(np.random.randint(1 << 30)), random.randint(0, 1 << 30)


@pytest.mark.parametrize(("protocol", "loaders"), [("segic-1gpu", 2), ("segic-8gpu", 1)])
def test_streams_are_those_of_the_workers_of_torch(protocol, loaders):
    """Compare with the loaders of the first and the last process, started one after the other."""
    gpus = GPUS[protocol]
    drawn = [
        [
            (index, int(streams.legacy.randint(1 << 30)), streams.python.randint(0, 1 << 30))
            for index, streams in draw_streams(protocol, 10, number)
        ]
        for number in range(loaders)
    ]
    for rank in {0, gpus - 1}:
        torch.manual_seed(42 + rank)
        for number in range(loaders):
            sampler = torch.utils.data.distributed.DistributedSampler(Draws(), gpus, rank, shuffle=False)
            loader = torch.utils.data.DataLoader(Draws(), 1, sampler=sampler, num_workers=4)
            assert [tuple(map(int, row)) for row in loader] == drawn[number][rank::gpus]
