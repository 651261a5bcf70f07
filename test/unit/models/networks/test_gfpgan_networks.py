"""GFP-GAN's networks beside what their golden cases say."""
from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.networks.gfpgan import GFPGAN, PRESETS, config_of, layout_of
from models.networks.gfpgan_convert import bilinear_to_clean
from models.networks.gfpgan_decoder import Decoder, modulate
from models.networks.gfpgan_discriminators import (
    FacialComponentDiscriminator,
    StyleGAN2Discriminator,
    with_group_deviation,
)
from models.networks.gfpgan_layers import ARCHITECTURES
from models.ops import padded_conv

TINY = {"size": 16, "narrow": 1 / 32, "style_dim": 8, "num_mlp": 2, "channel_multiplier": 2}
EVERY_ARCH = pytest.mark.parametrize("arch", ARCHITECTURES)


def tiny(arch: str = "original", **changes: object) -> GFPGAN:
    torch.manual_seed(0)
    network = GFPGAN(arch=arch, **{**TINY, **changes})
    for name, strength in network.named_parameters():
        if ".style_conv" in name and strength.shape == (1,):    # of the noise; it starts at 0
            nn.init.constant_(strength, 0.5)
    return network


def images(batch: int = 2, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ---- sizes --------------------------------------------------------------------------------------

@pytest.mark.parametrize("arch, multiplier, count", [
    ("clean", 2, 86_444_252), ("clean", 1, 76_207_244), ("original", 1, 76_207_244),
    ("bilinear", 2, 86_444_252)])
def test_published_networks_have_their_size(arch: str, multiplier: int, count: int) -> None:
    with torch.device("meta"):
        network = GFPGAN(arch=arch, size=512, channel_multiplier=multiplier)
    assert sum(weight.numel() for weight in network.parameters()) == count
    # Filters are buffers too, but no part of the files.
    stored = {key for key in network.state_dict() if ".noises." in key}
    assert sum(network.get_buffer(key).numel() for key in stored) == 699_024
    assert len(network.state_dict()) == 285


@pytest.mark.parametrize("multiplier, count", [(1, 24_030_753), (2, 28_982_849)])
def test_the_discriminator_has_its_published_size(multiplier: int, count: int) -> None:
    with torch.device("meta"):
        network = StyleGAN2Discriminator(size=512, channel_multiplier=multiplier)
    assert (sum(p.numel() for p in network.parameters()), len(network.state_dict())) == (count, 43)


@pytest.mark.parametrize("changes, words", [
    ({"size": 24}, "power of two"), ({"narrow": 0.1}, "the decoder even"),
    ({"arch": "dirty"}, "arch")])
def test_an_impossible_network_is_refused(changes: dict, words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        GFPGAN(**{"arch": "clean", **TINY, **changes})


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="restores 16x16 images, got 32x32"):
        tiny()(images(size=32))


# ---- what forward gives -------------------------------------------------------------------------

@EVERY_ARCH
@pytest.mark.parametrize("sft_half", [True, False])
@pytest.mark.parametrize("different_w", [True, False])
def test_every_variant_restores_and_shows_its_pyramid(arch: str, sft_half: bool,
                                                      different_w: bool) -> None:
    network = tiny(arch, sft_half=sft_half, different_w=different_w, input_is_latent=False)
    image, rgbs = network(images(), return_rgb=True)
    assert image.shape == (2, 3, 16, 16)
    assert [rgb.shape for rgb in rgbs] == [(2, 3, 8, 8), (2, 3, 16, 16)]


@EVERY_ARCH
def test_without_gradients_nothing_changes(arch: str) -> None:
    """Results are then written in place."""
    network = tiny(arch)
    kept = network(images())[0]
    with torch.no_grad():
        assert torch.allclose(network(images())[0], kept, atol=1e-5)


@EVERY_ARCH
def test_a_cards_form_computes_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        network = tiny(arch)
        here = network(images())[0]
        monkeypatch.setattr(padded_conv, "uses_custom_kernel", lambda x: False)
        assert torch.allclose(network(images())[0], here, atol=1e-5)


def test_stored_noise_gives_the_same_image_twice_and_drawn_noise_does_not() -> None:
    network = tiny()
    assert torch.equal(network(images())[0], network(images())[0])
    drawn = [network(images(), randomize_noise=True)[0] for _ in range(2)]
    assert not torch.allclose(*drawn, atol=1e-3)


def test_drawn_noise_differs_between_the_images_of_a_batch() -> None:
    decoder = tiny().stylegan_decoder
    maps = decoder.noise_maps(torch.zeros(2, 3), randomize=True)
    assert [m.shape for m in maps] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16)]
    assert not any(torch.equal(*m) for m in maps)


