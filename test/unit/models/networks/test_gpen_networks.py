"""The generator prior, the discriminator and GPEN's restoration network."""
from __future__ import annotations

import sys

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.networks.gpen import FullGenerator, discriminator_config, full_generator_config
from models.networks.stylegan2 import Discriminator, Generator, channels_at, with_batch_deviation
from models.ops import padded_conv

TINY = {"size": 16, "narrow": 1 / 64, "style_dim": 8, "n_mlp": 2}
# size, channel_multiplier, narrow; parameters and state-dict entries of G, then of D.
PUBLISHED = [
    (256, 1, 0.5, 18_879_010, 144, 6_002_977, 50), (512, 2, 1, 71_005_223, 163, 28_982_849, 57),
    (1024, 2, 1, 71_210_540, 182, 29_012_513, 64), (2048, 2, 1, 71_294_769, 201, 29_019_921, 71),
    (256, 2, 1, 70_447_138, 144, 28_864_129, 50)]


def tiny(**changes: object) -> FullGenerator:
    torch.manual_seed(0)
    return with_noise(FullGenerator(**{**TINY, **changes}))


def with_noise(network: nn.Module) -> nn.Module:
    """Noise strengths start at 0, which hides what the noise does."""
    for name, strength in network.named_parameters():
        if name.endswith("noise.weight"):
            nn.init.constant_(strength, 0.7)
    return network


def images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def codes(batch: int = 2, seed: int = 2) -> Tensor:
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed))


def on_meta(kind: type, size: int, multiplier: int, narrow: float) -> nn.Module:
    with torch.device("meta"):
        return kind(size=size, channel_multiplier=multiplier, narrow=narrow)


# ---- sizes --------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, multiplier, narrow, g_count, g_keys, d_count, d_keys", PUBLISHED)
def test_networks_have_the_released_sizes(size: int, multiplier: int, narrow: float, g_count: int,
                                          g_keys: int, d_count: int, d_keys: int) -> None:
    sizes = [(sum(p.numel() for p in network.parameters()), len(network.state_dict()))
             for network in (on_meta(kind, size, multiplier, narrow)
                             for kind in (FullGenerator, Discriminator))]
    assert sizes == [(g_count, g_keys), (d_count, d_keys)]


@pytest.mark.parametrize("size, multiplier, narrow", [row[:3] for row in PUBLISHED])
def test_a_file_tells_how_to_build_its_networks(size: int, multiplier: int, narrow: float) -> None:
    expected = {"size": size, "channel_multiplier": multiplier, "narrow": narrow}
    g_state, d_state = (on_meta(kind, size, multiplier, narrow).state_dict()
                        for kind in (FullGenerator, Discriminator))
    assert full_generator_config(g_state) == {**expected, "style_dim": 512, "n_mlp": 8,
                                              "isconcat": True}
    assert discriminator_config(d_state) == expected


def test_a_file_tells_how_its_noise_enters() -> None:
    assert not full_generator_config(tiny(isconcat=False).state_dict())["isconcat"]


@pytest.mark.parametrize("read", [full_generator_config, discriminator_config])
def test_another_networks_file_is_refused(read: object) -> None:
    with pytest.raises(ValueError, match=r"holds no GPEN .* in 2 entries"):
        read(nn.Conv2d(3, 3, 3).state_dict())


def test_a_width_without_multiplier_is_refused() -> None:
    state = dict(on_meta(Discriminator, 256, 2, 1).state_dict())
    state["convs.0.0.weight"] = torch.empty(100, 3, 1, 1)
    with pytest.raises(ValueError, match="no channel_multiplier gives 100 channels at 256"):
        discriminator_config(state)


@pytest.mark.parametrize("kind", [Generator, FullGenerator, Discriminator])
@pytest.mark.parametrize("size", [4, 100, 4096])
def test_other_sizes_are_refused(kind: type, size: int) -> None:
    with pytest.raises(ValueError, match=f"power of two from 8 to 2048, got {size}"):
        kind(size=size)


