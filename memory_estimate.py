"""The memory of a training run, estimated from its settings. Imports no torch.

The estimate adds up the tensors that exist at once in the phase that needs most. It is for configs whose tensors
outweigh the rest of the process. Tests compare it with measured peaks.

Shapes are as in model.py; all sizes are bytes.
"""

import math
from typing import Any

from model_config import ModelConfig

ITEM_BYTES = {"bfloat16": 2, "float16": 2}  # of a number in matrix products, by precision; else 4
KERNEL_BYTES = 16 * 2**20  # tables and buffers of kernel.c
CPU_EVALUATION_BATCH = 2048  # problems; the activations should fit into the CPU's caches
GPU_EVALUATION_BATCH = 32_768  # problems; a larger batch has less overhead
# An evaluation takes at most so much for its activations, if that is enough for one problem.
CPU_EVALUATION_BYTES = 2**26
GPU_EVALUATION_BYTES = 2**33
MAX_SMALL_VOCABULARY = 256  # tokens; their ids in the inputs of a step fit into uint8, which kernel.c reads, else int32
DRAWN_TOKENS = 2**20  # drawn together, of training texts that take much memory while they are drawn
DRAWN_BYTES = 80  # of a token of these texts
INDEX_BYTES = 8  # of a token of other texts while they are drawn


def evaluation_batch_size(config: ModelConfig, T: int, item_bytes: int, most: int, device_type: str) -> int:
    """Return how many problems with texts of T tokens to evaluate at once: `most`, or as many as memory permits."""
    limit = CPU_EVALUATION_BYTES if device_type == "cpu" else GPU_EVALUATION_BYTES
    return max(1, min(most, limit // text_bytes(config, T, item_bytes)))


def text_bytes(config: ModelConfig, T: int, item_bytes: int) -> int:
    """The activations and the logits of an evaluation, for each text of T tokens."""
    return config.forward_bytes(T, item_bytes) + 8 * T * config.vocab_size


def peak_bytes(settings: Any, decoded_texts: int, processes: int = 1) -> int:
    """Estimate the largest memory of the tensors of a process that trains, evaluates and then decodes.

    Args:
        settings: a `settings.Settings`, with precision, kernel and device resolved.
        decoded_texts: prompts whose completions are decoded at once.
        processes: that train together and share a batch.
    """
    description = settings.track_description
    vocab_size, prompt_length = len(description.vocabulary), description.prompt_length
    longest = prompt_length + description.answer_length - 1
    config = settings.model_config(vocab_size, description.block_size)
    item_bytes = ITEM_BYTES.get(settings.precision, 4)
    T = settings.window or description.training_tokens or description.block_size
    weights, state = 4 * config.num_parameters, optimizer_bytes(settings, config)
    if settings.checkpoint == "best":
        state += weights
    is_one_length, is_on_kernel = description.is_one_length, settings.kernel == "c"
    id_bytes, tokens = 1 if vocab_size <= MAX_SMALL_VOCABULARY else 4, settings.draw_steps * settings.batch_size * T
    if is_one_length or description.has_uniform_texts or settings.window:
        inputs, drawn = tokens * id_bytes, tokens * INDEX_BYTES
    else:  # with targets, a mask, positions and next positions
        inputs, drawn = tokens * (2 * id_bytes + 5), min(tokens, DRAWN_TOKENS) * DRAWN_BYTES
    if config.uses_pair_table(longest, longest - 1, decoded_texts, item_bytes):
        per_text = 8 * longest + 16 * (config.n_embd + config.n_hidden)
        decoded = decoded_texts * per_text + config.pair_table_bytes(longest, longest - 1, item_bytes)
    else:
        decoded = decoded_texts * config.forward_bytes(longest, item_bytes, is_cached=True)
    decoding = weights + max(weights, 0 if is_on_kernel else decoded)
    texts = settings.batch_size // (processes * settings.micro_batches)
    Q = T if settings.loss_on == "all" or settings.window or not is_one_length else description.answer_length
    backward = backward_bytes(config, texts, T, Q, item_bytes)
    if config.uses_pair_table(T, T - Q, texts, item_bytes) and not config.dropout:  # with its gradient in float32
        rows = backward_bytes(config, texts, Q, Q, item_bytes)
        backward = min(backward, rows) + 3 * config.pair_table_bytes(T, T - Q, 4)
    step = KERNEL_BYTES if is_on_kernel else max(backward, update_bytes(settings, config))
    if item_bytes < 4 and not is_on_kernel:
        step += item_bytes * config.num_parameters  # weights rounded for matrix products
    warm_up = weights + state + inputs  # copies of what a step changes
    gradients = weights * (2 if processes > 1 else 1)  # DistributedDataParallel averages them in buffers of its own
    most = CPU_EVALUATION_BATCH if settings.device == "cpu" else GPU_EVALUATION_BATCH
    evaluated = evaluation_batch_size(config, longest, item_bytes, most, settings.device)
    if not description.has_validation:  # all of a validation set is evaluated
        evaluated = min(evaluated, max(settings.evaluation_problems, settings.check_problems))
    evaluation = 0 if is_on_kernel and is_one_length else evaluated * text_bytes(config, longest, item_bytes)
    return weights + state + inputs + max(warm_up + gradients + step, drawn, evaluation, decoding)


def optimizer_bytes(settings: Any, config: ModelConfig) -> int:
    """The state of the optimizers and of what a recipe does around them."""
    matrices = config.num_matrix_parameters if settings.matrix_optimizer == "muon" else 0
    others = config.num_parameters - matrices
    state = 4 * matrices + (4 if settings.matrix_optimizer == "lion" else 8) * others
    return state + (4 * config.num_parameters if settings.grokfast_lambda else 0)


def update_bytes(settings: Any, config: ModelConfig) -> int:
    """The temporary tensors of an update: Muon orthogonalizes all matrices of one shape together, in four tensors."""
    if settings.matrix_optimizer != "muon":
        return 0
    C, H = config.n_embd, config.n_hidden
    groups = (4 * C * C, (3 if config.is_gated else 2) * C * H)
    largest = sum(groups) if C == H else max(groups)
    return 4 * 4 * config.n_layer * largest


def backward_bytes(config: ModelConfig, B: int, T: int, Q: int, item_bytes: int) -> int:
    """The activations that a step keeps for its backward pass, and the largest temporary tensors of that pass."""
    C, H, V, L = config.n_embd, config.n_hidden, config.vocab_size, config.n_layer
    has_dropout = config.dropout > 0
    norm = 4 * C  # its input, of the residual stream
    hidden = (4 if config.is_gated else 2) * H
    key = norm + 3 * C * item_bytes  # norm, keys and values
    query = norm + (3 * C + hidden) * item_bytes  # queries, attention's output, second norm, hidden layer
    if has_dropout or item_bytes < 4:  # the scores are kept
        per_score = 3 * item_bytes + 1 if has_dropout else item_bytes
        key += math.ceil(config.n_head * T * per_score * (Q / T if L == 1 else 1))
    if has_dropout:
        query += 2 * C * (1 + item_bytes)
    if not config.is_plain:
        query += 8 * C
    if config.position_encoding == "rotary":
        key += 16 * C
    kept = B * T * (L - 1) * (key + query) + B * (T * key + Q * query)
    temporary = B * (T if L > 1 else Q) * (hidden + 4 * C) * item_bytes
    logits = 6 * 4 * B * Q * V + 4 * B * Q * C
    if config.bigrams:
        logits += 3 * 4 * B * Q * V * V
    return math.ceil(kept + max(temporary, logits / 2) + logits / 2)
