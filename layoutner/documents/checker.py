"""Turn pages into documents as [data] says, and find the problems that only show over all pages of a split."""

import re
from dataclasses import replace
from pathlib import Path

from layoutner.pages.box_units import OTHER, RawBox, Reach, Reading, suspect
from layoutner.pages.document import Document
from layoutner.pages.page import Page, Problem, ReadStats, is_box, page_size_problem, to_document
from layoutner.settings.data import DataSettings


class PageChecker:
    """Checks the pages of one split, one at a time, in constant memory."""

    def __init__(self, settings: DataSettings, stats: ReadStats) -> None:
        """`stats` counts the repairs of data.invalid_boxes."""
        self._settings, self._stats = settings, stats
        self._ignored = {kind.casefold() for kind in settings.ignore_types}
        self._reach = {unit: Reach(unit) for unit in OTHER}
        self._pages = 0  # with words
        self._without_layout = 0  # of these, pages whose boxes are all [0, 0, 0, 0]
        self._grouped = 0  # pages whose name data.group_by matches
        self._ungrouped: str | None = None  # first page name that data.group_by does not match

    def check(self, page: Page | Problem) -> tuple[Document | None, list[Problem]]:
        """Convert what a reader yields to a document (None if a problem is fatal) and its problems.

        Box unit, box format, groups and ignored types follow the settings; see `to_document` for the rest.
        """
        if isinstance(page, Problem):
            return None, [page]
        page = self._as_set(page)
        boxes = [word.box for word in page.words if is_box(word.box)]
        if boxes and page_size_problem(page.page_size) is None:
            if what := self._suspect(page, boxes):
                return None, [Problem(page.source, "boxes in another unit", what)]
            self._count(page, boxes)
        document, problems = to_document(page, self._settings.invalid_boxes, self._stats)
        if document is not None and self._settings.box_level == "segment" and document.segments is None:
            what = "data.box_level = segment needs lines or fields, but this page has none; use data.box_level = word"
            return None, [*problems, Problem(page.source, "no segments", what)]
        if document is not None and document.tags is not None and self._ignored:
            tags = [self._tag(tag) for tag in document.tags]
            document = replace(document, tags=tuple(tags))
        return document, problems

    def finish(self, path: Path) -> list[Problem]:
        """Problems of the whole split, found over all checked pages."""
        found = []
        for reach in self._reach.values():
            if (suspicion := reach.suspicion()) and self._settings.box_unit is None:
                what, fatal = suspicion
                found.append(Problem(str(path), "boxes in another unit", what, fatal=fatal))
        if self._pages and self._without_layout == self._pages:
            what = "every box is [0, 0, 0, 0]: there is no layout to learn from"
            found.append(Problem(str(path), "no layout", what, fatal=False))
        if self._ungrouped is not None:
            what = f"data.group_by = {self._settings.group_by} does not match the page name {self._ungrouped!r}"
            if not self._grouped:
                found.append(Problem(str(path), "no groups", f"{what} or any other page name"))
            else:
                what = f"{what}, so that page counts as a document of its own; it matches {self._grouped} other names"
                found.append(Problem(str(path), "pages without a group", what, fatal=False))
        return found

    def _as_set(self, page: Page) -> Page:
        """The page with box unit and format overridden by the settings, and its group set by data.group_by."""
        settings = self._settings
        group = page.group
        if group is None and settings.group_by is not None and isinstance(page.name, str):
            found = re.search(settings.group_by, page.name)
            group = found[1] if found else None
            if group is not None:
                self._grouped += 1
            elif self._ungrouped is None:
                self._ungrouped = page.name
        unit, format = settings.box_unit or page.unit, settings.box_format or page.box_format
        return replace(page, unit=unit, box_format=format, group=group)

    def _suspect(self, page: Page, boxes: list[RawBox]) -> str | None:
        # Do not question a unit or format that the user has set.
        sure_of = [key for key in ("unit", "format") if getattr(self._settings, f"box_{key}") is not None]
        return suspect(boxes, Reading(page.unit, page.box_format), page.page_size, sure_of)

    def _count(self, page: Page, boxes: list[RawBox]) -> None:
        self._pages += 1
        self._without_layout += not any(any(box) for box in boxes)
        if page.unit in self._reach:
            self._reach[page.unit].add(boxes, page.box_format, page.page_size)

    def _tag(self, tag: str) -> str:
        kind = tag.partition("-")[2]
        if kind.casefold() not in self._ignored:
            return tag
        self._stats.ignored[kind] += 1
        return "O"
