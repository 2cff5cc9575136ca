"""Lists as OpenAI pages them: `limit`, `order`, `after`, `before`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from rag_kit.errors import StepError

from ..http.requests import whole_number

MAX_PAGE = 10_000
Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None = Field(description="Id of the first one; null on an empty page.")
    last_id: str | None = Field(description="Id of the last one, for `after`.")
    has_more: bool


@dataclass(frozen=True)
class Paging:
    """Which page of a list is asked for.

    Args:
        limit: At most so many.
        order: By the time of creation.
        after: Id of the item before the page; "" for the first page.
        before: Id of the item behind the page; "" for the last page.
    """

    limit: int
    order: str
    after: str
    before: str

    def page(self, items: Sequence[Item], id_of: Callable[[Item], str]) -> Page[Item]:
        """Return a page of items that are ordered, oldest first.

        Raises:
            StepError: `not_found`, no item has the id of `after` or `before`.
        """
        ordered = list(items) if self.order == "asc" else list(items)[::-1]
        places = {id_of(item): at for at, item in enumerate(ordered)}
        first = self._place(places, "after", self.after) + 1 if self.after else 0
        last = self._place(places, "before", self.before) if self.before else len(ordered)
        found = ordered[first:last]
        backwards = bool(self.before and not self.after)
        data = found[-self.limit :] if backwards else found[: self.limit]
        return Page(
            data=data,
            first_id=id_of(data[0]) if data else None,
            last_id=id_of(data[-1]) if data else None,
            has_more=len(found) > len(data),
        )

    def _place(self, places: dict[str, int], name: str, item_id: str) -> int:
        if item_id not in places:
            text = f"{name}: {item_id[:80]!r} is not in this list"
            raise StepError("not_found", text, param=name)
        return places[item_id]


async def paging(
    limit: Annotated[int, *whole_number(1, MAX_PAGE), Query(description="How many at most.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By age.")] = "desc",
    after: Annotated[str, Query(description="Id of the item before the page.")] = "",
    before: Annotated[str, Query(description="Id of the item behind the page.")] = "",
) -> Paging:
    """Return which page is asked for."""
    return Paging(limit, order, after, before)


PagingDep = Annotated[Paging, Depends(paging)]
