"""The server of llama.cpp on 127.0.0.1 with a scripted model: real tokens, streams, errors and tool calls.

with LlamaServer(folder, call=("lookup", {"name": "x"})) as server:
    ...  # a client at server.url

The model is an automaton: every token has one successor. The chat template picks the first token: a tool call if tools
are offered and none has answered yet, endless words after the word LONG, else the scripted answer. (The template ends
in a plain character, because the grammar of a forced tool call does not accept a control token there.)
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import ROOT, until

SENTENCE = ("A ", "fluffle ", "is ", "a group ", "of rabbits.")

_TEMPLATE = """\
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n\\nYou are provided with function signatures within <tools></tools> \
XML tags:\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '\\n</tools>\\n\\nFor \
each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\\n\
<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}{%- if message.role == 'assistant' and message.tool_calls %}{{- '<|im_start|>assistant' }}
{%- for call in message.tool_calls %}{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant' }}
{%- if tools and messages[-1].role != 'tool' %}{{- '!' }}
{%- elif 'LONG' in messages[-1].content %}{{- '?' }}{%- else %}{{- ':' }}{%- endif %}{%- endif %}"""


class LlamaServer:
    """A server process with one model. `context` is its context length in tokens; `weight` makes it slow to load.

    The block begins when the server listens (status 503), or when it is `ready` (200).
    Without `tools` the server runs like llama.cpp without --jinja, and refuses them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        call: tuple[str, Mapping[str, Any]] = ("lookup", {}),
        says: tuple[str, ...] = SENTENCE,
        context: int = 2048,
        weight: int = 64,
        tools: bool = True,
        ready: bool = True,
    ) -> None:
        self._port = _free_port()
        self._begins_with = (200,) if ready else (200, 503)
        self._log = folder / f"llama-{self._port}.log"
        options = {
            "model": folder / f"llama-{self._port}.gguf",
            "port": self._port,
            "context": context,
            "weight": weight,
            "script": json.dumps({"tool": call[0], "arguments": call[1], "says": says}),
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        self._command = [sys.executable, "-m", "tests.support.llama", *given, *(["--tools"] if tools else [])]

    @property
    def url(self) -> str:
        """Return the base URL for clients."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def status(self) -> int | None:
        """Return the status of the health check: 503 while the model loads, then 200; None without a listener."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            return None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
        until(lambda: self.status in self._begins_with, "llama.cpp listens", within=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)


def _write(path: Path, *, tool: str, arguments: Mapping[str, Any], says: list[str], weight: int) -> None:
    """Write the model as a GGUF file."""
    import gguf
    import numpy as np

    width, heads = 512, 4
    tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    kinds = [2] + [3] * 4  # unknown, control
    tokens += [*_byte_tokens(), "th"]
    kinds += [1] * 257  # normal; the format requires a merge, here of `th`
    after: dict[int, int] = {}

    def chain(start: str, pieces: list[str], *, loops: bool = False) -> None:
        last, first = tokens.index(start), len(tokens)
        for piece in pieces:
            after[last] = last = len(tokens)
            tokens.append(piece)
            kinds.append(4)  # user defined: decoded unchanged
        after[last] = first if loops else tokens.index("<|im_end|>")

    chain(
        "!",
        ["<tool", "_call>\n{", f'"name": "{tool}", ', '"arguments": ', json.dumps(arguments) + "}", "\n</tool_call>"],
    )
    chain(":", says)
    after[tokens.index("\u010a")] = after[tokens.index(":")]  # a newline ends the template without --jinja
    chain("?", ["on ", "and ", "on, "], loops=True)
    random = np.random.default_rng(1)
    embedding = random.standard_normal((len(tokens), width)).astype(np.float32)
    output = np.zeros_like(embedding)
    for this, following in after.items():
        output[following] += 2 * embedding[this] / np.linalg.norm(embedding[this])

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(weight)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(_TEMPLATE)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    shapes = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width)),
        **dict.fromkeys(("ffn_gate", "ffn_up"), (weight, width)),
        "ffn_down": (width, weight),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _byte_tokens() -> list[str]:
    """Return the characters that represent the 256 bytes in GPT-2's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def main() -> None:
    """Write the model and serve it until SIGTERM."""
    import xllamacpp

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--port", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--weight", type=int)
    parser.add_argument("--script", type=json.loads)
    parser.add_argument("--tools", action="store_true")
    given = parser.parse_args()
    _write(given.model, weight=given.weight, **given.script)
    options = xllamacpp.CommonParams()
    options.model.path = str(given.model)
    options.hostnames = ["127.0.0.1"]
    options.port = given.port
    options.n_ctx = given.context
    options.n_parallel = 1
    options.warmup = False
    options.check_tensors = True
    options.cpuparams.n_threads = 1
    options.use_jinja = given.tools
    server = xllamacpp.Server(options)
    print("listening at", server.listening_address, flush=True)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    main()