def test_channel_counts_are_cut_off() -> None:
    assert channels_at(2, 0.3)[256] == 38 and channels_at(1, 0.1)[4] == 51


# ---- generator ----------------------------------------------------------------------------------

@pytest.mark.parametrize("isconcat", [False, True])
def test_missing_noise_is_drawn_for_every_layer(isconcat: bool) -> None:
    torch.manual_seed(0)
    network = with_noise(Generator(**TINY, isconcat=isconcat))
    one, two = (network([codes()])[0] for _ in range(2))
    assert one.shape == (2, 3, 16, 16) and not torch.allclose(one, two)


def test_a_new_generator_closes_its_noise() -> None:
    network = Generator(**TINY)
    assert torch.equal(network([codes()])[0], network([codes()])[0])


def test_every_noise_map_counts() -> None:
    network = with_noise(Generator(**TINY))
    sides = [4, 8, 8, 16, 16]
    noise = [torch.randn(1, 8, side, side) for side in sides]
    whole = network([codes(1)], noise=noise)[0]
    for index in range(len(sides)):
        changed = [-each if i == index else each for i, each in enumerate(noise)]
        assert not torch.allclose(network([codes(1)], noise=changed)[0], whole)


def test_a_wrong_number_of_noises_is_named() -> None:
    with pytest.raises(ValueError, match="noise must hold 5 maps, got 1"):
        Generator(**TINY)([codes()], noise=[torch.zeros(1)])


def test_a_wrong_number_of_codes_is_named() -> None:
    with pytest.raises(ValueError, match="one or two codes, got 3"):
        Generator(**TINY)([codes()] * 3)


def test_mixing_takes_the_first_latents_from_the_first_code() -> None:
    one, two = codes(seed=3), codes(seed=4)
    latents = Generator(**TINY).latents([one, two], inject_index=4, input_is_latent=True)
    assert torch.equal(latents, torch.cat((one[:, None].expand(-1, 4, -1),
                                           two[:, None].expand(-1, 2, -1)), 1))


def test_mixing_without_index_takes_something_of_both_codes() -> None:
    network, counts = Generator(**TINY), set()
    for seed in range(60):
        torch.manual_seed(seed)
        latents = network.latents([torch.zeros(1, 8), torch.ones(1, 8)], input_is_latent=True)
        counts.add(int((latents[0, :, 0] == 0).sum()))
    assert counts == {1, 2, 3, 4, 5}


def test_truncation_moves_latents_towards_their_mean() -> None:
    w, mean = codes(), codes(1, seed=5)
    latents = Generator(**TINY).latents([w], truncation=0.25, truncation_latent=mean,
                                        input_is_latent=True)
    assert torch.allclose(latents[:, 0], mean + 0.25 * (w - mean))


def test_truncation_without_mean_is_named() -> None:
    with pytest.raises(ValueError, match=r"truncation 0\.5 needs truncation_latent"):
        Generator(**TINY)([codes()], truncation=0.5)


# ---- restoration --------------------------------------------------------------------------------

def test_the_encoder_makes_z() -> None:
    network = tiny()
    caught: list[Tensor] = []
    network.final_linear.register_forward_hook(lambda _, args, code: caught.append(code))
    latents = network(images(), return_latents=True)[1]
    assert torch.equal(latents[:, 0], network.generator.style(caught[0]))


def test_both_convolutions_of_a_resolution_get_its_map() -> None:
    network = tiny()
    maps, noises = {}, []
    for index in range(network.num_maps):
        getattr(network, f"ecd{index}").register_forward_hook(
            lambda _, args, result, index=index: maps.update({index: result}))
    for conv in (network.generator.conv1, *network.generator.convs):
        conv.register_forward_hook(lambda _, args, result: noises.append(args[2]))
    network(images())
    assert [id(noise) for noise in noises] == [id(maps[index]) for index in (2, 1, 1, 0, 0)]


