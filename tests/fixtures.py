"""The recipe fixtures: every public checkpoint's network, regenerated from a seed in its source's own format."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import recipe
from safetensors.numpy import save_file
from writers import write_pth, write_tf1

RECIPE = Path(__file__).parent / "assets" / "recipe"
INDEX = json.loads((RECIPE / "dev" / "index.json").read_text())["fixtures"]
TIMM = {"semnasnet": "a1", "mnasnet": "b1", "mnasnet_small": "small"}


@dataclass(frozen=True)
class Fixture:
    name: str

    @property
    def source(self) -> str:
        return INDEX[self.name]["source"]

    @property
    def size(self) -> tuple[int, int]:
        return tuple(INDEX[self.name]["input_hw"])

    @property
    def network(self) -> tuple[str, float | None]:
        """(family name, width multiplier)."""
        if self.source == "google":
            _, net, width = self.name.split("-")[:3]
            return net, float(width[1:]) if width.startswith("d") else None
        stem, _, width = self.name.split("-")[1].rpartition("_")
        if self.source == "timm":
            return ("small", None) if width == "small" else (TIMM[stem], int(width) / 100)
        return "b1", float(f"{stem.removeprefix('mnasnet')}.{width}")

    def tensors(self) -> dict[str, np.ndarray]:
        state = recipe.checkpoint(self.name, recipe.read_listing(RECIPE / "keys" / INDEX[self.name]["listing"]))
        count, total, magnitude = recipe.checksum(state)
        expected = INDEX[self.name]["float_checksum"]
        assert count == expected[0]
        np.testing.assert_allclose([total, magnitude], expected[1:], rtol=1e-9, err_msg="the generator differs")
        return state

    def images(self) -> np.ndarray:
        """float32 pixels 0..255, `[2, H, W, 3]`."""
        image = recipe.image(self.name, *self.size)
        assert image.sum() == INDEX[self.name]["image_sum"]
        return image.astype(np.float32)

    def reference(self) -> dict[str, np.ndarray]:
        return dict(np.load(RECIPE / "dev" / f"{self.name}.npz"))

    def write(self, folder: Path) -> Path:
        """The checkpoint as its source writes it."""
        tensors = self.tensors()
        if self.source == "google":
            return write_tf1(folder / "model.ckpt", tensors)
        if self.source == "timm":
            save_file(tensors, folder / "model.safetensors")
            return folder / "model.safetensors"
        legacy = "0_5" in self.name or "1_0" in self.name
        return write_pth(folder / "model.pth", tensors, legacy=legacy, version=1 if "v1stem" in self.name else 2)


FIXTURES = [Fixture(name) for name in INDEX]
