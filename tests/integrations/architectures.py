"""Every causal language model of transformers, so small that a step takes milliseconds."""

import inspect
import re
from unittest import mock

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ce_torch.integrations import deferred
from ce_torch.integrations.transformers import use_linear_cost

WORDS = 90  # the first of 96, for models whose vocabulary is padded

# What configurations call their sizes, and what becomes of logits. Each model gets those that its configuration knows.
SIZES = {
    "vocab_size": 96,
    "unpadded_vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # decoders of encoder-decoder models
    "d_model": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "is_decoder": True,
    # mixtures of experts
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "output_router_logits": True,
    # attention of low rank
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    # logits
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
    "logits_scaling": 4.0,
    "logit_scale": 0.25,
    "lm_head_multiplier": 0.5,
}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SOUND = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {name: SIZES[name] for name in (*[*SIZES][:13], "final_logit_softcapping") if name != "unpadded_vocab_size"}
TOWER = {name: TEXT[name] for name in TEXT if name not in ("head_dim", "final_logit_softcapping")}
GEMMA3N = {
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "activation_sparsity_pattern": [0.0, 0.0],
    "laurel_rank": 8,
}
GEMMA4 = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 96}

# What else a model needs to be small, or to run at all.
CHANGES = {
    "BailingHybridForCausalLM": {"layer_types": ["linear_attention", "full_attention"]},
    "BambaForCausalLM": MAMBA | {"attn_layer_indices": [1]},
    "BigBirdForCausalLM": {"attention_type": "original_full"},
    "BltForCausalLM": {
        "patcher_config": TOWER,
        "encoder_config": TOWER | {"hidden_size_global": 32},
        "decoder_config": TOWER | {"hidden_size_global": 32},
        "global_config": TOWER,
        "encoder_hash_byte_group_vocab": 50,
        "use_cache": False,
    },
    "CodeGenForCausalLM": {"rotary_dim": 8},
    "CohereCompassForCausalLM": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "DbrxForCausalLM": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "DeepseekV4ForCausalLM": {"output_router_logits": False},
    "Dots1ForCausalLM": {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "FalconH1ForCausalLM": MAMBA | {"mamba_d_ssm": 64, "mamba_chunk_size": 4},
    "FlintForCausalLM": {"output_router_logits": False},
    "FuyuForCausalLM": {"text_config": TEXT},
    "GPTJForCausalLM": {"rotary_dim": 8},
    "GPTNeoForCausalLM": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "Gemma3ForConditionalGeneration": {"text_config": TEXT, "vision_config": VISION},
    "Gemma3nForCausalLM": GEMMA3N,
    "Gemma3nForConditionalGeneration": {
        "text_config": TEXT | GEMMA3N,
        "vision_config": {"architecture": "resnet18", "hidden_size": 32},
        "audio_config": {"hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1},
    },
    "Gemma4AssistantForCausalLM": {
        "text_config": TEXT | {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    },
    "Gemma4ForConditionalGeneration": {"text_config": TEXT | GEMMA4},
    "Gemma4UnifiedAssistantForCausalLM": {"text_config": TEXT},
    "Gemma4UnifiedForConditionalGeneration": {
        "text_config": TEXT,
        "vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 8, "output_proj_dims": 32},
        "audio_config": {"audio_embed_dim": 32},
    },
    "Gemma4ForCausalLM": GEMMA4,
    "GitForCausalLM": {"vision_config": VISION},
    "GotOcr2ForConditionalGeneration": {"text_config": TEXT, "vision_config": VISION},
    "GraniteMoeHybridForCausalLM": MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "JambaForCausalLM": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "KimiLinearForCausalLM": {"layer_types": ["linear_attention", "full_attention"]},
    "Lfm2MoeForCausalLM": CONVOLUTION,
    "Lfm3ForCausalLM": CONVOLUTION,
    "LlavaForConditionalGeneration": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
    },
    "LongcatFlashForCausalLM": {"num_layers": 1},
    "Mamba2ForCausalLM": {"num_heads": 4, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "MiMoV2FlashForCausalLM": {"num_key_value_heads": 1, "v_head_dim": 8},
    "MossTranscribeDiarizeForConditionalGeneration": {"text_config": TEXT, "audio_config": SOUND},
    "Phi4MultimodalForCausalLM": {
        "vision_config": VISION | {"crop_size": 16},
        "audio_config": SOUND | {"num_blocks": 1, "nemo_conv_channels": 8},
    },
    "Qwen3NextForCausalLM": LINEAR_ATTENTION,
    "Qwen3_5ForCausalLM": LINEAR_ATTENTION,
    "Qwen3_5MoeForCausalLM": LINEAR_ATTENTION,
    "Qwen4ExpForCausalLM": LINEAR_ATTENTION
    | {
        "ple_layer_ids": [],
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 1,
    },
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "ReformerModelWithLMHead": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [3, 4],
        "attention_head_size": 16,
        "feed_forward_size": 32,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": 4,
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
    },
    "RoCBertForCausalLM": {
        "pronunciation_vocab_size": 10,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 10,
        "shape_embed_dim": 8,
    },
    "XLNetLMHeadModel": {"n_head": 2, "d_head": 16, "n_layer": 2, "d_inner": 32},
    "XmodForCausalLM": {"default_language": "en_XX"},
    "ZambaForCausalLM": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "n_mamba_heads": 2,
    },
    "Zamba2ForCausalLM": {
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "num_mem_blocks": 1,
    },
    "ZayaForCausalLM": {"num_experts_per_tok": 1},
    "xLSTMForCausalLM": {"hidden_size": 64, "num_heads": 2, "qk_dim_factor": 1.0},
}


def names() -> set[str]:
    """Return the classes that transformers lists as causal language models."""
    values = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def build(name, **changes):
    """Return a small model of this class, in training and without dropout."""
    model_class = getattr(transformers, name)
    config_class = model_class.config_class
    known = {*inspect.signature(config_class).parameters, *config_class.attribute_map}
    sizes = {size: value for size, value in SIZES.items() if size in known}
    torch.manual_seed(0)
    model = model_class(config_class(**(sizes | CHANGES.get(name, {}) | changes))).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def batch(name=None, length=12):
    """Return two texts, of which one has a prompt and the other padding that do not count, and a model's pictures."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(3, WORDS, (2, length), generator=generator)
    labels = words.clone()
    labels[0, :5] = labels[1, -3:] = -100
    pictures = {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)} if name == "GitForCausalLM" else {}
    return {"input_ids": words, "labels": labels} | pictures


def outcome(name):
    """Return the row of the table to which a model belongs: what the cost takes, or why it can't serve the model."""
    model = build(name)
    try:
        use_linear_cost(model)
        with mock.patch.object(deferred, "linear_log_likelihood", wraps=deferred.linear_log_likelihood) as cost:
            outputs = model(**batch(name))
    except (ValueError, RuntimeError) as error:
        return "refused: " + re.search(r"can't serve \w+(?: model)?: ([^;]*)", str(error))[1]
    (_, weight, _, bias), options = cost.call_args.args, cost.call_args.kwargs
    parts = {
        "a bias": bias is not None,
        "a softcap": options["softcap"] is not None,
        "a scale": options["temperature"] != 1.0,
        "fewer classes than the layer has": len(weight) < len(model.get_output_embeddings().weight),
        "the loss of the experts": getattr(outputs, "aux_loss", None) is not None,
    }
    return ", ".join(["served", *(part for part, holds in parts.items() if holds)])
