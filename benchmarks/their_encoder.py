"""Write a classifier of BERT's layout in eight bits as users of transformers do: run by `encoders.py` in the peers' Python.

    python benchmarks/their_encoder.py BODY WEIGHTS OUT

BODY is the pretrained encoder's folder, as transformers opens it; WEIGHTS our model.safetensors, whose weights take the place of its own.
Written to OUT: `exported.onnx`, by torch's exporter, then `quantize_dynamic`, a scale a column; `optimised.onnx`, by its older
exporter, then ONNX Runtime's own optimizer for BERT, which makes attention one operation, then the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from safetensors.torch import load_file
from transformers import AutoModel

INPUTS = ["input_ids", "attention_mask"]


class Classifier(torch.nn.Module):
    """An encoder, the mean of its states, and a linear map."""

    def __init__(self, place: str, tensors: dict[str, torch.Tensor], attention: str) -> None:
        super().__init__()
        self.body = AutoModel.from_pretrained(place, attn_implementation=attention, dtype=torch.float32)
        own = {name.removeprefix("body.").removeprefix("bert."): each for name, each in tensors.items() if name.startswith("body.")}
        told = self.body.load_state_dict(own, strict=False)
        assert not told.unexpected_keys and not [each for each in told.missing_keys if "pooler" not in each], told
        self.head = torch.nn.Linear(*reversed(tensors["head.weight"].shape))
        self.head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(states.dtype)
        return self.head((states * real).sum(1) / real.sum(1))


def main(body: str, weights: str, out: Path) -> None:
    tensors, sample = load_file(weights), (torch.ones(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.long))
    axes = {0: torch.export.Dim("B"), 1: torch.export.Dim("T")}
    squeeze = {"weight_type": QuantType.QInt8, "per_channel": True, "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT}}
    with torch.no_grad():
        model = Classifier(body, tensors, "sdpa").eval()
        more = {"input_names": INPUTS, "output_names": ["logits"]}
        torch.onnx.export(model, sample, str(out / "new.onnx"), dynamo=True, dynamic_shapes=(axes, axes), external_data=False, **more)
        model = Classifier(body, tensors, "eager").eval()
        named = dict.fromkeys(INPUTS, {0: "B", 1: "T"})
        torch.onnx.export(model, sample, str(out / "old.onnx"), dynamo=False, dynamic_axes=named, opset_version=17, **more)
    quantize_dynamic(str(out / "new.onnx"), str(out / "exported.onnx"), **squeeze)
    shape = model.body.config
    found = optimize_model(str(out / "old.onnx"), "bert", shape.num_attention_heads, shape.hidden_size)
    assert found.get_fused_operator_statistics()["Attention"] == shape.num_hidden_layers
    found.save_model_to_file(str(out / "fused.onnx"))
    quantize_dynamic(str(out / "fused.onnx"), str(out / "optimised.onnx"), **squeeze)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
