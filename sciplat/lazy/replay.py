"""One cell of a plan in a folder of its own: the inputs that it needs, the plan, and a script that runs it.

The folder can be taken to another machine that has sciplat, and run there in a debugger.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sciplat.errors import ArgumentError, StoreExists
from sciplat.io.catalog_store import CatalogStore, open_catalog_store, read_cell
from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.hats import HEALPIX_COLUMN, parse_cell_path
from sciplat.io.image_store import (
    TABLE,
    Plane,
    create_group,
    group_path,
    read_window,
    seal_group,
    write_plane,
    write_root,
)
from sciplat.io.publish import FileEntry
from sciplat.io.storage import LocalStorage, Storage, open_storage
from sciplat.lazy.fingerprint import Record, fingerprint
from sciplat.lazy.node import Node, Scan
from sciplat.lazy.own_code import is_installed
from sciplat.lazy.photometry import Photometry
from sciplat.lazy.rebuild import plan_at, rebuild
from sciplat.sky.cell import Cell
from sciplat.sky.coverage import Coverage, Ranges
from sciplat.tasks.photometry import PhotometryTask
from sciplat.tasks.task import ScanTask

_ALL_ROWS = 1 << 62  # per cell: a bundle's files are those of its inputs
_SCRIPT = '''"""Runs {what} of cell {cell} alone, on copies of what it reads."""

import json
import os
from pathlib import Path

from sciplat import Cell
from sciplat.lazy.rebuild import rebuild

os.chdir(Path(__file__).parent)  # the plan names its inputs from here
plan = rebuild(json.loads(Path("plan.json").read_text()))
task = plan.node.task(Cell({cell.order}, {cell.index}))
rows = task.run()
print(rows)
'''


def write_replay(url: str, cell: str, output: str | None = None) -> Path:
    """Write the bundle of one cell.

    Parameters
    ----------
    url : str
        Of a store that a plan has made, or was to make.
    cell : str
        Order and index, for example "5/1284": a cell of the plan, or a part of one.
    output : str, optional
        A folder that does not exist; "replay-5-1284" by default.

    Returns
    -------
    Path
        The folder; ``python replay.py`` in it runs the cell.

    Raises
    ------
    ArgumentError
        If the plan has no such cell.
    StoreExists
        If the folder exists.
    PlanChanged
        If the plan cannot be made from its record.
    """
    plan = plan_at(open_storage(url), published=False)
    node = rebuild(plan).node
    chosen = _parse_cell(cell, node)
    folder = Path(output or f"replay-{chosen.order}-{chosen.index}").absolute()
    if folder.exists():
        raise StoreExists(f"{folder} exists already", hint="another folder: --output")
    folder.mkdir(parents=True)
    try:
        tasks = list(_tasks_in(node.task(chosen)))
        copied = _copied(node, plan, tasks, folder)
        (folder / "plan.json").write_text(json.dumps(copied, indent=1))
        (folder / "replay.py").write_text(_SCRIPT.format(what=plan["op"], cell=chosen))
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _parse_cell(text: str, node: Node) -> Cell:
    order, mark, index = text.partition("/")
    if not (mark and order.isdecimal() and index.isdecimal()):
        raise ArgumentError(f"{text!r} is no cell", hint="order and index: 5/1284")
    cell = Cell(int(order), int(index))
    if not any(known.start <= cell.start and cell.stop <= known.stop for known in node.cells):
        some = ", ".join(str(known) for known in list(node.cells)[:5])
        raise ArgumentError(f"the plan has no cell {cell}", found=f"{len(node.cells)} cells: {some}...")
    return cell


def _tasks_in(task: Any) -> Iterator[Any]:
    """Yield a task and those that it runs."""
    yield task
    for field in fields(task):
        value = getattr(task, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part) and hasattr(part, "run"):
                yield from _tasks_in(part)


def _copied(node: Any, plan: Record, tasks: list[Any], folder: Path) -> Record:
    """Return the plan with its inputs copied into the folder, as far as the tasks need them."""
    if isinstance(node, Scan):
        scans = [task for task in tasks if isinstance(task, ScanTask)]
        mine = [scan for scan in scans if scan.file.path.startswith(f"{node.store.manifest.folder}/")]
        return plan | _copy_catalog(node.store, mine, folder / f"catalog-{node.store.digest[:8]}")
    if isinstance(node, Photometry):
        cells = [task.cell for task in tasks if isinstance(task, PhotometryTask)]
        return plan | {
            "images": plan["images"] | _copy_images(node, cells, folder / f"images-{fingerprint(plan)[:8]}"),
            "catalog": _copied(node.catalog, plan["catalog"], tasks, folder),
        }
    if "step" in plan:
        _copy_module(plan["step"]["import"], folder)
        plan = plan | {"timeout": None, "memory": None}  # a debugger needs the function in its own process
    if "catalogs" in plan:
        pairs = zip(node.catalogs, plan["catalogs"], strict=True)
        return plan | {"catalogs": [_copied(each, its, tasks, folder) for each, its in pairs]}
    inputs = {name: getattr(node, name) for name in ("inner", "other") if name in plan}
    return plan | {name: _copied(inner, plan[name], tasks, folder) for name, inner in inputs.items()}


def _copy_catalog(store: CatalogStore, scans: list[ScanTask], place: Path) -> Record:
    if not place.exists():
        properties = {**store.manifest.properties, "rows_per_cell": _ALL_ROWS}
        writer = CatalogWriter.begin(LocalStorage(place), properties)
        reports = []
        for path, file in {scan.file.path: scan.file for scan in scans}.items():
            read = np.concatenate([_ranges(scan) for scan in scans if scan.file.path == path])  # may overlap
            rows = read_cell(store.storage, file, None, Coverage.from_ranges(read).ranges)
            if not rows.num_rows:  # a cell of a store has a row; the task leaves it out
                rows = read_cell(store.storage, file).slice(0, 1)
            reports.append(writer.cells.write(parse_cell_path(path) or scans[0].cell, rows, _ALL_ROWS))
        writer.publish(store.schema, reports)
    return _place(LocalStorage(place), place)


def _ranges(scan: ScanTask) -> Ranges:
    """Return what a task reads."""
    cover = Coverage.from_cells([scan.cell]) if scan.cover is None else scan.cover
    return cover.clipped(scan.cell.start, scan.cell.stop)


def _copy_images(node: Photometry, cells: list[Cell], place: Path) -> Record:
    storage = LocalStorage(place)
    rows: list[dict[str, Any]] = []
    files: list[FileEntry] = []
    near = [image for cell in cells for image in node.images_near(cell).to_pylist()]
    if not near:
        raise ArgumentError("no image touches the cell", hint="a cell of the plan itself")
    write_root(storage, node.order)
    for number, image in enumerate({(image["group"], image["index"]): image for image in near}.values()):
        home = parse_cell_path(image["group"]) or cells[0]
        group = group_path(home, f"copy{number}", image["ny"], image["nx"])
        _copy_pixels(node.storage, storage, image, group)
        files += seal_group(storage, group)
        rows.append({**image, "group": group, "index": 0})
    table = pa.Table.from_pylist(rows, schema=node.images.schema)
    about: dict[str, Any] = {"position": ["ra", "dec"], "id": "image_id", "kind": "images", "frame": "icrs"}
    about |= {"epoch": None, "rows_per_cell": _ALL_ROWS, "order": node.order}
    about["report"] = {"images": len(rows), "refused": []}
    writer = CatalogWriter.begin(storage.child(TABLE), about)
    index = table[HEALPIX_COLUMN].to_numpy()
    homes = sorted({int(value) >> 58 for value in index})  # the twelve cells of order 0
    reports = []
    for base in homes:
        mine = table.filter(pa.array((index >> 58) == base))
        reports.append(writer.cells.write(Cell(0, base), mine, _ALL_ROWS))
    writer.publish(table.schema, reports, extra=tuple(files))
    return {**_place(storage.child(TABLE), place), "chosen": []}


def _copy_pixels(source: Storage, target: LocalStorage, image: dict[str, Any], group: str) -> None:
    planes: list[Plane] = ["science"]
    planes += ["variance"] if image["has_variance"] else []
    planes += ["mask"] if image["has_mask"] else []
    whole = (0, image["nx"], 0, image["ny"])
    window = read_window(source, image["group"], image["index"], planes, whole)
    mjd = np.array([np.nan if image["mjd"] is None else image["mjd"]])
    create_group(target, group, (1, image["ny"], image["nx"]), planes, mjd)
    for plane in planes:
        write_plane(target, group, 0, plane, getattr(window, plane))


def _place(storage: Storage, place: Path) -> Record:
    return {"url": place.name, "version": 1, "digest": open_catalog_store(storage).digest}


def _copy_module(path: str, folder: Path) -> None:
    """Copy the source of a user's module, or of the package that holds it, unless it is installed."""
    parts = path.partition(":")[0].split(".")
    names = [".".join(parts[: count + 1]) for count in range(len(parts))]
    origins = (Path(spec.origin) for name in names if (spec := find_spec(name)) is not None and spec.origin)
    origin = next((origin for origin in origins if origin.is_file()), None)  # a folder need not have an __init__.py
    if origin is None or is_installed(origin):
        return
    package = origin.name == "__init__.py"
    source = origin.parent if package else origin
    above = parts[: parts.index(source.stem)]
    target = folder.joinpath(*above, source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if package:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
