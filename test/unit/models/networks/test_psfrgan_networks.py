"""PSFR-GAN's networks: published layouts, what refuses bad input, maps and labels."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import checkpoint
from models.networks.parsenet import ParseNet, labels_of, one_hot, parsing_network
from models.networks.psfrgan import (
    ParsedDiscriminator,
    PSFRGenerator,
    StyleNorm,
    resize,
)
from models.ops.spectral import apply_spectral_norm

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def on_meta(build: type[nn.Module], **settings: object) -> nn.Module:
    with torch.device("meta"):
        return build(**settings)


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def small_generator(**settings: object) -> PSFRGenerator:
    torch.manual_seed(0)
    network = PSFRGenerator(size=32, min_channels=8, max_channels=8, **settings)
    return apply_spectral_norm(network)


def small_input(size: int = 24, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(batch, 3, size, size, generator=generator) * 2 - 1
    labels = torch.randint(0, 19, (batch, size, size), generator=generator)
    return lq, one_hot(labels)


# ---- published layouts ---------------------------------------------------------------------------

@pytest.mark.parametrize("size, count", [(128, 45_502_467), (256, 45_821_571), (512, 45_956_995),
                                         (1024, 46_084_067)])
def test_the_generator_has_the_published_size(size: int, count: int) -> None:
    assert parameters(on_meta(PSFRGenerator, size=size)) == count


@pytest.mark.parametrize("network, entries, count", [
    (PSFRGenerator, 221, 45_956_995), (ParsedDiscriminator, 72, 18_872_259)])
def test_with_spectral_norm_the_state_has_the_published_entries(
        network: type[nn.Module], entries: int, count: int) -> None:
    built = apply_spectral_norm(on_meta(network))
    assert (len(built.state_dict()), parameters(built)) == (entries, count)


def test_the_parsing_network_has_the_published_layout() -> None:
    network = on_meta(ParseNet)
    assert (len(network.state_dict()), parameters(network)) == (238, 21_303_254)


@pytest.mark.parametrize("norm, keys", [
    ("bn", {"conv2d.weight", "norm.norm.weight", "norm.norm.bias", "norm.norm.running_mean",
            "norm.norm.running_var", "norm.norm.num_batches_tracked"}),
    ("in", {"conv2d.weight", "conv2d.bias"}),
    ("GN", {"conv2d.weight", "conv2d.bias", "norm.norm.weight", "norm.norm.bias"}),
    ("none", {"conv2d.weight", "conv2d.bias"})])
def test_only_batch_norm_takes_the_bias_of_a_convolution(norm: str, keys: set[str]) -> None:
    assert set(on_meta(ParseNet, norm=norm).body[0].conv1.state_dict()) == keys
    unit = on_meta(ParsedDiscriminator, norm=norm).D_pool[0].model[1]
    assert set(unit.state_dict()) == keys


@pytest.mark.parametrize("name, network", [
    ("G", lambda: small_generator()),
    ("P", lambda: ParseNet(base_channels=8, min_channels=8, max_channels=8, res_depth=1))])
def test_a_published_file_loads_strictly(name: str, network: object, tmp_path: object) -> None:
    """Under the wrapper's prefix that users meet, and not with an entry missing."""
    source, target = network(), network()
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    torch.save(state, tmp_path / "whole.pth")
    target.load_state_dict(checkpoint.load_weights(tmp_path / "whole.pth", target.state_dict(),
                                                   name))
    assert all(torch.equal(value, target.state_dict()[key])
               for key, value in source.state_dict().items())
    state.popitem()
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="1 missing"):
        checkpoint.load_weights(tmp_path / "short.pth", target.state_dict(), name)


# ---- parsing network -----------------------------------------------------------------------------

@pytest.mark.parametrize("size, side", [(512, 512), (100, 112), (17, 32)])
def test_parsing_rounds_sides_up_to_multiples_of_16(size: int, side: int) -> None:
    logits, image = on_meta(ParseNet)(torch.empty(1, 3, size, size, device="meta"))
    assert logits.shape == (1, 19, side, side) and image.shape == (1, 3, side, side)


@pytest.mark.parametrize("settings", [
    {"base_channels": 16, "min_channels": 16, "res_depth": 1}, {"res_depth": 2, "norm": "gn"}])
def test_a_fixed_parsing_network_is_built_as_its_file_shows(settings: dict, tmp_path: Path) -> None:
    state = ParseNet(**settings).state_dict()
    torch.save({"params": state}, tmp_path / "p.pth")
    found = parsing_network(tmp_path / "p.pth", "--parse_weights").state_dict()
    assert [key for key in state if not torch.equal(state[key], found[key])] == []
    with pytest.raises(ValueError, match=r"--parse_weights: .* does not fit"):
        parsing_network(tmp_path / "p.pth", "--parse_weights", res_depth=5)


def test_parsing_refuses_sides_its_padding_cannot_take() -> None:
    network, x = on_meta(ParseNet), torch.empty(1, 3, 64, 16, device="meta")
    with pytest.raises(ValueError, match="at least 17 pixels, got 64x16"):
        network(x)
    network.min_size = 0
    with pytest.raises(RuntimeError, match=r"[Pp]adding"):
        network(x)


@pytest.mark.parametrize("settings, words", [
    ({"norm": "layer"}, "norm must be one of"), ({"base_channels": 16}, "from 32 to 256, got 16")])