def test_another_image_size_is_named() -> None:
    with pytest.raises(ValueError, match="restores 16x16 images, got 24x16"):
        tiny()(torch.zeros(1, 3, 16, 24))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("isconcat", [False, True])
def test_the_loss_reaches_every_weight(isconcat: bool, batch: int) -> None:
    network = tiny(isconcat=isconcat)
    network(images(batch))[0].square().mean().backward()
    assert [name for name, p in network.named_parameters()
            if p.grad is None or not p.grad.abs().max() > 0] == []


def test_restoring_is_the_same_with_and_without_gradients() -> None:
    network = tiny()
    with torch.no_grad():
        plain = network(images())[0]
    assert torch.allclose(network(images())[0], plain, atol=1e-6)


def test_images_of_a_batch_are_restored_independently() -> None:
    network = tiny()
    together = network(images(3))[0]
    alone = torch.cat([network(image[None])[0] for image in images(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_memory_order_does_not_change_the_result() -> None:
    network = tiny()
    plain = network(images())[0]
    weights = network.generator.conv1.conv.weight
    network.to(memory_format=torch.channels_last)
    ordered = network(images().contiguous(memory_format=torch.channels_last))[0]
    assert network.generator.conv1.conv.weight is weights and weights.stride(2) == 1
    assert torch.allclose(ordered, plain, atol=1e-5)


class Image(nn.Module):
    """The restored image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_network_takes_another_batch_size() -> None:
    network = tiny().eval()
    with torch.no_grad():
        traced = torch.jit.trace(Image(network), images(2))
        assert torch.allclose(traced(images(3)), network(images(3))[0], atol=1e-5)


def test_the_low_precision_result_is_near_the_full_one() -> None:
    network = tiny()
    expected = network(images())[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images())[0].float()
    assert (found - expected).abs().mean() < 0.03 * expected.abs().max()


# ---- discriminator ------------------------------------------------------------------------------

def test_a_logit_depends_on_the_other_images_of_the_batch() -> None:
    torch.manual_seed(0)
    discriminator, x = Discriminator(size=16, narrow=1 / 64), images(3)
    assert not torch.allclose(discriminator(x)[:2], discriminator(x[:2]))


@pytest.mark.parametrize("batch, value", [(1, 1e-4), (2, 0.5), (5, 0.4)])
def test_the_batch_deviation_is_biased_and_over_the_whole_batch(batch: int, value: float) -> None:
    x = torch.zeros(batch, 2, 4, 4)
    x[-1] = 1       # deviation of one 1 among n - 1 zeros: sqrt(n - 1) / n
    found = with_batch_deviation(x)
    assert found.shape == (batch, 3, 4, 4)
    assert found[:, 2].flatten().tolist() == pytest.approx([value] * (16 * batch), rel=1e-3)


def test_one_image_in_half_precision_has_a_gradient() -> None:
    x = torch.ones(1, 2, 4, 4, dtype=torch.float16, requires_grad=True)
    grad, = torch.autograd.grad(with_batch_deviation(x).sum(), x)
    assert torch.isfinite(grad).all()


# ---- cards --------------------------------------------------------------------------------------

class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removesuffix(".default"))
        return func(*args, **(kwargs or {}))


def test_training_with_both_regularisers_needs_only_registered_operators(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padded_conv, "uses_custom_kernel", lambda x: False)
    monkeypatch.syspath_prepend(str(ROOT / "test" / "npu"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    from operators import missing, registered
    network, discriminator = tiny(), Discriminator(size=16, narrow=1 / 64)
    with Recorder() as seen:
        x = images().requires_grad_()
        restored, latents = network(x, return_latents=True)
        grad, = torch.autograd.grad(restored.sum(), latents, create_graph=True)
        slope, = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
        (grad.square().mean() + slope.square().mean() + discriminator(restored).mean()).backward()
    assert missing(dict.fromkeys(seen.names, 1), registered()) == []
