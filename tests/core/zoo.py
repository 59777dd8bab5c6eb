"""Fifty named architectures, tiny and with random weights: what `graft` must reach unaided.

Each entry gives a constructor and its inputs; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = dict[str, Any] | tuple[Any, ...]


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Args:
        library: the library that it comes from.
        name: as that library names it.
        build: makes the model.
        inputs: makes keyword or positional inputs of its forward.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]

    def __str__(self) -> str:
        return f"{self.library}:{self.name}"


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model on inputs of either form."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _timm(name: str, size: int = 32, **kwargs: Any) -> Architecture:
    def build() -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=3, **kwargs)
        return model

    return Architecture("timm", name, build, lambda: (torch.randn(2, 3, size, size),))


_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TIMM = [
    _timm("resnet18"),
    _timm("resnet50"),
    _timm("resnext50_32x4d"),
    _timm("densenet121"),
    _timm("repvgg_a0"),
    _timm("mobilenetv3_small_050"),
    _timm("efficientnet_b0"),
    _timm("convnext_atto"),
    _timm("convnextv2_atto"),
    _timm("regnety_002"),
    _timm("vit_tiny_patch16_224", **_VIT),
    _timm("deit_tiny_patch16_224", **_VIT),
    _timm("beit_base_patch16_224", **_VIT),
    _timm("eva02_tiny_patch14_224", **_VIT),
    _timm(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
    ),
    _timm(
        "swinv2_tiny_window8_256",
        img_size=32,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
    ),
    _timm("poolformer_s12"),
    _timm("maxvit_pico_rw_256", 64, img_size=64),
    _timm("coatnet_pico_rw_224", 64, img_size=64),
]


def _hf(config: str, model: str, inputs: Callable[[], Inputs], **kwargs: Any) -> Architecture:
    def build() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**kwargs))
        return made

    return Architecture("transformers", model, build, inputs)


def _tokens() -> Inputs:
    return {"input_ids": torch.randint(3, 60, (2, 7))}


def _pairs() -> Inputs:
    return {
        "input_ids": torch.randint(3, 60, (2, 7)),
        "decoder_input_ids": torch.randint(3, 60, (2, 5)),
    }


def _pixels() -> Inputs:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


_BERT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
_LLAMA = {**_BERT, "num_key_value_heads": 1, "pad_token_id": 0}
_BART = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
}
_HF_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TRANSFORMERS = [
    _hf("LlamaConfig", "LlamaForCausalLM", _tokens, **_LLAMA),
    _hf("MistralConfig", "MistralForCausalLM", _tokens, **_LLAMA),
    _hf("Qwen2Config", "Qwen2ForCausalLM", _tokens, **_LLAMA),
    _hf("Qwen3Config", "Qwen3ForCausalLM", _tokens, **_LLAMA, head_dim=16),
    _hf("GemmaConfig", "GemmaForCausalLM", _tokens, **_LLAMA, head_dim=16),
    _hf("Phi3Config", "Phi3ForCausalLM", _tokens, **_LLAMA),
    _hf(
        "GPT2Config",
        "GPT2LMHeadModel",
        _tokens,
        vocab_size=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=32,
    ),
    _hf("GPTNeoXConfig", "GPTNeoXForCausalLM", _tokens, **_BERT),
    _hf(
        "OPTConfig",
        "OPTForCausalLM",
        _tokens,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=48,
        max_position_embeddings=32,
        word_embed_proj_dim=32,
    ),
    _hf("MixtralConfig", "MixtralForCausalLM", _tokens, **_LLAMA, num_local_experts=2),
    _hf("BertConfig", "BertForSequenceClassification", _tokens, **_BERT),
    _hf("RobertaConfig", "RobertaForSequenceClassification", _tokens, **_BERT),
    _hf(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        _tokens,
        vocab_size=64,
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=48,
        max_position_embeddings=32,
    ),
    _hf(
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        _tokens,
        **_BERT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    _hf(
        "T5Config",
        "T5ForConditionalGeneration",
        _pairs,
        vocab_size=64,
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=1,
        num_heads=2,
    ),
    _hf("BartConfig", "BartForConditionalGeneration", _pairs, **_BART),
    _hf(
        "MambaConfig",
        "MambaForCausalLM",
        _tokens,
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
    ),
    _hf("ViTConfig", "ViTForImageClassification", _pixels, **_HF_VIT),
    _hf(
        "Dinov2Config",
        "Dinov2ForImageClassification",
        _pixels,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    ),
    _hf("CLIPVisionConfig", "CLIPVisionModel", _pixels, **_HF_VIT),
    _hf(
        "SegformerConfig",
        "SegformerForImageClassification",
        _pixels,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 16, 32, 32],
        num_attention_heads=[1, 1, 2, 2],
    ),
]


def _monai(name: str, size: int | tuple[int, ...] = 32, **kwargs: Any) -> Architecture:
    shape = (size, size, size) if isinstance(size, int) else size

    def build() -> nn.Module:
        import monai.networks.nets as nets

        model: nn.Module = getattr(nets, name)(**kwargs)
        return model

    return Architecture("monai", name, build, lambda: (torch.randn(2, 1, *shape),))


_SEG = {"in_channels": 1, "out_channels": 2}
MONAI = [
    _monai(
        "UNet", 16, spatial_dims=3, **_SEG, channels=(16, 32, 64), strides=(2, 2), num_res_units=1
    ),
    _monai("AttentionUnet", 16, spatial_dims=3, **_SEG, channels=(16, 32, 64), strides=(2, 2)),
    _monai("BasicUNet", 32, spatial_dims=3, **_SEG, features=(4, 4, 8, 8, 16, 4)),
    _monai(
        "DynUNet",
        16,
        spatial_dims=3,
        **_SEG,
        kernel_size=(3, 3, 3),
        strides=(1, 2, 2),
        upsample_kernel_size=(2, 2),
        filters=(4, 8, 16),
    ),
    _monai("SegResNet", 16, spatial_dims=3, init_filters=8, **_SEG),
    _monai("VNet", 16, spatial_dims=3, **_SEG),
    _monai(
        "SwinUNETR",
        (64, 32, 32),
        **_SEG,
        feature_size=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 4),
    ),
    _monai(
        "UNETR",
        16,
        **_SEG,
        img_size=(16, 16, 16),
        feature_size=4,
        hidden_size=24,
        mlp_dim=32,
        num_heads=2,
    ),
    _monai("DenseNet121", 32, spatial_dims=3, **_SEG, init_features=8, growth_rate=4),
    _monai(
        "ViT",
        16,
        in_channels=1,
        img_size=(16, 16, 16),
        patch_size=(8, 8, 8),
        hidden_size=24,
        mlp_dim=32,
        num_layers=2,
        num_heads=2,
        classification=True,
        num_classes=2,
    ),
]

ZOO = [*TIMM, *TRANSFORMERS, *MONAI]
