"""The page of a matrix, `matrix/NAME.md`: the latest results that the journal has, and how the runs learned."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.experiments.journalled_matrix import JournalledMatrix, journalled_matrices
from bench.experiments.matrix_file import MATRICES, Matrix, read_matrix
from bench.experiments.matrix_results import CellResult, numbered_cells
from bench.formatting import (
    UNKNOWN,
    commit_text,
    counted,
    known,
    limit_text,
    markdown_code,
    markdown_table,
    number,
    spread_text,
    steps_text,
    steps_title,
)
from bench.report.matrix_learning_plot import draw_panels, draw_steps
from bench.report.matrix_orders import ORDER, draw_orders, ordering, orders_table
from bench.report.render import render_template
from bench.stats.descriptive import spread
from bench.stats.learning_curves import SPLITS, split_label, step_span
from bench.storage.schema import MATRIX, Count, Run

Pictures = dict[Path, Callable[[], str | bytes]]


def all_matrix_files(runs: Sequence[Run], results_folder: Path) -> tuple[dict[Path, str], Pictures]:
    """The pages and pictures of all matrices in bench/matrices of which the journal has runs."""
    texts: dict[Path, str] = {}
    pictures = Pictures()
    runs = [run for run in runs if run.command == MATRIX]
    for path in sorted(MATRICES.glob("*.toml")) if runs else []:
        more_texts, more_pictures = matrix_files(read_matrix(path), runs, results_folder)
        texts |= more_texts
        pictures |= more_pictures
    return texts, pictures


def matrix_files(matrix: Matrix, runs: Sequence[Run], results_folder: Path) -> tuple[dict[Path, str], Pictures]:
    """The page of a matrix and its pictures; nothing if the journal has no runs of it."""
    journalled = journalled_matrices(matrix, runs)
    if not journalled:
        return {}, {}
    folder = results_folder / MATRIX
    sections, pictures = [], Pictures()
    for index, on_machine in enumerate(journalled, start=1):
        stem = matrix.name if index == 1 else f"{matrix.name}-{index}"
        section, section_pictures = section_of(matrix, on_machine, stem)
        sections.append(section)
        pictures |= {folder / name: draw for name, draw in section_pictures.items()}
    page = render_template(
        "matrix",
        matrix_name=matrix.name,
        is_on_board=matrix.path.resolve().parent == MATRICES.resolve(),
        description=matrix.description,
        base=matrix.base_name,
        seeds=matrix.seeds,
        steps_title=steps_title(matrix.steps),
        first_milestone=matrix.steps[0] if len(matrix.steps) == 2 else None,
        last_milestone="".join(matrix.steps[-1:]),
        sections=sections,
    )
    return {folder / f"{matrix.name}.md": page}, pictures


def section_of(
    matrix: Matrix, journalled: JournalledMatrix, stem: str
) -> tuple[dict[str, Any], dict[str, Callable[[], str]]]:
    """The values of a machine class for the template, and file name -> function that draws the picture."""
    results, runs = journalled.results, journalled.runs
    ranked = numbered_cells(results, matrix.clock, matrix.steps)
    axes = [axis for axis, choices in matrix.axes.items() if len(choices) > 1]
    pictures: dict[str, Callable[[], str]] = {}
    steps_plot, curves_plot, learning = None, None, None
    if matrix.steps:
        steps_plot = f"{stem}-steps.svg"
        title = f"{matrix.name}: {steps_title(matrix.steps)}"
        pictures[steps_plot] = lambda: draw_steps([result for _, result in ranked], matrix.steps, title)
    if any(check.validation is not None for run in runs for check in run.checks):
        curves_plot, learning = f"{stem}-curves.svg", learning_table(axes, results)
        pictures[curves_plot] = lambda: draw_panels(results, f"{matrix.name}: accuracy against steps")
    orders: dict[str, str] = {}
    if ORDER in axes and curves_plot is not None:
        orders = {"plot": f"{stem}-orders.svg", "table": orders_table(results), "ordering": ordering(results)}
        pictures[orders["plot"]] = lambda: draw_orders(results, f"{matrix.name}: orders of generation")
    num_cells = len(list(matrix.cells()))
    section: dict[str, Any] = {
        "machine_class": journalled.machine_class,
        "cells": f"{len(results)} of {counted(num_cells, 'cell')}",
        "limit": limit_text(runs),
        "commit": ", ".join(sorted({commit_text(run.commit, run.dirty) for run in runs})),
        "ranking": ranking_table(matrix, axes, ranked),
        "unranked": unranked_sentences(results, matrix.steps),
        "learning": learning,
        "training_problems": split_label("train", runs).partition(", ")[2],  # empty where checks evaluated all
        "steps_plot": steps_plot,
        "curves_plot": curves_plot,
        "orders": orders,
    }
    return section, pictures


def ranking_table(matrix: Matrix, axes: Sequence[str], ranked: Sequence[tuple[int | None, CellResult]]) -> str:
    steps = [steps_title(matrix.steps)] if matrix.steps else []
    ert = [] if matrix.steps else [f"ERT {matrix.clock}, s"]
    headings = ["rank", *axes, *steps, "solved", *ert, f"{matrix.clock}, s: median (min … max)"]
    rows = []
    for rank, result in ranked:
        labels = result.cell.labels()
        has_rank = bool(matrix.steps or result.num_solved)  # the order of cells that never solved means nothing
        row: list[object] = [
            rank_text(rank if has_rank else None, result),
            *(markdown_code(labels[axis]) for axis in axes),
        ]
        row += [steps_text(result.step_spans(matrix.steps))] if matrix.steps else []
        row.append(f"{result.num_solved}/{len(result.runs)}" + ("" if result.finished else f" of {result.planned}"))
        row += [] if matrix.steps else [number(result.ert(matrix.clock), ".2f")]
        rows.append([*row, spread_text(result.seconds(matrix.clock), ".2f")])
    return markdown_table(headings, rows, text=axes)


def rank_text(rank: int | None, result: CellResult) -> str:
    """A rank as text; of a cell without one, whether it may still get one."""
    return str(rank) if rank else "never ranks" if result.unranked_because else UNKNOWN


def unranked_sentences(results: Sequence[CellResult], steps: Sequence[str]) -> list[str]:
    """What runs did because of which cells are never ranked by ERT, and how many cells; `steps` are the matrix's."""
    with_runs = sum(bool(result.runs) for result in results)
    counts = Counter(result.unranked_because for result in results if result.unranked_because)
    consequence = "They are ranked by steps, never by ERT." if steps else "They never rank."
    return [
        f"The runs of {'all' if count == with_runs else f'{count} of {with_runs}'} cells {reason}. {consequence}"
        for reason, count in sorted(counts.items())
    ]


