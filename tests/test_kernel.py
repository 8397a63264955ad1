"""The C kernel against the model's definition, and what happens where it cannot be had."""

import shutil
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.machine.cpu import has_avx512_bf16
from curriculum import Curriculum
from data import get_track
from kernel import Optimizers, Prepared
from model import Transformer
from optim import AdamW, Muon, kernel_optimizers
from settings import Settings
from tests.support.models import random_model
from tests.support.small_trainer import SeededTrainer

CPU = torch.device("cpu")
SHAPES = [
    {},
    {"norm": "layer"},
    {"n_head": 16, "n_embd": 64},
    {"n_head": 1, "n_embd": 16, "n_hidden": 16},
    {"tied": True},
    {"vocab_size": 17},
    {"n_head": 3, "n_embd": 48},
    {"n_head": 24, "n_embd": 48},
    {"n_head": 32, "n_embd": 64},
]

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
needs_bfloat16 = pytest.mark.skipif(not has_avx512_bf16(), reason="there is no AVX512-BF16")


def fitting_model(**changes) -> Transformer:
    """Random weights, in a shape that the kernel computes."""
    return random_model(**{"n_head": 4, "n_embd": 32, "n_hidden": 48, **changes})


def random_texts(B: int, length: int, vocab_size: int = 12) -> Tensor:
    return torch.randint(vocab_size, (B, length), generator=torch.Generator().manual_seed(B))


def loss_and_gradients(model: Transformer, texts: Tensor, first: int) -> tuple[Tensor, dict[str, Tensor]]:
    """By the kernel, where the model has one."""
    model.zero_grad()
    if model.kernel is None:
        loss = model.loss(texts, first)
        loss.backward()
    else:
        loss = torch.tensor(kernel_step(model, texts, first))
    return loss.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def kernel_step(model: Transformer, texts: Tensor, first: int, how: Optimizers | None = None) -> float:
    """A step on texts (B, T + 1), by default of no optimizer, to the loss."""
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 7.0)  # whatever was there before
    model.position.grad.zero_()
    texts, weights = texts.to(torch.uint8)[None], model.kernel_weights()
    return model.kernel.train(weights, texts, first, torch.ones(1), Optimizers() if how is None else how)


def assert_the_same_gradients(
    model: Transformer,
    texts: Tensor,
    first: int,
    threads: int,
    loss: tuple[float, float],
    gradient: tuple[float, float, float],
) -> None:
    """The kernel has the loss and the gradients of the plain model.

    `loss` are the relative and the absolute tolerance; `gradient` too, with the latter's part that grows with the size.
    """
    plain_loss, plain = loss_and_gradients(model, texts, first)
    model.use_kernel(threads)
    kernel_loss, found = loss_and_gradients(model, texts, first)
    assert_close(kernel_loss, plain_loss, rtol=loss[0], atol=loss[1])
    assert any(value.abs().max() > 0 for value in plain.values())
    for name, value in plain.items():
        assert_close(found[name], value, rtol=gradient[0], atol=gradient[1] + gradient[2] * float(value.abs().max()))


