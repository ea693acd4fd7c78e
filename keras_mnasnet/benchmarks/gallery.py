"""A page of the photos that models decide wrongly, or differently: thumbnails by confusion, the most frequent first."""

from __future__ import annotations

import dataclasses
import html
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_mnasnet.data import ImageSet
from keras_mnasnet.data.decode import decode
from keras_mnasnet.utils.files import write_file
from keras_mnasnet.utils.text import Life, printable
from keras_mnasnet.weights.registry import imagenet_classes

if TYPE_CHECKING:
    from keras_mnasnet.benchmarks.accuracy import AccuracyResult

SIDE = 320  # pixels of the longer side of a thumbnail
MOST, MOST_OF_GROUP = 1000, 24  # photos on the page, and of one confusion
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' file:"
STYLE = """\
:root{color-scheme:light dark;--page:#f7f7f4;--card:#fff;--ink:#1c1c1a;--soft:#5d5c57;--rule:#e2e1da;--right:#14734f;
--wrong:#b3430f;--back:#ecebe5}
@media(prefers-color-scheme:dark){:root{--page:#161615;--card:#20201e;--ink:#f2f1ec;--soft:#b9b8b0;--rule:#34332f;
--right:#4cc794;--wrong:#f2935f;--back:#2b2a27}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 18px 60px}
h1{font-size:26px;line-height:1.2;margin:0 0 6px}h2{font-size:19px;margin:36px 0 4px}
h3{font-size:15px;font-weight:500;margin:0 0 10px;display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline}
h3 .count{margin-left:auto;color:var(--soft);white-space:nowrap}
p{margin:0 0 12px}.soft{color:var(--soft)}h1,h3,td,p,figcaption{overflow-wrap:anywhere}
.name{font-weight:600;unicode-bidi:isolate}.right{color:var(--right)}.wrong{color:var(--wrong)}
table{border-collapse:collapse;margin:16px 0 0;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500;text-align:left}th,td{padding:4px 18px 4px 0;border-bottom:1px solid var(--rule)}
th+th,td+td{text-align:right;white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:14px}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px}
.wide{grid-column:1/-1}
.photos{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:12px}
figure{margin:0}figure a{display:block;background:var(--back);border-radius:6px;overflow:hidden}
img{display:block;width:100%;aspect-ratio:1;object-fit:contain}img.small{image-rendering:pixelated}
figcaption{font-size:12px;line-height:1.4;color:var(--soft);margin-top:4px}figcaption span{display:block}
@media(max-width:520px){main{padding:20px 12px 40px}section{padding:12px}
.cards{grid-template-columns:1fr}.photos{gap:8px;
grid-template-columns:repeat(auto-fill,minmax(96px,1fr))}th,td{padding-right:10px}}
"""

Key = tuple[str, ...]  # the right class, then what each model decided


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Decisions:
    """Which output a model put first and at which place (0 the best) the right class was, int64 `[photos]`; -1 of damaged
    photos. `names` are the outputs' names, the data's where it has them."""

    model: str
    names: Sequence[str]
    outputs: np.ndarray
    places: np.ndarray