def learning_table(axes: Sequence[str], results: Sequence[CellResult]) -> str:
    """The losses and the accuracies at the end of training, and the steps to 100% of training and of validation."""
    headings = [*axes, "train loss", "validation loss", *(f"{split} right, %" for split in SPLITS)]
    headings += [f"steps to {split} 100%" for split in SPLITS[:2]]
    rows = []
    for result in results:
        last = [run.checks[-1] for run in result.runs if run.checks]
        validation = [None if check.validation is None else check.validation.loss for check in last]
        row: list[object] = [markdown_code(result.cell.labels()[axis]) for axis in axes]
        row += [spread_text([check.loss for check in last], ".2g"), spread_text(validation, ".2g")]
        row += [percentages([final_count(run, split) for run in result.runs]) for split in SPLITS]
        row += [
            steps_text([step_span(run, [f"{split} 100%"]) for run in result.runs if run.checks]) for split in SPLITS[:2]
        ]
        rows.append(row)
    return markdown_table(headings, rows, text=axes)


def final_count(run: Run, split: str) -> Count | None:
    """The problems and errors of a split: the held-out ones of the certificate, or those of the last check."""
    if split == "test" and run.certificate is not None:
        return Count(problems=run.certificate.heldout_problems, errors=run.certificate.heldout_errors)
    return run.checks[-1].splits.get(split) if run.checks else None


def percentages(counts: Sequence[Count | None]) -> str:
    """`99.9 (99.8 … 100)`: the shares of right problems, in percent; only all problems right are 100."""
    shares = known(None if count is None or not count.problems else right_percent(count) for count in counts)
    found = spread(shares)
    return UNKNOWN if found is None else f"{found.median:.6g} ({found.minimum:.6g} … {found.maximum:.6g})"


def right_percent(count: Count) -> float:
    return min(round(100 * (1 - count.errors / count.problems), 2), 100.0 if not count.errors else 99.99)