@EVERY_ARCH
def test_checkpointing_changes_no_gradient(arch: str) -> None:
    grads = []
    for checkpointing in (False, True):
        network = tiny(arch)
        network.checkpointing = checkpointing
        torch.manual_seed(3)
        image, rgbs = network(images(), return_rgb=True, randomize_noise=True)
        (image.square().mean() + sum(rgb.square().mean() for rgb in rgbs)).backward()
        grads.append({k: p.grad for k, p in network.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert [k for k in grads[0] if not torch.equal(grads[0][k], grads[1][k])] == []


def test_conditions_change_the_last_half_of_the_channels_only() -> None:
    x, scale, shift = torch.rand(1, 6, 2, 2), torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2)
    changed = modulate(x.clone().requires_grad_(), scale, shift)
    assert torch.equal(changed[:, :3], x[:, :3])
    assert torch.allclose(changed[:, 3:], x[:, 3:] * scale + shift)
    with torch.no_grad():
        assert torch.equal(modulate(x.clone(), scale, shift), changed)


def test_a_prior_without_conditions_makes_images_of_codes() -> None:
    decoder = Decoder(arch="original", **TINY)
    image, latents = decoder([torch.randn(2, 8)], return_latents=True)
    assert image.shape == (2, 3, 16, 16) and latents.shape == (2, 6, 8)


@pytest.mark.parametrize("options, words", [
    ({"styles": [torch.zeros(1, 8)] * 3}, "one or two codes, got 3"),
    ({"styles": [torch.zeros(1, 8)], "truncation": 0.5}, "truncation_latent")])
def test_codes_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Decoder(arch="original", **TINY)(**options)


def test_a_scale_starts_at_one_and_a_shift_at_zero() -> None:
    for arch in ARCHITECTURES:
        network = tiny(arch)
        assert all(torch.equal(net[2].bias, torch.ones_like(net[2].bias))
                   for net in network.condition_scale)
        assert all(not net[2].bias.any() for net in network.condition_shift)


# ---- discriminators ------------------------------------------------------------------------------

@pytest.mark.parametrize("batch, group, expected", [(8, 4, 4), (6, 4, 3), (5, 4, 1), (3, 4, 3),
                                                    (4, 1, 1)])
def test_deviation_is_over_groups_that_divide_the_batch(batch: int, group: int,
                                                        expected: int) -> None:
    x = torch.rand(batch, 2, 4, 4)
    found = with_group_deviation(x, group)[:, 2]
    groups = batch // expected
    for sample in range(batch):
        mates = x[sample % groups::groups]
        deviation = (mates.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(found[sample], deviation)


@pytest.mark.parametrize("size", [8, 80, 120])
def test_component_discriminators_take_crops_of_any_size(size: int) -> None:
    logits, features = FacialComponentDiscriminator(channels=4)(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 1, size // 4, size // 4)
    assert [f.shape for f in features] == [(2, 8, size // 2, size // 2),
                                           (2, 16, size // 4, size // 4)]


# ---- files --------------------------------------------------------------------------------------

@EVERY_ARCH
def test_a_file_shows_its_layout_and_its_networks_arguments(arch: str) -> None:
    network = tiny(arch)
    state = network.state_dict()
    assert layout_of(state) == ("clean" if arch == "clean" else "equalized")
    assert layout_of(network.stylegan_decoder.state_dict()) == "decoder"
    again = GFPGAN(arch=arch, **config_of(state))
    again.load_state_dict(state)
    assert torch.equal(again(images())[0], network(images())[0])


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_published_files_show_the_published_arguments(preset: str) -> None:
    with torch.device("meta"):
        state = GFPGAN(**PRESETS[preset], size=512).state_dict()
    found = config_of(state)
    assert found["channel_multiplier"] == PRESETS[preset]["channel_multiplier"]
    assert (found["size"], found["style_dim"], found["num_mlp"], found["narrow"]) == (512, 512, 8,
                                                                                      1)


def test_another_networks_file_has_no_layout() -> None:
    assert layout_of({"conv1.weight": torch.zeros(1)}) == ""
    with pytest.raises(ValueError, match="holds no GFP-GAN network"):
        config_of({"conv1.weight": torch.zeros(1)})


def test_original_and_bilinear_files_cannot_be_told_apart() -> None:
    shapes = [{k: v.shape for k, v in tiny(arch).state_dict().items()}
              for arch in ("original", "bilinear")]
    assert shapes[0] == shapes[1] and list(shapes[0]) == list(shapes[1])


# ---- conversion ---------------------------------------------------------------------------------

@torch.no_grad()
def converted() -> tuple[GFPGAN, GFPGAN]:
    """A bilinear network and what it is converted to, in double precision."""
    settings = {"size": 32, "input_is_latent": False}
    source = tiny("bilinear", **settings).double()
    for parameter in source.parameters():       # biases start at 0, which hides their factors
        nn.init.normal_(parameter, std=1.0)
    clean = tiny("clean", **settings).double()
    clean.load_state_dict(bilinear_to_clean(source.state_dict()))
    return source, clean


def test_a_converted_network_computes_the_same() -> None:
    source, clean = converted()
    x = images(size=32).double()
    image, rgbs = source(x, return_rgb=True)
    other, others = clean(x, return_rgb=True)
    for one, two in zip((image, *rgbs), (other, *others), strict=True):
        # Demodulation's epsilon weighs differently on weights of another size.
        assert float((one - two).detach().norm() / one.detach().norm()) < 1e-6


def test_conversion_leaves_the_source_alone() -> None:
    source = tiny("bilinear")
    before = {key: value.clone() for key, value in source.state_dict().items()}
    clean = bilinear_to_clean(source.state_dict())
    for value in clean.values():
        value.zero_()
    assert all(torch.equal(value, before[key]) for key, value in source.state_dict().items())


def test_conversion_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got the entry conv1\.weight"):
        bilinear_to_clean({"conv1.weight": torch.zeros(1)})
