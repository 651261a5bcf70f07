"""Figures that others report of a model, with the protocol they hold under.

They are shown next to measured ones, never mixed with them: only the same pictures, degraded the
same way and measured under the same protocol, can be compared.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of a published table.

    Attributes:
        numbers: by name; PSNR in dB.
        protocol: the pictures, and how they were degraded and measured, as far as it is known.
    """
    model: str
    numbers: dict[str, float]
    protocol: str
    source: str


_HELEN = ("Helen's test split of DICNet, 16 to 128 pixels, Y truncated to bytes (--protocol "
          "published); trained on CelebA")
_TEST_N = "FID of CelebA-TestN (1117 pictures) to CelebAHQ-Test-HR, pytorch-fid"
_SPARNET = "chaofengc/Face-SPARNet, README"
_CELEBA_HQ = ("2800 pictures of CelebA-HQ at 512 pixels, an unseeded choice; JPEG of quality 75; "
              "PSNR over all pictures at once (psnr_pooled), RGB; LPIPS of VGG; FID to the targets")
_PSFRGAN = "a published re-implementation of PSFR-GAN, its README"
_CELEBA = "CelebA, aligned, 16 to 128 pixels; PSNR per batch of 16"

# By the recipe's name. Figures that could not be traced to a document are left out.
FIGURES: dict[str, list[Figure]] = {
    "sparnet": [
        Figure("SPARNet, paper", {"PSNR": 26.97, "SSIM": 0.8026}, _HELEN, _SPARNET),
        Figure("SPARNet, released", {"PSNR": 27.43, "SSIM": 0.8201}, _HELEN, _SPARNET),
        Figure("SPARNet light 3D, released", {"PSNR": 27.39, "SSIM": 0.8189}, _HELEN, _SPARNET)],
    "sparnethd": [
        Figure("SPARNetHD, paper", {"FID": 27.16}, _TEST_N, _SPARNET),
        Figure("SPARNetHD 2D, released", {"FID": 26.72}, _TEST_N, _SPARNET),
        Figure("SPARNetHD 3D, released", {"FID": 28.42}, _TEST_N, _SPARNET)],
    "psfrgan": [
        Figure("psfrgan_epoch15_net_G.pth, 70,000 FFHQ pictures",
               {"PSNR": 24.8226, "SSIM": 0.6729, "LPIPS": 0.3347, "FID": 12.0026}, _CELEBA_HQ,
               _PSFRGAN),
        Figure("epoch_20_net_gen.pth, 35,000 pictures, batch 4",
               {"PSNR": 24.5472, "SSIM": 0.6648, "LPIPS": 0.3290, "FID": 11.9687}, _CELEBA_HQ,
               _PSFRGAN)],
    "gpen": [
        Figure("GPEN-BFR-512, fp32, third party", {"PSNR": 25.983},
               "first 1000 pairs of CelebAMask-HQ, GFP-GAN's degradation, unseeded, as JPEG; at "
               "512 pixels, RGB, over all pixels; degraded anew about 0.2 dB apart",
               "Vastai/VastModelZOO")],
    "gfpgan": [
        Figure("GFP-GAN, retrained by PaddleGAN, 210,000 steps",
               {"PSNR": 22.94, "LPIPS": 0.3817, "FID": 36.8068},
               "the tutorial's test pictures, LPIPS net not noted; PSNR is printed as 65.0461, "
               "from pictures in [-1, 1] with a peak of 255, here with their peak of 2",
               "PaddlePaddle/PaddleGAN, tutorial")],
    "pfsrnet": [
        Figure("PFSRNet, paper", {"PSNR": 22.66, "SSIM": 0.685, "MS-SSIM": 0.902}, _CELEBA,
               "arXiv 1908.08239")],
}
