"""Weight-only int8 for a file that the converter made, by ai-edge-quantizer (extra `[quantizer]`)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from keras_mnasnet.utils.system import held_output

__all__ = ["weight_only"]


def weight_only(content: bytes) -> bytes:
    """The graph with int8 weights, dequantized when it is loaded; activations stay float32."""
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise ImportError(
            "quantize='weight-int8' of a model that is not a plain MnasNet needs ai-edge-quantizer, which is not installed. "
            "Run: pip install 'keras_mnasnet[quantizer]'"
        ) from error
    with tempfile.TemporaryDirectory(prefix="keras_mnasnet-") as folder, held_output():
        source, target = Path(folder) / "float.tflite", Path(folder) / "int8.tflite"
        source.write_bytes(content)
        maker = quantizer.Quantizer(str(source), recipe.weight_only_wi8_afp32())
        maker.quantize().export_model(str(target))
        return target.read_bytes()