def test_parsing_network_refuses(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        on_meta(ParseNet, **settings)


def test_ties_give_one_region() -> None:
    mask = one_hot(labels_of(torch.zeros(1, 19, 2, 2)))
    assert torch.equal(mask.sum(dim=1), torch.ones(1, 2, 2))


def test_labels_come_from_the_largest_logit() -> None:
    logits = torch.rand(2, 19, 4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one_hot(labels_of(logits)), (logits == logits.amax(1, keepdim=True)).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_unknown_label_is_in_no_region(dtype: torch.dtype) -> None:
    mask = one_hot(torch.tensor([[[0, 18, 19, 255]]], dtype=dtype))
    assert mask.sum(dim=1).tolist() == [[[1, 1, 0, 0]]]
    assert mask[0, 0, 0, 0] == 1 and mask[0, 18, 0, 1] == 1


# ---- generator -----------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [24, 32, 64])
def test_the_result_has_the_generators_size_whatever_comes_in(size: int) -> None:
    assert small_generator()(*small_input(size)).shape == (2, 3, 32, 32)


def test_a_reference_that_is_not_square_works() -> None:
    lq, mask = small_input(32)
    assert small_generator()(lq[:, :, :16], mask[:, :, :16]).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "map"])
@pytest.mark.parametrize("norm, steered", [("spade", True), ("in", False)])
def test_image_and_map_steer_the_result(norm: str, steered: bool, which: int) -> None:
    network, inputs = small_generator(norm=norm).eval(), list(small_input(32))
    with torch.no_grad():
        before = network(*inputs)
        inputs[which] = inputs[which].flip(3)
        after = network(*inputs)
    assert torch.allclose(before, after, atol=1e-6) != steered


@pytest.mark.parametrize("settings, words", [
    ({"size": 100}, "16 times a power of two, got 100"), ({"size": 8}, "got 8"),
    ({"norm": "bn"}, "norm must be one of spade, in, got 'bn'")])
def test_the_generator_refuses(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        on_meta(PSFRGenerator, **settings)


@pytest.mark.parametrize("change", [lambda lq, mask: (lq, mask[:, :18]),
                                    lambda lq, mask: (lq, mask[:, :, :16])])
def test_the_generator_names_inputs_that_do_not_belong_together(change: object) -> None:
    with pytest.raises(ValueError, match="the same size and 22 channels together"):
        small_generator()(*change(*small_input()))


def test_resizing_overshoots_as_bicubic_does() -> None:
    _, mask = small_input(32)
    small = resize(mask, (16, 16))
    assert small.min() < -0.05 and small.max() > 1.05


def test_checkpointing_changes_no_number_and_no_buffer() -> None:
    plain = small_generator().train()
    repeated = small_generator().train()
    repeated.checkpointing = True
    found = []
    for network in (plain, repeated):
        network(*small_input()).square().mean().backward()
        found.append({key: weight.grad for key, weight in network.named_parameters()}
                     | network.state_dict())
    assert [key for key in found[0] if not torch.equal(found[0][key], found[1][key])] == []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_keeps_less_for_the_backward_pass(checkpointing: bool) -> None:
    network, kept = small_generator().train(), []
    network.checkpointing = checkpointing
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t,
                                                  lambda t: t):
        network(*small_input())
    normed = 2 * 8 * 32 * 32
    # Of a stage's inside a dozen maps are kept, of a checkpointed one its inputs.
    assert (kept.count(normed) > 6) != checkpointing


# ---- the norm ------------------------------------------------------------------------------------

def test_gain_is_the_map_itself_not_an_offset_from_one() -> None:
    norm = StyleNorm(4, 22)
    for convolution in (norm.gamma_conv, norm.beta_conv):
        nn.init.zeros_(convolution.weight)
    nn.init.constant_(norm.gamma_conv.bias, 3.0)
    nn.init.constant_(norm.beta_conv.bias, 0.5)
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(norm(x, torch.randn(1, 22, 8, 8)), 3 * F.instance_norm(x) + 0.5,
                          atol=1e-5)


# ---- discriminator -------------------------------------------------------------------------------

@pytest.mark.parametrize("size, sides", [(512, [30, 14, 6]), (189, [9, 3, 1])])
def test_logits_have_the_published_sides(size: int, sides: list[int]) -> None:
    logits, features = on_meta(ParsedDiscriminator)(torch.empty(2, 3, size, size, device="meta"),
                                                    torch.empty(2, 19, size, size, device="meta"))
    assert [tuple(score.shape) for score in logits] == [(2, 1, side, side) for side in sides]
    assert [len(layers) for layers in features] == [5, 5, 5]


@pytest.mark.parametrize("scales, layers, smallest", [(3, 4, 189), (2, 4, 95), (3, 3, 93),
                                                      (1, 2, 12)])
def test_the_discriminator_refuses_what_its_last_scale_cannot_classify(
        scales: int, layers: int, smallest: int) -> None:
    network = on_meta(ParsedDiscriminator, num_scales=scales, n_layers=layers)

    def classify(side: int) -> None:
        network(torch.empty(1, 3, side, side, device="meta"),
                torch.empty(1, 19, side, side, device="meta"))
    classify(smallest)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels, got {smallest - 1}x"):
        classify(smallest - 1)
    network.min_size = 0
    with pytest.raises(RuntimeError, match="size"):
        classify(smallest - 1)


def test_the_map_reaches_the_logits() -> None:
    torch.manual_seed(0)
    network = ParsedDiscriminator(num_scales=1, n_layers=2, base_channels=4)
    image, mask = small_input(32)
    with torch.no_grad():
        assert not torch.allclose(network(image, mask)[0][0], network(image, mask.flip(1))[0][0])


def test_networks_can_be_copied_before_their_first_forward() -> None:
    """Moving averages are made so."""
    assert len(copy.deepcopy(small_generator()).state_dict()) > 0