# -----------------------------------------------------------------------------
# the same function


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("B", "T", "first"), [(512, 11, 7), (37, 11, 0), (37, 4, 3), (1, 1, 0)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_loss_and_gradients_are_those_of_the_model(shape: dict, B: int, T: int, first: int, threads: int) -> None:
    model = fitting_model(**shape)
    texts = random_texts(B, T + 1, model.config.vocab_size)
    assert_the_same_gradients(model, texts, first, threads, loss=(1e-5, 1e-6), gradient=(1e-3, 1e-6, 1e-5))


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_and_answers_are_those_of_the_forward_pass(shape: dict, threads: int) -> None:
    model = fitting_model(**shape)
    idx = random_texts(301, 11, model.config.vocab_size)
    model.use_kernel(threads)
    with torch.no_grad():
        for first in (0, 7, 10):
            logits = model(idx, first)
            assert_close(model.forward_fast(idx, first), logits, rtol=1e-4, atol=1e-5)
            assert_close(model.forward_fast(idx, first, model.prepare(11, first)), logits, rtol=1e-4, atol=1e-5)
        next_logits = model.answerer()
        for T in range(1, 12):
            assert_close(next_logits(idx[:, :T]), model(idx[:, :T])[:, -1], rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_evaluation_finds_what_the_plain_model_finds(shape: dict, threads: int) -> None:
    model = fitting_model(**shape)
    texts = random_texts(301, 12, model.config.vocab_size)
    for first in (0, 7):
        model.kernel = None
        losses, margins = model.evaluate(texts, first)
        model.use_kernel(threads)
        found_losses, found_margins = model.evaluate(texts.to(torch.uint8), first)
        assert_close(found_losses, losses, rtol=1e-4, atol=1e-5)
        assert_close(found_margins, margins, rtol=1e-4, atol=1e-5)
        assert 0 < (margins <= 0).sum() <= 301


@needs_compiler
def test_characters_that_are_as_likely_have_no_margin() -> None:
    model, texts = fitting_model(), random_texts(301, 12)
    with torch.no_grad():
        model.head.zero_()
    plain = model.evaluate(texts[:, :6], 4)[1]
    model.use_kernel(1)
    assert torch.equal(model.evaluate(texts[:, :6], 4)[1], plain)
    assert not plain.any()


@needs_compiler
def test_texts_that_the_model_cannot_read_are_refused() -> None:
    model, texts = fitting_model(), random_texts(3, 12)
    model.use_kernel(1)
    with torch.no_grad():
        with pytest.raises(ValueError, match="12 characters for a model of 11 positions"):
            model.forward_fast(texts)
        for id_ in (-1, 12, 256):
            with pytest.raises(ValueError, match="not one of the vocabulary's 12"):
                model.forward_fast(texts[:, :11].masked_fill(texts[:, :11] == 5, id_))


@needs_compiler
def test_logits_have_gradients_even_so() -> None:
    model = fitting_model()
    model.use_kernel(2)
    assert model.forward_fast(random_texts(4, 11), 7).requires_grad


@needs_compiler
def test_a_model_whose_numbers_would_not_fit_on_the_stack_is_computed() -> None:
    model, texts = fitting_model(n_head=16, n_embd=1024, n_hidden=4096), random_texts(3, 4)
    assert_the_same_gradients(model, texts, 1, 2, loss=(1e-4, 1e-5), gradient=(1e-2, 0.0, 1e-3))


@needs_compiler
def test_it_holds_where_attention_is_sharp() -> None:
    model = fitting_model()
    with torch.no_grad():
        block: Any = model.blocks[0]
        block.attention.qkv[:2] *= 4.0  # scores spread over some 30 nats
    texts = random_texts(64, 12)
    assert_the_same_gradients(model, texts, 0, 2, loss=(1e-4, 1e-4), gradient=(1e-2, 0.0, 1e-3))


@needs_compiler
def test_a_text_s_padding_changes_nothing() -> None:
    """Tiles are filled up with zeros: a batch of one must be one row of a batch of many."""
    model, idx = fitting_model(), random_texts(65, 11)
    model.use_kernel(1)
    with torch.no_grad():
        together = model.forward_fast(idx, 10)
        assert_close(torch.cat([model.forward_fast(row[None], 10) for row in idx]), together, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_weights_that_change_are_read_anew() -> None:
    model, idx = fitting_model(), random_texts(8, 11)
    model.use_kernel(1)
    with torch.no_grad():
        before = model.forward_fast(idx)
        block: Any = model.blocks[0]
        block.mlp.up.mul_(0.5)
        assert (model.forward_fast(idx) - before).abs().max() > 0.01
        assert_close(model.forward_fast(idx), model(idx), rtol=1e-4, atol=1e-5)


def stepped(shapes: list[tuple[int, ...]], model: Transformer) -> list[Tensor]:
    """Weights and states after three steps of Muon, and of AdamW on others, by the kernel if the model has one."""
    how: dict[str, Any] = {"momentum": 0.8, "num_iterations": 5, "weight_decay": 0.1, "dtype": model.dtype}
    generator = torch.Generator().manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [*shapes, (12, 17), (5,)]]
    learning_rate = torch.tensor(0.1)
    muon = Muon(weights[:-2], learning_rate, **how)
    adam = AdamW(weights[-2:], learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        if model.kernel is None:
            muon.step()
            adam.step()
        else:
            kernel_step(model, random_texts(2, 5), 3, kernel_optimizers(muon, 0.1, adam, 0.1))
            torch._foreach_add_(adam.steps, 1)
    return [*weights, *muon.state(), *adam.state()]


@needs_compiler
@pytest.mark.parametrize(
    "shapes", [[(16, 16)], [(3, 64, 64), (64, 64), (128, 64), (64, 128)], [(2, 48, 64), (2, 64, 48), (16, 48)]]
)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_its_optimizers_take_the_steps_of_the_plain_ones(shapes: list[tuple[int, ...]], threads: int) -> None:
    model = fitting_model()
    expected = stepped(shapes, model)
    model.use_kernel(threads)
    for found, wanted in zip(stepped(shapes, model), expected, strict=True):
        assert_close(found, wanted, rtol=1e-3, atol=1e-4)


# -----------------------------------------------------------------------------
# in bfloat16


def relative_errors(found: Iterable[Tensor], exact: Iterable[Tensor]) -> Tensor:
    """Of each tensor the length of its error, relative to its own."""
    pairs = zip(found, exact, strict=True)
    return torch.stack([(one - other).detach().norm() / other.detach().norm() for one, other in pairs])


def assert_rounded_no_worse(found: Iterable[Tensor], plain: Iterable[Tensor], exact: Iterable[Tensor]) -> None:
    """The kernel's bfloat16 lies as near to float32 as the plain model's, and is not float32 itself."""
    found, plain, exact = map(list, (found, plain, exact))
    errors, usual = relative_errors(found, exact), relative_errors(plain, exact)
    assert (errors <= 1.5 * usual + 1e-6).all(), f"{errors} against {usual}"
    assert errors.max() > 1e-4


@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("B", "T", "first"), [(512, 11, 7), (37, 11, 0), (37, 4, 3)])
@pytest.mark.parametrize("threads", [1, 3])
def test_bfloat16_rounds_gradients_no_worse_than_the_plain_model(
    shape: dict, B: int, T: int, first: int, threads: int
) -> None:
    model, exact = fitting_model(**shape, dtype=torch.bfloat16), fitting_model(**shape)
    texts = random_texts(B, T + 1, model.config.vocab_size)
    plain = loss_and_gradients(model, texts, first)
    model.use_kernel(threads)
    found, wanted = (loss_and_gradients(one, texts, first) for one in (model, exact))
    assert_close(found[0], wanted[0], rtol=1e-2, atol=0.0)
    assert_rounded_no_worse(*(gradients.values() for _, gradients in (found, plain, wanted)))


@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_rounds_logits_no_worse_than_the_plain_model(threads: int) -> None:
    model, idx = fitting_model(dtype=torch.bfloat16), random_texts(301, 11)
    model.use_kernel(threads)
    with torch.no_grad():
        assert_rounded_no_worse([model.forward_fast(idx, 7)], [model(idx, 7)], [fitting_model()(idx, 7)])


@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bfloat16_rounds_optimizers_no_worse_than_the_plain_ones(threads: int) -> None:
    shapes = [(3, 64, 64), (64, 64), (128, 64), (64, 128)]
    model = fitting_model(dtype=torch.bfloat16)
    plain, exact = stepped(shapes, model), stepped(shapes, fitting_model())
    model.use_kernel(threads)
    found = stepped(shapes, model)
    assert_rounded_no_worse(*(tensors[: len(shapes)] for tensors in (found, plain, exact)))
    for one, other in zip(found[len(shapes) :], exact[len(shapes) :], strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-4)  # AdamW's, and running means


@needs_compiler
@needs_bfloat16
def test_it_trains_in_bfloat16() -> None:
    exact, trainer = (trained("c", False, [1, 7], dtype) for dtype in (torch.float32, torch.bfloat16))
    assert trainer.loss < 2.3  # from log 12 on
    assert_close(trainer.loss, exact.loss, rtol=1e-2, atol=0.0)


# -----------------------------------------------------------------------------
# training


def trained(name: Any, tied: bool, counts: list[int], dtype: torch.dtype = torch.float32) -> SeededTrainer:
    """Steps of a trainer, so many together, on drawn problems."""
    sizes: dict[str, Any] = {"n_head": 4, "n_embd": 32, "n_hidden": 48, "tied": tied}
    rates: dict[str, Any] = {"muon_learning_rate": 0.02, "adam_learning_rate": 0.005}
    settings = Settings(kernel=name, threads=2, num_steps=20, warmup_steps=3, batch_size=64, **sizes, **rates)
    track = get_track("add3")
    trainer = SeededTrainer(settings, track, CPU, dtype, seed=1)
    threads = torch.get_num_threads()
    trainer.warm_up()
    torch.set_num_threads(threads)
    trainer.inputs.fill(Curriculum(settings, track, trainer.batches, trainer.model, trainer.generator).draw())
    for count in counts:
        trainer.take_steps(count)
    return trainer


@needs_compiler
@pytest.mark.parametrize("tied", [False, True])
def test_many_steps_together_are_those_of_the_plain_trainer(tied: bool) -> None:
    plain, together = trained("torch", tied, [8]), trained("c", tied, [1, 7])
    assert together.model.kernel is not None
    assert int(together.step_index) == int(plain.step_index) == 8
    assert_close(together.loss, plain.loss, rtol=1e-3, atol=1e-4)
    for found, wanted in zip(together.state(), plain.state(), strict=True):
        assert_close(found, wanted, rtol=1e-2, atol=1e-2 * float(wanted.detach().abs().max()))
    assert plain.loss < 2.3  # from log 12 on


@needs_compiler
def test_how_many_steps_are_taken_together_changes_nothing() -> None:
    for one, other in zip(trained("c", False, [8]).state(), trained("c", False, [1, 2, 5]).state(), strict=True):
        assert torch.equal(one, other)


@needs_compiler
@pytest.mark.parametrize("threads", [2, 3])
def test_when_one_thread_is_interrupted_the_others_do_not_wait_for_it(threads: int, monkeypatch) -> None:
    model, texts = fitting_model(), random_texts(64, 12)
    model.use_kernel(threads)
    expected = loss_and_gradients(model, texts, 7)[0]
    library = model.kernel.library

    def interrupted(number: int, *arguments: Any) -> float:
        if number == 0:
            raise KeyboardInterrupt
        return library.train(number, *arguments)

    told = {"table_size": library.table_size, "sums_size": library.sums_size, "train": interrupted}
    with monkeypatch.context() as patch:
        patch.setattr(model.kernel, "library", SimpleNamespace(**told))
        with pytest.raises(KeyboardInterrupt):
            kernel_step(model, texts, 7)
    assert_close(loss_and_gradients(model, texts, 7)[0], expected)


@needs_compiler
def test_an_interrupt_while_a_thread_is_sent_out_leaves_none_waiting(monkeypatch) -> None:
    model, texts = fitting_model(), random_texts(64, 12)
    model.use_kernel(2)
    expected = loss_and_gradients(model, texts, 7)[0]
    pool = model.kernel.pool
    submit = pool.submit

    def interrupted(*arguments: Any) -> None:
        submit(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernel_step(model, texts, 7)
    assert not any(thread.is_alive() for thread in pool._threads)
    assert_close(loss_and_gradients(model, texts, 7)[0], expected)


@needs_compiler
def test_texts_longer_than_the_model_are_refused() -> None:
    model = fitting_model()
    model.use_kernel(1)
    texts = random_texts(2, model.config.block_size + 2)
    with pytest.raises(ValueError, match="texts of 12 characters for a model of 11 positions"):
        kernel_step(model, texts, 7)


# -----------------------------------------------------------------------------
# where it cannot be had


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layer": 2},
        {"activation": "silu"},
        {"norm": "layer_gain"},
        {"dropout": 0.1},
        {"n_hidden": 40},
        {"n_embd": 24, "n_head": 2},
    ],
)
def test_other_models_are_refused(shape: dict) -> None:
    with pytest.raises(ValueError, match=r"kernel\.c supports only .*; this config has "):
        fitting_model(**shape).use_kernel(1)


def test_the_largest_vocabulary_has_256_ids_also_in_bytes():
    texts = torch.tensor([[0, 255]], dtype=torch.uint8)

    def call(vocab_size: int) -> None:
        kernel: Any = SimpleNamespace(vocab_size=vocab_size, call=lambda *arguments: None)
        weights: Any = ()
        Prepared(kernel, weights, torch.empty(1)).call("evaluate", texts, 1, 0)

    call(256)
    with pytest.raises(ValueError, match="not one of the vocabulary's 255"):
        call(255)