def write_gallery(
    folder: Path, images: ImageSet, decisions: Sequence[Decisions], results: Sequence[AccuracyResult], *, progress: bool = True
) -> None:
    """Write `index.html` and `photos/`: what the models decide differently, then what all of them decide wrongly alike.

    ValueError for a photo that can no longer be read.
    """
    shown = _readable(images.labels)
    decided = [[_name(each.names[output], shown) for output in each.outputs] for each in decisions]
    differing: defaultdict[Key, list[int]] = defaultdict(list)
    wrong: defaultdict[Key, list[int]] = defaultdict(list)
    for index in np.flatnonzero(np.all([each.outputs >= 0 for each in decisions], axis=0)):
        own = _name(images.labels[images.label_ids[index]], shown)
        names = [each[index] for each in decided]
        if len(set(names)) > 1:
            differing[own, *names].append(int(index))
        elif any(each.places[index] for each in decisions):
            wrong[own, names[0]].append(int(index))
    (folder / "photos").mkdir()
    models = _short([each.model for each in decisions])
    page = _Page(folder, images, decisions, models, results[0].preprocessing.upright)
    count = sum(map(len, (*differing.values(), *wrong.values())))
    body = [_head(images, models, results, differing, wrong)]
    with Life("error page", total=min(count, MOST), unit="photo", shown=progress) as life:
        if len(models) > 1:
            body += page.groups("Decided differently", differing, life)
        body += page.groups("Decided wrongly" if len(models) == 1 else "Decided wrongly, and alike", wrong, life)
    write_file(
        folder / "index.html",
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Errors on {_text(images.name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body><main>'
        f"<h1>Errors</h1>{''.join(body)}</main></body></html>\n",
    )  # fmt: skip


class _Page:
    """Draws groups of photos until there are `MOST`, and writes their thumbnails."""

    def __init__(
        self, folder: Path, images: ImageSet, decisions: Sequence[Decisions], models: Sequence[str], upright: bool
    ) -> None:
        self.folder, self.images, self.decisions, self.models, self.upright = folder, images, decisions, models, upright
        self.left = MOST

    def groups(self, title: str, found: dict[Key, list[int]], life: Life) -> Iterable[str]:
        """A heading, and a card for each confusion, the most frequent first."""
        total = sum(map(len, found.values()))
        yield f"<h2>{title}: {_photos(total)}</h2>"
        if not found:
            return
        yield (
            f'<p class="soft">{_confusions(len(found))}, the most frequent first. Under a photo: the place of its class among '
            f'the outputs of a model that is wrong.</p><div class="cards">'
        )
        ordered = sorted(found.items(), key=lambda group: (-len(group[1]), group[0]))
        for place, (key, members) in enumerate(ordered):
            if not self.left:
                rest = sum(len(others) for _, others in ordered[place:])
                said = f"Not shown: {_photos(rest)} of {_confusions(len(ordered) - place)} less frequent."
                yield f'<p class="soft wide">{said}</p>'
                break
            chosen = members[: min(MOST_OF_GROUP, self.left)]
            self.left -= len(chosen)
            more = f", {len(chosen)} shown" if len(chosen) < len(members) else ""
            figures = []
            for index in chosen:
                figures.append(self._figure(index, key))
                life.step()
            wide = ' class="wide"' if len(chosen) > 2 else ""
            yield (
                f'<section{wide}><h3>{self._heading(key)}<span class="count">{_photos(len(members))}{more}</span></h3>'
                f'<div class="photos">{"".join(figures)}</div></section>'
            )
        yield "</div>"

    def _heading(self, key: Key) -> str:
        own, *names = key
        if len(names) == 1:
            return f'<span><span class="name">{_text(own)}</span> taken for {_decided(names[0], own)}</span>'
        each = (f"<span>{_text(model)}: {_decided(name, own)}</span>" for model, name in zip(self.models, names, strict=True))
        return f'<span class="name">{_text(own)}</span>{"".join(each)}'

    def _figure(self, index: int, key: Key) -> str:
        where = printable(self.images.where(index))
        file = f"photos/{index:06d}.jpg"
        height, width = self._write_thumbnail(index, self.folder / file)
        own, *names = key
        lines = []
        for model, name, decided in zip(self.models, names * len(self.models), self.decisions, strict=False):
            if name != own:
                of = f"{_text(model)}: " if len(self.models) > 1 else ""
                lines.append(f"<span>{of}place&nbsp;{decided.places[index] + 1:,}</span>")
        small = ' class="small"' if max(height, width) <= 64 else ""
        return (
            f'<figure title="{_text(where)}"><a href="{file}"><img src="{file}" alt="{_text(own)}" loading="lazy"{small}></a>'
            f"<figcaption>{_text(os.path.basename(where))}{''.join(lines)}</figcaption></figure>"
        )

    def _write_thumbnail(self, index: int, path: Path) -> tuple[int, int]:
        """Write the whole photo, small; its height and width."""
        image, _ = self.images.fetch([index])
        try:
            pixels = decode(self.images.source.load(image[0]), upright=self.upright)
        except tf.errors.OpError as error:
            raise ValueError(
                f"A photo must stay as it is while it is evaluated and shown. Received: "
                f"{printable(self.images.where(index))}, {self.images.problem(index)}"
            ) from error
        sides = pixels.shape[:2]
        if max(sides) > SIDE:
            sides = [max(1, side * SIDE // max(sides)) for side in sides]
            pixels = tf.cast(tf.round(tf.image.resize(pixels, sides, "area")), tf.uint8)
        path.write_bytes(tf.io.encode_jpeg(pixels, quality=90).numpy())
        return sides[0], sides[1]


def _head(
    images: ImageSet, models: Sequence[str], results: Sequence[AccuracyResult], differing: dict[Key, list[int]],
    wrong: dict[Key, list[int]],
) -> str:  # fmt: skip
    rows = "".join(
        f'<tr><td title="{_text(each.model)}">{_text(model)}</td><td>{100 * each.top1:.2f} %</td>'
        f"<td>{each.images - each.correct1:,} of {each.images:,}</td></tr>"
        for model, each in zip(models, results, strict=True)
    )
    table = f"<table><tr><th>model</th><th>top-1</th><th>wrong</th></tr>{rows}</table>"
    split = f", {_text(results[0].split)} split" if results[0].split else ""
    bad = f"; {_photos(len(results[0].bad))} damaged and left out" if results[0].bad else ""
    said = f"{_text(images.name)}: {_photos(results[0].images)} of {len(images.labels):,} classes{split}{bad}."
    if not differing and not wrong:
        said += " Every decision is right."
    return f'<p class="soft">{said}</p>{table}'


def _readable(labels: Sequence[str]) -> dict[str, str]:
    """ImageNet's names of WordNet ids, with the id where two classes have one name; nothing for other labels."""
    names = dict(imagenet_classes())
    if not set(labels) <= names.keys():
        return {}
    often = Counter(names.values())
    return {wnid: name if often[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}


def _name(label: str, shown: dict[str, str]) -> str:
    return shown.get(label, label)


def _short(models: Sequence[str]) -> list[str]:
    """The last parts of the models' names, as few as tell them apart; numbered where the names are the same."""
    names = [printable(model) for model in models]
    parts = [name.replace(os.sep, "/").rstrip("/").split("/") for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(each[-length:]) for each in parts]
        if len(set(short)) == len(short):
            return short
    return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def _decided(name: str, own: str) -> str:
    kind, mark = ("right", "&#10003;") if name == own else ("wrong", "&#10007;")
    return f'<span class="name {kind}">{_text(name)} {mark}</span>'


def _text(value: str) -> str:
    return html.escape(printable(value))


def _photos(count: int) -> str:
    return f"{count:,} photo{'s' * (count != 1)}"


def _confusions(count: int) -> str:
    return f"{count:,} confusion{'s' * (count != 1)}"
